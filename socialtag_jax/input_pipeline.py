"""Shards -> batches of uint8 images, padded tag indices and weights, with grain.

A batch is a pure function of (records, settings, seed, epoch, batch number): it depends neither on the number of
devices and processes nor on threads, and reading can begin at any batch. Of several processes, each assembles the rows
of its own devices: they are cut from the batch after its order was drawn.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict, TypeVar

import cv2
import grain
import numpy as np

from socialtag_jax import augment
from socialtag_jax.bad_records import Damaged, stop
from socialtag_jax.buffer_pool import BufferPool
from socialtag_jax.config import Augmentation
from socialtag_jax.counter_random import random_units
from socialtag_jax.errors import UserError
from socialtag_jax.machine import usable_cores
from socialtag_jax.shards.dataset import ParsedRecords
from socialtag_jax.shards.example import Record
from socialtag_jax.shards.images import ImageError
from socialtag_jax.shards.pixels import decode

_AHEAD_BYTES = 2**32
AnyBatch = TypeVar("AnyBatch")


class Batch(TypedDict):
    """A batch, split over the local devices by its leading axis.

    Keys:
      images: uint8 [devices, rows, size, size, 3], RGB.
      tag_ids: int32 [devices, rows, most tags of an image], ascending, padded with -1.
      weight: float32 [devices, rows]: 1, or 0 for the rows that pad the last batch, and those of skipped records.
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
      processes: that share a batch, each with as many devices.
      process: this one's number, from 0.
    """

    devices: int
    rows: int
    input_size: int
    max_tags: int
    processes: int = 1
    process: int = 0

    @property
    def size(self) -> int:
        """Images in a batch, over all processes."""
        return self.processes * self.local_size

    @property
    def local_size(self) -> int:
        """Images of a batch that this process assembles."""
        return self.devices * self.rows

    def own(self, number: int) -> slice:
        """Where in an epoch's order this process's images of a batch are; there may be fewer of them, or none."""
        start = number * self.size + self.process * self.local_size
        return slice(start, start + self.local_size)


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
    damaged: Damaged = stop,
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
      damaged: is asked about each damaged record; where it returns, the record's row is padding.
    """
    order = train_order(len(records), seed, epoch)
    transformations = _transformations(augmentation, seed, epoch, shape)
    return _batches(records, shape, order, transformations, threads, start, limit, damaged)


def train_order(records: int, seed: int, epoch: int) -> np.ndarray:
    """int32 [records]: the record indices of one epoch, in the order drawn from (seed, epoch)."""
    # Drawn whole: to find single places of a lazy permutation took 3 to 30 us each; this takes 12 ms for 728,021.
    order = np.arange(records, dtype=np.int32)
    np.random.default_rng(_seeds(seed, epoch)[0]).shuffle(order)
    return order


def view_batches(
    records: ParsedRecords,
    shape: BatchShape,
    rows: range,
    *,
    seed: int,
    epoch: int,
    augmentation: Augmentation,
    threads: int = 0,
    damaged: Damaged = stop,
) -> Iterator[Batch]:
    """Consecutive records in their stored order, each as it looks in that epoch of training (see `train_batches`)."""
    transformations = _transformations(augmentation, seed, epoch, shape)
    return _batches(records, shape, rows, transformations, threads, 0, None, damaged)


def _seeds(seed: int, epoch: int) -> list[np.random.SeedSequence]:
    """Of an epoch's order and of its augmentation; neighbouring seeds and epochs have none in common."""
    return np.random.SeedSequence((seed, epoch)).spawn(2)


def _transformations(
    augmentation: Augmentation, seed: int, epoch: int, shape: BatchShape
) -> Callable[[np.ndarray], np.ndarray]:
    """Record indices (int [rows]) -> matrices (float64 [rows, 2, 3]), drawn from (seed, epoch, record index)."""
    if not augmentation.enabled:
        return _resize
    stream = int(_seeds(seed, epoch)[1].generate_state(1, np.uint64)[0])

    def transformations(rows: np.ndarray) -> np.ndarray:
        positions = rows[:, None] * np.int64(augment.DRAWS) + np.arange(augment.DRAWS)
        drawn = augment.draw(augmentation, random_units(stream, positions))
        return augment.matrix(drawn, shape.input_size)

    return transformations


def _resize(rows: np.ndarray) -> np.ndarray:
    return np.broadcast_to(augment.IDENTITY, (len(rows), *augment.IDENTITY.shape))


def eval_batches(
    records: ParsedRecords,
    shape: BatchShape,
    *,
    threads: int = 0,
    limit: int | None = None,
    damaged: Damaged = stop,
) -> Iterator[Batch]:
    """All records in their stored order, only resized: row r of batch b is record `shape.own(b).start + r`."""
    return _batches(records, shape, range(len(records)), _resize, threads, 0, limit, damaged)


