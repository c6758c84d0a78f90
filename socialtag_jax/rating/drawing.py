"""Draws a study: photos of a split, what the model says of them, and the tags to judge."""

from collections.abc import Sequence
from typing import TextIO

import numpy as np

from socialtag_jax import augment, metrics
from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.evaluate import check_tags
from socialtag_jax.progress import Progress
from socialtag_jax.protocols import training_counts
from socialtag_jax.rating.candidates import choose_photos, mix, popular_pool
from socialtag_jax.rating.study import StudyPhoto, StudyTag
from socialtag_jax.shards.dataset import Dataset
from socialtag_jax.shards.images import ImageError
from socialtag_jax.shards.pixels import decode
from socialtag_jax.tagger import MAX_BATCH, Tagger


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
        raise UserError("no train split, from which popular tags could be known", where=dataset.location)
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
            candidates = [StudyTag(tags[one.tag], displays[one.tag], one.sources, float(scores[one.tag])) for one in mixed]
            photos.append(StudyPhoto(index, record.image_id, candidates))
        progress.update(len(photos))
    progress.finish(count)
    return photos
