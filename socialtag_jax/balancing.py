"""Balancing: frequent tags lose some of their training photos, so that they dominate the predictions less.

Each rule is written `NAME=N` (`socialtag prepare --balancing down-sample=500`). A photo that loses a tag keeps its
others; one that has no tag left is dropped, since as an example of "no tag" it would teach the opposite. Validation and
test stay as they are, so that scores compare.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from socialtag_jax.errors import UsageError
from socialtag_jax.labels import Labels
from socialtag_jax.pruning import Step

_FLAG = "--balancing"


def _down_sample(counts: np.ndarray, head: int) -> np.ndarray:
    """Denton et al. 2015: the `head` most frequent tags come down to the frequency of the next one."""
    used = np.sort(counts[counts > 0])[::-1]
    if len(used) <= head:
        raise UsageError(
            f"down-sample={head}: there are only {len(used)} tags, so none after the {head} most frequent",
            where=_FLAG,
            hint="choose a smaller number",
        )
    return np.minimum(counts, used[head])


def _square_root(counts: np.ndarray, threshold: int) -> np.ndarray:
    """Mahajan et al. 2018, Mikolov et al. 2013: frequencies over the threshold T shrink from f to the root of f T."""
    return np.where(counts > threshold, np.rint(np.sqrt(counts * float(threshold))).astype(np.int64), counts)


@dataclass(frozen=True)
class BalancingKind:
    """One line for people, and (int64 [tags] photos of each tag, N) -> how many each tag keeps."""

    text: str
    targets: Callable[[np.ndarray, int], np.ndarray]


BALANCING: Mapping[str, BalancingKind] = {
    "down-sample": BalancingKind("leaves the N most frequent tags as many photos as the next one has", _down_sample),
    "square-root": BalancingKind("leaves a tag of f > N photos only the square root of f times N", _square_root),
}
"""Every balancing by its name."""


@dataclass(frozen=True)
class Balancing:
    """A balancing and its number."""

    text: str
    name: str
    number: int


def parse_balancing(texts: Sequence[str]) -> tuple[Balancing, ...]:
    """From the command line.

    Raises:
      UsageError: an unknown name, or no number of at least 1.
    """
    parsed = []
    for text in texts:
        name, _, value = text.partition("=")
        if name not in BALANCING:
            hint = f"expected {' or '.join(f'{name}=N' for name in BALANCING)}"
            raise UsageError(f"there is no balancing {name!r}", where=_FLAG, hint=hint)
        if not value.isdecimal() or int(value) < 1:
            raise UsageError(f"{text!r}: expected a whole number of at least 1, as in {name}=500", where=_FLAG)
        parsed.append(Balancing(text, name, int(value)))
    return tuple(parsed)


def describe_balancing() -> str:
    """One line for `--help`."""
    return "; ".join(f"{name}=N {kind.text}" for name, kind in BALANCING.items())


def balance(
    labels: Labels, photos: np.ndarray, balancings: Sequence[Balancing], seed: int
) -> tuple[Labels, list[Step]]:
    """Takes tags from some photos, at random; exactly as many as the balancing says.

    The choice depends on the seed, on the tags and on the order of `photos`, on nothing else.

    Args:
      labels: of all splits, with tag indices in vocabulary order.
      photos: int64, positions of the training photos, in an order that does not depend on that of the source.
      balancings: applied one after the other.
      seed: of the choice.

    Returns:
      labels of all splits, without the training photos that have no tag left, and the report on the training photos.

    Raises:
      UsageError: fewer tags than are to be down-sampled.
    """
    if not balancings:
        return labels, []
    size = int(labels.photos[-1]) + 1
    rank = np.full(size, -1, np.int64)
    rank[photos] = np.arange(len(photos))
    training = rank >= 0
    steps = [Step.of("training photos", _only(labels, training))]
    for number, balancing in enumerate(balancings):
        subject = np.flatnonzero(training[labels.rows])
        counts = np.bincount(labels.columns[subject], minlength=len(labels.tags))
        targets = BALANCING[balancing.name].targets(counts, balancing.number)
        # Pairs by tag and, within a tag, in the given order of photos.
        by_tag = subject[np.lexsort((rank[labels.rows[subject]], labels.columns[subject]))]
        stops = np.cumsum(counts)
        kept = np.ones(len(labels.rows), bool)
        for tag in np.flatnonzero(targets < counts).tolist():
            pairs = by_tag[stops[tag] - counts[tag] : stops[tag]]
            generator = np.random.default_rng((seed, number, tag))
            kept[generator.permutation(pairs)[int(targets[tag]) :]] = False
        labels = labels.keep_pairs(kept)
        labels = labels.keep_photos((labels.lengths > 0) | ~training[labels.photos])
        steps.append(Step.of(balancing.text, _only(labels, training)))
    return labels, steps


def _only(labels: Labels, inside: np.ndarray) -> Labels:
    return labels.keep_photos(inside[labels.photos])
