"""Many tag heads trained at once over features: the steps of one head, vmapped. Pure functions.

A head's numbers (learning rate, positive weight, ...) are traced values in the experiment's place: heads that differ in
numbers alone are one compiled program, and its steps are those that `socialtag train` compiles.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp

from socialtag_jax import parallel
from socialtag_jax.config import VGG16_LAYER_COUNT, Experiment
from socialtag_jax.metrics import Array
from socialtag_jax.model import VGG16_LAYERS, Params, TagPredictor
from socialtag_jax.optimizer import make_optimizer
from socialtag_jax.search_space import SEED
from socialtag_jax.steps import TrainState, build_model, eval_step, make_train_step, stage_start

Numbers = Mapping[str, Array]
"""Field path -> one head's number, a scalar; of many heads, [heads]."""


def with_numbers(experiment: Experiment, numbers: Numbers) -> Experiment:
    """The experiment of one head inside a compiled program, with traced scalars in place of some of its numbers.

    They are not checked, as what is traced has no value yet: whoever passes them has checked each configuration.
    """
    for field, number in numbers.items():
        experiment = _with_field(experiment, field.split("."), number)
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
    features = jnp.zeros((1, VGG16_LAYERS[-1].features), jnp.float32)
    return cast(Params, model.init(key, features, first_layer=VGG16_LAYER_COUNT)["params"])


def start(numbers: Numbers, *, experiment: Experiment, n_tags: int, steps: int, head: Params | None) -> TrainState:
    """One head before its first step.

    Args:
      numbers: of the head.
      experiment: with one stage, and all else that the head is.
      n_tags: size of the vocabulary.
      steps: of an epoch.
      head: to start from; None for one drawn from the seed.
    """
    mine = with_numbers(experiment, numbers)
    params = init_head(build_model(mine, n_tags), jax.random.key(mine.seed)) if head is None else head
    optimizer = make_optimizer(mine, mine.stages[0], params, steps_per_epoch=steps)
    return stage_start(mine, mine.stages[0], optimizer, params, jnp.zeros((), jnp.int32))


def train_epoch(
    state: TrainState,
    numbers: Numbers,
    first_step: jax.Array,
    order: jax.Array,
    features: jax.Array,
    tag_ids: jax.Array,
    *,
    experiment: Experiment,
    n_tags: int,
) -> tuple[TrainState, jax.Array]:
    """One epoch of one head.

    Args:
      state: of the head.
      numbers: of the head.
      first_step: int32, how many steps the head has done.
      order: int32 [steps, batch], records; -1 for the rows that pad the last batch.
      features: float32 [records, 512].
      tag_ids: int32 [records, most tags of an image], padded with -1.
      experiment: with all else that the head is.
      n_tags: size of the vocabulary.

    Returns:
      the state an epoch on, and the sum of the loss over all images: not finite where that of any step was not.
    """
    mine = with_numbers(experiment, numbers)
    (stage,) = mine.stages
    optimizer = make_optimizer(mine, stage, state.params, steps_per_epoch=len(order))
    model = build_model(mine, n_tags)
    step = parallel.on_one_device(make_train_step(mine, stage, model, optimizer, first_layer=VGG16_LAYER_COUNT))

    def body(state: TrainState, now: tuple[jax.Array, jax.Array]) -> tuple[TrainState, jax.Array]:
        number, rows = now
        batch = {"features": features[rows], "tag_ids": tag_ids[rows], "weight": (rows >= 0).astype(jnp.float32)}
        # All heads have done as many steps: where their seeds are equal as well, they share the dropout's random bits.
        state, sums = step(dataclasses.replace(state, step=number), batch)
        return state, sums["loss"]

    state, losses = jax.lax.scan(body, state, (first_step + jnp.arange(len(order)), order))
    return state, jnp.sum(losses)


def validate(
    state: TrainState,
    numbers: Numbers,
    features: jax.Array,
    tag_ids: jax.Array,
    *,
    experiment: Experiment,
    n_tags: int,
) -> dict[str, Array]:
    """Scores of one head.

    Args:
      state: of the head.
      numbers: of the head.
      features: float32 [batches, rows, 512].
      tag_ids: int32 [batches, rows, most tags of an image], padded with -1.
      experiment: with all else that the head is.
      n_tags: size of the vocabulary.

    Returns:
      "loss" and "f1" as `eval_step` gives them, float32 [batches, rows].
    """
    mine = with_numbers(experiment, numbers)
    score = functools.partial(
        eval_step,
        state.scored_params,
        model=build_model(mine, n_tags),
        positive_weight=mine.loss.positive_weight,
        suggestion=mine.suggestion,
        first_layer=VGG16_LAYER_COUNT,
    )
    return jax.lax.map(score, {"features": features, "tag_ids": tag_ids})


class HeadPrograms:
    """The compiled functions of heads that differ in numbers alone; every array of heads has them on its first axis.

    Args:
      experiment: of any of the heads.
      fields: the paths of the numbers that differ.
      n_tags: size of the vocabulary.
      steps: of an epoch.
      head: that all start from; None for those drawn from their seeds.
      devices: among which the heads are divided; their number must be a multiple.
    """

    def __init__(
        self,
        experiment: Experiment,
        fields: Collection[str],
        *,
        n_tags: int,
        steps: int,
        head: Params | None,
        devices: parallel.Devices,
    ) -> None:
        self.fields = tuple(fields)
        self._start = jax.jit(
            jax.vmap(functools.partial(start, experiment=experiment, n_tags=n_tags, steps=steps, head=head))
        )
        self._devices = devices
        # With equal seeds, all heads see the same batches.
        order_axis = 0 if SEED in fields else None
        common = {"experiment": experiment, "n_tags": n_tags}
        train = jax.vmap(functools.partial(train_epoch, **common), in_axes=(0, 0, None, order_axis, None, None))
        self._train = devices.compile_heads(train, (True, True, False, order_axis == 0, False, False), donate=True)
        evaluate = jax.vmap(functools.partial(validate, **common), in_axes=(0, 0, None, None))
        self.validate: Callable[..., Any] = devices.compile_heads(evaluate, (True, True, False, False), donate=False)
        """`validate` of all heads."""
        self._compiled: dict[int, Any] = {}

    def start(self, numbers: Numbers) -> TrainState:
        """`start` of all heads."""
        return self._devices.divide(self._start(numbers))

    def compile(self, state: TrainState, numbers: Numbers, *rest: Array) -> int | None:
        """Compiles `train` for so many heads.

        Returns:
          the bytes that it takes on each device, features not counted; None where it was compiled before.
        """
        heads = _count(numbers)
        if heads in self._compiled:
            return None
        self._compiled[heads] = self._train.lower(state, numbers, *rest).compile()
        analysis = self._compiled[heads].memory_analysis()
        return analysis.output_size_in_bytes + analysis.temp_size_in_bytes

    def train(self, state: TrainState, numbers: Numbers, *rest: Array) -> tuple[TrainState, jax.Array]:
        """`train_epoch` of all heads, after `compile`; the state is donated."""
        return self._compiled[_count(numbers)](state, numbers, *rest)


def _count(numbers: Numbers) -> int:
    return len(next(iter(numbers.values())))
