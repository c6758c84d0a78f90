"""Adam behind a mask: frozen layers get no update and no optimizer state."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from socialtag_jax.config import Experiment, Stage
from socialtag_jax.keras_adam import scale_by_keras_adam
from socialtag_jax.model import trainable_layers

ParamsLike = Mapping[str, Mapping[str, Any]]
"""Parameters, or their shapes: layer name -> leaves."""


def labels(params: ParamsLike, freeze_layers: int) -> dict[str, dict[str, str]]:
    """Labels every leaf of the parameters "trainable" or "frozen".

    Raises:
      ValueError: a trainable layer is not among the parameters.
    """
    trainable = trainable_layers(freeze_layers)
    if not trainable <= set(params):
        raise ValueError(f"layers {sorted(trainable - set(params))} are to be trained, but are no parameters")
    return {
        layer: jax.tree.map(lambda _, name=layer: "trainable" if name in trainable else "frozen", leaves)
        for layer, leaves in params.items()
    }


def make_optimizer(experiment: Experiment, stage: Stage, params: ParamsLike) -> optax.GradientTransformation:
    """The optimizer of a stage, for parameters (or their shapes) of this structure."""
    config = experiment.optimizer
    adam = optax.chain(
        scale_by_keras_adam(config.beta1, config.beta2, config.epsilon),
        optax.scale_by_learning_rate(experiment.learning_rate(stage)),
    )
    # `optax.masked` alone would hand the raw gradients of frozen leaves through as updates.
    return optax.partition({"trainable": adam, "frozen": optax.set_to_zero()}, labels(params, stage.freeze_layers))


def count(params: ParamsLike, freeze_layers: int) -> tuple[int, int]:
    """(all parameters, trainable ones)."""
    trainable = trainable_layers(freeze_layers)
    sizes = {layer: sum(leaf.size for leaf in leaves.values()) for layer, leaves in params.items()}
    return sum(sizes.values()), sum(size for layer, size in sizes.items() if layer in trainable)
