"""Draws a study: photos of a split, what the model says of them, and the tags to judge."""

import hashlib
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TextIO

import numpy as np

from socialtag_jax import augment, files, metrics
from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.evaluate import check_tags
from socialtag_jax.progress import Progress
from socialtag_jax.protocols import training_counts
from socialtag_jax.rating.candidates import choose_photos, mix, popular_pool
from socialtag_jax.rating.study_file import Origin, StudyPhoto, StudyTag, write_study
from socialtag_jax.shards.dataset import Dataset
from socialtag_jax.shards.images import ImageError
from socialtag_jax.shards.pixels import decode
from socialtag_jax.storage import Location
from socialtag_jax.tagger import MAX_BATCH, TAGGER, Tagger

PHOTOS = 200
"""The thesis rated as many of either data set."""


def bundle_sha256(bundle: Location) -> str:
    """The hash of a bundle's description, which lists the hash of every other file.

    Raises:
      UserError: not a bundle.
    """
    try:
        return hashlib.sha256(files.read_bytes(bundle / TAGGER)).hexdigest()
    except OSError as error:
        hint = "make one with `socialtag export`"
        raise UserError(f"not a bundle: {TAGGER} cannot be read", where=bundle, hint=hint) from error


def draw_study(
    path: Path,
    bundle: Location,
    dataset: Dataset,
    split: str,
    count: int | None,
    *,
    seed: int,
    clock: Callable[[], datetime],
    log: Callable[[str], None],
    stream: TextIO,
) -> None:
    """Draws a study and writes its file.

    Args:
      path: of the file, which does not exist.
      bundle: whose suggestions are judged.
      dataset: with the bundle's tags.
      split: of the data set, to draw from.
      count: of the photos; None for `PHOTOS`, or all of a split that has fewer.
      seed: equal seeds draw equal photos and tags.
      clock: the time of day, with its zone.
      log: takes one line of text at a time.
      stream: where progress is shown.

    Raises:
      UserError: as `Tagger.load`, `draw_photos` and `write_study`.
    """
    # Of two commands that draw the same study, one must not replace what the other's raters write to.
    with files.exclusive(path.parent):
        sha256 = bundle_sha256(bundle)
        tagger = Tagger.load(bundle)
        if tagger.description["provenance"]["dataset"]["fingerprint"] != dataset.fingerprint:
            log(
                "warning: not the data set that the model was trained on: photos of this split may have been trained on"
            )
        photos = draw_photos(
            tagger,
            dataset,
            split,
            min(PHOTOS, len(dataset.split(split))) if count is None else count,
            seed=seed,
            stream=stream,
        )
        origin = Origin(
            # SQLite stores UTF-8 alone.
            bundle=os.fsencode(str(bundle)).decode("utf-8", "backslashreplace"),
            bundle_sha256=sha256,
            dataset=dataset.name,
            dataset_fingerprint=dataset.fingerprint,
            split=split,
            seed=seed,
            threshold=tagger.threshold,
            max_tags=tagger.max_tags,
        )
        write_study(path, origin, photos, clock)


def draw_photos(
    tagger: Tagger, dataset: Dataset, split: str, count: int, *, seed: int, stream: TextIO
) -> Sequence[StudyPhoto]:
    """Draws the photos of a study, each with its tags, in the order in which raters see them.

    Args:
      tagger: whose suggestions are judged.
      dataset: with the tagger's tags.
      split: to draw from.
      count: of the photos.
      seed: equal seeds draw equal studies.
      stream: where progress is shown.

    Raises:
      UsageError: the split has fewer photos.
      UserError: the data set's tags are not the tagger's, it has no such split or none to train on, or a record is
        damaged.
    """
    check_tags(dataset, tagger.vocabulary)
    available = len(dataset.split(split))
    if count > available:
        hint = f"--photos {available}, or another --split"
        raise UsageError(f"{count:,} photos asked for, but {split} has {available:,}", where="--photos", hint=hint)
    training = training_counts(dataset.statistics, split)
    if training is None:
        what = "no train split, from which popular tags could be known"
        raise UserError(what, where=dataset.location, hint="rate with a data set that has one")
    popular, n_tags = popular_pool(training), len(dataset.vocabulary)
    tags, displays = dataset.vocabulary.tags, dataset.vocabulary.displays
    records, photos = dataset.records(split), []
    chosen = choose_photos(available, count, seed).tolist()
    progress = Progress("rate: suggestions", count, "photos", stream)
    for start in range(0, count, MAX_BATCH):
        batch = [(index, records[index]) for index in chosen[start : start + MAX_BATCH]]
        images = np.zeros((len(batch), tagger.input_size, tagger.input_size, 3), np.uint8)
        for (index, record), image in zip(batch, images, strict=True):
            try:
                augment.warp(decode(record.image, tagger.input_size), augment.IDENTITY, image)
            except ImageError as error:
                raise UserError(error.what, where=f"{records.where(index)} ({record.image_id})") from error
        for (index, record), scores in zip(batch, tagger.probabilities(images), strict=True):
            predicted = metrics.ranked(scores, tagger.threshold, tagger.max_tags).tolist()
            mixed = mix(predicted, record.tags, popular, n_tags, seed=seed, record=index)
            candidates = [
                StudyTag(tags[one.tag], displays[one.tag], one.sources, float(scores[one.tag])) for one in mixed
            ]
            photos.append(StudyPhoto(index, record.image_id, candidates))
        progress.update(len(photos))
    progress.finish(count)
    return photos