def _batches(
    records: ParsedRecords,
    shape: BatchShape,
    order: np.ndarray | range,
    transformations: Callable[[np.ndarray], np.ndarray],
    threads: int,
    start: int,
    limit: int | None,
    damaged: Damaged,
) -> Iterator[Batch]:
    # The pipeline's own threads use the cores; OpenCV's would only contend with them.
    cv2.setNumThreads(1)

    memory = BufferPool((shape.local_size, shape.input_size, shape.input_size, 3))

    def assemble(number: int) -> Batch:
        rows = np.asarray(order[shape.own(number)], np.int64)
        return _assemble(records, shape, rows, transformations(rows), memory.take(), damaged)

    numbers = range(start, batch_count(len(order), shape.size, limit))
    return in_threads(assemble, numbers, batch_bytes=shape.local_size * shape.input_size**2 * 3, threads=threads)


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
    ahead = batches_ahead(batch_bytes, threads)
    options = grain.ReadOptions(num_threads=min(threads or usable_cores(), ahead), prefetch_buffer_size=ahead)
    return iter(grain.MapDataset.range(numbers.start, numbers.stop).map(assemble).to_iter_dataset(options))


def batches_ahead(batch_bytes: int, threads: int) -> int:
    """How many batches `in_threads` keeps ready or at work."""
    # A batch is assembled by one thread: as many wait ready as are at work, within what memory allows.
    return max(2, min((threads or usable_cores()) + 2, _AHEAD_BYTES // batch_bytes))


def _assemble(
    records: ParsedRecords,
    shape: BatchShape,
    rows: np.ndarray,
    transformations: np.ndarray,
    images: np.ndarray,
    damaged: Damaged,
) -> Batch:
    """The batch of these records (int [rows]), each with its transformation (float64 [rows, 2, 3]), in `images`."""
    size = shape.input_size
    images[len(rows) :] = 0
    weight = np.zeros(shape.local_size, np.float32)
    weight[: len(rows)] = 1.0
    # All are read and parsed before the first is decoded: alternating, each image's pixels push code and data of the
    # parser out of the processor's caches, which doubles the time that reading takes.
    batch = [_read(records, index, shape.max_tags, damaged) for index in rows.tolist()]
    for row, (record, transformation) in enumerate(zip(batch, transformations, strict=True)):
        if record is None or not _draw(records, record, int(rows[row]), transformation, images[row], damaged):
            batch[row] = None
            images[row] = 0
            weight[row] = 0.0
    tag_ids = _tag_ids(batch, (shape.local_size, shape.max_tags))
    lead = (shape.devices, shape.rows)
    return Batch(
        images=images.reshape(*lead, size, size, 3), tag_ids=tag_ids.reshape(*lead, -1), weight=weight.reshape(lead)
    )


def problem(records: ParsedRecords, index: int, shape: BatchShape) -> UserError | None:
    """What is wrong with a record that was skipped; None where it is whole by now."""
    found: list[UserError] = []

    def damaged(_: int, error: UserError) -> None:
        found.append(error)

    record = _read(records, index, shape.max_tags, damaged)
    if record is not None:
        out = np.empty((shape.input_size, shape.input_size, 3), np.uint8)
        _draw(records, record, index, augment.IDENTITY, out, damaged)
    return found[0] if found else None


def _read(records: ParsedRecords, index: int, max_tags: int, damaged: Damaged) -> Record | None:
    """A record; None for one that is damaged, and skipped."""
    try:
        record = records[index]
    except UserError as error:
        damaged(index, error)
        return None
    if len(record.tags) > max_tags:
        what = f"the record has {len(record.tags)} tags, more than the {max_tags} that statistics.json allows"
        damaged(index, UserError(what, where=records.where(index)))
        return None
    return record


def _draw(
    records: ParsedRecords,
    record: Record,
    index: int,
    transformation: np.ndarray,
    out: np.ndarray,
    damaged: Damaged,
) -> bool:
    """Fills `out` with the record's image; False where that is damaged, and skipped."""
    try:
        pixels = decode(record.image, out.shape[0])
    except ImageError as error:
        damaged(index, UserError(error.what, where=f"{records.where(index)} ({record.image_id})"))
        return False
    augment.warp(pixels, transformation, out)
    return True


def _tag_ids(batch: Sequence[Record | None], shape: tuple[int, int]) -> np.ndarray:
    """int32 of this shape, [rows or more, most tags]: the records' tags, padded with -1."""
    tags = [() if record is None else record.tags for record in batch]
    lengths = np.array([len(one) for one in tags], np.int64)
    tag_ids = np.full(shape, -1, np.int32)
    there = np.arange(shape[1]) < lengths[:, None]
    tag_ids[: len(batch)][there] = list(itertools.chain.from_iterable(tags))
    return tag_ids
