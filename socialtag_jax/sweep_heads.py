"""Many tag heads trained at once over features: the steps of a single head, vmapped. Pure functions.

A head's numbers (learning rate, positive weight, ...) are traced values in place of the experiment's: all heads that
differ in numbers alone are one compiled program, whose steps are those that `socialtag train` compiles.
"""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from socialtag_jax import parallel
from socialtag_jax.config import VGG16_LAYER_COUNT, Experiment
from socialtag_jax.input_pipeline import batch_count, epoch_order
from socialtag_jax.model import Params, TagPredictor
from socialtag_jax.optimizer import make_optimizer
from socialtag_jax.steps import TrainState, build_model, eval_step, make_train_step, stage_start

Values = Mapping[str, jax.Array]
"""Field path -> the numbers of all heads, [heads]."""


def traced(experiment: Experiment, values: Mapping[str, jax.Array]) -> Experiment:
    """The experiment of one head inside a compiled program: with traced scalars in place of some of its numbers.

    They are not checked, as nothing can be that has no value yet: whoever passes them has checked each configuration.
    """
    for path, value in values.items():
        experiment = _with_field(experiment, path.split("."), value)
    return experiment


def _with_field(part: Any, path: Sequence[str], value: Any) -> Any:
    name, *rest = path
    if isinstance(part, tuple):
        return tuple(_with_field(one, rest, value) if str(index) == name else one for index, one in enumerate(part))
    changed = copy.copy(part)
    object.__setattr__(changed, name, _with_field(getattr(part, name), rest, value) if rest else value)
    return changed


def init_head(model: TagPredictor, key: jax.Array) -> Params:
    """The head that `model.init_params` draws from this key, without drawing the convolutions."""
    features = jnp.zeros((1, 512), jnp.float32)
    return cast(Params, model.init(key, features, first_layer=VGG16_LAYER_COUNT)["params"])


def start(
    values: Mapping[str, jax.Array], *, experiment: Experiment, n_tags: int, steps: int, head: Params | None
) -> TrainState:
    """One head before its first step."""
    mine = traced(experiment, values)
    params = init_head(build_model(mine, n_tags), jax.random.key(mine.seed)) if head is None else head
    optimizer = make_optimizer(mine, mine.stages[0], params, steps_per_epoch=steps)
    return stage_start(mine, mine.stages[0], optimizer, params, jnp.zeros((), jnp.int32))


def train_epoch(
    state: TrainState,
    values: Mapping[str, jax.Array],
    first_step: jax.Array,
    order: jax.Array,
    features: jax.Array,
    tag_ids: jax.Array,
    *,
    experiment: Experiment,
    n_tags: int,
    unroll: int = 1,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One head, one epoch on.

    order: int32 [steps, batch], -1 for padding
    """
    mine = traced(experiment, values)
    optimizer = make_optimizer(mine, mine.stages[0], state.params, steps_per_epoch=len(order))
    step = parallel.on_one_device(
        make_train_step(mine, mine.stages[0], build_model(mine, n_tags), optimizer, first_layer=VGG16_LAYER_COUNT)
    )

    def body(state: TrainState, now: tuple[jax.Array, jax.Array]) -> tuple[TrainState, jax.Array]:
        number, rows = now
        batch = {
            "features": features[rows],
            "tag_ids": tag_ids[rows],
            "weight": (rows >= 0).astype(jnp.float32),
        }
        state, sums = step(state.replace(step=number), batch)
        return state, sums["loss"]

    state, losses = jax.lax.scan(body, state, (first_step + jnp.arange(len(order)), order), unroll=unroll)
    return state, jnp.sum(losses)
