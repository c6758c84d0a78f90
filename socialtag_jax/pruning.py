"""Pruning: named rules that drop tags, pairs of a photo and a tag, or photos; applied in the order given.

`rules.py` says how each is written, and which of them the thesis applied to MIRFLICKR-1M.
"""

import dataclasses
import difflib
import heapq
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.labels import Labels
from socialtag_jax.rules import Rule

CAMERA_MAKERS = (
    "nikon", "canon", "olympus", "sony", "pentax", "kodak", "leica", "fujifilm", "minolta", "samsung",
)  # fmt: skip
"""Makers whose names cameras write, or their owners, into a photo's tags (the thesis's Table 3)."""

_NEAR_MATCH_CANDIDATES = 20_000


def _camera_makers(labels: Labels, _: Rule) -> Labels:
    pattern = re.compile("|".join(CAMERA_MAKERS))
    return labels.keep_tags(_mask(labels, lambda tag: pattern.search(tag) is None))


def _digits(labels: Labels, _: Rule) -> Labels:
    pattern = re.compile(r"\d")
    return labels.keep_tags(_mask(labels, lambda tag: pattern.search(tag) is None))


def _min_images(labels: Labels, rule: Rule) -> Labels:
    return labels.keep_tags(labels.counts >= rule.number)


def _most_frequent(labels: Labels, rule: Rule) -> Labels:
    kept = np.zeros(len(labels.tags), bool)
    index = {tag: number for number, tag in enumerate(labels.tags)}
    kept[[index[tag] for tag in labels.vocabulary().tags[: rule.number]]] = True
    return labels.keep_tags(kept)


def _stop(labels: Labels, rule: Rule) -> Labels:
    listed = frozenset(rule.listed)
    return labels.keep_tags(_mask(labels, lambda tag: tag not in listed))


def _allow(labels: Labels, rule: Rule) -> Labels:
    listed = frozenset(rule.listed)
    return labels.keep_tags(_mask(labels, lambda tag: tag in listed))


def _vocabulary(labels: Labels, rule: Rule) -> Labels:
    return labels.with_vocabulary(rule.listed)


def _max_tags(labels: Labels, rule: Rule) -> Labels:
    if not len(labels.rows):
        return labels
    # The rank of a pair among those of its photo.
    is_first = np.append(True, np.diff(labels.rows) != 0)
    starts = np.flatnonzero(is_first)
    ranks = np.arange(len(labels.rows)) - np.repeat(starts, np.diff(np.append(starts, len(labels.rows))))
    return labels.keep_pairs(ranks < rule.number)


def _min_tags(labels: Labels, rule: Rule) -> Labels:
    return labels.keep_photos(labels.lengths >= rule.number)


_APPLY: Mapping[str, Callable[[Labels, Rule], Labels]] = {
    "camera-makers": _camera_makers,
    "digits": _digits,
    "min-images": _min_images,
    "most-frequent": _most_frequent,
    "stop": _stop,
    "allow": _allow,
    "vocabulary": _vocabulary,
    "max-tags": _max_tags,
    "min-tags": _min_tags,
}


def _require_known(labels: Labels, names: Sequence[str]) -> None:
    counts = dict(zip(labels.tags, labels.counts.tolist(), strict=True))
    unknown = [name for name in names if not counts.get(name)]
    if unknown:
        # Comparing is slow, and a misspelt name most likely means a frequent tag.
        candidates = heapq.nlargest(
            _NEAR_MATCH_CANDIDATES, (tag for tag in counts if counts[tag]), key=counts.__getitem__
        )
        near = difflib.get_close_matches(unknown[0], candidates, n=3)
        others = f" (nor {len(unknown) - 1} more of the list)" if len(unknown) > 1 else ""
        raise UsageError(
            f"no photo has the tag {unknown[0]!r}{others}",
            where="--pruning",
            hint=f"did you mean {' or '.join(map(repr, near))}?" if near else "leave it out",
        )


