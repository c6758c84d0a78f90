"""Pruning: named rules that drop tags, pairs of photo and tag, or photos; applied in the order given.

Each is written `NAME` or `NAME=VALUE` (`socialtag prepare --pruning camera-makers min-images=20`); `mirflickr` stands
for the rules that the thesis applied to MIRFLICKR-1M.
"""

import dataclasses
import difflib
import heapq
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.labels import Labels, normalise
from socialtag_jax.tags import normalise_tag

CAMERA_MAKERS = (
    "nikon", "canon", "olympus", "sony", "pentax", "kodak", "leica", "fujifilm", "minolta", "samsung",
)  # fmt: skip
"""Makers whose names cameras write, or their owners, into a photo's tags (the thesis's Table 3)."""

PRESETS: Mapping[str, tuple[str, ...]] = {"mirflickr": ("camera-makers", "digits", "min-images=101", "min-tags=1")}
"""Rules that go by one name: those of the thesis for MIRFLICKR-1M, in its order."""

_FLAG = "--pruning"
_NEAR_MATCH_CANDIDATES = 20_000
Value = int | tuple[str, ...] | None


@dataclass(frozen=True)
class Rule:
    """A rule and its value.

    Attributes:
      text: as the user wrote it.
      name: one of `RULES`.
      value: a number, the tags of a list as ids, or nothing, as the rule wants.
      must_exist: whether a listed tag that no photo has is an error: a mistyped one, but not one of a long file.
    """

    text: str
    name: str
    value: Value = None
    must_exist: bool = False

    def __call__(self, labels: Labels) -> Labels:
        """Applies the rule to normalised labels."""
        return RULES[self.name].apply(labels, self)


def _camera_makers(labels: Labels, _: Rule) -> Labels:
    pattern = re.compile("|".join(CAMERA_MAKERS))
    return labels.keep_tags(_mask(labels, lambda tag: pattern.search(tag) is None))


def _digits(labels: Labels, _: Rule) -> Labels:
    pattern = re.compile(r"\d")
    return labels.keep_tags(_mask(labels, lambda tag: pattern.search(tag) is None))


def _min_images(labels: Labels, rule: Rule) -> Labels:
    return labels.keep_tags(labels.counts >= _number(rule))


def _most_frequent(labels: Labels, rule: Rule) -> Labels:
    kept = np.zeros(len(labels.tags), bool)
    index = {tag: number for number, tag in enumerate(labels.tags)}
    kept[[index[tag] for tag in labels.vocabulary().tags[: _number(rule)]]] = True
    return labels.keep_tags(kept)


def _stop(labels: Labels, rule: Rule) -> Labels:
    listed = _listed(labels, rule)
    return labels.keep_tags(_mask(labels, lambda tag: tag not in listed))


def _allow(labels: Labels, rule: Rule) -> Labels:
    listed = _listed(labels, rule)
    return labels.keep_tags(_mask(labels, lambda tag: tag in listed))


def _max_tags(labels: Labels, rule: Rule) -> Labels:
    if not len(labels.rows):
        return labels
    # The rank of a pair among those of its photo.
    is_first = np.append(True, np.diff(labels.rows) != 0)
    starts = np.flatnonzero(is_first)
    ranks = np.arange(len(labels.rows)) - np.repeat(starts, np.diff(np.append(starts, len(labels.rows))))
    return labels.keep_pairs(ranks < _number(rule))


def _min_tags(labels: Labels, rule: Rule) -> Labels:
    return labels.keep_photos(labels.lengths >= _number(rule))


@dataclass(frozen=True)
class RuleKind:
    """How a rule is written, and what it does.

    Attributes:
      value: "number", "list" or None: what stands behind `=`.
      text: one line for people.
      apply: (normalised labels, rule) -> what is left.
    """

    value: str | None
    text: str
    apply: Callable[[Labels, Rule], Labels]


RULES: Mapping[str, RuleKind] = {
    "camera-makers": RuleKind(None, "drops tags that contain a camera maker's name", _camera_makers),
    "digits": RuleKind(None, "drops tags that contain a digit", _digits),
    "min-images": RuleKind("number", "drops tags that fewer than N photos have", _min_images),
    "most-frequent": RuleKind("number", "keeps the N tags that most photos have", _most_frequent),
    "stop": RuleKind("list", "drops the tags listed", _stop),
    "allow": RuleKind("list", "keeps only the tags listed", _allow),
    "max-tags": RuleKind("number", "keeps the first N tags of a photo, as its owner wrote them", _max_tags),
    "min-tags": RuleKind("number", "drops photos that have fewer than N tags left", _min_tags),
}
"""Every rule by its name."""


