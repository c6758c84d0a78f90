"""The tagger in onnxruntime: a graph made from a bundle's `params.safetensors`, with the bundle's input and output.

Settings: `weights`, the file; `images`, a .npy file of one batch; `scores`, where its probabilities are written.
"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from safetensors.numpy import load_file

from experiments.benchmarks.peers.serve import Measure, serve

BLOCKS = (2, 2, 3, 3, 3)
MEAN_BGR = (103.939, 116.779, 123.68)
OPSET = 17


def graph(arrays: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """uint8 RGB [batch, height, width, 3] -> probabilities, float32 [batch, tags]."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(name: str, array: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"value{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    x = add("Cast", "images", to=onnx.TensorProto.FLOAT)
    x = add("Transpose", x, perm=[0, 3, 1, 2])
    x = add("Gather", x, constant("bgr", np.array([2, 1, 0])), axis=1)
    x = add("Sub", x, constant("mean", np.array(MEAN_BGR, np.float32).reshape(3, 1, 1)))
    for block, count in enumerate(BLOCKS, start=1):
        for number in range(1, count + 1):
            name = f"block{block}_conv{number}"
            kernel = constant(f"{name}/kernel", arrays[f"{name}/kernel"].transpose(3, 2, 0, 1))
            x = add("Conv", x, kernel, constant(f"{name}/bias", arrays[f"{name}/bias"]), pads=[1, 1, 1, 1])
            x = add("Relu", x)
        x = add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = add("Flatten", add("GlobalAveragePool", x))
    for name, activation in (("tags_hidden", "Relu"), ("tags_logits", "Sigmoid")):
        dense = (constant(f"{name}/{leaf}", arrays[f"{name}/{leaf}"]) for leaf in ("kernel", "bias"))
        x = add(activation, add("Gemm", x, *dense))
    images = helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["batch", "height", "width", 3])
    scores = helper.make_tensor_value_info(x, onnx.TensorProto.FLOAT, ["batch", "tags"])
    content = helper.make_graph(nodes, "tagger", [images], [scores], constants)
    model = helper.make_model(content, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def build(settings: dict[str, Any]) -> Measure:
    images = np.load(settings["images"])
    model = graph(load_file(settings["weights"])).SerializeToString()
    providers = [
        one for one in ("CUDAExecutionProvider", "CPUExecutionProvider") if one in onnxruntime.get_available_providers()
    ]
    session = onnxruntime.InferenceSession(model, providers=providers)
    np.save(settings["scores"], session.run(None, {"images": images})[0])

    def measure(batches: int) -> dict[str, float]:
        start = time.perf_counter()
        for _ in range(batches):
            session.run(None, {"images": images})
        return {"images_per_second": batches * len(images) / (time.perf_counter() - start)}

    return measure


if __name__ == "__main__":
    serve(build, ["onnx", "onnxruntime", "numpy"])
