"""A bundle's `model.onnx`: checked, and opened in onnxruntime, which is imported only here.

A graph runs in a library of native code, so it must consist of what ours consist of: arithmetic, in one file.
"""

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from socialtag_jax import files
from socialtag_jax.errors import MissingPackageError, UserError, excerpt, first_line
from socialtag_jax.tags import VOCABULARY_KEY, TagVocabulary

_OPERATIONS = frozenset(
    ("Cast", "Conv", "Flatten", "Gather", "Gemm", "GlobalAveragePool", "MaxPool", "Relu", "Sigmoid", "Sub", "Transpose")
)
"""Those of `export_onnx`: none has a body or reads a file."""

_HINT = "export the run again with `socialtag export --formats onnx`"
_FATAL = 4
"""The one severity that onnxruntime's own log keeps: all else comes back as an error, too."""


def metadata(description: Mapping[str, Any], vocabulary: TagVocabulary, licence: str) -> dict[str, str]:
    """What the file's `metadata_props` say; all values are text, lists and objects are JSON.

    Args:
      description: `tagger.json`, less its hashes.
      vocabulary: the tags of the outputs.
      licence: of the weights.

    Returns:
      name, input_size, threshold, max_tags, vocabulary_sha256, licence, and as JSON: tags (ids) and displays (display
      forms) in the order of the outputs, and provenance.
    """
    same = ("name", "input_size", "threshold", "max_tags", VOCABULARY_KEY)
    return {
        **{key: str(description[key]) for key in same},
        "tags": json.dumps(vocabulary.tags, ensure_ascii=False),
        "displays": json.dumps(vocabulary.displays, ensure_ascii=False),
        "licence": licence,
        "provenance": json.dumps(description["provenance"], ensure_ascii=False, sort_keys=True),
    }


def open_model(
    path: Path, vocabulary: TagVocabulary, description: Mapping[str, Any]
) -> Callable[[np.ndarray], np.ndarray]:
    """Opens a model as onnxruntime runs it on the CPU.

    Args:
      path: the file.
      vocabulary: the tags that its outputs must be.
      description: the content of `tagger.json`, which its metadata must agree with.

    Returns:
      uint8 [n, input_size, input_size, 3], RGB -> float32 [n, n_tags].

    Raises:
      MissingPackageError: onnx or onnxruntime is not installed.
      UserError: the file is damaged, has other inputs, outputs or metadata, or could do more than compute.
    """
    onnx, onnxruntime = (_require(package) for package in ("onnx", "onnxruntime"))
    data = files.read_bytes(path)
    _check(_parse(onnx, data, path), onnx, path, vocabulary, description)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of errors for every status code, below `Exception` alone
        raise UserError(f"onnxruntime cannot load it: {first_line(error)}", where=path, hint=_HINT) from error
    (images,) = session.get_inputs()

    def score(pixels: np.ndarray) -> np.ndarray:
        try:
            (found,) = session.run(None, {images.name: pixels})
        except Exception as error:  # as above
            raise UserError(f"onnxruntime cannot run it: {first_line(error)}", where=path, hint=_HINT) from error
        return found

    return score


def _require(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise MissingPackageError(
            f"an ONNX file needs the package {package}, which is not installed",
            hint="pip install 'socialtag-jax[onnx]'",
        ) from None


def _parse(onnx: Any, data: bytes, path: Path) -> Any:
    try:
        return onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's class depends on its implementation
        raise UserError(f"cannot be read as an ONNX model: {first_line(error)}", where=path, hint=_HINT) from error


def _check(model: Any, onnx: Any, path: Path, vocabulary: TagVocabulary, description: Mapping[str, Any]) -> None:
    graph, input_size = model.graph, description["input_size"]
    found = {f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in graph.node}
    odd = sorted(found - _OPERATIONS) + ["functions"] * bool(model.functions)
    if odd:
        raise UserError(
            f"the graph holds {excerpt(odd[0])}: it could do more than compute, so it is refused",
            where=path,
            hint="export the model again from its run; do not use a bundle from somebody whom you do not trust",
        )
    if graph.sparse_initializer or any(onnx.external_data_helper.uses_external_data(one) for one in graph.initializer):
        raise UserError("its weights are not in the file", where=path, hint=_HINT)
    types = onnx.TensorProto
    for what, values, element, shape in (
        ("inputs", graph.input, types.UINT8, [None, input_size, input_size, 3]),
        ("outputs", graph.output, types.FLOAT, [None, len(vocabulary)]),
    ):
        signatures = [_signature(value) for value in values]
        if signatures != [(element, shape)]:
            expected = f"{types.DataType.Name(element)} {['b', *shape[1:]]}"
            raise UserError(f"has other {what} than one of {expected}", where=path, hint=_HINT)
    properties = {one.key: one.value for one in model.metadata_props}
    # The licence is of the weights, which are compared themselves.
    for key, text in metadata(description, vocabulary, "").items():
        if key != "licence" and properties.get(key) != text:
            raise UserError(f"its metadata's {key!r} is not the bundle's", where=path, hint=_HINT)


def _signature(value: Any) -> tuple[int, list[int | None]]:
    """(element type, shape; None for a named dimension)."""
    tensor = value.type.tensor_type
    return tensor.elem_type, [one.dim_value if one.HasField("dim_value") else None for one in tensor.shape.dim]
