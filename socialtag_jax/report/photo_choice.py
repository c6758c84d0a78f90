"""Which photos a report shows."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from socialtag_jax.report.outcomes import Outcomes

VERY_SURE = 0.9
"""Confidence from which a wrong tag asks whether the label is at fault."""

_SAME_TAG = 2
"""Photos of one tag, at most, among those whose labels may be at fault."""


@dataclass(frozen=True)
class Choice:
    """Rows of photos to show; none is in two of them.

    Attributes:
      best: the highest F1; of equal ones, those with more tags right.
      worst: the lowest F1; of equal ones, those that were most confidently wrong.
      random: of the others.
      unlabelled: photos with a tag that was predicted with a confidence of at least `VERY_SURE`, but is not among their
        labels; most confident first.
    """

    best: list[int]
    worst: list[int]
    random: list[int]
    unlabelled: list[int]


def choose(found: Outcomes, f1: np.ndarray, most: int, seed: int) -> Choice:
    """Chooses up to `most` photos of each kind among those that have tags.

    Args:
      found: of a split.
      f1: float [images]; NaN for images without tags.
      most: of each kind.
      seed: of the random ones.
    """
    tagged = np.flatnonzero(found.tagged)
    unlabelled = _unlabelled(found, tagged, most)
    right = found.right.sum(1)
    wrongly = np.where(found.wrong, found.confidences, 0.0).max(1)
    left = np.setdiff1d(tagged, unlabelled)
    # A photo with no tag right is not one of the best, one without a fault not one of the worst.
    best = _first(left[f1[left] > 0], (-f1, -right), most)
    left = np.setdiff1d(left, best)
    worst = _first(left[f1[left] < 1], (f1, -wrongly), most)
    left = np.setdiff1d(left, worst)
    random = np.random.default_rng(seed).permutation(left)[:most].tolist()
    return Choice(best, worst, random, unlabelled)


def _first(rows: np.ndarray, keys: tuple[np.ndarray, np.ndarray], most: int) -> list[int]:
    """The rows with the lowest keys; the second decides between equal first ones, then the row."""
    order = np.lexsort((rows, keys[1][rows], keys[0][rows]))
    return rows[order[:most]].tolist()


def _unlabelled(found: Outcomes, tagged: np.ndarray, most: int) -> list[int]:
    sure = np.where(found.wrong[tagged], found.confidences[tagged], 0.0)
    first = sure.argmax(1)
    highest = sure[np.arange(len(tagged)), first]
    seen: Counter[int] = Counter()
    chosen: list[int] = []
    for place in np.argsort(-highest, kind="stable"):
        if highest[place] < VERY_SURE or len(chosen) == most:
            break
        tag = int(found.tag_ids[tagged[place], first[place]])
        if seen[tag] < _SAME_TAG:
            seen[tag] += 1
            chosen.append(int(tagged[place]))
    return chosen
