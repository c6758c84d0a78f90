"""MIRFLICKR-1M and MIRFLICKR-25k: Flickr photos with their tags (Huiskes and Lew, 2008; Huiskes et al., 2010).

A million photos lie in folders of 10,000: `images/3/31234.jpg`, with its tags, one a line, in `tags/3/31234.txt`. The
25,000 lie in one folder: `im17.jpg`, with its tags in `meta/tags/tags17.txt` or `tags/tags17.txt`. Their EXIF files
(`exif/3/31234.txt`, `meta/exif/exif17.txt`) are not read: nothing here uses them yet.
"""

import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from socialtag_jax.errors import UserError
from socialtag_jax.sources.photo import Photo
from socialtag_jax.tags import LONGEST_TAG

_EXAMPLES = 3
_LINE_ENDS = re.compile(r"\r\n?|\n")

# What can be wrong, in the order of the report.
_STRAY = "files and folders are neither a numbered photo nor its tags, and are ignored"
_TWICE = "files have the number of another one, and are ignored"
_NO_IMAGE = "photos have tags but no image, and will be listed in rejects.csv"
_NO_TAG_FILE = "photos have no tag file, and count as photos without tags"
_EMPTY = "tag files are empty: photos without tags"
_NOT_UTF8 = "tag files are not UTF-8; those of their lines that are not were read as Windows-1252 or Latin-1"
_CARRIAGE_RETURN = "tag files have carriage returns, which end a line here"
_BLANK = "blank lines between tags are ignored"
_DUPLICATE = "tags stand twice in one file, and count once"
_LONG = f"tags are longer than {LONGEST_TAG} characters, and are dropped"
_KINDS = (
    _STRAY,
    _TWICE,
    _NO_IMAGE,
    _NO_TAG_FILE,
    _EMPTY,
    _NOT_UTF8,
    _CARRIAGE_RETURN,
    _BLANK,
    _DUPLICATE,
    _LONG,
)


def read(folder: Path, *, need_images: bool = True, warn: Callable[[str], None]) -> Iterator[Photo]:
    """Reads either layout, in ascending order of the photos' numbers, one folder of names in memory at a time.

    Args:
      folder: holds `images` and `tags` (1M), or the images themselves (25k).
      need_images: goes by images and tag files together: an image without a tag file is a photo without tags, a tag
        file without an image a photo whose path does not exist. False goes by the tag files alone, and takes every
        image's name to end in `.jpg`.
      warn: takes one line of text for each kind of irregularity, with its number and examples, after the last photo.

    Raises:
      UserError: neither layout is there or both are, images are needed and there are none (all this before the first
        photo); a file cannot be read, or no photo was found (while photos are read).
    """
    layout = _layout(Path(folder))
    if need_images and not any(True for _ in layout.image_folders()):
        raise UserError(
            f"no images, expected {layout.expected_images}",
            where=folder,
            hint="unpack MIRFLICKR's images beside its tags; `socialtag stats` needs the tags alone",
        )
    return _photos(layout, need_images, warn)


def _photos(layout: "_Layout", need_images: bool, warn: Callable[[str], None]) -> Iterator[Photo]:
    report = _Report(layout.root)
    found = False
    for part in layout.parts(need_images, report):
        tag_files = _numbered(layout.root, part.tags, part.tag_file, report)
        images = _numbered(layout.root, part.images, part.image, report) if need_images else {}
        for number in sorted(tag_files.keys() | images.keys()):
            found = True
            image_id = f"{part.images}{images.get(number) or part.image_name(number)}"
            where = f"{part.tags}{tag_files.get(number) or part.tag_file_name(number)}"
            if need_images and number not in images:
                report.add(_NO_IMAGE, image_id)
            if number in tag_files:
                tags = _tags(layout.root, where, report)
            else:
                report.add(_NO_TAG_FILE, image_id)
                tags = ()
            yield Photo(layout.root / image_id, image_id, tags, None, str(layout.root / where))
    if not found:
        raise UserError(f"no photos, expected {layout.expected_tags}", where=layout.root)
    report.warn(warn)


