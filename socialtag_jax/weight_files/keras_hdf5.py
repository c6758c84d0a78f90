"""VGG16 from Keras's files: legacy `.h5`, Keras 3's `.weights.h5`, and the `.keras` archive around the latter.

Keras itself is not needed, and nothing of a file is ever executed: only names, shapes and numbers are read. Kernels are
H, W, I, O, and the input is taken to be what `keras.applications.vgg16.preprocess_input` makes.

All three know where VGG16 sits. If it is a model inside a model, what surrounds it is that model's own head: the tag
head, if it is shaped like one, else ignored. Layers beside VGG16's own, at its own level, are the tag head, a known
classifier, or reported.
"""

import io
import itertools
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from socialtag_jax.errors import UserError
from socialtag_jax.model import CONVOLUTIONS
from socialtag_jax.weight_files.contents import WeightFile, check_tensor_size, check_unpacked_size, require_package
from socialtag_jax.weight_files.layers import ForeignLayer, from_layers

_KERAS_1_NAME = re.compile(r"(.+)_(W|b)(?:_\d+)?")
"""`block1_conv1_W_1:0`, as in the official ImageNet file."""

_KERAS_3_VARIABLE = re.compile(r"(?P<scope>.*?)(?P<group>[^/]+)/vars/(?P<index>\d+)")
_KERAS_3_CONVOLUTION = re.compile(r"conv2d(?:_(\d+))?")
_NO_LAYER = re.compile(r"(optimizer|metrics)/|(.*/)?seed_generator(_\d+)?/")
"""State of training, and of random numbers."""


@dataclass(frozen=True)
class _Layer:
    """A layer that has variables: `scope` is the path of the model that it is part of, ending in "/" unless empty."""

    scope: str
    name: str
    datasets: Mapping[str, Any]  # leaf -> h5py.Dataset


def read_hdf5(path: Path) -> WeightFile:
    """Reads a `.h5` or `.weights.h5` file.

    Raises:
      UserError: no layers of Keras in it, several VGG16s, values kept in another file, or h5py is missing.
    """
    return _read(path, path, convolution_names=[])


def read_keras_zip(path: Path) -> WeightFile:
    """Reads a `.keras` file: `model.weights.h5` in it, and names from `config.json` where the former has none.

    Raises:
      UserError: as `read_hdf5`.
    """
    with zipfile.ZipFile(path) as archive:
        check_unpacked_size(archive, path)
        weights = io.BytesIO(archive.read("model.weights.h5"))
        names = _convolution_names(json.loads(archive.read("config.json")))
    return _read(weights, path, convolution_names=names)


def _read(source: Path | BinaryIO, path: Path, convolution_names: list[str]) -> WeightFile:
    h5py = require_package("h5py", path)
    with h5py.File(source, "r") as file:
        layers = list(_layers(file, convolution_names))
        if not layers:
            raise UserError(
                f"has no layers as Keras writes them; it holds {', '.join(list(file)[:5]) or 'nothing'}",
                where=path,
                hint="save it again with Keras: model.save_weights('vgg16.weights.h5')",
            )
        scope = _vgg16_scope(layers, path)
        foreign = [
            ForeignLayer(layer.name, layer.datasets, around=not layer.scope.startswith(scope)) for layer in layers
        ]
        return from_layers(foreign, read=lambda dataset: _values(dataset, file, path))


def _layers(file: Any, convolution_names: list[str]) -> Iterator[_Layer]:
    weights = file.get("model_weights", file)
    if _names(weights, "layer_names"):
        return _legacy_layers(weights)
    return _keras_3_layers(file, convolution_names)


def _vgg16_scope(layers: list[_Layer], path: Path) -> str:
    """That of the model that has VGG16's convolutions; the outermost where none has any."""
    scopes = list(dict.fromkeys(layer.scope for layer in layers if layer.name in CONVOLUTIONS))
    if len(scopes) > 1:
        raise UserError(
            f"layers named like VGG16's are in several models inside it: {', '.join(scope or '/' for scope in scopes)}",
            where=path,
            hint="save the VGG16 alone: model.get_layer('vgg16').save_weights('vgg16.weights.h5')",
        )
    return scopes[0] if scopes else ""


