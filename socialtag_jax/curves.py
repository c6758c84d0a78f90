"""What scores would be at other thresholds, and how far confidences can be believed.

Nothing here needs all probabilities in memory: curves over (image, tag) pairs come from a histogram that columns are
added to, curves over images from each image's most confident tags.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from socialtag_jax import metrics
from socialtag_jax.metrics import Ranking

BINS = 1000
"""Of a histogram of confidences: curves have a point at every thousandth."""

_CHUNK = 512


@dataclass(frozen=True, eq=False)
class ConfidenceHistogram:
    """Pairs of an image and a tag by the confidence of the tag; grows in place.

    Bin k holds the confidences in (k / BINS, (k + 1) / BINS], so that a bin's lower edge is a threshold: what is
    predicted lies over it. A confidence of 0 is in the first bin. One that is an edge, but for a rounding error of
    float32, may be in the bin beside.

    Attributes:
      pairs: int64 [BINS], how many there are.
      true: int64 [BINS], those whose image has the tag.
      sums: float64 [BINS], of their confidences.
    """

    pairs: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    true: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    sums: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.float64))

    def add(self, confidences: np.ndarray, positives: np.ndarray) -> None:
        """Adds one tag's column.

        Args:
          confidences: float32 [images], 0 to 1.
          positives: int [n], the images that have the tag.
        """
        bins = np.clip(np.ceil(confidences * np.float32(BINS)).astype(np.int32) - 1, 0, BINS - 1)
        self.pairs[:] += np.bincount(bins, minlength=BINS)
        self.sums[:] += np.bincount(bins, weights=confidences, minlength=BINS)
        self.true[:] += np.bincount(bins[positives], minlength=BINS)


class PrecisionRecall(NamedTuple):
    """Precision and recall over all pairs at falling thresholds, float64 [points]; only where anything is predicted."""

    threshold: np.ndarray
    precision: np.ndarray
    recall: np.ndarray


def precision_recall(histogram: ConfidenceHistogram) -> PrecisionRecall:
    """The curve at every threshold that is an edge of the histogram; at least one pair must be true."""
    predicted = np.cumsum(histogram.pairs[::-1])
    hits = np.cumsum(histogram.true[::-1])
    there = predicted > 0
    threshold = np.arange(BINS - 1, -1, -1) / BINS
    return PrecisionRecall(threshold[there], hits[there] / predicted[there], hits[there] / hits[-1])


class Calibration(NamedTuple):
    """Confidences in groups of equal width, and how often they were right; arrays [groups].

    Attributes:
      pairs: int64, how many pairs there are.
      confidence: float64, their mean confidence; NaN where there are none, as for the next.
      share_true: float64, the share of them whose image has the tag.
    """

    pairs: np.ndarray
    confidence: np.ndarray
    share_true: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance of confidence and share over pairs (Naeini et al. 2015)."""
        gaps = np.abs(self.confidence - self.share_true)
        return float(np.nansum(gaps * self.pairs) / self.pairs.sum())


def calibration(histogram: ConfidenceHistogram, groups: int = 10) -> Calibration:
    """The reliability of confidences in `groups` groups of equal width; `groups` divides `BINS`."""
    pairs, true, sums = (
        column.reshape(groups, -1).sum(1) for column in (histogram.pairs, histogram.true, histogram.sums)
    )
    some = np.where(pairs > 0, pairs, 1)
    return Calibration(pairs, *(np.where(pairs > 0, column / some, np.nan) for column in (sums, true)))


def weighted_confidence(share_true: np.ndarray, positive_weight: float) -> np.ndarray:
    """The confidence that training with a weight on the positive term leads to, where a tag is right so often.

    The loss's mean, -(1 - p) log(1 - s) - q p log(s) for a share p and a weight q, is least at s = qp / (1 - p + qp).
    """
    return positive_weight * share_true / (1.0 - share_true + positive_weight * share_true)


def hits(ranking: Ranking, true_ids: np.ndarray) -> np.ndarray:
    """Which ranked tags are true, bool [images, count], on the host; see `metrics.hits`."""
    found = np.empty(ranking.tag_ids.shape, bool)
    for start in range(0, len(found), _CHUNK):
        rows = slice(start, start + _CHUNK)
        found[rows] = metrics.hits(Ranking(*(column[rows] for column in ranking)), true_ids[rows])
    return found


class ThresholdCurve(NamedTuple):
    """Means over the images that have tags, float64 [thresholds], were the threshold another one."""

    threshold: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    tags_per_image: np.ndarray

    def to_json(self) -> Mapping[str, list[float]]:
        """As lists, by name."""
        return {name: [round(float(value), 6) for value in column] for name, column in self._asdict().items()}


def threshold_curve(
    ranking: Ranking, correct: np.ndarray, true_ids: np.ndarray, thresholds: np.ndarray, max_tags: int
) -> ThresholdCurve:
    """What `metrics.image_scores` would be on average at other thresholds.

    Args:
      ranking: on the host; as many tags of an image as may be predicted.
      correct: bool [images, count], as `hits` gives it.
      true_ids: int32 [images, most tags of an image], padded with -1; at least one image has a tag.
      thresholds: float [thresholds].
      max_tags: most predicted tags of an image.
    """
    tagged = true_ids[:, 0] >= 0
    confidences = np.asarray(ranking.probabilities)[tagged, :max_tags]
    correct = correct[tagged, :max_tags]
    n_true = np.sum(true_ids[tagged] >= 0, axis=1)
    rows = []
    for threshold in thresholds:
        # In float32, as the scores compare.
        chosen = confidences > np.float32(threshold)
        n_predicted, n_hits = chosen.sum(1), (chosen & correct).sum(1)
        rows.append(
            (
                np.mean(n_hits / np.maximum(n_predicted, 1)),
                np.mean(n_hits / n_true),
                np.mean(2.0 * n_hits / (n_predicted + n_true)),
                np.mean(n_predicted),
            )
        )
    return ThresholdCurve(np.asarray(thresholds, np.float64), *np.array(rows, np.float64).T)
