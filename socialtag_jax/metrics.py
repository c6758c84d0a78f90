"""Scores of multi-label predictions. Pure functions; averages are taken once, by the caller, over all images."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray


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


def predicted(probabilities: jax.Array, threshold: float, max_tags: int) -> jax.Array:
    """Which tags count as predicted: the `max_tags` most confident ones, where over `threshold`.

    Equal probabilities: the tag with the lower index goes first.

    Args:
      probabilities: float32 [images, n_tags].
      threshold: a tag must lie over it.
      max_tags: most tags of an image.

    Returns:
      bool [images, n_tags].
    """
    images, n_tags = probabilities.shape
    values, columns = jax.lax.top_k(probabilities, min(max_tags, n_tags))
    rows = jnp.arange(images)[:, None]
    return jnp.zeros((images, n_tags), bool).at[rows, columns].set(values > threshold)


def ranked(probabilities: np.ndarray, threshold: float, max_tags: int) -> np.ndarray:
    """`predicted` for one image on the host: the indices of its tags, most confident first.

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


def image_scores(probabilities: jax.Array, targets: jax.Array, *, threshold: float, max_tags: int) -> ImageScores:
    """The scores of each image that has at least one true tag (others divide by zero: the caller leaves them out).

    Args:
      probabilities: float32 [images, n_tags].
      targets: float32 [images, n_tags], 0 or 1.
      threshold: of a predicted tag.
      max_tags: most predicted tags of an image.
    """
    chosen = predicted(probabilities, threshold, max_tags).astype(jnp.float32)
    hits, n_predicted, n_true = jnp.sum(chosen * targets, -1), jnp.sum(chosen, -1), jnp.sum(targets, -1)
    _, top = jax.lax.top_k(probabilities, min(5, probabilities.shape[-1]))
    top_hits = jnp.take_along_axis(targets, top, axis=-1)
    return ImageScores(
        precision=jnp.where(n_predicted > 0, hits / jnp.maximum(n_predicted, 1.0), 0.0),
        recall=hits / n_true,
        # 2pr / (p + r) with p = hits / predicted and r = hits / true.
        f1=2.0 * hits / (n_predicted + n_true),
        precision_at_1=top_hits[:, 0],
        recall_at_5=jnp.sum(top_hits, -1) / n_true,
        accuracy_at_5=jnp.max(top_hits, -1),
    )


class TagCounts(NamedTuple):
    """Counts of each tag over images: int64 [n_tags] on the host, int32 on a device."""

    true_positives: Array
    predicted: Array
    true: Array


def tag_precision_recall_f1(counts: TagCounts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of each tag, float64 [n_tags]; 0 where a denominator is 0."""
    hits = np.asarray(counts.true_positives, np.float64)
    return (
        hits / np.maximum(counts.predicted, 1),
        hits / np.maximum(counts.true, 1),
        2.0 * hits / np.maximum(counts.predicted + counts.true, 1),
    )


def micro_f1(counts: TagCounts) -> float:
    """F1 over all (image, tag) pairs."""
    return 2.0 * float(counts.true_positives.sum()) / max(float(counts.predicted.sum() + counts.true.sum()), 1.0)


def average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Area under one tag's precision-recall curve: sum over thresholds of (recall step) x precision.

    Equal scores form one threshold, so the order of images never matters (scikit-learn's `average_precision_score`).

    Args:
      scores: float [images].
      targets: bool [images], at least one true.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(targets[order])
    ranks = np.arange(1, len(scores) + 1)
    # The last image of each run of equal scores.
    ends = np.append(np.diff(scores[order]) != 0, True)
    hits, ranks = hits[ends], ranks[ends]
    return float(np.sum(np.diff(hits, prepend=0) * hits / ranks) / hits[-1])
