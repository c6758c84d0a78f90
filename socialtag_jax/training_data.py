"""Where a stage's batches come from: photos, or what the frozen layers made of them, computed once."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from socialtag_jax import input_pipeline
from socialtag_jax.bad_records import Damaged, never_skipped
from socialtag_jax.config import Experiment
from socialtag_jax.input_pipeline import BatchShape
from socialtag_jax.parallel import Devices
from socialtag_jax.shards.dataset import Dataset
from socialtag_jax.steps import batch_shapes


class TrainingData(Protocol):
    """The batches of one stage."""

    first_layer: int
    """0 for batches of images; else of the features that this layer takes."""
    train_shapes: dict[str, jax.ShapeDtypeStruct]
    """Of a training batch."""
    eval_shapes: dict[str, jax.ShapeDtypeStruct]
    """Of a validation batch."""

    def train(self, epoch: int, stage_epoch: int, start: int = 0) -> Iterator[Mapping[str, Any]]:
        """The batches of one epoch, every record once.

        Args:
          epoch: counted over the whole run; decides the order.
          stage_epoch: counted from the stage's start.
          start: number of the first batch, for going on inside an epoch.
        """
        ...

    def validation(self) -> Iterator[Mapping[str, Any]]:
        """All validation records in their stored order."""
        ...


class ImageData:
    """Batches of photos; see `TrainingData`.

    Args:
      experiment: whose input settings are used.
      dataset: with a train and a validation split.
      devices: that batches are divided among.
      damaged_of: what to do with the damaged records of a split.
    """

    first_layer = 0

    def __init__(
        self,
        experiment: Experiment,
        dataset: Dataset,
        devices: Devices,
        damaged_of: Callable[[str], Damaged] = never_skipped,
    ) -> None:
        self._experiment, self._damaged_of = experiment, damaged_of
        self._train_records, self._validation_records = dataset.records("train"), dataset.records("validation")
        self._train_shape = train_shape(experiment, dataset, devices)
        self._eval_shape = eval_shape(experiment, dataset, devices)
        size = experiment.model.input_size
        image = jax.ShapeDtypeStruct((size, size, 3), np.uint8)
        self.train_shapes = shapes(image, self._train_shape, 0)
        self.eval_shapes = shapes(image, self._eval_shape, 0)

    def train(self, epoch: int, stage_epoch: int, start: int = 0) -> Iterator[input_pipeline.Batch]:
        """Augmented photos, as they are drawn for this epoch."""
        experiment = self._experiment
        return input_pipeline.train_batches(
            self._train_records,
            self._train_shape,
            seed=experiment.seed,
            epoch=epoch,
            augmentation=experiment.augmentation,
            threads=experiment.input.threads,
            start=start,
            limit=experiment.debug_batches,
            damaged=self._damaged_of("train"),
        )

    def validation(self) -> Iterator[input_pipeline.Batch]:
        """Photos that are only resized."""
        experiment = self._experiment
        return input_pipeline.eval_batches(
            self._validation_records,
            self._eval_shape,
            threads=experiment.input.threads,
            limit=experiment.debug_batches,
            damaged=self._damaged_of("validation"),
        )


def train_shape(experiment: Experiment, dataset: Dataset, devices: Devices) -> BatchShape:
    """The shape of a training batch.

    Raises:
      UsageError: the batch does not divide among the devices and the accumulation steps.
    """
    parts = experiment.input.accumulation_steps
    rows = devices.local_rows(experiment.input.batch_size, "--input.batch-size", parts=parts)
    return _batch_shape(experiment, dataset, devices, rows)


def eval_shape(experiment: Experiment, dataset: Dataset, devices: Devices) -> BatchShape:
    """The shape of a validation batch.

    Raises:
      UsageError: the batch does not divide among the devices.
    """
    rows = devices.local_rows(experiment.input.eval_batch_size, "--input.eval-batch-size")
    return _batch_shape(experiment, dataset, devices, rows)


def _batch_shape(experiment: Experiment, dataset: Dataset, devices: Devices, rows: int) -> BatchShape:
    size = experiment.model.input_size
    return BatchShape(len(devices.local), rows, size, dataset.max_tags, devices.processes, devices.process)


def shapes(row: jax.ShapeDtypeStruct, shape: BatchShape, first_layer: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Of a batch over all processes' devices; arguments as for `steps.batch_shapes`."""
    devices = shape.processes * shape.devices
    return batch_shapes(row, devices=devices, rows=shape.rows, max_tags=shape.max_tags, first_layer=first_layer)
