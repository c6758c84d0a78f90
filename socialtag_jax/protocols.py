"""A split's rankings under the protocols of the literature, for a model and for always saying the same tags.

Three protocols: over images with a threshold, as the thesis that this project reproduces has it; the ranking scores of
HARRISON (Park, Li and Kim, 2016); and five words an image, scored by word, as on Corel5K (Duygulu et al., 2002).
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from socialtag_jax import metrics
from socialtag_jax.metrics import ImageScores, Ranking, TagCounts
from socialtag_jax.tag_statistics import TagStatistics

BASELINE_SIZES = (5, 15)
"""Tags that the popularity baseline predicts: about as many as photos have, and the reference system's maximum."""

_CHUNK = 512
Scores = dict[str, Any]


@dataclass(frozen=True)
class SplitLabels:
    """The truth of a split, in record order: ids, and ascending tag indices padded with -1 (int32 [images, most])."""

    image_ids: Sequence[str]
    tag_ids: np.ndarray


@functools.partial(jax.jit, static_argnames=("threshold", "max_tags"))
def _judge_chunk(
    ranking: Ranking, true_ids: jax.Array, threshold: float, max_tags: int
) -> tuple[ImageScores, jax.Array, jax.Array]:
    scores = metrics.image_scores(ranking, true_ids, threshold=threshold, max_tags=max_tags)
    return scores, metrics.hits(ranking, true_ids), metrics.predicted(ranking, threshold, max_tags)


def judge(
    ranking: Ranking, labels: SplitLabels, n_tags: int, *, threshold: float, max_tags: int
) -> tuple[ImageScores, TagCounts]:
    """Compares rankings with the truth.

    Args:
      ranking: on the host, an image a row; see `metrics.image_scores` for how many tags it needs.
      labels: the truth.
      n_tags: size of the vocabulary.
      threshold: of a predicted tag.
      max_tags: most predicted tags of an image.

    Returns:
      the scores of each image, float32 [images], NaN for images without tags; and counts by tag over all images.
    """
    scores: list[ImageScores] = []
    flags: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, len(labels.tag_ids), _CHUNK):
        rows = slice(start, start + _CHUNK)
        chunk = Ranking(*(column[rows] for column in ranking))
        its_scores, correct, chosen = jax.device_get(_judge_chunk(chunk, labels.tag_ids[rows], threshold, max_tags))
        scores.append(its_scores)
        flags.append((correct, chosen))
    tagged = labels.tag_ids[:, 0] >= 0
    columns = (np.where(tagged, np.concatenate(column), np.nan) for column in zip(*scores, strict=True))
    correct, chosen = (np.concatenate(column) for column in zip(*flags, strict=True))
    counts = metrics.tag_counts(np.asarray(ranking.tag_ids), correct, chosen, labels.tag_ids, n_tags)
    return ImageScores(*columns), counts


def summarise(image_scores: ImageScores, counts: TagCounts, average_precision: np.ndarray) -> Scores:
    """The means and distributions of the first two protocols, and scores over all tags.

    Args:
      image_scores: NaN for images without tags, which are left out; there is another one.
      counts: by tag.
      average_precision: float64 [n_tags]; NaN for tags without positives, which are left out.
    """
    values = {name: column[~np.isnan(column)].astype(np.float64) for name, column in image_scores._asdict().items()}
    f1 = metrics.tag_precision_recall_f1(counts)[2]
    return {
        **{name: _distribution(values[name]) for name in ("f1", "recall", "precision")},
        **{name: float(np.mean(values[name])) for name in ("precision_at_1", "recall_at_5", "accuracy_at_5")},
        "macro_f1": float(np.mean(f1[counts.true > 0])),
        "micro_f1": metrics.micro_f1(counts),
        "mean_average_precision": float(np.nanmean(average_precision)),
        "tags_predicted": int(np.sum(counts.predicted > 0)),
        "tags_per_image": float(counts.predicted.sum() / len(image_scores.f1)),
    }


