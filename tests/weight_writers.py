"""A random VGG16, and writers of weight files as other libraries write them."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from socialtag_jax.errors import UserError
from socialtag_jax.model import CONVOLUTIONS
from socialtag_jax.pretrained import LayerParams, load_weights

Tensors = dict[str, np.ndarray]
TORCH_INDICES = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]


@functools.cache
def random_params() -> LayerParams:
    """Made once; its values differ everywhere, so that no two tensors can be mistaken for each other."""
    rng = np.random.default_rng(0)
    return {
        name: {
            "kernel": rng.standard_normal(layer.kernel_shape, np.float32) / np.float32(10),
            "bias": rng.standard_normal(layer.features, np.float32),
        }
        for name, layer in CONVOLUTIONS.items()
    }


def flat(params: LayerParams) -> Tensors:
    """The canonical file's tensors."""
    return {f"{layer}/{leaf}": array for layer, leaves in params.items() for leaf, array in leaves.items()}


def torch_tensors(params: LayerParams) -> Tensors:
    """As torchvision names and orders them."""
    tensors = {}
    for index, leaves in zip(TORCH_INDICES, params.values(), strict=True):
        tensors[f"features.{index}.weight"] = np.ascontiguousarray(leaves["kernel"].transpose(3, 2, 0, 1))
        tensors[f"features.{index}.bias"] = leaves["bias"]
    return tensors


def save_npz(path: Path, tensors: Mapping[str, Any]) -> Path:
    np.savez(path, **tensors)
    return path


def save_keras_2(path: Path, params: Mapping[str, Mapping[str, np.ndarray]], names: str = "{layer}/{leaf}:0") -> Path:
    """As Keras 1 and 2 did, by the documented layout: attributes list the layers, and the weights of each."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in params]
        for layer, leaves in params.items():
            group = file.create_group(layer)
            full_names = [
                names.format(layer=layer, leaf=leaf, letter={"kernel": "W"}.get(leaf, "b")) for leaf in leaves
            ]
            group.attrs["weight_names"] = [name.encode() for name in full_names]
            for name, array in zip(full_names, leaves.values(), strict=True):
                group[name] = array
    return path


def save_onnx(path: Path, tensors: Tensors, kernels: list[str]) -> Path:
    """A graph with a convolution per kernel; how they are connected is of no interest to the reader."""
    nodes = [helper.make_node("Conv", ["x", kernel], ["y"]) for kernel in kernels]
    initialisers = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    onnx.save(helper.make_model(helper.make_graph(nodes, "vgg16", [info], [info], initialisers)), path)
    return path


def keras_onnx_tensors(params: LayerParams) -> Tensors:
    """As tf2onnx names them."""
    tensors = {"functional_1/dense_1/Cast/ReadVariableOp:0": np.zeros((8, 4), np.float32)}
    for layer, leaves in params.items():
        kernel = np.ascontiguousarray(leaves["kernel"].transpose(3, 2, 0, 1))
        tensors[f"functional_1/{layer}_1/convolution/ReadVariableOp:0"] = kernel
        tensors[f"functional_1/{layer}_1/Squeeze:0"] = leaves["bias"]
    return tensors


def kernels_of(tensors: Tensors) -> list[str]:
    return [name for name, array in tensors.items() if array.ndim == 4]


def assert_equal(found: LayerParams, expected: LayerParams, *, but: str | None = None) -> None:
    """Bit for bit, in order, float32 and C-contiguous."""
    assert list(found) == list(CONVOLUTIONS)
    for layer, leaves in found.items():
        assert list(leaves) == ["kernel", "bias"]
        for leaf, array in leaves.items():
            assert array.dtype == np.float32
            assert array.flags.c_contiguous
            if layer != but:
                np.testing.assert_array_equal(array, expected[layer][leaf], err_msg=f"{layer}/{leaf}")


def refusal(path: Path, *words: str) -> UserError:
    """The error that loading `path` raises; it names the file, has all `words`, and says what to do."""
    with pytest.raises(UserError) as caught:
        load_weights(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    for word in words:
        assert word in message, message
    return caught.value
