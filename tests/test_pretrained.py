"""Loading and saving weights: our own files, every refusal by its words, and the real ImageNet weights."""

import io
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from socialtag_jax import pretrained
from socialtag_jax.errors import UserError
from socialtag_jax.pretrained import LayerParams, load_weights
from tests.weight_writers import (
    Tensors,
    assert_equal,
    flat,
    keras_onnx_tensors,
    random_params,
    refusal,
    save_keras_2,
    save_npz,
    save_onnx,
)


@pytest.fixture(scope="module")
def params() -> LayerParams:
    return random_params()


# Our own files


def test_canonical_file_reads_back(params: LayerParams, folder: Path) -> None:
    path = folder / "new" / "vgg16.safetensors"
    pretrained.save_weights(params, path, source="a test")
    assert_equal(load_weights(path), params)
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    plain = path.with_name("plain")
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    with safe_open(path, framework="numpy") as file:
        assert set(file.keys()) == set(flat(params))
        assert file.metadata() == {
            "format": "socialtag-jax",
            "layout": "kernels H,W,I,O",
            "source": "a test",
            "fingerprint": pretrained.fingerprint(params),
            "licence": "that of the source",
        }


def test_a_bundles_own_head_is_ignored(params: LayerParams, folder: Path) -> None:
    save_file(flat(params) | {"tags_hidden/kernel": np.zeros((4, 4))}, folder / "params.safetensors")
    assert_equal(load_weights(folder / "params.safetensors"), params)


def test_convert(params: LayerParams, folder: Path) -> None:
    lines: list[str] = []
    source = save_npz(folder / "vgg16.npz", flat(params))
    pretrained.convert(source, folder / "vgg16.safetensors", log=lines.append)
    assert lines == [
        f"{source}: 13 convolutions and no head: the file has no two dense layers from 512 features to tags"
    ]
    assert_equal(load_weights(folder / "vgg16.safetensors"), params)


def test_canonical_file_has_one_suffix(params: LayerParams, folder: Path) -> None:
    with pytest.raises(UserError, match=r"out\.h5: the suffix is '\.h5', expected '\.safetensors'"):
        pretrained.save_weights(params, folder / "out.h5")


def test_unwritable_output(params: LayerParams, folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written: File exists|cannot be written: Not a directory"):
        pretrained.save_weights(params, folder / "file" / "vgg16.safetensors")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", ">f4"])
def test_other_float_types_become_float32(dtype: str, params: LayerParams, folder: Path) -> None:
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    cast = {name: array.astype(kind) for name, array in flat(params).items()}
    if dtype == ">f4":
        path = save_npz(folder / "vgg16.npz", cast)
    else:
        path = folder / "vgg16.safetensors"
        save_file(cast, path)
    expected = {k: {leaf: a.astype(kind).astype(np.float32) for leaf, a in v.items()} for k, v in params.items()}
    assert_equal(load_weights(path), expected)


def test_fingerprint_is_of_content_alone(params: LayerParams) -> None:
    reordered = {layer: dict(reversed(params[layer].items())) for layer in reversed(params)}
    assert pretrained.fingerprint(reordered) == pretrained.fingerprint(params)
    changed = params | {
        "block5_conv3": {**params["block5_conv3"], "bias": params["block5_conv3"]["bias"] + np.float32(1)}
    }
    assert pretrained.fingerprint(changed) != pretrained.fingerprint(params)


# Refusals


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (
            "block3_conv2/kernel",
            None,
            "layer block3_conv2: kernel is missing: found none, expected shape (3, 3, 256, 256)",
        ),
        ("block3_conv2/bias", None, "layer block3_conv2: bias is missing: found none, expected shape (256,)"),
        (
            "block2_conv1/kernel",
            np.zeros((3, 3, 64, 96), np.float32),
            "layer block2_conv1: kernel has shape (3, 3, 64, 96), expected (3, 3, 64, 128) (height, width, input",
        ),
        ("block2_conv1/bias", np.zeros(96, np.float32), "layer block2_conv1: bias has shape (96,), expected (128,)"),
        (
            "block3_conv4/kernel",
            np.zeros((3, 3, 256, 256), np.float32),
            "layer not in VGG16: found block3_conv4/kernel of shape (3, 3, 256, 256), expected none",
        ),
        ("block1_conv1/gamma", np.zeros(64, np.float32), "found block1_conv1/gamma of shape (64,), expected none"),
        (
            "block1_conv2/bias",
            np.zeros(64, np.int32),
            "layer block1_conv2: bias has dtype int32, expected one of float16",
        ),
        (
            "block5_conv1/bias",
            np.where(np.arange(512) < 3, np.nan, np.float32(0)),
            "layer block5_conv1: bias has 3 of 512 values that are not finite",
        ),
        ("block5_conv1/bias", np.full(512, -np.inf, np.float32), "has 512 of 512 values that are not finite"),
        ("block5_conv1/bias", np.full(512, 1e300), "has 512 of 512 values that are not finite"),
    ],
)
def test_a_layer_that_does_not_fit(
    key: str, value: np.ndarray | None, words: str, params: LayerParams, folder: Path
) -> None:
    tensors: Tensors = flat(params)
    tensors.pop(key, None)
    if value is not None:
        tensors[key] = value
    refusal(save_npz(folder / "vgg16.npz", tensors), words)


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.path), "w")