class _Report:
    """Counts irregularities, and keeps the first examples of each kind."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._counts: Counter[str] = Counter()
        self._examples: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, example: str, count: int = 1) -> None:
        self._counts[kind] += count
        if len(self._examples[kind]) < _EXAMPLES:
            self._examples[kind].append(example)

    def warn(self, warn: Callable[[str], None]) -> None:
        for kind in _KINDS:
            if self._counts[kind]:
                warn(f"{self._root}: {self._counts[kind]:,} {kind}: {', '.join(self._examples[kind])}")


# ---- layouts


@dataclass(frozen=True)
class _Part:
    """One folder of images with its folder of tag files, as paths relative to the root, ending in `/` unless empty."""

    images: str
    tags: str
    image_prefix: str = ""
    tag_prefix: str = ""

    @property
    def image(self) -> re.Pattern[str]:
        return _name_pattern(self.image_prefix, "jpg")

    @property
    def tag_file(self) -> re.Pattern[str]:
        return _name_pattern(self.tag_prefix, "txt")

    def image_name(self, number: int) -> str:
        return f"{self.image_prefix}{number}.jpg"

    def tag_file_name(self, number: int) -> str:
        return f"{self.tag_prefix}{number}.txt"


def _name_pattern(prefix: str, suffix: str) -> re.Pattern[str]:
    return re.compile(rf"{prefix}(0|[1-9][0-9]*)\.{suffix}", re.IGNORECASE)


_NUMBERED_FOLDER = re.compile("0|[1-9][0-9]*")


@dataclass(frozen=True)
class _Million:
    """MIRFLICKR-1M: numbered folders below `images` and `tags`."""

    root: Path
    expected_images = "images/0/0.jpg and so on"
    expected_tags = "tags/0/0.txt and so on"
    first_tags = "tags/0/0.txt"

    def image_folders(self) -> Iterator[int]:
        return self._folders("images", _Report(self.root))

    def tag_folders(self) -> Iterator[int]:
        return self._folders("tags", _Report(self.root))

    def parts(self, need_images: bool, report: _Report) -> Iterator[_Part]:
        numbers = set(self._folders("tags", report))
        if need_images:
            numbers.update(self._folders("images", report))
        for number in sorted(numbers):
            yield _Part(f"images/{number}/", f"tags/{number}/")

    def _folders(self, name: str, report: _Report) -> Iterator[int]:
        for entry in _entries(self.root / name):
            if entry.is_dir() and _NUMBERED_FOLDER.fullmatch(entry.name):
                yield int(entry.name)
            else:
                report.add(_STRAY, f"{name}/{entry.name}")


@dataclass(frozen=True)
class _TwentyFiveThousand:
    """MIRFLICKR-25k: images in the root, tag files in one folder below it."""

    root: Path
    tags: str
    expected_images = "im1.jpg and so on"
    expected_tags = "meta/tags/tags1.txt or tags/tags1.txt and so on"

    @property
    def first_tags(self) -> str:
        return f"{self.tags}tags1.txt"

    @property
    def _part(self) -> _Part:
        return _Part("", self.tags, "im", "tags")

    def image_folders(self) -> Iterator[int]:
        return (0 for entry in _entries(self.root) if self._part.image.fullmatch(entry.name))

    def tag_folders(self) -> Iterator[int]:
        return (0 for entry in _entries(self.root / self.tags) if self._part.tag_file.fullmatch(entry.name))

    def parts(self, need_images: bool, report: _Report) -> Iterator[_Part]:
        del need_images, report  # one folder, whatever is needed
        yield self._part


_Layout = _Million | _TwentyFiveThousand


def _layout(root: Path) -> _Layout:
    """The layout whose tag files are there."""
    if not root.is_dir():
        raise UserError("no such folder", where=root, hint="name the folder that MIRFLICKR was unpacked to")
    candidates = (_Million(root), _TwentyFiveThousand(root, "meta/tags/"), _TwentyFiveThousand(root, "tags/"))
    found = [layout for layout in candidates if any(True for _ in layout.tag_folders())]
    if len(found) == 1:
        return found[0]
    if found:
        kinds = " as well as ".join(layout.first_tags for layout in found)
        raise UserError(f"holds tag files of two layouts: {kinds}", where=root, hint="keep one of them in the folder")
    names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in _entries(root))
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
    raise UserError(
        f"no MIRFLICKR tags: expected {_Million.expected_tags} (1M) or {_TwentyFiveThousand.expected_tags} (25k), "
        f"found {shown or 'an empty folder'}",
        where=root,
        hint="name the folder that MIRFLICKR was unpacked to",
    )


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """A folder's entries, in no order; none where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=folder) from error


def _is_no_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a pipe or the like, which must not be opened; not of a link that leads nowhere."""
    if entry.is_file():
        return False
    try:
        return not stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return False  # whoever opens it finds out why


def _numbered(root: Path, folder: str, pattern: re.Pattern[str], report: _Report) -> dict[int, str]:
    """The names of a folder's numbered files, by number."""
    names: dict[int, str] = {}
    for entry in _entries(root / folder):
        match = pattern.fullmatch(entry.name)
        if match is None or _is_no_file(entry):
            # The root of the 25k set holds other folders by right.
            if folder or not entry.is_dir():
                report.add(_STRAY, f"{folder}{entry.name}")
            continue
        number, name = int(match[1]), entry.name
        if number in names:
            # 17.jpg beside 17.JPG: the same one whatever the order of the folder's entries.
            name, ignored = sorted((name, names[number]), reverse=True)
            report.add(_TWICE, f"{folder}{ignored}")
        names[number] = name
    return names


# ---- tag files


def _tags(root: Path, where: str, report: _Report) -> tuple[str, ...]:
    """The tags of one file, without blanks around them, each once, in the file's order."""
    # A Path and a buffer would nearly double the time that a photo takes.
    path = f"{root}/{where}"
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            data = file.read()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path) from error
    text = _decode(data.removeprefix(b"\xef\xbb\xbf"), where, report)
    if "\r" in text:
        report.add(_CARRIAGE_RETURN, where)
        text = _LINE_ENDS.sub("\n", text)
    lines = [line.strip() for line in text.removesuffix("\n").split("\n")]
    tags = [line for line in lines if line]
    if not tags:
        report.add(_EMPTY, where)
        return ()
    if len(tags) < len(lines):
        report.add(_BLANK, where, len(lines) - len(tags))
    unique = tuple(dict.fromkeys(tags))
    if len(unique) < len(tags):
        report.add(_DUPLICATE, where, len(tags) - len(unique))
    if len(data) > LONGEST_TAG and any(len(tag) > LONGEST_TAG for tag in unique):
        kept = tuple(tag for tag in unique if len(tag) <= LONGEST_TAG)
        report.add(_LONG, where, len(unique) - len(kept))
        return kept
    return unique


def _decode(data: bytes, where: str, report: _Report) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        report.add(_NOT_UTF8, where)
        return "\n".join(_decode_line(line) for line in data.split(b"\n"))


def _decode_line(line: bytes) -> str:
    # Windows-1252 leaves five bytes undefined, Latin-1 none.
    for encoding in ("utf-8", "cp1252"):
        try:
            return line.decode(encoding)
        except UnicodeDecodeError:
            continue
    return line.decode("latin-1")
