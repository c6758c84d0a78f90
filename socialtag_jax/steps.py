"""The training step and the evaluation step: pure functions of (state, batch), compiled by `parallel.Devices`."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import flax.struct
import jax
import jax.numpy as jnp
import optax

from socialtag_jax import losses, metrics, parallel
from socialtag_jax.config import Experiment, Stage, Suggestion, is_zero
from socialtag_jax.model import Params, TagPredictor, tag_logits, trainable_layers
from socialtag_jax.optimizer import Average, limit_norms

Tree = TypeVar("Tree")


@flax.struct.dataclass
class TrainState:
    """What a training step changes.

    Attributes:
      step: int32, training steps done over the whole run.
      params: all layers, frozen ones included.
      opt_state: of the current stage's optimizer; nothing for frozen layers.
      average: of the trainable layers over the current stage; None where the experiment averages nothing.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    average: Average | None = None

    @property
    def scored_params(self) -> Params:
        """All layers as they are validated, evaluated and exported: averaged where there is an average."""
        return self.params if self.average is None else {**self.params, **self.average.params}


TrainStep = Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]
"""`train_step` of (state, batch), everything else decided."""


def stage_start(
    experiment: Experiment, stage: Stage, optimizer: optax.GradientTransformation, params: Params, step: jax.Array
) -> TrainState:
    """The state before a stage's first step: fresh, but for the parameters and the int32 count of steps."""
    decay = experiment.optimizer.ema_decay
    average = None if decay is None else Average.start(params, stage.freeze_layers, decay)
    return TrainState(step, params, optimizer.init(params), average)


def make_train_step(
    experiment: Experiment,
    stage: Stage,
    model: TagPredictor,
    optimizer: optax.GradientTransformation,
    *,
    first_layer: int = 0,
) -> TrainStep:
    """The training step of an experiment's stage, to be compiled by `parallel.Devices`.

    Args:
      experiment: with the loss, the seed and the optimizer's settings.
      stage: with the frozen layers.
      model: the network.
      optimizer: of this stage.
      first_layer: 0 for batches of images; else of the features that this layer takes (`Batch`, `FeatureBatch`).
    """
    return functools.partial(
        train_step,
        model=model,
        optimizer=optimizer,
        first_layer=first_layer,
        freeze_layers=stage.freeze_layers,
        accumulation_steps=experiment.input.accumulation_steps,
        positive_weight=experiment.loss.positive_weight,
        l1=experiment.loss.l1,
        l2=experiment.loss.l2,
        max_norm=experiment.optimizer.max_norm,
        # Another stream than the initial parameters' key.
        dropout_key=jax.random.fold_in(jax.random.key(experiment.seed), 1),
    )


