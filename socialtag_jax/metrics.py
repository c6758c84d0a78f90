"""Scores of multi-label predictions. Pure functions; averages are taken once, by the caller, over all images.

An image's prediction is a short ranking of tag ids, its truth a padded list of them: nothing here is as wide as the
vocabulary, except what `rank` starts from and the counts by tag.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray

TOP = 5
"""Most confident tags that the ranking scores look at, whatever their confidence."""


class Ranking(NamedTuple):
    """The most confident tags of each image, most confident first; equal ones: the lower index first.

    Attributes:
      tag_ids: int32 [images, count].
      probabilities: float32 [images, count].
    """

    tag_ids: Array
    probabilities: Array


class ImageScores(NamedTuple):
    """Scores of each image, float32 [images].

    Attributes:
      precision: share of the predicted tags that are true; 0 where none is predicted.
      recall: share of the true tags that are predicted.
      f1: their harmonic mean; 0 where both are 0.
      precision_at_1: 1 where the most confident tag is true.
      recall_at_5: share of the true tags among the five most confident.
      accuracy_at_5: 1 where any of the five most confident is true.
    """

    precision: Array
    recall: Array
    f1: Array
    precision_at_1: Array
    recall_at_5: Array
    accuracy_at_5: Array


def rank(probabilities: jax.Array, count: int) -> Ranking:
    """The `count` most confident tags (all of them, where there are fewer) of float32 [images, n_tags]."""
    values, tag_ids = jax.lax.top_k(probabilities, min(count, probabilities.shape[-1]))
    return Ranking(tag_ids, values)


def ranked(probabilities: np.ndarray, threshold: float, max_tags: int) -> np.ndarray:
    """The predicted tags of one image on the host: their indices, most confident first.

    Args:
      probabilities: float32 [n_tags].
      threshold: a tag must lie over it.
      max_tags: most tags.

    Returns:
      int64 [up to max_tags].
    """
    # Stable, so that of equal probabilities the lower index goes first here as well.
    order = np.argsort(-probabilities, kind="stable")[:max_tags]
    return order[probabilities[order] > threshold]


def predicted(ranking: Ranking, threshold: float, max_tags: int) -> jax.Array:
    """Which ranked tags count as predicted: the first `max_tags`, where over `threshold`; bool [images, count]."""
    _, count = ranking.probabilities.shape
    return (jnp.asarray(ranking.probabilities) > threshold) & (jnp.arange(count) < max_tags)[None]


def hits(ranking: Ranking, true_ids: Array) -> jax.Array:
    """Which ranked tags are true.

    Args:
      ranking: of the images.
      true_ids: int32 [images, most tags of an image], padded with -1.

    Returns:
      bool [images, count].
    """
    return jnp.any(jnp.asarray(ranking.tag_ids)[:, :, None] == jnp.asarray(true_ids)[:, None, :], axis=-1)


def image_scores(ranking: Ranking, true_ids: Array, *, threshold: float, max_tags: int) -> ImageScores:
    """The scores of each image that has at least one true tag (others divide by zero: the caller leaves them out).

    Args:
      ranking: at least the `max_tags`, and the five, most confident tags, where the vocabulary has as many.
      true_ids: int32 [images, most tags of an image], padded with -1.
      threshold: of a predicted tag.
      max_tags: most predicted tags of an image.
    """
    correct, chosen = hits(ranking, true_ids), predicted(ranking, threshold, max_tags)
    n_hits, n_predicted, n_true = (
        jnp.sum(flags, axis=-1, dtype=jnp.float32) for flags in (correct & chosen, chosen, jnp.asarray(true_ids) >= 0)
    )
    top = correct[:, :TOP].astype(jnp.float32)
    return ImageScores(
        precision=jnp.where(n_predicted > 0, n_hits / jnp.maximum(n_predicted, 1.0), 0.0),
        recall=n_hits / n_true,
        # 2pr / (p + r) with p = hits / predicted and r = hits / true.
        f1=2.0 * n_hits / (n_predicted + n_true),
        precision_at_1=top[:, 0],
        recall_at_5=jnp.sum(top, -1) / n_true,
        accuracy_at_5=jnp.max(top, -1),
    )


class TagCounts(NamedTuple):
    """Counts of each tag over images, int64 [n_tags]."""

    true_positives: np.ndarray
    predicted: np.ndarray
    true: np.ndarray


def tag_counts(
    tag_ids: np.ndarray, correct: np.ndarray, chosen: np.ndarray, true_ids: np.ndarray, n_tags: int
) -> TagCounts:
    """Counts by tag, on the host.

    Args:
      tag_ids: int32 [images, count], of a ranking.
      correct: bool [images, count], as `hits` gives it.
      chosen: bool [images, count], as `predicted` gives it.
      true_ids: int32 [images, most tags of an image], padded with -1.
      n_tags: size of the vocabulary.
    """
    flat = (tag_ids[correct & chosen], tag_ids[chosen], true_ids[true_ids >= 0])
    return TagCounts(*(np.bincount(ids, minlength=n_tags) for ids in flat))


def tag_precision_recall_f1(counts: TagCounts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of each tag, float64 [n_tags]; 0 where a denominator is 0."""
    true_positives = np.asarray(counts.true_positives, np.float64)
    return (
        true_positives / np.maximum(counts.predicted, 1),
        true_positives / np.maximum(counts.true, 1),
        2.0 * true_positives / np.maximum(counts.predicted + counts.true, 1),
    )


def micro_f1(counts: TagCounts) -> float:
    """F1 over all (image, tag) pairs."""
    return 2.0 * float(counts.true_positives.sum()) / max(float(counts.predicted.sum() + counts.true.sum()), 1.0)


class WordScores(NamedTuple):
    """Scores over words, as automatic image annotation reports them on Corel5K.

    Attributes:
      precision: mean over the words; a word that is never predicted counts 0.
      recall: mean over the words.
      f1: harmonic mean of these two means.
      words_recalled: how many words have a recall over 0 ("N+").
    """

    precision: float
    recall: float
    f1: float
    words_recalled: int


def word_scores(counts: TagCounts, words: np.ndarray) -> WordScores:
    """Scores over some words from counts by tag.

    Source: Duygulu, Barnard, de Freitas and Forsyth, "Object recognition as machine translation", 2002; Makadia,
    Pavlovic and Kumar, "A new baseline for image annotation", 2008.

    Args:
      counts: of predictions that hold the same number of words for every image.
      words: int [n], at least one; each is true for some image.
    """
    precisions, recalls, _ = tag_precision_recall_f1(counts)
    precision, recall = float(np.mean(precisions[words])), float(np.mean(recalls[words]))
    total = precision + recall
    f1 = 2.0 * precision * recall / total if total > 0 else 0.0
    return WordScores(precision, recall, f1, int(np.count_nonzero(recalls[words])))


def average_precision(scores: np.ndarray, positives: np.ndarray) -> float:
    """Area under one tag's precision-recall curve: sum over thresholds of (recall step) x precision.

    Equal scores form one threshold, so the order of images never matters (scikit-learn's `average_precision_score`).
    Each positive adds one step of 1 / positives to the recall at its own score's threshold, so the sum is the mean,
    over the positives, of the precision among the images that score as high as it or higher.

    Args:
      scores: float [images], finite.
      positives: int [n], the images that have the tag; at least one.
    """
    own = np.sort(scores[positives])
    at_least = len(scores) - np.searchsorted(np.sort(scores), own)
    positives_at_least = len(own) - np.searchsorted(own, own)
    return float(np.mean(positives_at_least / at_least))