def _mask(labels: Labels, keep: Callable[[str], bool]) -> np.ndarray:
    return np.fromiter((keep(tag) for tag in labels.tags), bool, len(labels.tags))


@dataclass(frozen=True)
class Step:
    """What was left after a rule.

    Attributes:
      rule: as written; before the first stand "as found", and "normalised", where the forms of a tag are one.
      images: photos left.
      images_without_tags: of them.
      unique_tags: tags that any of them has.
      tags_used_once: of these, tags that exactly one photo has.
      mean_tags: of a photo, as the next two.
      median_tags: the middle one.
      max_tags: the most.
      most_images: photos of the most frequent tag.
    """

    rule: str
    images: int
    images_without_tags: int
    unique_tags: int
    tags_used_once: int
    mean_tags: float
    median_tags: float
    max_tags: int
    most_images: int

    @classmethod
    def of(cls, rule: str, labels: Labels) -> Self:
        """What is left in `labels`."""
        left = labels.statistics()
        names = [field.name for field in dataclasses.fields(cls)[1:-1]]
        numbers = {name: getattr(left, name) for name in names}
        return cls(rule, **numbers, most_images=int(left.counts.max(initial=0)))


def table(steps: Sequence[Step]) -> str:
    """The report as text: a line a step, in the thesis's columns."""
    titles = ("photos", "without tags", "unique tags", "used once", "mean", "median", "max", "most used")
    width = max(20, *(len(step.rule) + 2 for step in steps))
    lines = [f"{'':{width}}" + "".join(f"{title:>14}" for title in titles)]
    for step in steps:
        once = f"{step.tags_used_once / max(step.unique_tags, 1):.1%}"
        cells = (
            *(f"{number:,}" for number in (step.images, step.images_without_tags, step.unique_tags)),
            *(once, f"{step.mean_tags:.2f}", f"{step.median_tags:g}", f"{step.max_tags:,}", f"{step.most_images:,}"),
        )
        lines.append(f"{step.rule:{width}}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)


def prune(labels: Labels, rules: Sequence[Rule]) -> tuple[Labels, list[Step]]:
    """Applies the rules one after the other.

    Args:
      labels: normalised.
      rules: in the order of their application.

    Returns:
      what is left, and the report: a step for each rule.

    Raises:
      UserError: no photo has a tag left.
    """
    steps: list[Step] = []
    for rule in rules:
        labels = _APPLY[rule.name](labels, rule)
        steps.append(Step.of(rule.text, labels))
    if not len(labels.rows):
        last = next((step.rule for step in steps if not step.unique_tags), None)
        where = f"after {last!r}" if last else "in any photo"
        raise UserError(f"no tag is left {where}", hint="loosen --pruning, or check the source's tags")
    return labels, steps


def require_listed(labels: Labels, rules: Sequence[Rule]) -> None:
    """Refuses rules that name a tag which no photo has.

    Args:
      labels: normalised, of all photos and before any rule: what an earlier rule drops is no mistake of a later one.
      rules: those whose list is a file are not checked.

    Raises:
      UsageError: names the tag, and some that are spelt alike.
    """
    for rule in rules:
        if rule.must_exist:
            _require_known(labels, rule.listed)


@dataclass(frozen=True)
class CameraMaker:
    """How often a camera maker's name occurs: tags that contain it, and photos that have such a tag."""

    name: str
    tags: int
    images: int


def camera_makers(labels: Labels) -> list[CameraMaker]:
    """The thesis's Table 3: camera makers in tags, by number of photos; makers that no tag names are left out.

    Args:
      labels: normalised.
    """
    found = []
    used = labels.counts > 0
    for name in CAMERA_MAKERS:
        contain = _mask(labels, lambda tag, name=name: name in tag) & used
        images = len(np.unique(labels.rows[contain[labels.columns]]))
        found.append(CameraMaker(name, int(contain.sum()), images))
    return sorted((maker for maker in found if maker.tags), key=lambda maker: (-maker.images, maker.name))
