"""Sidecar files: where a photo's is, what is to change in it, and the change itself.

`PHOTO.jpg` has its sidecar in `PHOTO.jpg.xmp`, as darktable always and digiKam by default write it.
Lightroom's `PHOTO.xmp` belongs to raw files alone (of a JPEG, Lightroom reads only what is in the JPEG), and would be
the same file for `PHOTO.jpg`, `PHOTO.png` and the raw file that they were made from: such a file is never touched.
"""

import contextlib
import difflib
import errno
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from socialtag_jax import files, photo_search, xml_tree, xmp
from socialtag_jax.errors import UsageError, UserError, printable

SUFFIX = ".xmp"

_OF_ONE_FILE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.EFBIG, errno.EINVAL, errno.EISDIR),
    # A folder that was moved away, and a bad sector.
    *(errno.ENOENT, errno.ENOTDIR, errno.EIO),
)
"""What may be wrong with one file, and right with the next."""

_SHOWN_AS_THEY_ARE = re.compile("(\t|\r?\n)")


@dataclass(frozen=True)
class Change:
    """A sidecar before and after; None where there is none."""

    path: Path
    before: bytes | None
    after: bytes | None

    @property
    def is_needed(self) -> bool:
        """Whether anything changes."""
        return self.before != self.after

    def apply(self) -> None:
        """Writes or deletes the file: as a whole, or not at all.

        Raises:
          UserError: this one file cannot be written, or is not as it was.
          OSError: no file can: the disk is full.
        """
        if not self.is_needed:
            return
        if _read(self.path) != self.before:
            raise UserError("was changed by another program just now", where=self.path, hint="run the command again")
        try:
            # A file that is replaced need not be writable; whoever made it read-only meant it.
            status = None if self.before is None else self.path.stat()
            if status is not None and not (status.st_mode & 0o222 and os.access(self.path, os.W_OK)):
                raise UserError("is read-only", where=self.path)
            if self.after is None:
                self.path.unlink()
                return
            with files.atomic_path(self.path) as temporary:
                temporary.write_bytes(self.after)
                if status is not None:
                    _give(temporary, status)
        except OSError as error:
            raise _of_one_file(error, self.path) from error

    def diff(self) -> str:
        """A unified diff; "" where nothing changes.

        Of a file in UTF-8 it is what `patch --binary` takes, but for characters that would command a terminal: they
        are escaped.
        """
        if not self.is_needed:
            return ""
        contents = (self.before, self.after)
        before, after = (_lines(content) for content in contents)
        name = str(self.path).replace("\n", "\\n").replace("\t", "\\t")
        old_name, new_name = (os.devnull if content is None else name for content in contents)
        lines = difflib.unified_diff(before, after, old_name, new_name)
        ended = (line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
        parts = _SHOWN_AS_THEY_ARE.split("".join(ended))
        return "".join(part if number % 2 else printable(part) for number, part in enumerate(parts))


def sidecar_path(photo: Path) -> Path:
    """A photo's sidecar: `PHOTO.jpg.xmp`, unless there is a `PHOTO.jpg.XMP` alone.

    Two that differ in case would be one file where case does not count.
    """
    usual, upper = (photo.with_name(photo.name + suffix) for suffix in (SUFFIX, SUFFIX.upper()))
    return upper if os.path.lexists(upper) and not os.path.lexists(usual) else usual


def tagging(photo: Path, record: xmp.Record) -> Change:
    """What is to change beside a photo, so that its sidecar has these tags of ours and no others.

    One that has them already, of the same model, keeps the date that it has.

    Raises:
      UserError: the sidecar cannot be read, or is nothing that tags can be put into.
    """
    path = sidecar_path(photo)
    before = _read(path)
    try:
        known = xmp.record(before) if before is not None and xmp.may_be_ours(before) else None
        if known is not None:
            same_date = xmp.tagged(before, xmp.Record(record.model, known.date, record.tags))
            if same_date == before:
                return Change(path, before, before)
        return Change(path, before, xmp.tagged(before, record))
    except UserError as error:
        raise UserError(error.what, where=path) from error


def untagging(path: Path) -> Change:
    """What is to change in a sidecar, so that nothing of ours is left.

    Raises:
      UserError: as `tagging`.
    """
    before = _read(path)
    try:
        after = xmp.untagged(before) if before is not None and xmp.may_be_ours(before) else before
    except UserError as error:
        raise UserError(error.what, where=path) from error
    return Change(path, before, after)


def find(paths: Iterable[Path]) -> list[Path]:
    """The sidecars among `paths`, those of the photos among them, and all below the folders among them.

    Raises:
      UsageError: a path that does not exist.
      UserError: a folder that cannot be read.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            walked = photo_search.walk(path, photo_search.Skipped())
            # Nothing of ours was ever written through a link.
            found += sorted(file for file in walked if file.suffix.lower() == SUFFIX and not file.is_symlink())
        elif path.exists():
            found.append(path if path.suffix.lower() == SUFFIX else sidecar_path(path))
        else:
            raise UsageError("no such photo, sidecar or folder", where=path, hint="check how it is spelt")
    return found


def sweep(paths: Iterable[Path]) -> None:
    """Deletes the half-written sidecars that killed runs left beside `paths`, and below the folders among them."""
    for path in paths:
        folders = photo_search.walk_folders(path, photo_search.Skipped()) if path.is_dir() else [(path.parent, ())]
        for folder, _ in folders:
            files.sweep(folder)


def _read(path: Path) -> bytes | None:
    try:
        # Through a link, the file would be replaced where the link is, or one changed that lies elsewhere.
        if stat.S_ISLNK(path.lstat().st_mode):
            raise UserError("is a symbolic link", where=path)
        return files.read_bytes(path, most=xml_tree.MOST_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _of_one_file(error, path) from error


def _give(path: Path, status: os.stat_result) -> None:
    """Gives a file the mode of the one that it takes the place of; its owner and its group, if we may."""
    for owner, group in ((status.st_uid, -1), (-1, status.st_gid)):
        # Each by itself; not every file system has them.
        with contextlib.suppress(OSError):
            os.chown(path, owner, group)
    path.chmod(stat.S_IMODE(status.st_mode))


def _of_one_file(error: OSError, path: Path) -> Exception:
    return UserError(str(error.strerror), where=path) if error.errno in _OF_ONE_FILE else error


def _lines(content: bytes | None) -> list[str]:
    if content is None:
        return []
    # str.splitlines would break lines at characters that only end a line to itself.
    *lines, last = xml_tree.decode(content)[0].decode().split("\n")
    return [*(f"{line}\n" for line in lines), *([last] if last else [])]
