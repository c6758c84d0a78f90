"""VGG16's convolutions, and a tag head, from weight files of other libraries, checked, for `model.TagPredictor`.

One canonical layout comes out, whatever went in: our layer names, which are Keras's, kernels H, W, I, O, float32, for
BGR input less ImageNet's mean colour. The canonical file is `.safetensors` with keys such as `block1_conv1/kernel`.

The ImageNet weights are the work of the Visual Geometry Group, University of Oxford (Simonyan and Zisserman, 2014),
published under CC BY 4.0: https://www.robots.ox.ac.uk/~vgg/research/very_deep/
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from socialtag_jax import files
from socialtag_jax.errors import UserError
from socialtag_jax.machine import cache_folder
from socialtag_jax.model import CONVOLUTIONS, HEAD_LAYERS, Layer
from socialtag_jax.tags import VOCABULARY_KEY
from socialtag_jax.weight_files import formats
from socialtag_jax.weight_files.contents import WeightFile
from socialtag_jax.weight_files.download import SOURCES, Source
from socialtag_jax.weight_files.input_space import fold
from socialtag_jax.weight_files.layers import POOLED_FEATURES

LayerParams = dict[str, dict[str, np.ndarray]]
"""The 13 convolutions in order, then the head's two layers where there is a head, -> {"kernel", "bias"}, float32.

A convolution's kernel is [3, 3, in, out], a dense layer's [in, out]; a bias is [out].
"""

IMAGENET_FINGERPRINT = "d9a27cc1fc7f975ef8cff49180e794ccd7c4bc868ebb49740803b3bbaa8dbefd"
"""Of the Visual Geometry Group's weights, as Keras publishes them."""

IMAGENET_LICENCE = "Visual Geometry Group, University of Oxford, CC BY 4.0"

_FIRST = next(iter(CONVOLUTIONS))
_CACHED_NAME = "vgg16_imagenet.safetensors"
_IMAGENET_FIRST_TAP = (0.42947057, 0.55037946, 0.4800154)
"""Of the same: the first convolution's kernel [0, 0, :, 0]."""

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_AXIS_NAMES = {"H": "height", "W": "width", "I": "input", "O": "output"}
_OTHER_NETWORK = "other VGGs and other networks do not fit; use the weights of a VGG16 with all its 13 convolutions"
_TENSORFLOW_KERNELS = "use the file with TensorFlow-ordered kernels (..._tf_dim_ordering_tf_kernels...)"
_KEEP_VGG16 = "keep VGG16's 13 convolutions only; its classifier (fc1, fc2, predictions) may stay"
_OTHER_WAYS = "go on with --weights FILE (a VGG16 weight file that you have) or --weights random (no pretraining)"


def load_weights(path: Path) -> LayerParams:
    """Reads VGG16's convolutions from a weight file, and the tag head if it has one.

    Formats: Keras `.h5`, `.weights.h5` and `.keras`; torchvision's and timm's names in `.safetensors` and `.onnx`;
    Keras's in `.onnx`; `block1_conv1/kernel` in `.npz` and `.safetensors`, the latter as `save_weights` writes it.
    PyTorch's input normalisation is folded into the first convolution; the result is equal except at the photo's edge,
    by less than half a grey level (see `weight_files.input_space`).

    A head is two dense layers of whatever name, 512 features -> hidden units -> tags, beside or around VGG16 and with
    no other layers that have weights. What lies between (relu, dropout) is not in the weights, nor are the tags' names.
    ONNX's and PyTorch's are not read. Known classifiers (fc1, fc2, predictions) are ignored.

    Args:
      path: the file; its content decides the format.

    Raises:
      UserError: no weight file, a pickle, a layer missing, extra, of a wrong shape or dtype, with its axes in another
        library's order, or with values that are not finite. It names the file, the layer, and both shapes.
    """
    return _checked(formats.read(path), path)