def _distribution(values: np.ndarray) -> Scores:
    """Mean, median and standard deviation over images, and how many scored 0."""
    zero = int(np.sum(values == 0))
    return {
        "mean": float(np.mean(values)),
        "median": float(np.median(values)),
        "std": float(np.std(values)),
        "zero": zero,
        "zero_share": zero / len(values),
    }


def popularity(training: np.ndarray, labels: SplitLabels) -> dict[str, Scores]:
    """Scores of always predicting the 5, or the 15, tags that most training images have.

    Args:
      training: int64 [n_tags], images by tag; see `training_counts`.
      labels: the truth.
    """
    n_tags, images = len(training), len(labels.tag_ids)
    result = {}
    for size in BASELINE_SIZES:
        order = _most_frequent(training, max(size, metrics.TOP))
        # Tags that were never seen take part in the ranking, but are not predicted.
        ranking = _constant(order, training[order], images)
        image_scores, counts = judge(ranking, labels, n_tags, threshold=0.0, max_tags=size)
        # The average precision of equal scores is the share of the images that have the tag.
        precisions = np.where(counts.true > 0, counts.true / images, np.nan)
        result[f"popularity_{size}"] = summarise(image_scores, counts, precisions)
    return result


def _most_frequent(counts: np.ndarray, size: int) -> np.ndarray:
    """Indices of the highest counts; of equal ones, the lower index first."""
    return np.argsort(-counts, kind="stable")[:size].astype(np.int32)


def _constant(tag_ids: np.ndarray, confidences: np.ndarray, images: int) -> Ranking:
    """The same ranking for every image, without copies."""
    shape = (images, len(tag_ids))
    return Ranking(np.broadcast_to(tag_ids, shape), np.broadcast_to(confidences.astype(np.float32), shape))


def training_counts(statistics: Mapping[str, TagStatistics], split: str) -> np.ndarray | None:
    """Images of each tag, int64 [n_tags], that a model evaluated on `split` may have learned from, in any way.

    Those are the train split's, and the validation split's where that is not the one evaluated: what is published on
    Corel5K trains on both. None where there is no train split.
    """
    if "train" not in statistics:
        return None
    used = ("train",) if split == "validation" else ("train", "validation")
    return np.sum([value.counts for name, value in statistics.items() if name in used], axis=0)


def common_words(training: np.ndarray | None, evaluated: np.ndarray) -> np.ndarray:
    """The words of the Corel5K protocol: those with a training image and an image in the evaluated split.

    Args:
      training: int64 [n_tags], images by tag; None where nothing is known of training.
      evaluated: int64 [n_tags], images by tag.

    Returns:
      int32 [n], ascending.
    """
    if training is None:
        return np.empty(0, np.int32)
    return np.flatnonzero((training > 0) & (evaluated > 0)).astype(np.int32)


def five_words(predicted: np.ndarray, labels: SplitLabels, words: np.ndarray, n_tags: int) -> Scores:
    """The Corel5K protocol's scores; see `metrics.word_scores`.

    Args:
      predicted: int32 [images, 5], every image's most confident tags among `words` (as many as there are, below five).
      labels: the truth.
      words: int32 [n], of `common_words`.
      n_tags: size of the vocabulary.
    """
    # Whatever their confidence: 1 is over any threshold.
    ranking = Ranking(predicted, np.ones(predicted.shape, np.float32))
    _, counts = judge(ranking, labels, n_tags, threshold=0.0, max_tags=metrics.TOP)
    return metrics.word_scores(counts, words)._asdict()


def five_frequent_words(training: np.ndarray, labels: SplitLabels, words: np.ndarray) -> Scores:
    """The Corel5K protocol's scores of giving every image the five words that most training images have.

    Args:
      training: int64 [n_tags], images by tag; see `training_counts`.
      labels: the truth.
      words: int32 [n], of `common_words`.
    """
    chosen = words[_most_frequent(training[words], metrics.TOP)]
    predicted = np.broadcast_to(chosen, (len(labels.tag_ids), len(chosen)))
    return five_words(predicted, labels, words, len(training))
