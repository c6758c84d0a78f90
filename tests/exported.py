"""A bundle with all its formats, which tests make without a training run, and pixels to score."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from socialtag_jax import files
from socialtag_jax.export import export_bundle
from socialtag_jax.tagger import FORMATS
from socialtag_jax.trained import TrainedModel
from tests.bundles import SIZE


@contextlib.contextmanager
def usual_promotion() -> Iterator[None]:
    """As the fixture `peer_promotion`, for fixtures that live longer."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def full_bundle(trained: TrainedModel, folder: Path) -> Path:
    """A bundle in every format."""
    with usual_promotion():
        export_bundle(trained, folder, formats=FORMATS)
    return folder


def pixels(count: int, size: int = SIZE) -> np.ndarray:
    """uint8 [count, size, size, 3], noise in colours of its own for each image."""
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 216, (count, 1, 1, 3))
    return np.clip(colours + rng.normal(0, 40, (count, size, size, 3)), 0, 255).astype(np.uint8)


def change_onnx(path: Path, edit: Callable[[Any], object]) -> None:
    """Edits the `onnx.ModelProto` in a file."""
    import onnx

    model = onnx.load(path)
    edit(model)
    path.write_bytes(model.SerializeToString())


def change_bias(model: Any, values: np.ndarray) -> None:
    """Puts other biases of the outputs into an `onnx.ModelProto`."""
    import onnx

    (tensor,) = (one for one in model.graph.initializer if one.name == "tags_logits/bias")
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def rehash(bundle: Path, *names: str) -> None:
    """Makes `tagger.json` agree with these files, as they are now: a lie that is told twice."""
    path = bundle / "tagger.json"
    description = json.loads(path.read_text())
    description["files"] |= {name: files.sha256(bundle / name) for name in names}
    path.write_text(json.dumps(description))