def parse_rules(texts: Sequence[str]) -> tuple[Rule, ...]:
    """Rules from the command line, presets spelt out.

    Args:
      texts: such as `digits`, `min-images=20`, `stop=sea,sun`, `allow=@tags.txt` (one tag a line) or `mirflickr`.

    Raises:
      UsageError: an unknown name, or a value that is missing, superfluous or of the wrong kind.
      UserError: a list's file cannot be read.
    """
    spelt = [rule for text in texts for rule in PRESETS.get(text, (text,))]
    return tuple(_parse(text) for text in spelt)


def describe_rules() -> str:
    """One line for `--help`."""
    values = {"number": "=N", "list": "=TAG,TAG or =@FILE", None: ""}
    rules = "; ".join(f"{name}{values[kind.value]} {kind.text}" for name, kind in RULES.items())
    presets = "; ".join(f"{name} stands for {' '.join(texts)}" for name, texts in PRESETS.items())
    return f"{rules}; {presets}"


def _parse(text: str) -> Rule:
    name, equals, value = text.partition("=")
    kind = RULES.get(name)
    if kind is None:
        near = difflib.get_close_matches(name, [*RULES, *PRESETS], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join([*RULES, *PRESETS])}"
        raise UsageError(f"there is no rule {name!r}", where=_FLAG, hint=hint)
    if kind.value is None:
        if equals:
            raise UsageError(f"{text!r}: the rule {name} has no value", where=_FLAG, hint=f"write {name}")
        return Rule(text, name)
    if kind.value == "number":
        if not value.isdecimal() or int(value) < 1:
            raise UsageError(f"{text!r}: expected a whole number of at least 1, as in {name}=20", where=_FLAG)
        return Rule(text, name, int(value))
    if not value.removeprefix("@"):
        raise UsageError(f"{text!r}: expected tags or a file, as in {name}=sea,sun or {name}=@tags.txt", where=_FLAG)
    if value.startswith("@"):
        return Rule(text, name, _ids(_read_list(Path(value[1:]))))
    return Rule(text, name, _ids(value.split(",")), must_exist=True)


def _read_list(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path, hint="expected one tag a line") from error
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text at byte offset {error.start}", where=path) from error


def _ids(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({normalise_tag(text) for text in texts} - {""}))


def _number(rule: Rule) -> int:
    if not isinstance(rule.value, int):
        raise TypeError(f"the rule {rule.name} needs a number, not {rule.value!r}")
    return rule.value


def _listed(labels: Labels, rule: Rule) -> frozenset[str]:
    if not isinstance(rule.value, tuple):
        raise TypeError(f"the rule {rule.name} needs a list, not {rule.value!r}")
    if rule.must_exist:
        _require_known(labels, rule.value)
    return frozenset(rule.value)


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
            where=_FLAG,
            hint=f"did you mean {' or '.join(map(repr, near))}?" if near else "leave it out",
        )


def _mask(labels: Labels, keep: Callable[[str], bool]) -> np.ndarray:
    return np.fromiter((keep(tag) for tag in labels.tags), bool, len(labels.tags))


@dataclass(frozen=True)
class Step:
    """What was left after a rule.

    Attributes:
      rule: as written; "as found" and "normalised" (forms of a tag made one) stand before the first.
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


def prune(found: Labels, rules: Sequence[Rule]) -> tuple[Labels, list[Step]]:
    """Normalises labels and applies the rules one after the other.

    Args:
      found: tags as they are written.
      rules: in the order of their application.

    Returns:
      what is left, with normalised tags, and the report: a step before, and one for each rule.

    Raises:
      UsageError: a rule names a tag that no photo has.
    """
    labels = normalise(found)
    steps = [Step.of("as found", found), Step.of("normalised", labels)]
    for rule in rules:
        labels = rule(labels)
        steps.append(Step.of(rule.text, labels))
    return labels, steps


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
