"""Adam or SGD behind a mask, with learning rate schedules, clipping, weight decay, norm limits and averaged parameters.

Frozen layers get no update and no optimizer state, and count for no norm.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp
import optax

from socialtag_jax.config import Experiment, Stage, is_zero
from socialtag_jax.keras_adam import scale_by_keras_adam
from socialtag_jax.model import Params, trainable_layers

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


def learning_rate(experiment: Experiment, stage: Stage, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate of a stage's step, given the number of the stage's steps before it."""
    schedule, highest = experiment.optimizer.schedule, experiment.learning_rate(stage)
    steps = stage.epochs * steps_per_epoch
    warmup = min(round(schedule.warmup_epochs * steps_per_epoch), steps - 1)
    if schedule.kind == "cosine":
        main = optax.cosine_decay_schedule(highest, steps - warmup, alpha=schedule.final_share)
    elif schedule.kind == "linear":
        main = optax.linear_schedule(highest, schedule.final_share * highest, steps - warmup)
    else:
        main = optax.constant_schedule(highest)
    return optax.join_schedules([optax.linear_schedule(0.0, highest, warmup), main], [warmup]) if warmup else main


def make_optimizer(
    experiment: Experiment, stage: Stage, params: ParamsLike, *, steps_per_epoch: int
) -> optax.GradientTransformation:
    """The optimizer of a stage, for parameters (or their shapes) of this structure."""
    config = experiment.optimizer
    rate: optax.ScalarOrSchedule = experiment.learning_rate(stage)
    # SGD at a constant rate would have no state at all, and orbax saves nothing that is empty: it counts its steps.
    if config.kind == "sgd" or config.schedule.kind != "constant" or not is_zero(config.schedule.warmup_epochs):
        rate = learning_rate(experiment, stage, steps_per_epoch)
    parts = []
    if config.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    if config.kind == "adam":
        parts.append(scale_by_keras_adam(config.beta1, config.beta2, config.epsilon))
    elif config.momentum:
        parts.append(optax.trace(config.momentum, config.nesterov))
    if not is_zero(config.weight_decay):
        parts.append(optax.add_decayed_weights(config.weight_decay, _is_kernel))
    chain = optax.chain(*parts, optax.scale_by_learning_rate(rate))
    # `optax.masked` alone would hand the raw gradients of frozen leaves through as updates. Inside the partition they
    # are not there: clipping measures the trainable ones alone.
    return optax.partition({"trainable": chain, "frozen": optax.set_to_zero()}, labels(params, stage.freeze_layers))


def _is_kernel(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1] == jax.tree_util.DictKey("kernel"), params)


def limit_norms(params: Params, max_norm: float) -> Params:
    """Scales every unit's incoming weights that are longer than `max_norm` (L2) down to it; biases are left alone.

    Source: Srivastava et al., "Dropout", 2014, section 5.1; as `keras.constraints.MaxNorm` over all axes but the last.
    """

    def limit(kernel: jax.Array) -> jax.Array:
        norm = jnp.sqrt(jnp.sum(jnp.square(kernel), axis=tuple(range(kernel.ndim - 1)), keepdims=True))
        # Exactly 1 for units within the limit, which must not move. (optax's projection divides by the root of the
        # limit's square, which for one limit in seven is rounded, and shrinks every unit a little at every step.)
        return kernel * (max_norm / jnp.maximum(norm, max_norm))

    return {layer: {**leaves, "kernel": limit(leaves["kernel"])} for layer, leaves in params.items()}


@flax.struct.dataclass
class Average:
    """The trainable layers' exponential moving average over the steps of a stage.

    It is the mean of the parameters after each step, a step weighing `decay` times as much as the one after it: Adam's
    average with its bias correction (Kingma and Ba, 2015, section 3). Without the correction, what the stage started
    from, a random head, would keep a weight of decay^steps: 87 % after an epoch of 140 steps at 0.999.

    Attributes:
      steps: int32, how many are averaged.
      params: the average; what the stage started from, while that is no step.
      decay: above 0, below 1.
    """

    steps: jax.Array
    params: Params
    decay: float = flax.struct.field(pytree_node=False)

    @staticmethod
    def start(params: ParamsLike, freeze_layers: int, decay: float) -> "Average":
        """Before a stage's first step; copies, as the training step donates its state's arrays one by one."""
        trainable = {layer: params[layer] for layer in trainable_layers(freeze_layers)}
        return Average(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, trainable), decay)

    def with_step(self, params: Params) -> "Average":
        """One step on, given all layers' parameters after it."""
        steps = self.steps + 1
        # (1 - decay) / (1 - decay^steps): 1 after the first step.
        share = (1.0 - self.decay) / -jnp.expm1(steps.astype(jnp.float32) * math.log(self.decay))
        new = {layer: params[layer] for layer in self.params}
        return Average(steps, cast(Params, optax.incremental_update(new, self.params, share)), self.decay)


def count(params: ParamsLike, freeze_layers: int) -> tuple[int, int]:
    """(all parameters, trainable ones)."""
    trainable = trainable_layers(freeze_layers)
    sizes = {layer: sum(leaf.size for leaf in leaves.values()) for layer, leaves in params.items()}
    return sum(sizes.values()), sum(size for layer, size in sizes.items() if layer in trainable)