def _values(dataset: Any, file: Any, path: Path) -> np.ndarray:
    """A dataset's values, which must be in the file itself: a link could name any other file of the reader's."""
    if dataset.file.filename != file.filename or dataset.external or dataset.is_virtual:
        raise UserError(f"keeps the values of {dataset.name} in another file, which is refused", where=path)
    # Compressed, or never written at all, it takes no room in the file.
    check_tensor_size(dataset.name, dataset.nbytes, path)
    values = np.asarray(dataset[()])
    if values.dtype == np.dtype("V2"):
        import ml_dtypes

        # HDF5 has no bfloat16; Keras stores its two bytes as opaque.
        return values.view(ml_dtypes.bfloat16)
    return values


def _legacy_layers(weights: Any) -> Iterator[_Layer]:
    """Layers of a legacy `.h5`: the attribute `layer_names`, and `weight_names` of each layer's group.

    A model inside the model is one "layer" with the variables of many.
    """
    for group_name in _names(weights, "layer_names"):
        group = weights[group_name]
        layers: dict[str, dict[str, Any]] = {}
        for weight_name in _names(group, "weight_names"):
            layer, leaf = _legacy_layer_and_leaf(weight_name, group_name)
            layers.setdefault(layer, {})[leaf] = group[weight_name]
        if len(layers) == 1:
            # The group knows the name better: a variable's is prefixed, or numbered, when names recur in a session.
            yield _Layer("", group_name, next(iter(layers.values())))
        else:
            yield from (_Layer(f"{group_name}/", layer, datasets) for layer, datasets in layers.items())


def _legacy_layer_and_leaf(weight_name: str, group_name: str) -> tuple[str, str]:
    name = re.sub(r":\d+$", "", weight_name)
    if "/" in name:
        *_, layer, leaf = name.split("/")
        return layer, leaf
    if match := _KERAS_1_NAME.fullmatch(name):
        return match[1], {"W": "kernel", "b": "bias"}[match[2]]
    return group_name, name


def _names(group: Any, attribute: str) -> list[str]:
    """A list of names among a group's attributes, which Keras splits into `NAME0`, `NAME1`, … where it is too long."""
    parts = (f"{attribute}{number}" for number in itertools.count())
    keys = [attribute] if attribute in group.attrs else itertools.takewhile(group.attrs.__contains__, parts)
    return [name.decode() if isinstance(name, bytes) else str(name) for key in keys for name in group.attrs[key]]


def _keras_3_layers(file: Any, convolution_names: list[str]) -> Iterator[_Layer]:
    """Layers of a `.weights.h5`: groups named by class (`layers/conv2d_1/vars/0`), the layer's own name an attribute.

    Files of the first releases have no such attribute. Their convolutions are numbered in the model's order, which is
    VGG16's, and take their names from `convolution_names` or VGG16's; a wrong guess shows in the shapes.
    """
    groups: dict[tuple[str, str], dict[str, Any]] = {}

    def visit(path: str, item: Any) -> None:
        path = path.replace("\\", "/")  # the separator of files saved on Windows
        match = _KERAS_3_VARIABLE.fullmatch(path)
        if match is not None and hasattr(item, "shape") and not _NO_LAYER.match(path):
            leaf = {"0": "kernel", "1": "bias"}.get(match["index"], match["index"])
            groups.setdefault((match["scope"], match["group"]), {})[leaf] = item

    file.visititems(visit)
    names = convolution_names or list(CONVOLUTIONS)
    for (scope, group), datasets in groups.items():
        name = next(iter(datasets.values())).parent.attrs.get("name")
        convolution = _KERAS_3_CONVOLUTION.fullmatch(group)
        if name is None and convolution is not None and int(convolution[1] or 0) < len(names):
            name = names[int(convolution[1] or 0)]
        yield _Layer(scope, group if name is None else str(name), datasets)


def _convolution_names(model: Any) -> list[str]:
    """Names of the convolutions of the first model in a Keras config, itself or a nested one, that has any."""
    layers = model["config"].get("layers", [])
    names = [layer["config"]["name"] for layer in layers if layer["class_name"] == "Conv2D"]
    return names or next(filter(None, map(_convolution_names, layers)), [])
