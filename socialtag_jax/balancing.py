"""Balancing: frequent tags lose some of their training photos, so that they dominate the predictions less.

Each rule is written `NAME=N` (`socialtag prepare --balancing down-sample=500`). A tag is first taken from photos that
have no other: they are dropped. Then from others, which keep their other tags: there it counts as absent, although it
is not, so that balancing trades some recall of frequent tags for that of rare ones. Validation and test stay as they
are, so that scores compare.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from socialtag_jax.errors import UsageError
from socialtag_jax.labels import Labels
from socialtag_jax.pruning import Step
from socialtag_jax.rules import Rule


def _down_sample(counts: np.ndarray, head: int) -> np.ndarray:
    """Denton et al. 2015: the `head` most frequent tags come down to the frequency of the next one."""
    used = np.sort(counts[counts > 0])[::-1]
    if len(used) <= head:
        raise UsageError(
            f"down-sample={head}: there are only {len(used)} tags, so none after the {head} most frequent",
            where="--balancing",
            hint="choose a smaller number",
        )
    return np.minimum(counts, used[head])


def _square_root(counts: np.ndarray, threshold: int) -> np.ndarray:
    """Mahajan et al. 2018, Mikolov et al. 2013: frequencies over the threshold T shrink from f to the root of f T."""
    return np.where(counts > threshold, np.rint(np.sqrt(counts * float(threshold))).astype(np.int64), counts)


_TARGETS: Mapping[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "down-sample": _down_sample,
    "square-root": _square_root,
}
"""(int64 [tags] photos of each tag, the rule's number) -> how many each tag keeps."""


def balance(labels: Labels, photos: np.ndarray, rules: Sequence[Rule], seed: int) -> tuple[Labels, list[Step]]:
    """Takes tags from some photos, at random; exactly as many as the rules say.

    The choice depends on the seed, on the tags and on the order of `photos`, on nothing else.

    Args:
      labels: of all splits, with tag indices in vocabulary order.
      photos: int64, positions of the training photos, in an order that does not depend on that of the source.
      rules: applied one after the other.
      seed: of the choice.

    Returns:
      labels of all splits, without the training photos that have no tag left, and the report on the training photos.

    Raises:
      UsageError: fewer tags than are to be down-sampled.
    """
    if not rules:
        return labels, []
    size = int(labels.photos[-1]) + 1
    rank = np.full(size, -1, np.int64)
    rank[photos] = np.arange(len(photos))
    training = rank >= 0
    steps = [Step.of("training photos", _only(labels, training))]
    for number, rule in enumerate(rules):
        subject = np.flatnonzero(training[labels.rows])
        tags_of = np.bincount(labels.rows, minlength=size)
        counts = np.bincount(labels.columns[subject], minlength=len(labels.tags))
        targets = _TARGETS[rule.name](counts, rule.number)
        # Pairs by tag and, within a tag, in the given order of photos.
        by_tag = subject[np.lexsort((rank[labels.rows[subject]], labels.columns[subject]))]
        stops = np.cumsum(counts)
        kept = np.ones(len(labels.rows), bool)
        for tag in np.flatnonzero(targets < counts).tolist():
            pairs = by_tag[stops[tag] - counts[tag] : stops[tag]]
            shuffled = np.random.default_rng((seed, number, tag)).permutation(pairs)
            # Photos with more tags first: they keep it.
            alone = tags_of[labels.rows[shuffled]] == 1
            kept[shuffled[np.argsort(alone, kind="stable")][int(targets[tag]) :]] = False
        left = labels.keep_pairs(kept)
        labels = left.keep_photos((left.lengths > 0) | (tags_of[labels.photos] == 0))
        steps.append(Step.of(rule.text, _only(labels, training)))
    return labels, steps


def _only(labels: Labels, inside: np.ndarray) -> Labels:
    return labels.keep_photos(inside[labels.photos])
