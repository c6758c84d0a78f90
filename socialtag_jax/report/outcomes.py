"""What became of each tag of each image: predicted and right, predicted and wrong, or missed."""

from dataclasses import dataclass

import numpy as np

from socialtag_jax import curves
from socialtag_jax.metrics import Ranking

_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Predictions and truth of a split, an image a row.

    Attributes:
      tag_ids: int32 [images, count], the most confident tags, most confident first.
      confidences: float32 [images, count], theirs.
      predicted: bool [images, count], which of them count as predicted.
      correct: bool [images, count], which of them are true.
      true_ids: int32 [images, most], padded with -1.
      missed: bool [images, most], the true tags that were not predicted.
    """

    tag_ids: np.ndarray
    confidences: np.ndarray
    predicted: np.ndarray
    correct: np.ndarray
    true_ids: np.ndarray
    missed: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Bool [images, count]: predicted and true."""
        return self.predicted & self.correct

    @property
    def wrong(self) -> np.ndarray:
        """Bool [images, count]: predicted and not true."""
        return self.predicted & ~self.correct

    @property
    def tagged(self) -> np.ndarray:
        """Bool [images]: the images that have tags."""
        return self.true_ids[:, 0] >= 0


def outcomes(ranking: Ranking, true_ids: np.ndarray, *, threshold: float, max_tags: int) -> Outcomes:
    """Sorts the tags of every image by what became of them.

    Args:
      ranking: on the host; as many tags of an image as may be predicted.
      true_ids: int32 [images, most tags of an image], ascending and padded with -1.
      threshold: of a predicted tag.
      max_tags: most predicted tags of an image.
    """
    tag_ids, confidences = (np.asarray(column) for column in ranking)
    predicted = (confidences > np.float32(threshold)) & (np.arange(tag_ids.shape[1]) < max_tags)
    missed = np.empty(true_ids.shape, bool)
    for start in range(0, len(missed), _CHUNK):
        rows = slice(start, start + _CHUNK)
        found = np.where(predicted[rows], tag_ids[rows], -2)
        true = true_ids[rows]
        missed[rows] = true >= 0
        for place in range(true.shape[1]):
            missed[rows, place] &= ~np.any(found == true[:, place, None], axis=1)
    return Outcomes(tag_ids, confidences, predicted, curves.hits(ranking, true_ids), true_ids, missed)
