r"""Photos listed in a CSV file beside them: columns path, tags and, if present, split.

The first row is a header when it has the name of a path column and the name of a tags column, or when it has the name
of any column and no cell that looks like a file (`/`, `\` or a suffix such as `.jpg`). So a photo that really is called
`image` is written `./image`. Without a header, two or three columns are path, tags and split, in that order.

Paths are relative to the CSV file's folder, and may not lead out of it: neither by `..` or from the root, nor through
symbolic links. Whether the photos exist is found out when they are decoded. Without a split column the thesis's layout
is recognised: every path starts with a folder `train`, `validation` or `test`.
"""

import contextlib
import csv
import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from socialtag_jax.errors import UsageError, UserError, excerpt
from socialtag_jax.sources.photo import Photo
from socialtag_jax.sources.photo_folder import PhotoFolder
from socialtag_jax.tags import LONGEST_TAG

FILE_NAME = "tags.csv"
PATH_NAMES = ("path", "image", "image_path", "file", "filename", "filepath", "photo")
TAGS_NAMES = ("tags", "tag", "keywords", "labels", "hashtags")
SPLIT_NAMES = ("split", "subset", "partition", "set")

_SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_QUOTE_HINT = """separate tags by spaces, or quote them, as in photo.jpg,"sea,sky", and give --tag-separator ','"""
_EMPTY_HINT = "a photo without tags has an empty cell, as in photo.jpg,"
_LONGEST_CELL = 2**24  # characters
_SHOWN, _SHOWN_NAME = 20, 40


def read(
    source: Path, *, tag_separator: str = " ", allow_outside: bool = False, warn: Callable[[str], None]
) -> list[Photo]:
    """Reads the photos of a CSV file, in the order of its rows.

    Args:
      source: the CSV file, or a folder that has `tags.csv`.
      tag_separator: stands between the tags of a cell; a space means any run of white space.
      allow_outside: takes photos outside the CSV file's folder, whose ids then begin with `../`.
      warn: takes one line of text about what may surprise: ignored columns, merged rows, tags that look unseparated,
        overlong tags that are dropped.

    Raises:
      UserError: no such file, a broken one, a row that cannot be understood, or a path that leads out of the folder;
        names the file and, counted in lines, where the row starts.
      UsageError: an empty separator.
    """
    if not tag_separator:
        raise UsageError("the separator is empty, expected at least one character", where="--tag-separator")
    path = _csv_file(source)
    photos = _Photos(path, tag_separator, allow_outside=allow_outside)
    with contextlib.closing(_rows(path)) as rows:
        first = next(rows, None)
        if first is None:
            raise UserError("the file has no rows", where=path, hint="expected one row per photo: path,tags")
        columns, is_header = _columns(path, *first, warn)
        if not is_header:
            photos.add(*first, columns)
        for line, cells in rows:
            photos.add(line, cells, columns)
    if not photos.found:
        raise UserError("the file has a header but no photos", where=path, hint="expected one row per photo: path,tags")
    photos.warn(warn)
    return photos.found if columns.split is not None else _splits_from_folders(photos.found, warn)


def _csv_file(source: Path) -> Path:
    path = source / FILE_NAME if source.is_dir() else source
    if not path.is_file():
        hint = f"expected a CSV file, or a folder that has {FILE_NAME}"
        if others := sorted(source.glob("*.csv")):
            hint = f"{hint}; to read {others[0].name}, name that file"
        raise UserError("no such file", where=path, hint=hint)
    return path


# ---- text -> rows