def load_starting_weights(
    path: Path, *, hidden_units: int, n_tags: int, vocabulary_sha256: str, log: Callable[[str], None]
) -> LayerParams:
    """What a model can start from in a weight file: the 13 convolutions, and the head where it fits.

    A head fits where it has the model's sizes and, if the file says which tags it was trained for, as our own files do,
    those are the data set's, in its order.

    Args:
      path: the file.
      hidden_units: of the model.
      n_tags: of the model.
      vocabulary_sha256: of the data set's tags.
      log: takes one line, which says whether the head comes from the file, or why not.

    Raises:
      UserError: as `load_weights`.
    """
    contents = formats.read(path)
    params = _checked(contents, path)
    found, wanted, known = _head_sizes(params), (hidden_units, n_tags), contents.vocabulary_sha256
    if found == wanted and known in (None, vocabulary_sha256):
        tags = "are the data set's" if known else "are taken to be in the data set's order: the file does not name them"
        log(f"weights: {path}: convolutions and head; its {n_tags} tags {tags}")
        return params
    if found is None:
        why = _no_head(contents)
    elif found != wanted:
        why = f"the file's has {_count(found)}, the model {_count(wanted)}"
    else:
        why = f"it was trained for {n_tags} other tags than the data set's, or for the same in another order"
    log(f"weights: {path}: convolutions; the head starts fresh: {why}")
    return {layer: params[layer] for layer in CONVOLUTIONS}


