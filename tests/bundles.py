"""Bundles that tests make without a training run."""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from socialtag_jax.config import Experiment, Model
from socialtag_jax.export import export_bundle
from socialtag_jax.model import Params, param_shapes
from socialtag_jax.run_folder import RunConfig
from socialtag_jax.steps import build_model
from socialtag_jax.tags import TagVocabulary
from socialtag_jax.trained import TrainedModel

SIZE = 32
TAGS = ("beach", "dog", "sea", "snow", "sun")


def trained_model(changes: Mapping[str, Mapping[str, np.ndarray]] | None = None) -> TrainedModel:
    """As loaded from a run folder: random parameters, but for the layers in `changes`."""
    experiment = Experiment(name="holiday", model=Model(input_size=SIZE, hidden_units=16, compute_dtype="float32"))
    vocabulary = TagVocabulary(TAGS, tuple(tag.title() for tag in TAGS))
    model = build_model(experiment, len(TAGS))
    rng = np.random.default_rng(0)

    def fresh(shape: jax.ShapeDtypeStruct) -> np.ndarray:
        """He-normal kernels, zero biases; NumPy's, since compiling `init_params` takes seconds."""
        deviation = np.sqrt(2 / np.prod(shape.shape[:-1])) if len(shape.shape) > 1 else 0.0
        return deviation * rng.standard_normal(shape.shape, np.float32)

    params: Params = jax.tree.map(lambda shape: jnp.asarray(fresh(shape), jnp.float32), param_shapes(model, SIZE))
    params |= {
        layer: {leaf: jnp.asarray(array) for leaf, array in own.items()} for layer, own in (changes or {}).items()
    }
    dataset = {"fingerprint": "", "vocabulary_sha256": vocabulary.sha256, "image_size": 64, "name": "", "path": ""}
    return TrainedModel(RunConfig(experiment, dataset, versions={}, device={}), 1, vocabulary, model, params)


def random_model() -> TrainedModel:
    """Random parameters, with answers that depend on the photo."""
    # Small enough that no probability is close to 0 or 1.
    spread = np.random.default_rng(0).normal(0, 0.005, (16, len(TAGS))).astype(np.float32)
    return trained_model({"tags_logits": {"kernel": spread, "bias": np.zeros(len(TAGS), np.float32)}})


def random_bundle(folder: Path) -> Path:
    """A bundle of the random model."""
    export_bundle(random_model(), folder)
    return folder


def constant_bundle(folder: Path, logits: np.ndarray) -> Path:
    """A bundle that answers the sigmoid of these logits (float32 [tags]) whatever the photo."""
    changes = {"tags_logits": {"kernel": np.zeros((16, len(TAGS)), np.float32), "bias": logits}}
    export_bundle(trained_model(changes), folder)
    return folder
