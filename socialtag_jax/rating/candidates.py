"""Which photos raters see, and which tags with them: the model's, the photo's own, popular ones and random ones, mixed.

The thesis's raters saw the predicted tags alone. Here other sources stand among them, hidden: the photo's own tags say
how many of the labels people agree with, popular ones what saying the same of every photo would earn, and random ones
how often a tag fits by chance.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

POPULAR_POOL = 15
"""Most frequent tags of the training photos that popular ones are drawn from: the most that the reference system names.
Always showing the same few would give them away."""
POPULAR, RANDOM = 5, 5
"""Tags of a photo from either source."""


class Source(enum.StrEnum):
    """Where a tag comes from."""

    PREDICTED = "predicted"
    TRUE = "true"
    POPULAR = "popular"
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A tag to judge.

    Attributes:
      tag: vocabulary index.
      sources: all that named it, in the order of `Source`; at least one.
    """

    tag: int
    sources: tuple[Source, ...]


def choose_photos(available: int, count: int, seed: int) -> np.ndarray:
    """Draws photos of a split, in random order: raters who stop early have rated a random sample as well.

    Args:
      available: photos of the split.
      count: to draw, at most `available`.
      seed: of the study.

    Returns:
      int64 [count], distinct record indices.
    """
    return np.random.default_rng(seed).permutation(available)[:count]


def popular_pool(training_counts: np.ndarray) -> Sequence[int]:
    """The most frequent tags, most frequent first; equal ones: the lower index first. Tags of no photo are left out.

    Args:
      training_counts: int64 [n_tags], training photos with each tag.
    """
    order = np.argsort(-training_counts, kind="stable")[:POPULAR_POOL]
    return order[training_counts[order] > 0].tolist()


def mix(
    predicted: Sequence[int],
    true: Sequence[int],
    popular: Sequence[int],
    n_tags: int,
    *,
    seed: int,
    record: int,
) -> Sequence[Candidate]:
    """The tags to judge for one photo, each once, in an order that says nothing of their sources.

    Popular and random tags are drawn without regard to the others: one that the model names too has both sources. (To
    draw among the rest only would take from random tags those that fit, and their precision would come out too low.)

    Args:
      predicted: the model's tags.
      true: the photo's own.
      popular: to draw from; see `popular_pool`.
      n_tags: size of the vocabulary, all of which random tags are drawn from.
      seed: of the study.
      record: the photo's index in its split; equal arguments give an equal result, whatever the other photos.
    """
    rng = np.random.default_rng([seed, record])
    named: Mapping[Source, Sequence[int]] = {
        Source.PREDICTED: predicted,
        Source.TRUE: true,
        Source.POPULAR: rng.permutation(np.asarray(popular, np.int64))[:POPULAR].tolist(),
        Source.RANDOM: rng.choice(n_tags, min(RANDOM, n_tags), replace=False).tolist(),
    }
    sources: dict[int, list[Source]] = {}
    for source, tags in named.items():
        for tag in dict.fromkeys(tags):
            sources.setdefault(tag, []).append(source)
    # From ascending order, so that the result depends on which tags there are, and not on who named them first.
    order = rng.permutation(sorted(sources)).tolist()
    return [Candidate(tag, tuple(sources[tag])) for tag in order]
