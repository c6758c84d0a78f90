"""Everything in a data set read once: whether its shards, records, images and counts are as its metadata says."""

from typing import TextIO

import numpy as np

from socialtag_jax import files
from socialtag_jax.errors import UserError
from socialtag_jax.progress import Progress
from socialtag_jax.shards.dataset import MANIFEST, STATISTICS, Dataset, shard_hashes
from socialtag_jax.shards.images import ImageError
from socialtag_jax.shards.pixels import decode
from socialtag_jax.tag_statistics import tag_statistics

_DECODED_FOR = 32
"""Pixels of a network's input: large images are decoded at an eighth of their size."""


def verify(dataset: Dataset, *, stream: TextIO) -> tuple[int, list[str]]:
    """Reads all of a data set that `open_dataset` has opened, which compared the metadata's hashes already.

    Args:
      dataset: to read.
      stream: where progress is shown.

    Returns:
      the number of records, and what is wrong, a line each: a shard's SHA-256, a damaged record, an image that does not
      decode, an image id that two records have, tag counts that are not those of the records.
    """
    total = sum(map(len, dataset.splits.values()))
    progress, done = Progress("verify", total, "records", stream), 0
    problems = [
        f"{dataset.folder / name}: the content is not what {MANIFEST} says (SHA-256 differs)"
        for name, expected in shard_hashes(dataset.folder).items()
        if files.sha256(dataset.folder / name) != expected
    ]
    first: dict[str, str] = {}
    for split in dataset.splits:
        try:
            records = dataset.records(split)
        except UserError as error:
            problems.append(str(error))
            continue
        tags = []
        for index in range(len(records)):
            done += 1
            progress.update(done)
            try:
                record = records[index]
                where = records.where(index)
                decode(record.image, _DECODED_FOR)
            except ImageError as error:
                problems.append(f"{records.where(index)}: {error.what}")
                continue
            except UserError as error:
                problems.append(str(error))
                continue
            tags.append(record.tags)
            if first.setdefault(record.image_id, where) != where:
                problems.append(f"{where}: the image id {record.image_id!r} is that of {first[record.image_id]} too")
        problems += _count_problems(dataset, split, tags)
    progress.finish(done)
    return total, problems


def _count_problems(dataset: Dataset, split: str, tags: list[tuple[int, ...]]) -> list[str]:
    """Where no record is damaged, what was counted in them is what was written down."""
    if len(tags) != len(dataset.splits[split]):
        return []
    found, said = tag_statistics(tags, len(dataset.vocabulary)), dataset.statistics[split]
    if np.array_equal(found.counts, said.counts) and np.array_equal(found.histogram, said.histogram):
        return []
    return [f"{dataset.folder / STATISTICS}: the tag counts of {split} are not those of its records"]
