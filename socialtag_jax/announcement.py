"""What a run says before its first step: devices, data, stages, arithmetic, and how long it will take."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp

from socialtag_jax import flops
from socialtag_jax.config import Experiment, Stage
from socialtag_jax.input_pipeline import batch_count
from socialtag_jax.model import TagPredictor
from socialtag_jax.optimizer import ParamsLike, count
from socialtag_jax.parallel import Devices
from socialtag_jax.position import Position
from socialtag_jax.progress import format_duration
from socialtag_jax.roofline import Roof
from socialtag_jax.shards.dataset import Dataset


@dataclass(frozen=True)
class EpochSize:
    """How much an epoch is.

    Attributes:
      steps: training steps.
      images: training images.
      validation_images: images that are validated after it.
    """

    steps: int
    images: int
    validation_images: int

    @staticmethod
    def of(experiment: Experiment, dataset: Dataset) -> "EpochSize":
        """Of an experiment on a data set; `debug_batches` cuts it."""

        def size(split: str, batch_size: int) -> tuple[int, int]:
            records = len(dataset.split(split))
            batches = batch_count(records, batch_size, experiment.debug_batches)
            return batches, min(batches * batch_size, records)

        steps, images = size("train", experiment.input.batch_size)
        return EpochSize(steps, images, size("validation", experiment.input.eval_batch_size)[1])


def rate_text(experiment: Experiment, stage: Stage) -> str:
    """A stage's learning rate, and how it changes."""
    schedule, highest = experiment.optimizer.schedule, experiment.learning_rate(stage)
    changes = [] if schedule.kind == "constant" else [f"{schedule.kind} to {schedule.final_share * highest:g}"]
    if schedule.warmup_epochs:
        changes.append(f"{schedule.warmup_epochs:g} epochs of warm-up")
    return f"{highest:g}" + (f" ({', '.join(changes)})" if changes else "")


def announce(
    experiment: Experiment,
    dataset: Dataset,
    model: TagPredictor,
    params: ParamsLike,
    devices: Devices,
    log: Callable[[str], None],
) -> None:
    """Logs what will run on what."""
    processes = f" in {devices.processes} processes" if devices.processes > 1 else ""
    log(f"devices: {len(devices)} x {devices.kind} ({devices.platform}){processes}")
    log(
        f"data: {dataset.name}, {len(dataset.split('train')):,} training and {len(dataset.split('validation')):,} "
        f"validation images, {model.n_tags:,} tags"
    )
    for number, stage in enumerate(experiment.stages, start=1):
        total, trainable = count(params, stage.freeze_layers)
        log(
            f"stage {number}: {stage.epochs} epochs, first {stage.freeze_layers} of 19 layers frozen, "
            f"learning rate {rate_text(experiment, stage)}, "
            f"{trainable:,} of {total:,} parameters train"
        )
    operations = flops.layer_flops(model.n_tags, model.hidden_units, experiment.model.input_size)
    log(
        f"forward pass: {sum(operations) / 1e9:.2f} GFLOPs an image at {experiment.model.input_size} px, "
        f"{jnp.dtype(model.compute_dtype).name}"
    )


def run_flops(
    experiment: Experiment,
    size: EpochSize,
    n_tags: int,
    position: Position,
    uncached_images: Mapping[int, int],
) -> float:
    """Operations of the rest of a run, if no stage stops early.

    Args:
      experiment: what is run.
      size: of an epoch.
      n_tags: number of outputs.
      position: where the run stands.
      uncached_images: of the stages that train from cached features, by their index: images whose features are still to
        be computed.
    """
    config = experiment.model
    forward = flops.layer_flops(n_tags, config.hidden_units, config.input_size)
    total = 0.0
    for index, epochs in _epochs_left(experiment.stages, position):
        stage = experiment.stages[index]
        frozen = 0
        if index in uncached_images:
            frozen = sum(forward[: stage.freeze_layers])
            total += uncached_images[index] * frozen
        per_image = flops.training_flops(forward, stage.freeze_layers) - frozen
        total += epochs * (size.images * per_image + size.validation_images * (sum(forward) - frozen))
    return total


def _epochs_left(stages: Sequence[Stage], position: Position) -> list[tuple[int, int]]:
    done = position.stage_epoch
    first = stages[position.stage].epochs - done
    return [(position.stage, first), *((i, stages[i].epochs) for i in range(position.stage + 1, len(stages)))]


def announce_time(operations: float, roof: Roof, log: Callable[[str], None]) -> None:
    """Logs how long that many operations take at the devices' peak."""
    log(
        f"estimated time: {format_duration(operations / roof.flops)} and compilation, at the devices' peak of "
        f"{roof.flops / 1e12:.2f} TFLOP/s ({roof.source})"
    )
