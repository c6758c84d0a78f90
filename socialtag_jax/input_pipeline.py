"""Shards -> batches of uint8 images, padded tag indices and weights, with grain.

A batch is a pure function of (records, settings, seed, epoch, batch number): it depends neither on the number of
devices nor on threads, and reading can begin at any batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict, TypeVar

import cv2
import grain
import numpy as np

from socialtag_jax import augment
from socialtag_jax.config import Augmentation
from socialtag_jax.errors import UserError
from socialtag_jax.machine import usable_cores
from socialtag_jax.shards.dataset import ParsedRecords
from socialtag_jax.shards.images import ImageError
from socialtag_jax.shards.pixels import decode

_AHEAD_BYTES = 2**32
AnyBatch = TypeVar("AnyBatch")


class Batch(TypedDict):
    """A batch, split over the local devices by its leading axis.

    Keys:
      images: uint8 [devices, rows, size, size, 3], RGB.
      tag_ids: int32 [devices, rows, most tags of an image], ascending, padded with -1.
      weight: float32 [devices, rows]: 1, or 0 for the rows that pad the last batch.
    """

    images: np.ndarray
    tag_ids: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class BatchShape:
    """The shape of batches.

    Attributes:
      devices: local devices.
      rows: images a device gets in a step.
      input_size: height and width in pixels.
      max_tags: room for tag indices.
    """

    devices: int
    rows: int
    input_size: int
    max_tags: int

    @property
    def size(self) -> int:
        """Images in a batch."""
        return self.devices * self.rows


def batch_count(records: int, batch_size: int, limit: int | None = None) -> int:
    """Batches in an epoch: the last one is padded, never dropped."""
    count = -(-records // batch_size)
    return count if limit is None else min(count, limit)


def train_batches(
    records: ParsedRecords,
    shape: BatchShape,
    *,
    seed: int,
    epoch: int,
    augmentation: Augmentation,
    threads: int = 0,
    start: int = 0,
    limit: int | None = None,
) -> Iterator[Batch]:
    """The batches of one epoch, every record once, in an order drawn from (seed, epoch).

    Args:
      records: of the train split.
      shape: of the batches.
      seed: of order and augmentation.
      epoch: counted over the whole run.
      augmentation: drawn for each image from (seed, epoch, record index).
      threads: that decode and warp; 0 for one a core.
      start: number of the first batch, for going on inside an epoch.
      limit: cuts the epoch to so many batches.
    """
    order = train_order(len(records), seed, epoch)
    return _batches(records, shape, order, _transforms(augmentation, seed, epoch), threads, start, limit)


def train_order(records: int, seed: int, epoch: int) -> grain.MapDataset[int]:
    """The record indices of one epoch, in the order drawn from (seed, epoch)."""
    # grain wants 32 bits; SeedSequence mixes the two numbers so that neighbouring seeds share no epoch's order.
    order_seed = int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])
    return grain.MapDataset.range(records).shuffle(seed=order_seed)


def view_batches(
    records: ParsedRecords,
    shape: BatchShape,
    rows: range,
    *,
    seed: int,
    epoch: int,
    augmentation: Augmentation,
    threads: int = 0,
) -> Iterator[Batch]:
    """Consecutive records in their stored order, each as it looks in that epoch of training (see `train_batches`)."""
    order = grain.MapDataset.range(rows.start, rows.stop)
    return _batches(records, shape, order, _transforms(augmentation, seed, epoch), threads, 0, None)


def _transforms(augmentation: Augmentation, seed: int, epoch: int) -> Callable[[int], augment.Affine]:
    def transform(index: int) -> augment.Affine:
        if not augmentation.enabled:
            return augment.IDENTITY
        return augment.draw(augmentation, np.random.default_rng((seed, epoch, index)))

    return transform


def eval_batches(
    records: ParsedRecords, shape: BatchShape, *, threads: int = 0, limit: int | None = None
) -> Iterator[Batch]:
    """All records in their stored order, only resized: row r of batch b is record `b * shape.size + r`."""
    order = grain.MapDataset.range(len(records))
    return _batches(records, shape, order, lambda _: augment.IDENTITY, threads, 0, limit)


def _batches(
    records: ParsedRecords,
    shape: BatchShape,
    order: grain.MapDataset[int],
    transform: Callable[[int], augment.Affine],
    threads: int,
    start: int,
    limit: int | None,
) -> Iterator[Batch]:
    # The pipeline's own threads use the cores; OpenCV's would only contend with them.
    cv2.setNumThreads(1)

    def assemble(number: int) -> Batch:
        rows = order[number * shape.size : (number + 1) * shape.size]
        return _assemble(records, shape, [int(row) for row in rows], transform)

    numbers = range(start, batch_count(len(order), shape.size, limit))
    return in_threads(assemble, numbers, batch_bytes=shape.size * shape.input_size**2 * 3, threads=threads)


def in_threads(
    assemble: Callable[[int], AnyBatch], numbers: range, *, batch_bytes: int, threads: int
) -> Iterator[AnyBatch]:
    """Batches by their numbers, in order, assembled ahead of their use.

    Args:
      assemble: from a batch's number to the batch; called by several threads.
      numbers: of the batches.
      batch_bytes: of one batch, roughly: what waits is bounded.
      threads: that assemble; 0 for one a core.
    """
    workers = threads or usable_cores()
    # A batch is assembled by one thread: as many wait ready as are at work, within what memory allows.
    ahead = max(2, min(workers + 2, _AHEAD_BYTES // batch_bytes))
    options = grain.ReadOptions(num_threads=min(workers, ahead), prefetch_buffer_size=ahead)
    return iter(grain.MapDataset.range(numbers.start, numbers.stop).map(assemble).to_iter_dataset(options))


def _assemble(
    records: ParsedRecords, shape: BatchShape, rows: Sequence[int], transform: Callable[[int], augment.Affine]
) -> Batch:
    size = shape.input_size
    images = np.zeros((shape.size, size, size, 3), np.uint8)
    tag_ids = np.full((shape.size, shape.max_tags), -1, np.int32)
    weight = np.zeros(shape.size, np.float32)
    for row, index in enumerate(rows):
        record = records[index]
        if len(record.tags) > shape.max_tags:
            raise UserError(
                f"the record has {len(record.tags)} tags, more than the {shape.max_tags} that statistics.json allows",
                where=records.where(index),
            )
        try:
            pixels = decode(record.image, size)
        except ImageError as error:
            raise UserError(error.what, where=f"{records.where(index)} ({record.image_id})") from error
        augment.warp(pixels, transform(index), images[row])
        tag_ids[row, : len(record.tags)] = record.tags
        weight[row] = 1.0
    lead = (shape.devices, shape.rows)
    return Batch(
        images=images.reshape(*lead, size, size, 3), tag_ids=tag_ids.reshape(*lead, -1), weight=weight.reshape(lead)
    )
