"""How many tags images have, and how many images a tag has."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np


@dataclass(frozen=True, eq=False)
class TagStatistics:
    """How many tags images have, and how many images a tag has. `a + b` is the statistics of both sets of images.

    Attributes:
      counts: int64 [n_tags], images with each tag, by index.
      histogram: int64 [most tags of one image + 1], images with 0, 1, 2, ... tags.
    """

    counts: np.ndarray
    histogram: np.ndarray

    @property
    def images(self) -> int:
        """How many images there are."""
        return int(self.histogram.sum())

    @property
    def images_without_tags(self) -> int:
        """How many images have no tag."""
        return int(self.histogram[:1].sum())

    @property
    def unique_tags(self) -> int:
        """How many tags occur on any image."""
        return int(np.count_nonzero(self.counts))

    @property
    def tags_used_once(self) -> int:
        """How many tags exactly one image has."""
        return int(np.count_nonzero(self.counts == 1))

    @property
    def min_tags(self) -> int:
        """Tags of the image with the fewest; 0 without images, as for the next three."""
        return self._tags_of_image(0)

    @property
    def max_tags(self) -> int:
        """Tags of the image with the most."""
        return self._tags_of_image(self.images - 1)

    @property
    def mean_tags(self) -> float:
        """Mean number of tags of an image."""
        return int(self.counts.sum()) / max(self.images, 1)

    @property
    def median_tags(self) -> float:
        """Median number of tags of an image; between the two middle ones where the number of images is even."""
        return (self._tags_of_image((self.images - 1) // 2) + self._tags_of_image(self.images // 2)) / 2

    def _tags_of_image(self, rank: int) -> int:
        """The number of tags of the image at place `rank` when images are sorted by it."""
        return int(np.searchsorted(np.cumsum(self.histogram), rank, side="right")) if self.images else 0

    def __add__(self, other: "TagStatistics") -> "TagStatistics":
        if self.counts.shape != other.counts.shape:
            raise ValueError(f"statistics of {len(self.counts)} and of {len(other.counts)} tags cannot be added")
        histogram = np.zeros(max(len(self.histogram), len(other.histogram)), np.int64)
        for part in (self.histogram, other.histogram):
            histogram[: len(part)] += part
        return TagStatistics(self.counts + other.counts, histogram)

    def to_json(self) -> dict[str, Any]:
        """All numbers as a plain dict; `from_json` needs only `counts` and `histogram`, people like the others."""
        return {
            "images": self.images,
            "images_without_tags": self.images_without_tags,
            "unique_tags": self.unique_tags,
            "min_tags": self.min_tags,
            "mean_tags": self.mean_tags,
            "median_tags": self.median_tags,
            "max_tags": self.max_tags,
            "histogram": self.histogram.tolist(),
            "counts": self.counts.tolist(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The statistics that `to_json` wrote."""
        return cls(np.array(value["counts"], np.int64), np.array(value["histogram"], np.int64))


def tag_statistics(encoded: Iterable[Sequence[int]], n_tags: int) -> TagStatistics:
    """Counts in one pass, in memory that does not grow with the number of images.

    Args:
      encoded: unique vocabulary indices of each image.
      n_tags: the size of the vocabulary.

    Raises:
      ValueError: an index outside 0 .. n_tags - 1.
    """
    images_with: Counter[int] = Counter()
    images_by_length: Counter[int] = Counter()
    for tags in encoded:
        images_with.update(tags)
        images_by_length[len(tags)] += 1
    return TagStatistics(_dense(images_with, n_tags), _dense(images_by_length, max(images_by_length, default=-1) + 1))


def _dense(counter: Mapping[int, int], length: int) -> np.ndarray:
    """int64 [length]: the counts, by key."""
    outside = [key for key in counter if not 0 <= key < length]
    if outside:
        raise ValueError(f"tag index {outside[0]} is outside 0 .. {length - 1}")
    dense = np.zeros(length, np.int64)
    dense[list(counter.keys())] = list(counter.values())
    return dense