def torch_zip(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", data)
    return buffer.getvalue()


def npz(data: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, np.array([data], object))
    return buffer.getvalue()


def npy(data: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([data], object))
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["vgg16.pth", "vgg16.safetensors", "vgg16.h5"])
@pytest.mark.parametrize(
    "encode",
    [
        *(lambda bomb, p=protocol: pickle.dumps(bomb, p) for protocol in range(2, 6)),
        npz,
        npy,
        lambda bomb: torch_zip(pickle.dumps(bomb)),
    ],
    ids=["protocol 2", "protocol 3", "protocol 4", "protocol 5", "npz", "npy", "torch"],
)
def test_pickles_are_refused_by_content_and_never_run(
    encode: Callable[[Bomb], bytes], name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(encode(Bomb(tmp_path / "ran")))
    refusal(
        tmp_path / name,
        "pickle",
        "unpickling runs code that the file brings along, so it is refused",
        f"torch.load('{name}', map_location='cpu', weights_only=True)",
        "safetensors.torch.save_file(state, 'vgg16.safetensors')",
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pt", ".PTH", ".bin", ".pkl", ".ckpt"])
def test_pickles_are_refused_by_suffix(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"vgg16{suffix}"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "ran"), 0))
    refusal(path, f"is a pickle, going by its suffix {suffix.lower()}")
    assert not (tmp_path / "ran").exists()


def test_content_counts_before_suffix(params: LayerParams, folder: Path) -> None:
    pretrained.save_weights(params, folder / "vgg16.safetensors")
    (folder / "vgg16.safetensors").rename(folder / "vgg16.bin")
    assert_equal(load_weights(folder / "vgg16.bin"), params)


@pytest.mark.parametrize("name", ["vgg16.h5", "vgg16.keras", "vgg16.safetensors", "vgg16.npz", "vgg16"])
@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>not found</html>"])
def test_unknown_content(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    refusal(
        tmp_path / name, f"no weight file of a known format: it starts with {content[:8]!r}", ".keras, .safetensors"
    )


def test_html_named_onnx(tmp_path: Path) -> None:
    (tmp_path / "vgg16.onnx").write_bytes(b"<!DOCTYPE html><html>not found</html>")
    refusal(tmp_path / "vgg16.onnx", "cannot be read as ONNX")
    (tmp_path / "vgg16.onnx").write_bytes(b"")
    refusal(tmp_path / "vgg16.onnx", "is no ONNX model: it has no nodes")


@pytest.mark.parametrize("suffix", [".h5", ".keras", ".safetensors", ".npz", ".onnx"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_files_cut_short(share: float, suffix: str, params: LayerParams, folder: Path) -> None:
    path = folder / f"vgg16{suffix}"
    tensors = flat(params)
    if suffix == ".h5":
        save_keras_2(path, params)
    elif suffix == ".safetensors":
        save_file(tensors, path)
    elif suffix == ".onnx":
        save_onnx(path, keras_onnx_tensors(params), ["functional_1/block1_conv1_1/convolution/ReadVariableOp:0"])
    else:
        save_npz(folder / "vgg16.npz", tensors).rename(path)
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * share))
    refusal(path, "cannot be read as", "get the file again")


def test_damaged_member_of_an_archive(params: LayerParams, folder: Path) -> None:
    path = save_npz(folder / "vgg16.npz", flat(params))
    with path.open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"\0\1\2\3")
    refusal(path, "cannot be read as a .keras or .npz archive", "CRC")