def _same_order(data: bytes) -> bytes:
    """The content of a `.safetensors` file, with its header in one order: `save` shuffles the metadata each time.

    Format: https://huggingface.co/docs/safetensors (uint64 length of the header, JSON padded with spaces, arrays).
    """
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header = header.ljust(-(-len(header) // 8) * 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def save_weights(
    params: LayerParams, path: Path, *, source: str = "unknown", vocabulary_sha256: str | None = None
) -> None:
    """Writes the canonical `.safetensors` file, atomically.

    Args:
      params: all 13 convolutions, and both layers of the head or none.
      path: ends in `.safetensors`.
      source: where they come from, for the file's metadata; for the ImageNet weights it is added whose they are.
      vocabulary_sha256: of the head's tags, for the same; None where they are not known, or there is no head.

    Raises:
      UserError: `path` has another suffix, or cannot be written.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"the suffix is {path.suffix!r}, expected '.safetensors'", where=path)
    content = fingerprint(params)
    metadata = {
        "format": "socialtag-jax",
        "layout": "kernels H,W,I,O",
        "source": source,
        "fingerprint": content,
        "licence": _licence(content, params),
    }
    if vocabulary_sha256 is not None:
        metadata[VOCABULARY_KEY] = vocabulary_sha256
    tensors = {f"{layer}/{leaf}": array for layer, leaf, array in _arrays(params, list(params))}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not `save_file`, which leaves the file readable by its owner alone: caches are shared.
        files.write_bytes(path, _same_order(save(tensors, metadata)))
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror or error}", where=path) from error


def convert(source: Path, output: Path, *, log: Callable[[str], None]) -> None:
    """Reads any supported weight file and writes the canonical one; one line to `log` says what was in it.

    Raises:
      UserError: as `load_weights` and `save_weights`.
    """
    contents = formats.read(source)
    params = _checked(contents, source)
    save_weights(params, output, source=source.name, vocabulary_sha256=contents.vocabulary_sha256)
    head = _head_sizes(params)
    log(f"{source}: 13 convolutions and " + (f"a head: {_count(head)}" if head else f"no head: {_no_head(contents)}"))


def licence(params: LayerParams) -> str:
    """Whose weights these are, for the metadata of files that hold them."""
    return _licence(fingerprint(params), params)


def _licence(content: str, params: LayerParams) -> str:
    if content != IMAGENET_FINGERPRINT:
        return "that of the source"
    has_head = HEAD_LAYERS[0] in params
    return f"convolutions: {IMAGENET_LICENCE}; head: that of the source" if has_head else IMAGENET_LICENCE


def _checked(contents: WeightFile, path: Path) -> LayerParams:
    _check_shapes(contents, path)
    params = {name: _canonical(contents, name, path) for name in CONVOLUTIONS}
    _refuse_rotated(params, path)
    for key, array in contents.head.items():
        _check_values(array, _label(contents, key), path)
    if contents.head:
        for layer in HEAD_LAYERS:
            leaves = {leaf: contents.head[f"{layer}/{leaf}"] for leaf in ("kernel", "bias")}
            params[layer] = {leaf: np.ascontiguousarray(array, np.float32) for leaf, array in leaves.items()}
    return params


def _head_sizes(params: LayerParams) -> tuple[int, int] | None:
    """(hidden units, tags) of the head; None without one."""
    hidden, logits = HEAD_LAYERS
    return (params[hidden]["bias"].size, params[logits]["bias"].size) if logits in params else None


def _count(sizes: tuple[int, int]) -> str:
    hidden_units, tags = sizes
    return f"{hidden_units} hidden units and {tags} tags"


def _no_head(contents: WeightFile) -> str:
    what = f"the file has no two dense layers from {POOLED_FEATURES} features to tags"
    return what + (f" (ignored: {', '.join(contents.ignored[:4])})" if contents.ignored else "")


def fingerprint(params: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """SHA-256, in hexadecimal, over the convolutions' 26 arrays as little-endian float32: kernel, bias, kernel, …."""
    digest = hashlib.sha256()
    for _, _, array in _arrays(params, CONVOLUTIONS):
        digest.update(array.data)
    return digest.hexdigest()


def _log_to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def imagenet_weights(
    cache: Path | None = None,
    *,
    log: Callable[[str], None] = _log_to_stderr,
    sources: Sequence[Source] = SOURCES,
    expected: str = IMAGENET_FINGERPRINT,
) -> Path:
    """The canonical file of VGG16's ImageNet weights in the cache; fetched where it is missing or damaged.

    The content's fingerprint is checked on every call. Several processes may fetch at once.

    Args:
      cache: the folder; `cache_folder()` where None.
      log: takes one line of text at a time.
      sources: tried in order.
      expected: the fingerprint that the weights must have.

    Raises:
      UserError: no source has them, with the reason for each, and ways to go on without; never a random start.
    """
    folder = cache or cache_folder()
    path = folder / _CACHED_NAME
    if path.exists():
        try:
            _load_expected(path, expected)
            return path
        except UserError as error:
            log(f"warning: {error}; fetching again")
    failures = []
    for source in sources:
        try:
            _fetch(source, path, log, expected)
        except (UserError, OSError) as error:
            log(f"{source.name}: failed: {error}")
            failures.append(f"{source.name}: {error}")
        else:
            log(f"VGG16's ImageNet weights: {path} ({IMAGENET_LICENCE})")
            return path
    raise UserError(f"cannot get VGG16's ImageNet weights: {'; '.join(failures)}", where=path, hint=_OTHER_WAYS)


def _fetch(source: Source, path: Path, log: Callable[[str], None], expected: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the cache folder, so that the last step is a rename; each fetch has its own, so that none sees another's.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetching-") as temporary:
        params = _load_expected(source.download(Path(temporary), log), expected)
        complete = Path(temporary) / path.name
        save_weights(params, complete, source=source.name)
        complete.replace(path)


def _load_expected(path: Path, expected: str) -> LayerParams:
    params = load_weights(path)
    if (found := fingerprint(params)) != expected:
        raise UserError(f"these are not the ImageNet weights: fingerprint {found}, expected {expected}", where=path)
    return params


def _arrays(
    params: Mapping[str, Mapping[str, np.ndarray]], layers: Iterable[str]
) -> Iterator[tuple[str, str, np.ndarray]]:
    """(layer, leaf, array) of these layers, kernel before bias, as little-endian float32 in C order."""
    for layer in layers:
        for leaf in ("kernel", "bias"):
            yield layer, leaf, np.ascontiguousarray(params[layer][leaf], "<f4")


def _check_shapes(contents: WeightFile, path: Path) -> None:
    """Refuses the first layer, in VGG16's order, that is missing or of a wrong shape; then any that is not VGG16's."""
    expected = {
        f"{layer.name}/{leaf}": shape
        for layer in CONVOLUTIONS.values()
        for leaf, shape in _shapes(layer, contents.kernel_axes).items()
    }
    extra = [f"{name} of shape {array.shape}" for name, array in contents.tensors.items() if name not in expected]
    unknown = f"; unknown in the file: {', '.join(extra[:3])}" if extra else ""
    for key, shape in expected.items():
        tensor = contents.tensors.get(key)
        if tensor is None:
            raise UserError(
                f"{_label(contents, key)} is missing: found none, expected shape {shape}{unknown}",
                where=path,
                hint=_OTHER_NETWORK,
            )
        if tensor.shape != shape:
            raise _wrong_shape(contents, key, shape, path)
    if extra:
        raise UserError(
            f"layer not in VGG16: found {extra[0]}, expected none"
            + (f"; {len(extra) - 1} more such tensors" if len(extra) > 1 else ""),
            where=path,
            hint=_KEEP_VGG16,
        )


def _shapes(layer: Layer, kernel_axes: str) -> dict[str, tuple[int, ...]]:
    """What a layer's tensors must have, with the kernel's axes in the file's order."""
    sizes = dict(zip("HWIO", layer.kernel_shape, strict=True))
    return {"kernel": tuple(sizes[axis] for axis in kernel_axes), "bias": (layer.features,)}


def _wrong_shape(contents: WeightFile, key: str, shape: tuple[int, ...], path: Path) -> UserError:
    layer, _, leaf = key.partition("/")
    found = contents.tensors[key].shape
    what = f"{_label(contents, key)} has shape {found}, expected {shape}"
    if leaf == "bias":
        return UserError(what, where=path, hint=_OTHER_NETWORK)
    what += f" ({', '.join(_AXIS_NAMES[axis] for axis in contents.kernel_axes)})"
    if contents.kernel_axes == "HWIO" and found == _shapes(CONVOLUTIONS[layer], "OIHW")["kernel"]:
        return UserError(
            f"{what}: it looks like a Theano-ordered kernel (output, input, height, width), which Theano also rotates "
            "by 180 degrees; or like PyTorch's order, which is not rotated",
            where=path,
            hint=f"{_TENSORFLOW_KERNELS}, or PyTorch's own layer names",
        )
    if contents.kernel_axes == "OIHW" and found == _shapes(CONVOLUTIONS[layer], "HWIO")["kernel"]:
        return UserError(f"{what}: it looks like a Keras-ordered kernel", where=path, hint="use Keras's layer names")
    return UserError(what, where=path, hint=_OTHER_NETWORK)


def _label(contents: WeightFile, key: str) -> str:
    """`layer block1_conv1: kernel (features.0.weight in the file)`."""
    layer, _, leaf = key.partition("/")
    name = contents.names.get(key)
    return f"layer {layer}: {leaf}" + (f" ({name} in the file)" if name else "")


def _canonical(contents: WeightFile, layer: str, path: Path) -> dict[str, np.ndarray]:
    """One convolution's tensors, of the right shape, as float32 in our layout and for our input."""
    for leaf in ("kernel", "bias"):
        _check_values(contents.tensors[f"{layer}/{leaf}"], _label(contents, f"{layer}/{leaf}"), path)
    kernel, bias = contents.tensors[f"{layer}/kernel"], contents.tensors[f"{layer}/bias"]
    kernel = kernel.transpose([contents.kernel_axes.index(axis) for axis in "HWIO"])
    if contents.inputs is not None and layer == _FIRST:
        kernel, bias = fold(kernel, bias, contents.inputs)
    return {"kernel": np.ascontiguousarray(kernel, np.float32), "bias": np.ascontiguousarray(bias, np.float32)}


def _check_values(array: np.ndarray, label: str, path: Path) -> None:
    if array.dtype.name not in _FLOATS:
        raise UserError(f"{label} has dtype {array.dtype}, expected one of {', '.join(_FLOATS)}", where=path)
    with np.errstate(over="ignore"):  # float64 beyond float32's range becomes infinite, and is counted
        bad = array.size - np.count_nonzero(np.isfinite(array.astype(np.float32, copy=False)))
    if bad:
        raise UserError(
            f"{label} has {bad} of {array.size} values that are not finite (NaN or infinite)",
            where=path,
            hint="the training that wrote it had diverged; use an earlier checkpoint",
        )


def _refuse_rotated(params: LayerParams, path: Path) -> None:
    """Refuses the ImageNet weights as Theano wants them: axes in our order, kernels rotated by 180 degrees.

    Their shapes are the right ones, so that only the values can tell.
    """
    kernel = params[_FIRST]["kernel"]
    if np.allclose(kernel[2, 2, :, 0], _IMAGENET_FIRST_TAP, rtol=1e-3):
        raise UserError(
            f"layer {_FIRST}: kernel has shape {kernel.shape}, as expected, but its values are rotated by 180 degrees: "
            "it looks like the ImageNet weights with Theano-ordered kernels (..._th_kernels...)",
            where=path,
            hint=_TENSORFLOW_KERNELS,
        )
