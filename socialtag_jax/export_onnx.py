"""The trained model as an ONNX file: pixels in, probabilities out, with its tags, and in one piece.

`onnx` is imported only where a file is written.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from socialtag_jax import __version__, files
from socialtag_jax.errors import MissingPackageError, UserError
from socialtag_jax.model import HEAD_LAYERS, MEAN_RGB, VGG16_LAYERS

INPUT, OUTPUT = "images", "probabilities"
"""Names in the graph: uint8 [batch, size, size, 3], RGB, and float32 [batch, n_tags]."""

INSTALL = "pip install 'socialtag-jax[onnx]'"

_OPSET, _IR_VERSION = 17, 8
"""Of ONNX 1.12 (2022): what is older than a runtime loads in it, what is newer does not."""

_LARGEST = 2**31 - 2**20
"""Bytes: no protobuf message has more than 2 GiB, and the graph without its tensors and texts has some kilobytes."""


def write_model(
    params: Mapping[str, Mapping[str, np.ndarray]], size: int, metadata: Mapping[str, str], path: Path
) -> None:
    """Writes the model; equal arguments make equal bytes.

    Args:
      params: the 13 convolutions (kernels H, W, I, O) and both layers of the head, float32.
      size: height and width of the input.
      metadata: as `onnx_file.metadata` makes it.
      path: ends in `.onnx`.

    Raises:
      MissingPackageError: `onnx` is not installed.
      UserError: an ONNX file cannot be so large.
    """
    tensors = sum(array.nbytes for leaves in params.values() for array in leaves.values())
    total = tensors + sum(len(text.encode()) for text in metadata.values())
    if total > _LARGEST:
        raise UserError(
            f"{total:,} bytes of parameters and tags, but one ONNX file has at most {_LARGEST:,}",
            where=path.name,
            hint="export without onnx, or prepare the data set with fewer tags (--pruning most-frequent=N)",
        )
    onnx = _import_onnx()
    model = build(onnx, params, size, metadata)
    onnx.checker.check_model(model, full_check=True)
    files.write_bytes(path, model.SerializeToString(deterministic=True))


def _import_onnx() -> Any:
    try:
        return importlib.import_module("onnx")
    except ImportError:
        raise MissingPackageError(
            "writing an ONNX file needs the package onnx, which is not installed", hint=INSTALL
        ) from None


def build(onnx: Any, params: Mapping[str, Mapping[str, np.ndarray]], size: int, metadata: Mapping[str, str]) -> Any:
    """The `onnx.ModelProto`; arguments as for `write_model`.

    Initialisers are called as the parameters are here (`block1_conv1/kernel`), convolutions' kernels are O, I, H, W.
    """
    graph = _Graph(onnx)
    # Cast first: not every runtime moves or gathers single bytes.
    x = graph.add("Cast", INPUT, name="pixels", to=onnx.TensorProto.FLOAT)
    x = graph.add("Transpose", x, name="channels_first", perm=[0, 3, 1, 2])
    x = graph.add("Gather", x, graph.tensor("bgr", np.array([2, 1, 0], np.int64)), name="rgb_to_bgr", axis=1)
    mean = np.array(MEAN_RGB[::-1], np.float32).reshape(1, 3, 1, 1)
    x = graph.add("Sub", x, graph.tensor("mean_bgr", mean), name="preprocess")
    for layer in VGG16_LAYERS:
        if layer.kind == "convolution":
            leaves = params[layer.name]
            kernel = graph.tensor(f"{layer.name}/kernel", leaves["kernel"].transpose(3, 2, 0, 1))
            bias = graph.tensor(f"{layer.name}/bias", leaves["bias"])
            x = graph.add("Conv", x, kernel, bias, name=layer.name, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
            x = graph.add("Relu", x, name=f"{layer.name}_relu")
        elif layer.kind == "pool":
            x = graph.add("MaxPool", x, name=layer.name, kernel_shape=[2, 2], strides=[2, 2])
    x = graph.add("Flatten", graph.add("GlobalAveragePool", x, name="average"), name="features")
    hidden, logits = (
        [graph.tensor(f"{name}/{leaf}", params[name][leaf]) for leaf in ("kernel", "bias")] for name in HEAD_LAYERS
    )
    x = graph.add("Relu", graph.add("Gemm", x, *hidden, name=HEAD_LAYERS[0]), name=f"{HEAD_LAYERS[0]}_relu")
    graph.add("Sigmoid", graph.add("Gemm", x, *logits, name=HEAD_LAYERS[1]), name=OUTPUT)
    helper, types = onnx.helper, onnx.TensorProto
    n_tags = len(params[HEAD_LAYERS[1]]["bias"])
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "socialtag",
            [helper.make_tensor_value_info(INPUT, types.UINT8, ["batch", size, size, 3])],
            [helper.make_tensor_value_info(OUTPUT, types.FLOAT, ["batch", n_tags])],
            graph.tensors,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="socialtag-jax",
        producer_version=__version__,
        doc_string="Photos to probabilities of tags: RGB pixels of 0 to 255 in; preprocessing is inside.",
    )
    helper.set_model_props(model, dict(metadata))
    return model


class _Graph:
    """Nodes and initialisers, in the order in which they are added; each node has one output, named as the node."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def add(self, operation: str, *inputs: str, name: str, **attributes: Any) -> str:
        self.nodes.append(self._onnx.helper.make_node(operation, inputs, [name], name, **attributes))
        return name

    def tensor(self, name: str, array: np.ndarray) -> str:
        self.tensors.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name