def test_keras_archive_whose_weights_are_not_hdf5(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "vgg16.keras", "w") as archive:
        archive.writestr("config.json", '{"class_name": "Functional", "config": {"layers": []}}')
        archive.writestr("model.weights.h5", "text")
    refusal(tmp_path / "vgg16.keras", "cannot be read as a .keras or .npz archive", "file signature not found")
    with zipfile.ZipFile(tmp_path / "vgg16.keras", "w") as archive:
        archive.writestr("config.json", "[]")
        archive.writestr("model.weights.h5", "text")
    refusal(tmp_path / "vgg16.keras", "cannot be read as a .keras or .npz archive")


def test_unknown_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("holiday.jpg", "")
    refusal(tmp_path / "photos.zip", "no model.weights.h5 and no .npy arrays; it holds holiday.jpg")


def test_single_numpy_array(tmp_path: Path) -> None:
    np.save(tmp_path / "vgg16.npy", np.zeros(3))
    refusal(tmp_path / "vgg16.npy", "is a single NumPy array", "keys like block1_conv1/kernel")


def test_no_such_file_and_folder(tmp_path: Path) -> None:
    refusal(tmp_path / "vgg16.h5", "no such file")
    refusal(tmp_path, "is a folder, not a weight file")


@pytest.mark.parametrize(
    ("package", "name", "content"), [("h5py", "vgg16.h5", b"\x89HDF\r\n\x1a\n"), ("onnx", "vgg16.onnx", b"")]
)
def test_missing_package(
    package: str, name: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(content)
    monkeypatch.setitem(sys.modules, package, None)
    refusal(tmp_path / name, f"needs the package {package}", "pip install 'socialtag-jax[weights]'")


def test_importing_it_imports_no_optional_package() -> None:
    code = "import sys, socialtag_jax.pretrained; print(*{'h5py', 'onnx', 'keras', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


# The real weights


def test_imagenet_weights_have_the_published_statistics() -> None:
    """Numbers of the official file, from outside this project; fetches it once into the cache of whoever runs this."""
    try:
        path = pretrained.imagenet_weights()
    except UserError as error:
        pytest.skip(f"no ImageNet weights here: {error}")
    params = load_weights(path)
    assert sum(array.size for array in flat(params).values()) == 14_714_688
    np.testing.assert_array_equal(
        params["block1_conv1"]["kernel"][0, 0, :, 0], np.array([0.42947057, 0.55037946, 0.4800154], np.float32)
    )
    kernel = params["block5_conv3"]["kernel"]
    np.testing.assert_allclose(kernel.mean(dtype=np.float64), -0.0010818949, rtol=1e-6)
    np.testing.assert_allclose(kernel.std(dtype=np.float64), 0.008478405, rtol=1e-6)
    np.testing.assert_allclose([kernel.min(), kernel.max()], [-0.09288482, 0.28699666], rtol=1e-6)
    bias = params["block5_conv3"]["bias"]
    np.testing.assert_allclose([bias.mean(), bias.max()], [0.14986369, 9.431553], rtol=1e-6)
    with safe_open(path, framework="numpy") as file:
        assert re.search(r"Visual Geometry Group.*CC BY 4\.0", file.metadata()["licence"])