def _rows(path: Path) -> Generator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the number of its first line in the file."""
    line = 1
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        with path.open(encoding=_encoding(path), newline="") as file:
            reader = csv.reader(_without_nul(file, path), strict=True, skipinitialspace=True)
            for cells in reader:
                # An empty row is [] or, as spreadsheets write it, nothing but commas.
                if cells and (cells[0].strip() or any(map(str.strip, cells))):
                    yield line, cells
                line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"the row is not valid CSV: {error}",
            where=_where(path, line),
            hint='is a double quote not closed, or not doubled ("") inside a cell?',
        ) from error
    except UnicodeDecodeError as error:
        raise _decoding_error(path) from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path, hint="check the file's permissions") from error
    finally:
        csv.field_size_limit(limit)


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _without_nul(lines: Iterator[str], path: Path) -> Iterator[str]:
    """The same lines, which the csv module would take with a NUL character in them."""
    for number, line in enumerate(lines, start=1):
        if "\0" in line:
            raise UserError(
                f"NUL character at column {line.index(chr(0)) + 1}: not a text file, or one in another encoding",
                where=_where(path, number),
                hint="save the file as UTF-8",
            )
        yield line


def _decoding_error(path: Path) -> UserError:
    """Where the first undecodable byte is; the decoder that failed only knew its own block of the file."""
    data = path.read_bytes()
    # Offsets of the codec that skips the byte order mark would not count it.
    encoding = _encoding(path).removesuffix("-sig")
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding)
        row = max(before.count("\n"), before.count("\r")) + 1
        what = f"not {encoding.upper()} text at byte offset {error.start} ({data[error.start]:#04x})"
        return UserError(what, where=_where(path, row), hint="save the file as UTF-8")
    return UserError("the file changed while it was read", where=path, hint="run the command again")


def _where(path: Path, row: int) -> str:
    return f"{path}, row {row}"


def _count(cells: Sequence[str]) -> str:
    return "1 cell" if len(cells) == 1 else f"{len(cells)} cells"


# ---- first row -> columns


@dataclass(frozen=True)
class _Columns:
    """The position of each column, and how many cells a row has."""

    path: int
    tags: int
    split: int | None
    width: int


def _columns(path: Path, line: int, cells: Sequence[str], warn: Callable[[str], None]) -> tuple[_Columns, bool]:
    """The columns that the first row shows, and whether that row is a header."""
    where = _where(path, line)
    _check_delimiter(where, cells)
    names = [" ".join(cell.casefold().split()) for cell in cells]
    if _is_header(names):
        return _header_columns(where, names, warn), True
    if len(cells) not in (2, 3):
        what = f"{_count(cells)} and no header, expected path,tags or path,tags,split: {excerpt(','.join(cells))}"
        raise UserError(what, where=where, hint=_QUOTE_HINT if len(cells) > 3 else _EMPTY_HINT)
    return _Columns(path=0, tags=1, split=2 if len(cells) == 3 else None, width=len(cells)), False


def _is_header(names: Sequence[str]) -> bool:
    has_path, has_tags, has_split = (
        not set(known).isdisjoint(names) for known in (PATH_NAMES, TAGS_NAMES, SPLIT_NAMES)
    )
    return (has_path and has_tags) or ((has_path or has_tags or has_split) and not any(map(_looks_like_file, names)))


def _looks_like_file(text: str) -> bool:
    return bool(re.search(r"[/\\]|\.\w{2,5}$", text))


def _check_delimiter(where: str, cells: Sequence[str]) -> None:
    for delimiter, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")):
        head, found, _ = cells[0].partition(delimiter)
        if found and (len(cells) == 1 or head.strip().casefold() in PATH_NAMES or re.search(r"\.\w{2,5}$", head)):
            raise UserError(
                f"the cells are separated by {name}, expected commas: {excerpt(cells[0])}",
                where=where,
                hint="save the file as comma-separated CSV",
            )


def _header_columns(where: str, names: Sequence[str], warn: Callable[[str], None]) -> _Columns:
    found = _listed(names)
    twice = next((name for name, count in Counter(names).items() if name and count > 1), None)
    if twice is not None:
        raise UserError(f"the column {excerpt(twice)} stands twice: {found}", where=where, hint="rename or delete one")

    path, tags, split = (_position(where, names, known) for known in (PATH_NAMES, TAGS_NAMES, SPLIT_NAMES))
    if path is None or tags is None:
        kind, known = ("path", PATH_NAMES) if path is None else ("tags", TAGS_NAMES)
        raise UserError(
            f"the header has no {kind} column, only: {found}",
            where=where,
            hint=f"name it one of {', '.join(known)}; if this row is a photo, write its path as ./{names[0]}",
        )
    ignored = [name for position, name in enumerate(names) if position not in (path, tags, split)]
    if ignored:
        warn(f"{where}: ignored columns: {_listed(ignored)}")
    return _Columns(path, tags, split, len(names))


def _listed(names: Sequence[str]) -> str:
    """Names of columns, cut where they would fill a page."""
    shown = [f"{name[:_SHOWN_NAME]}…" if len(name) > _SHOWN_NAME else name or "(unnamed)" for name in names[:_SHOWN]]
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(shown) + more


def _position(where: str, names: Sequence[str], known: Sequence[str]) -> int | None:
    positions = [position for position, name in enumerate(names) if name in known]
    if len(positions) > 1:
        what = f"{names[positions[0]]!r} and {names[positions[1]]!r} may both be the {known[0]} column"
        raise UserError(what, where=where, hint="rename or delete one")
    return positions[0] if positions else None


# ---- row -> photo


class _Photos:
    """Collects photos, one row after the other; rows of one photo are merged."""

    def __init__(self, csv_path: Path, tag_separator: str, *, allow_outside: bool) -> None:
        self.found: list[Photo] = []
        self._csv_path, self._separator = csv_path, tag_separator
        self._folder = PhotoFolder(csv_path.parent, allow_outside=allow_outside)
        self._positions: dict[str, int] = {}
        self._merged = 0
        self._first_merged = ""
        self._unseparated = 0
        self._first_unseparated = ""
        self._overlong = 0
        self._first_overlong = ""

    def add(self, line: int, cells: Sequence[str], columns: _Columns) -> None:
        """Adds the photo of one row.

        Raises:
          UserError: the row has the wrong number of cells, a path that leads nowhere, or an unknown split.
        """
        where = _where(self._csv_path, line)
        if len(cells) != columns.width:
            raise _width_error(where, cells, columns)
        image_id = self._folder.image_id(cells[columns.path], where)
        tags = self._without_overlong(self._tags(cells[columns.tags]), where)
        split = None if columns.split is None else _split(cells[columns.split], where)
        photo = Photo(self._folder.file(image_id), image_id, tags, split, where)
        position = self._positions.setdefault(image_id, len(self.found))
        if position == len(self.found):
            self.found.append(photo)
        else:
            self.found[position] = self._merge(self.found[position], photo)

    def _tags(self, cell: str) -> tuple[str, ...]:
        if self._separator != " ":
            return tuple(tag for part in cell.split(self._separator) if (tag := part.strip()))
        if "," in cell or ";" in cell:
            self._unseparated += 1
            self._first_unseparated = self._first_unseparated or cell
        return tuple(cell.split())

    def _without_overlong(self, tags: tuple[str, ...], where: str) -> tuple[str, ...]:
        kept = tuple(tag for tag in tags if len(tag) <= LONGEST_TAG)
        if len(kept) < len(tags):
            self._overlong += len(tags) - len(kept)
            self._first_overlong = self._first_overlong or where
        return kept

    def _merge(self, first: Photo, second: Photo) -> Photo:
        if first.split and second.split and first.split != second.split:
            raise UserError(
                f"{second.image_id!r} is in split {second.split!r} here, but {first.split!r} in {first.where}",
                where=second.where,
                hint="delete one of the two rows",
            )
        self._merged += 1
        self._first_merged = self._first_merged or f"{first.image_id!r} in {first.where} and {second.where}"
        return dataclasses.replace(first, tags=first.tags + second.tags, split=first.split or second.split)

    def warn(self, warn: Callable[[str], None]) -> None:
        """Reports once what happened on the way."""
        if self._merged:
            rows = "1 row that names" if self._merged == 1 else f"{self._merged} rows that name"
            warn(f"merged {rows} a photo again, the first one {self._first_merged}")
        if self._overlong:
            warn(
                f"tags of more than {LONGEST_TAG:,} characters are dropped: {self._overlong:,}, {self._first_overlong}"
            )
        # A comma inside a tag is rare; in every other row it most likely stands between tags.
        if 2 * self._unseparated >= len(self.found):
            warn(
                f"{self._csv_path}: white space separates tags, yet {self._unseparated} of {len(self.found)} tag cells "
                f"hold commas or semicolons, such as {excerpt(self._first_unseparated)}: should it be "
                "--tag-separator ',' or ';'?"
            )


def _width_error(where: str, cells: Sequence[str], columns: _Columns) -> UserError:
    what = f"{_count(cells)}, expected {columns.width} as in the first row: {excerpt(','.join(cells))}"
    return UserError(what, where=where, hint=_QUOTE_HINT if len(cells) > columns.width else _EMPTY_HINT)


def _split(cell: str, where: str) -> str | None:
    name = cell.strip().casefold()
    if name and name not in _SPLITS:
        raise UserError(
            f"{excerpt(cell)} is no split, expected {', '.join(_SPLITS)} or nothing",
            where=where,
            hint=f"if it is a tag, {_QUOTE_HINT}",
        )
    return _SPLITS.get(name)


# ---- rows -> splits


def _splits_from_folders(photos: list[Photo], warn: Callable[[str], None]) -> list[Photo]:
    """The same photos; with splits where every path starts with a folder that is named like one."""
    splits = [_folder_split(photo.image_id) for photo in photos]
    outside = next((photo for photo, split in zip(photos, splits, strict=True) if split is None), None)
    if outside is None:
        return [dataclasses.replace(photo, split=split) for photo, split in zip(photos, splits, strict=True)]
    if inside := sum(split is not None for split in splits):
        warn(
            f"{outside.where}: {outside.image_id!r} lies in no folder train, validation or test, as {inside} of "
            f"{len(photos)} photos do: folders are not taken as splits"
        )
    return photos


def _folder_split(image_id: str) -> str | None:
    folder, slash, _ = image_id.partition("/")
    return _SPLITS.get(folder.casefold()) if slash else None
