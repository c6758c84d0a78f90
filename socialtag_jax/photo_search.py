"""Photos and sidecars in folders, as deep as those go."""

import collections
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from socialtag_jax.errors import UsageError, UserError

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".jp2"}
)
"""Of the files that count as photos when a folder is searched; a file that is named is read whatever its suffix."""

NOT_SEARCHED = frozenset(
    {
        "@eadir",
        "#recycle",
        "@recycle",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "lost+found",
        "__macosx",
    }
)
"""Folders, in lower case, of thumbnails and of what was thrown away; as all whose name begins with a dot."""

_SHOWN_SUFFIXES = 5


class Skipped:
    """What a search left out.

    Attributes:
      suffixes: files that do not count: suffix in lower case -> how many.
      hidden: hidden files, and folders that are hidden, a trash or a cache; those that are named are searched.
      links: symbolic links to folders, which may lead in a circle, or to photos that are found in their own place.
    """

    def __init__(self) -> None:
        self.suffixes: collections.Counter[str] = collections.Counter()
        self.hidden = 0
        self.links = 0

    def __bool__(self) -> bool:
        return bool(self.suffixes or self.hidden or self.links)

    def __str__(self) -> str:
        """`12 other files (8 .heic, 4 without suffix), 1 hidden file or folder`."""
        parts = [skipped_text(self.suffixes)] if self.suffixes else []
        if self.hidden:
            parts.append(f"{self.hidden:,} hidden, trash or cache {'entry' if self.hidden == 1 else 'entries'}")
        if self.links:
            parts.append(f"{self.links:,} link{'' if self.links == 1 else 's'} to folders")
        return ", ".join(parts)


@dataclass(frozen=True)
class FoundPhotos:
    """What a search found.

    Attributes:
      photos: to read, in order.
      skipped: what else there was.
    """

    photos: Sequence[Path]
    skipped: Skipped


def find_photos(paths: Iterable[Path]) -> FoundPhotos:
    """The files among `paths`, and all photos below the folders among them, sorted within each folder.

    Raises:
      UsageError: a path that does not exist.
      UserError: a folder without photos, which says what else it has; a folder that cannot be read.
    """
    photos: list[Path] = []
    skipped = Skipped()
    for path in paths:
        if path.is_dir():
            found = []
            inside = Skipped()
            for file in walk(path, inside):
                if file.suffix.lower() in SUFFIXES:
                    found.append(file)
                else:
                    inside.suffixes[file.suffix.lower()] += 1
            if not found:
                what = f"no image files in the folder{f', but {inside}' if inside else ''}"
                raise UserError(what, where=path, hint="name a folder that has photos, in it or below it")
            photos.extend(sorted(found))
            skipped.suffixes += inside.suffixes
            skipped.hidden += inside.hidden
            skipped.links += inside.links
        elif path.exists():
            photos.append(path)
        else:
            raise UsageError("no such photo or folder", where=path, hint="check how it is spelt")
    return FoundPhotos(photos, skipped)


def walk(folder: Path, skipped: Skipped) -> Iterator[Path]:
    """All files below a folder, but for what `Skipped` counts, and what is counted there.

    Raises:
      UserError: a folder cannot be read.
    """
    for parent, names in walk_folders(folder, skipped):
        for name in names:
            if name.startswith("."):
                skipped.hidden += 1
            else:
                yield parent / name


def walk_folders(folder: Path, skipped: Skipped) -> Iterator[tuple[Path, Sequence[str]]]:
    """A folder and all below it, but for what `Skipped` counts, each with the names of its files.

    Raises:
      UserError: as `walk`.
    """
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        searched = [name for name in folders if not name.startswith(".") and name.lower() not in NOT_SEARCHED]
        skipped.hidden += len(folders) - len(searched)
        # `os.walk` lists links to folders, and does not follow them.
        skipped.links += sum(Path(parent, name).is_symlink() for name in searched)
        folders[:] = searched
        yield Path(parent), names


def _refuse(error: OSError) -> None:
    """Photos in a folder that cannot be read must not be left out without a word."""
    hint = "ask for permission, or name the folders beside it one by one"
    raise UserError(f"cannot be read: {error.strerror}", where=error.filename, hint=hint) from error


def skipped_text(suffixes: Mapping[str, int]) -> str:
    """`12 other files (8 .heic, 4 without suffix)`, the most frequent suffixes first."""
    ordered = sorted(suffixes.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{number:,} {suffix or 'without suffix'}" for suffix, number in ordered[:_SHOWN_SUFFIXES]]
    shown += ["…"] if len(ordered) > _SHOWN_SUFFIXES else []
    number = sum(suffixes.values())
    return f"{number:,} other file{'' if number == 1 else 's'} ({', '.join(shown)})"
