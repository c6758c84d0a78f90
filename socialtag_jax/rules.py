"""The rules of pruning and balancing as people write them: `NAME` or `NAME=VALUE`.

What they do is in `pruning.py` and `balancing.py`; the command line needs only this.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.tags import normalise_tag


@dataclass(frozen=True)
class RuleKind:
    """How a rule is written, and what it does.

    Attributes:
      value: "number", "list" or None: what stands behind `=`.
      text: one line for people.
    """

    value: Literal["number", "list"] | None
    text: str


PRUNING: Mapping[str, RuleKind] = {
    "camera-makers": RuleKind(None, "drops tags that contain a camera maker's name"),
    "digits": RuleKind(None, "drops tags that contain a digit"),
    "min-images": RuleKind("number", "drops tags that fewer than N photos have"),
    "most-frequent": RuleKind("number", "keeps the N tags that most photos have"),
    "stop": RuleKind("list", "drops the tags listed"),
    "allow": RuleKind("list", "keeps only the tags listed"),
    "vocabulary": RuleKind("list", "keeps only the tags listed, as the vocabulary in this order, used or not"),
    "max-tags": RuleKind("number", "keeps the first N tags of a photo, as its owner wrote them"),
    "min-tags": RuleKind("number", "drops photos that have fewer than N tags left"),
}
"""Rules that drop tags, pairs of a photo and a tag, or photos."""

PRESETS: Mapping[str, tuple[str, ...]] = {"mirflickr": ("camera-makers", "digits", "min-images=101", "min-tags=1")}
"""Rules that go by one name: those of the thesis for MIRFLICKR-1M, in its order."""

BALANCING: Mapping[str, RuleKind] = {
    "down-sample": RuleKind("number", "leaves the N most frequent tags as many photos as the next one has"),
    "square-root": RuleKind("number", "leaves a tag of f > N photos only the square root of f times N"),
}
"""Rules that take frequent tags from training photos."""


@dataclass(frozen=True)
class Rule:
    """A rule and its value.

    Attributes:
      name: of its kind.
      text: as the user wrote it, but for a file's folders: where a list lies decides nothing.
      number: where the kind has one, else 0.
      listed: tags as ids, where the kind has a list, each once and in the list's order.
      must_exist: whether a listed tag that no photo has is an error: a mistyped one is, one of a long file is not.
    """

    name: str
    text: str = field(repr=False)
    number: int = 0
    listed: tuple[str, ...] = ()
    must_exist: bool = False


def parse_pruning(texts: Sequence[str], *, where: str = "--pruning") -> tuple[Rule, ...]:
    """Pruning rules from the command line, presets spelt out.

    Args:
      texts: such as `digits`, `min-images=20`, `stop=sea,sun`, `allow=@tags.txt` (one tag a line) or `mirflickr`.
      where: what they were given to, for messages.

    Raises:
      UsageError: an unknown name, or a value that is missing, superfluous or of the wrong kind.
      UserError: a list's file cannot be read.
    """
    spelt = [rule for text in texts for rule in PRESETS.get(text, (text,))]
    return tuple(_parse(text, PRUNING, where, [*PRUNING, *PRESETS]) for text in spelt)


def parse_balancing(texts: Sequence[str]) -> tuple[Rule, ...]:
    """Balancing rules from the command line, such as `down-sample=500`.

    Raises:
      UsageError: as `parse_pruning`.
    """
    return tuple(_parse(text, BALANCING, "--balancing", list(BALANCING)) for text in texts)


def describe(kinds: Mapping[str, RuleKind], presets: Mapping[str, Sequence[str]] | None = None) -> str:
    """All rules in one line, for `--help`."""
    values = {"number": "=N", "list": "=TAG,TAG or =@FILE", None: ""}
    lines = [f"{name}{values[kind.value]} {kind.text}" for name, kind in kinds.items()]
    lines += [f"{name} stands for {' '.join(texts)}" for name, texts in (presets or {}).items()]
    return "; ".join(lines)


def _parse(text: str, kinds: Mapping[str, RuleKind], flag: str, names: Sequence[str]) -> Rule:
    name, equals, value = text.partition("=")
    kind = kinds.get(name)
    if kind is None and name in PRESETS and name in names:
        raise UsageError(f"{text!r}: {name} has no value", where=flag, hint=f"write {name}")
    if kind is None:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(names)}"
        raise UsageError(f"there is no rule {name!r}", where=flag, hint=hint)
    if kind.value is None:
        if equals:
            raise UsageError(f"{text!r}: the rule {name} has no value", where=flag, hint=f"write {name}")
        return Rule(name, text)
    if kind.value == "number":
        if not value.isdecimal() or int(value) < 1:
            raise UsageError(f"{text!r}: expected a whole number of at least 1, as in {name}=20", where=flag)
        return Rule(name, text, number=int(value))
    if not value.removeprefix("@"):
        raise UsageError(f"{text!r}: expected tags or a file, as in {name}=sea,sun or {name}=@tags.txt", where=flag)
    if value.startswith("@"):
        path = Path(value[1:])
        return Rule(name, f"{name}=@{path.name}", listed=_ids(read_list(path)))
    return Rule(name, text, listed=_ids(value.split(",")), must_exist=name != "vocabulary")


def read_list(path: Path) -> list[str]:
    """The lines of a list's file.

    Raises:
      UserError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path, hint="expected one tag a line") from error
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text at byte offset {error.start}", where=path) from error


def _ids(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(tag for text in texts if (tag := normalise_tag(text))))
