"""Tags: what makes two written forms the same tag, and which tags a data set knows.

A tag has an id and a display form. The id decides identity: `#Sea`, `sea` and `ＳＥＡ` are one tag, `sea`. The display
form is how people wrote it. Both are one line of text: label files hold one tag a line.
"""

import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from socialtag_jax import files
from socialtag_jax.errors import UserError

LONGEST_TAG = 1000
"""Characters; a longer text is no tag."""

VOCABULARY_KEY = "vocabulary_sha256"
"""In the metadata of our `.safetensors` files: `TagVocabulary.sha256` of the tags that a head was trained for."""

_HASHES = "#﹟＃"

# Control characters, and surrogates that stand alone: UTF-8 cannot store those.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

# Characters that show nothing: Unicode's Default_Ignorable_Code_Point, which its NFKC_Casefold removes as well (byte
# order mark, zero-width space, soft hyphen, direction marks, variation selectors, ...), and interlinear annotation.
_IGNORABLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# Two kinds of them carry meaning and stay: the flags of England, Scotland and Wales are a black flag plus invisible
# letters; joiners hold an emoji family together and spell Persian and Indic words, so they need a visible neighbour
# beyond ASCII on either side.
_MEANING = (
    "(\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f)"
    "|(?<=[^\\x00-\\x7f\\s])([\u200c\u200d])[\u200c\u200d]*(?=[^\\x00-\\x7f\\s])"
)
_INVISIBLE = re.compile(f"{_MEANING}|[{_IGNORABLE}]")
# ❤ and ❤️ are one tag, but only the second one is sure to look red: display forms keep variation selectors.
_INVISIBLE_IN_DISPLAY = re.compile(
    f"{_MEANING}|(?<=[^\\s{_HASHES}])([\ufe00-\ufe0f\U000e0100-\U000e01ef])|[{_IGNORABLE}]"
)


def normalise_tag(text: str) -> str:
    """The tag's id: "" when nothing visible is left.

    NFKC and case folding, repeated until nothing changes; leading `#` removed; runs of white space and control
    characters become one space; invisible characters are removed (so ❤ is ❤️), except joiners between characters beyond
    ASCII and the letters of flag emoji. Idempotent.
    """
    while (folded := _fold(text)) != text:
        text = folded
    return text


def _fold(text: str) -> str:
    if text.isascii():
        text = text.lower()
    else:
        # Folding may undo the composition (ΐ), hence NFKC on either side.
        folded = unicodedata.normalize("NFKC", _INVISIBLE.sub(r"\1\2", text)).casefold()
        text = unicodedata.normalize("NFKC", folded)
    return _tidy(text)


def loose_key(text: str) -> str:
    """Equal where two people most likely mean one tag: `New York`, `new_york` and `#NewYork`."""
    return normalise_tag(text).replace(" ", "").replace("_", "")


def display_form(text: str) -> str:
    """The tag as it was written: NFC, without leading `#`, on one line, with single spaces.

    Empty only where `normalise_tag` is.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", _INVISIBLE_IN_DISPLAY.sub(r"\1\2\3", text))
    return _tidy(text)


def _tidy(text: str) -> str:
    # str.split knows every kind of white space and line break, U+0085 and U+2028 included.
    return " ".join(_CONTROL.sub(" ", text).split()).lstrip(_HASHES + " ")


@dataclass(frozen=True)
class TagVocabulary:
    """The tags that a data set knows, in index order.

    Attributes:
      tags: ids, unique and as `normalise_tag` makes them.
      displays: the display form of each.
    """

    tags: tuple[str, ...]
    displays: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.tags) == len(self.displays) == len(set(self.tags)):
            raise ValueError(f"{len(self.tags)} tags, {len(set(self.tags))} unique, {len(self.displays)} displays")

    def __len__(self) -> int:
        return len(self.tags)

    @functools.cached_property
    def index(self) -> Mapping[str, int]:
        """The index of each id."""
        return {tag: index for index, tag in enumerate(self.tags)}

    @property
    def sha256(self) -> str:
        """SHA-256 of the ids in index order, in hexadecimal: equal where the indices mean the same tags."""
        return hashlib.sha256("\n".join(self.tags).encode()).hexdigest()

    def encode(self, tags: Iterable[str]) -> tuple[int, ...]:
        """Ascending, unique indices of tags in any written form; tags that the vocabulary lacks are left out."""
        index = self.index
        # What is an id already needs no normalisation.
        ids = (text if text in index else normalise_tag(text) for text in tags)
        return tuple(sorted({index[tag] for tag in ids if tag in index}))

    def save(self, labels_path: Path) -> None:
        """Writes ids to `labels_path` and display forms to the file beside it, one a line in index order."""
        for path, lines in ((display_path(labels_path), self.displays), (labels_path, self.tags)):
            files.write_text(path, "".join(f"{line}\n" for line in lines))

    @classmethod
    def load(cls, labels_path: Path) -> Self:
        """Reads what `save` wrote.

        Where the file of display forms is missing (TFDS writes none), labels are display forms, in whatever case.

        Raises:
          UserError: a file that cannot be read, an id that is not normalised or stands twice, files of unequal length,
            a display form of another tag.
        """
        labels = _read_lines(labels_path)
        written = display_path(labels_path)
        foreign = not written.exists()
        tags = [normalise_tag(label) for label in labels] if foreign else labels
        first_line: dict[str, int] = {}
        for line, (label, tag) in enumerate(zip(labels, tags, strict=True), start=1):
            where = f"{labels_path}, line {line}"
            if not tag or normalise_tag(tag) != tag:
                expected = f"expected {normalise_tag(tag)!r}" if normalise_tag(tag) else "expected a tag"
                raise UserError(f"{label!r} is not a normalised tag, {expected}", where=where, hint=_RESTORE)
            if first_line.setdefault(tag, line) != line:
                raise UserError(f"the tag {tag!r} stands in line {first_line[tag]} too", where=where, hint=_RESTORE)
        displays = labels if foreign else _read_lines(written)
        if len(displays) != len(tags):
            what = f"{len(displays)} lines, but {labels_path.name} has {len(tags)}"
            raise UserError(what, where=written, hint=_RESTORE)
        for line, (display, tag) in enumerate(zip(displays, tags, strict=True), start=1):
            if display != tag and normalise_tag(display) != tag:
                what = f"{display!r} is no way to write the tag {tag!r}"
                raise UserError(what, where=f"{written}, line {line}", hint=_RESTORE)
        return cls(tuple(tags), tuple(displays))


_RESTORE = "restore the file from a copy, or make the data set again with `socialtag prepare`"


def display_path(labels_path: Path) -> Path:
    """`tags.labels.txt` or `tags.txt` -> `tags.display.txt`."""
    return labels_path.with_name(f"{labels_path.name.removesuffix('.txt').removesuffix('.labels')}.display.txt")


def _read_lines(path: Path) -> list[str]:
    try:
        text = files.read_bytes(path).decode()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path, hint=_RESTORE) from error
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text at byte offset {error.start}", where=path, hint=_RESTORE) from error
    # str.splitlines would break lines at characters that only end a line to itself.
    return text.removesuffix("\n").split("\n") if text else []
