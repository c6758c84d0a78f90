"""How suggestions are shown: which tags, how many, in which spelling, and when none at all."""

import difflib
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from socialtag_jax import metrics
from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.rules import read_list
from socialtag_jax.tagger import SuggestedTag
from socialtag_jax.tags import TagVocabulary, display_form, loose_key, normalise_tag

_APOSTROPHES = re.compile("['’]")
_SHOWN_UNKNOWN = 5


@dataclass(frozen=True)
class Presentation:
    """How to show suggestions. Names of tags count without case, spaces, underscores and `#`.

    Attributes:
      threshold: only tags with a confidence over it.
      max_tags: at most so many.
      min_confidence: a photo whose best tag is under it gets none: rather nothing than nonsense.
      hashtags: as `#NewYork`: see `hashtag`.
      stop: tags never to show.
      aliases: tag -> what to show instead of it; several that become one count once, with the highest confidence, and
        in the first one's spelling.
    """

    threshold: float
    max_tags: int
    min_confidence: float = 0.0
    hashtags: bool = False
    stop: Sequence[str] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Choice:
    """A photo's tags, most confident first; `abstained` where its best one is under the minimum confidence."""

    tags: Sequence[SuggestedTag]
    abstained: bool = False


class Presenter:
    """Chooses and spells the tags of photos.

    Args:
      vocabulary: of the model.
      presentation: how.
    """

    def __init__(self, vocabulary: TagVocabulary, presentation: Presentation) -> None:
        self._presentation = presentation
        stop = {loose_key(name) for name in presentation.stop}
        # All that becomes one tag, a tag of the model's included, is spelt as the first alias has it.
        spelling = {loose_key(shown): shown for shown in reversed(list(presentation.aliases.values()))}
        aliases = spelling | {
            loose_key(name): spelling[loose_key(shown)] for name, shown in presentation.aliases.items()
        }
        self._shown: list[tuple[str, str] | None] = []
        for tag, display in zip(vocabulary.tags, vocabulary.displays, strict=True):
            alias = aliases.get(loose_key(tag))
            shown = (tag, display) if alias is None else (normalise_tag(alias), display_form(alias))
            stopped = loose_key(tag) in stop or loose_key(shown[0]) in stop
            spelt = hashtag(shown[1]) if presentation.hashtags else shown[1]
            self._shown.append(None if stopped or not spelt else (shown[0], spelt))
        self._may_show = np.array([shown is not None for shown in self._shown], bool)

    def choose(self, probabilities: np.ndarray) -> Choice:
        """A photo's tags.

        Args:
          probabilities: float32 [n_tags].
        """
        how = self._presentation
        if probabilities[self._may_show].max(initial=0) < how.min_confidence:
            return Choice((), abstained=True)
        chosen: dict[str, SuggestedTag] = {}
        for index in metrics.ranked(probabilities, how.threshold, len(probabilities)):
            if (shown := self._shown[index]) is not None:
                tag, display = shown
                chosen.setdefault(loose_key(display), SuggestedTag(tag, display, float(probabilities[index])))
                if len(chosen) == how.max_tags:
                    break
        return Choice(tuple(chosen.values()))


def hashtag(display: str) -> str:
    """A tag as one word behind a `#`; "" where it has nothing that a hashtag may have.

    A single word stays as people wrote it (`iPhone`, `NewYork`); several are joined, each with a capital
    (`new york` -> `#NewYork`). What ends a hashtag elsewhere parts words: punctuation and symbols, but no emoji.
    """
    kept = [
        letter if letter == "_" or unicodedata.category(letter) in _IN_HASHTAGS else " "
        for letter in _APOSTROPHES.sub("", display)
    ]
    words = "".join(kept).split()
    if len(words) > 1:
        words = [word[:1].upper() + word[1:] for word in words]
    return f"#{''.join(words)}" if words else ""


_IN_HASHTAGS = frozenset(
    # Letters, marks, numbers, emoji with their skin tones, joiners
    ("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "So", "Sk", "Cf")
)


def read_aliases(path: Path) -> dict[str, str]:
    """Reads a list of aliases: `written = shown` a line.

    Raises:
      UserError: it cannot be read, or a line has another form, or a tag twice; what is shown has another alias.
    """
    aliases: dict[str, str] = {}
    shown_for: dict[str, str] = {}
    for number, line in enumerate(read_list(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        written, equals, shown = line.partition("=")
        if not equals or not normalise_tag(written) or not normalise_tag(shown):
            raise UserError(f"{line!r}: expected a tag and what to show instead", where=where, hint="nyc = New York")
        if loose_key(written) in shown_for:
            raise UserError(f"the tag {written.strip()!r} stands in an earlier line too", where=where)
        aliases[written.strip()] = shown_for[loose_key(written)] = shown.strip()
    for written, shown in aliases.items():
        key = loose_key(shown)
        # Its own spelling may be an alias: `beach = Beach` beside `strand = beach`.
        if loose_key(shown_for.get(key, shown)) != key:
            what = f"{written!r} becomes {shown!r}, which becomes {shown_for[key]!r}"
            raise UserError(what, where=path, hint=f"{written} = {shown_for[key]}")
    return aliases


def read_stop(path: Path) -> list[str]:
    """Reads a list of tags never to show, one a line.

    Raises:
      UserError: it cannot be read.
    """
    return [line.strip() for line in read_list(path) if normalise_tag(line)]


def unknown(names: Iterable[str], vocabulary: TagVocabulary, where: object) -> list[str]:
    """Warnings for names that no tag of the model has, with one that is spelt alike: the first few, and how many more.

    Args:
      names: from a list.
      vocabulary: of the model.
      where: the list.
    """
    displays = {loose_key(tag): display for tag, display in zip(vocabulary.tags, vocabulary.displays, strict=True)}
    missing = [name for name in names if loose_key(name) not in displays]
    lines = []
    for name in missing[:_SHOWN_UNKNOWN]:
        near = difflib.get_close_matches(loose_key(name), displays, n=1)
        meant = f": did you mean {displays[near[0]]!r}?" if near else ""
        lines.append(f"warning: {where}: the model has no tag {name!r}{meant}")
    if len(missing) > _SHOWN_UNKNOWN:
        lines.append(f"warning: {where}: {len(missing) - _SHOWN_UNKNOWN:,} more of its tags are none of the model's")
    return lines


PRESET_KINDS: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "threshold": ((float, int), "a number"),
    "max-tags": (int, "a whole number"),
    "min-confidence": ((float, int), "a number"),
    "hashtags": (bool, "true or false"),
    "stop": (str, "a file's name"),
    "aliases": (str, "a file's name"),
}
"""Keys of a preset: the flags that they stand for."""


def read_preset(path: Path) -> dict[str, Any]:
    """Reads a preset: a TOML file with flags of `predict` and their values; files are named as from its folder.

    Returns:
      flag, without its dashes -> value.

    Raises:
      UserError: it cannot be read, or is not TOML.
      UsageError: a key that is no such flag, or a value of another kind.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path) from error
    except ValueError as error:  # of TOML, and of UTF-8
        raise UserError(f"not valid TOML: {error}", where=path, hint="such as: max-tags = 8") from error
    for key, value in content.items():
        if key not in PRESET_KINDS:
            near = difflib.get_close_matches(key, PRESET_KINDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(PRESET_KINDS)}"
            raise UsageError(f"there is no setting {key!r}", where=path, hint=hint)
        kind, text = PRESET_KINDS[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise UsageError(f"{key} is {value!r}, expected {text}", where=path)
    for key in ("stop", "aliases"):
        if key in content:
            content[key] = path.parent / content[key]
    return content
