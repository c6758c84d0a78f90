"""VGG16 from an ONNX graph's initialisers, as Keras (tf2onnx) or PyTorch exports it; kernels are O, I, H, W."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from socialtag_jax.errors import UserError
from socialtag_jax.weight_files.contents import WeightFile, require_package
from socialtag_jax.weight_files.torch_names import read_torch, uses_torch_names

_KERAS_LAYER = re.compile(r"(?:^|/)(block\d+_conv\d+)(?:_\d+)?(?=[/:]|$)")
"""In `functional_1/block1_conv1_1/convolution/ReadVariableOp:0`; Keras numbers a layer's calls from the second on."""


def read_onnx(path: Path) -> WeightFile:
    """Reads an `.onnx` file.

    A graph's other initialisers (classifiers, constants) have no fixed names and are ignored; a convolution that is
    none of VGG16's is reported.

    Raises:
      UserError: no model in it, two tensors for one layer, batch normalisation, or the package is missing.
    """
    onnx = require_package("onnx", path)
    # Values outside the file are read only for the tensors that are asked for, and never from outside its folder.
    graph = onnx.load(str(path), load_external_data=False).graph
    if not graph.node:
        raise UserError("is no ONNX model: it has no nodes", where=path, hint="get the file again")
    initialisers = {tensor.name: tensor for tensor in graph.initializer}
    kernels = [node.input[1] for node in graph.node if node.op_type == "Conv"]

    def load(name: str) -> np.ndarray:
        return onnx.numpy_helper.to_array(initialisers[name], base_dir=str(path.parent))

    if uses_torch_names(initialisers):
        return read_torch(_without_constants(initialisers, kernels), load, path)
    names = _keras_names(initialisers, kernels, path)
    return WeightFile({key: load(name) for key, name in names.items()}, kernel_axes="OIHW", names=names)


def _without_constants(initialisers: Mapping[str, Any], kernels: Iterable[str]) -> list[str]:
    """What has a name of the model's own, or is a convolution; exporters add constants such as `val_12`."""
    kernels = set(kernels)
    return [name for name in initialisers if name in kernels or name.endswith((".weight", ".bias", ".running_mean"))]


def _keras_names(initialisers: Mapping[str, Any], kernels: Iterable[str], path: Path) -> dict[str, str]:
    """`layer/leaf` -> the initialiser's name; a convolution of another layer keeps its name."""
    names: dict[str, str] = {}
    for name, tensor in initialisers.items():
        match = _KERAS_LAYER.search(name)
        if match is None:
            continue
        key = f"{match[1]}/{'bias' if len(tensor.dims) == 1 else 'kernel'}"
        if key in names:
            raise UserError(
                f"layer {match[1]} has two tensors that could be its {key.rpartition('/')[2]}: {names[key]} of shape "
                f"{tuple(initialisers[names[key]].dims)} and {name} of shape {tuple(tensor.dims)}",
                where=path,
            )
        names[key] = name
    known = set(names.values())
    return names | {name: name for name in kernels if name in initialisers and name not in known}
