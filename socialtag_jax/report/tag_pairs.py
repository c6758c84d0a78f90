"""Pairs of tags that the model takes for each other, or says together though photos have one or the other.

Pairs are counted among the tags that matter alone, so that memory does not grow with the square of the vocabulary.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

from socialtag_jax.report.outcomes import Outcomes

TAGS = 300
"""Tags that matter: pairs are counted among so many missed and so many predicted ones."""

_CHUNK = 4096
_APART = 0.2
"""Tags exclude each other where so small a share of the images that chance would give both has both."""
_BY_CHANCE = 0.01
"""And where so few images would have both, were the two independent, less often than this."""


@dataclass(frozen=True)
class Confusion:
    """A tag that was missed, and another one that was predicted in its place.

    Attributes:
      missed: the image has this tag.
      said: and this one was predicted, wrongly.
      images: of which that is so.
      expected: of which that would be so if the two had nothing to do with each other.
    """

    missed: int
    said: int
    images: int
    expected: float


@dataclass(frozen=True)
class Conflict:
    """Two tags that were predicted together, though they exclude each other in the labels.

    Attributes:
      first: the one that more images have.
      second: the other one.
      predicted: images with tags for which both were predicted.
      true: images that have both.
      expected: images that would have both by chance, from how many have each.
    """

    first: int
    second: int
    predicted: int
    true: int
    expected: float


def confusions(found: Outcomes, n_tags: int, most: int = 15) -> list[Confusion]:
    """The most frequent confusions: those with the most images above what chance explains.

    Without that, the pairs would be those of the most often missed tags and of the most often predicted ones.

    Args:
      found: of a split.
      n_tags: size of the vocabulary.
      most: how many.
    """
    # Of an image without tags, nothing is missed.
    wrong, missed = found.wrong & found.tagged[:, None], found.missed
    said_of = np.bincount(found.tag_ids[wrong], minlength=n_tags)
    missed_of = np.bincount(found.true_ids[missed], minlength=n_tags)
    said, missing = _matter(said_of), _matter(missed_of)
    together = _count_pairs(found.true_ids, missed, missing, found.tag_ids, wrong, said, n_tags)
    images = max(int(found.tagged.sum()), 1)
    expected = missed_of[missing][:, None] * said_of[said][None] / images
    excess = together - expected
    result = []
    for place in np.argsort(-excess, axis=None, kind="stable")[:most]:
        row, column = np.unravel_index(place, excess.shape)
        if together[row, column] < 2 or excess[row, column] <= 0:
            break
        pair = int(missing[row]), int(said[column])
        result.append(Confusion(*pair, int(together[row, column]), float(expected[row, column])))
    return result


def conflicts(found: Outcomes, n_tags: int, most: int = 15) -> list[Conflict]:
    """The pairs that were most often predicted together, of those that exclude each other in the split's labels.

    Among independent tags, how many images have both has nearly Poisson's distribution: with 4.6 expected, one pair in
    a hundred has none. A pair of which fewer are expected is never listed, however apart the two are.

    Args:
      found: of a split.
      n_tags: size of the vocabulary.
      most: how many.
    """
    true, predicted = found.true_ids >= 0, found.predicted & found.tagged[:, None]
    true_of = np.bincount(found.true_ids[true], minlength=n_tags)
    tags = _matter(np.bincount(found.tag_ids[predicted], minlength=n_tags))
    said = _count_pairs(found.tag_ids, predicted, tags, found.tag_ids, predicted, tags, n_tags)
    together = _count_pairs(found.true_ids, true, tags, found.true_ids, true, tags, n_tags)
    images = max(int(found.tagged.sum()), 1)
    expected = true_of[tags][:, None] * true_of[tags][None] / images
    apart = (together <= _APART * expected) & (special.pdtr(together, expected) < _BY_CHANCE)
    counts = np.triu(np.where(apart, said, 0), 1)
    result = []
    for place in np.argsort(-counts, axis=None, kind="stable")[:most]:
        row, column = np.unravel_index(place, counts.shape)
        if counts[row, column] == 0:
            break
        first, second = sorted((int(tags[row]), int(tags[column])), key=lambda tag: (-true_of[tag], tag))
        numbers = int(counts[row, column]), int(together[row, column]), float(expected[row, column])
        result.append(Conflict(first, second, *numbers))
    return result


def _matter(counts: np.ndarray) -> np.ndarray:
    """int64 [up to TAGS]: the tags with the highest counts, none of 0."""
    order = np.argsort(-counts, kind="stable")[:TAGS]
    return order[counts[order] > 0]


def _count_pairs(
    first_ids: np.ndarray,
    first: np.ndarray,
    first_tags: np.ndarray,
    second_ids: np.ndarray,
    second: np.ndarray,
    second_tags: np.ndarray,
    n_tags: int,
) -> np.ndarray:
    """int64 [first tags, second tags]: images whose flagged first ids hold the one, and second ids the other."""
    total = np.zeros((len(first_tags), len(second_tags)), np.int64)
    for start in range(0, len(first_ids), _CHUNK):
        rows = slice(start, start + _CHUNK)
        left = _indicators(first_ids[rows], first[rows], first_tags, n_tags)
        right = _indicators(second_ids[rows], second[rows], second_tags, n_tags)
        # Whole numbers this small are exact in float32.
        total += np.rint(left.T @ right).astype(np.int64)
    return total


def _indicators(ids: np.ndarray, flags: np.ndarray, tags: np.ndarray, n_tags: int) -> np.ndarray:
    """float32 [images, tags]: 1 where an image's flagged ids hold the tag."""
    place = np.full(n_tags, -1, np.int64)
    place[tags] = np.arange(len(tags))
    rows, columns = np.nonzero(flags)
    places = place[ids[rows, columns]]
    result = np.zeros((len(ids), len(tags)), np.float32)
    result[rows[places >= 0], places[places >= 0]] = 1.0
    return result