def train_step(
    state: TrainState,
    batch: Mapping[str, jax.Array],
    *,
    model: TagPredictor,
    optimizer: optax.GradientTransformation,
    first_layer: int,
    freeze_layers: int,
    accumulation_steps: int,
    positive_weight: float,
    dropout_key: jax.Array,
    l1: float,
    l2: float,
    max_norm: float | None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step on this device's rows, in lockstep with the other devices.

    With `accumulation_steps`, the rows are taken in so many equal parts one after the other, and their gradients added
    up: the same step, but for rounding, in less memory.

    Returns:
      the new state, and sums over all devices: "loss" over images, without penalties, and "images", their number.
    """
    weight = batch["weight"]
    rows = weight.shape[0]
    images = parallel.sum_over_devices(jnp.sum(weight))
    # Of a batch, all records may have been skipped: its gradient is zero, not 0 / 0.
    divisor = jnp.maximum(images, 1.0)
    step_key = jax.random.fold_in(dropout_key, state.step)
    row_keys = jax.vmap(lambda row: jax.random.fold_in(step_key, row))(
        parallel.device_index() * rows + jnp.arange(rows)
    )

    inputs = batch["features" if first_layer else "images"]
    trainable = {layer: state.params[layer] for layer in trainable_layers(freeze_layers)}

    def part_loss(trainable: Params, inputs: jax.Array, keys: jax.Array, tag_ids: jax.Array, weight: jax.Array):
        """These rows' share of the batch's mean loss."""
        logits = tag_logits(
            model,
            {**state.params, **trainable},
            inputs,
            first_layer=first_layer,
            freeze_layers=freeze_layers,
            dropout_keys=keys,
        )
        targets = losses.multi_hot(tag_ids, model.n_tags)
        return jnp.sum(losses.image_losses(logits, targets, positive_weight) * weight) / divisor

    gradient = functools.partial(jax.value_and_grad(part_loss), trainable)
    added = sum_over_parts(gradient, (inputs, row_keys, batch["tag_ids"], weight), accumulation_steps)
    loss, summed = parallel.sum_over_devices(added)
    if not (is_zero(l1) and is_zero(l2)):
        # Added to the sum, not before: it counts once, however many devices there are.
        penalty = jax.grad(losses.weight_penalty)(trainable, l1, l2)
        summed = jax.tree.map(jnp.add, summed, penalty)
    # optax raises a float to an int32 power, which a caller's strict promotion would refuse.
    with jax.numpy_dtype_promotion("standard"):
        # Frozen layers have no gradient: the optimizer looks at none of what stands in its place.
        updates, opt_state = optimizer.update({**state.params, **summed}, state.opt_state, state.params)
    # Frozen layers are handed on as they are: adding a zero would turn -0.0 into 0.0.
    updated = cast(Params, optax.apply_updates(state.params, updates))
    moved = {layer: updated[layer] for layer in trainable}
    if max_norm is not None:
        moved = limit_norms(moved, max_norm)
    params = {**state.params, **moved}
    average = None if state.average is None else state.average.with_step(params)
    return TrainState(state.step + 1, params, opt_state, average), {"loss": loss * divisor, "images": images}


def sum_over_parts(function: Callable[..., Tree], rows: Sequence[jax.Array], parts: int) -> Tree:
    """The sum of a function's values over equal parts of the rows, computed one part after the other.

    Args:
      function: of some rows of each array; all its values are sums over rows.
      rows: arrays with the same leading axis, which `parts` divides.
      parts: how many.
    """
    if parts == 1:
        return function(*rows)
    stacked = [array.reshape(parts, array.shape[0] // parts, *array.shape[1:]) for array in rows]
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, *(array[0] for array in stacked))
    )

    def add(total: Tree, part: Sequence[jax.Array]) -> tuple[Tree, None]:
        return jax.tree.map(jnp.add, total, function(*part)), None

    # A loop, not a row of copies of the program: only a loop makes sure that one part's memory serves the next.
    return jax.lax.scan(add, zeros, stacked)[0]


def eval_step(
    params: Params,
    batch: Mapping[str, jax.Array],
    *,
    model: TagPredictor,
    positive_weight: float,
    suggestion: Suggestion,
    first_layer: int = 0,
) -> dict[str, metrics.Array]:
    """This device's rows: "loss" and "f1", float32 [rows]; the latter is not defined for images without tags."""
    logits = tag_logits(model, params, batch["features" if first_layer else "images"], first_layer=first_layer)
    targets = losses.multi_hot(batch["tag_ids"], model.n_tags)
    ranking = metrics.rank(jax.nn.sigmoid(logits), max(suggestion.max_tags, metrics.TOP))
    scores = metrics.image_scores(
        ranking, batch["tag_ids"], threshold=suggestion.threshold, max_tags=suggestion.max_tags
    )
    loss = losses.image_losses(logits, targets, positive_weight)
    return {"loss": loss, "f1": scores.f1}


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether every number of a tree's arrays is finite, bool."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in floats]))


def batch_shapes(
    row: jax.ShapeDtypeStruct, *, devices: int, rows: int, max_tags: int, first_layer: int = 0
) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a step's batch (`Batch`, `FeatureBatch`), for compiling ahead of time.

    Args:
      row: one image, or the features of one.
      devices: leading axis.
      rows: images a device gets.
      max_tags: room for tag indices.
      first_layer: 0 for images; else of the features that this layer takes.
    """
    lead = (devices, rows)
    return {
        "features" if first_layer else "images": jax.ShapeDtypeStruct((*lead, *row.shape), row.dtype),
        "tag_ids": jax.ShapeDtypeStruct((*lead, max_tags), jnp.int32),
        "weight": jax.ShapeDtypeStruct(lead, jnp.float32),
    }


def build_model(experiment: Experiment, n_tags: int) -> TagPredictor:
    """The model of an experiment whose compute dtype is resolved."""
    config = experiment.model
    return TagPredictor(
        n_tags=n_tags,
        hidden_units=config.hidden_units,
        dropout_rate=config.dropout_rate,
        compute_dtype=jnp.dtype(config.compute_dtype),
    )
