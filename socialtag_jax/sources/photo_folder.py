"""Paths as a list of photos has them -> image ids, and files that lie in the list's folder and nowhere else."""

import os
import posixpath
from pathlib import Path

from socialtag_jax.errors import UserError, excerpt

_NOT_NORMAL = frozenset(("", ".", ".."))


class PhotoFolder:
    """The folder that paths are relative to.

    Args:
      folder: the list's.
      allow_outside: takes paths that lead out of it, by `..`, from the root, or through symbolic links.
    """

    def __init__(self, folder: Path, *, allow_outside: bool) -> None:
        self._folder, self._allow_outside = folder, allow_outside
        # Absolute paths in the file may have been written with symbolic links resolved, or not.
        self._absolute = [Path(os.path.normpath(folder.absolute())), folder.resolve()]
        self._real = str(folder.resolve())
        self._real_folders: dict[str, str] = {}

    def image_id(self, cell: str, where: str) -> str:
        """The path relative to the folder, with `/` between its parts, without `.` and `..`.

        Args:
          cell: the path as written.
          where: it is written, for messages.

        Returns:
          the id; it begins with `../` where the photo lies outside of the folder, and that is allowed.

        Raises:
          UserError: there is no path, or it leads out of the folder.
        """
        text = self._forward_slashes(cell.strip())
        if not text:
            raise UserError("the path cell is empty", where=where, hint="fill it in or delete the row")
        on_a_drive = text[1:3] == ":/"
        if text.startswith("/"):
            image_id = self._relative(text)
        else:
            image_id = text if _NOT_NORMAL.isdisjoint(text.split("/")) else posixpath.normpath(text)
        if on_a_drive or image_id == "." or (_is_outside(image_id) and not self._allow_outside):
            raise UserError(
                f"the path {excerpt(cell)} leads to no file below {self._folder}",
                where=where,
                hint="expected a path relative to the CSV file's folder: move the photos or the CSV file; "
                "--allow-outside takes photos from elsewhere too",
            )
        target = None if self._allow_outside else self._linked_outside(image_id)
        if target is not None:
            raise UserError(
                f"the path {excerpt(cell)} leads out of {self._folder} through a symbolic link, to {target}",
                where=where,
                hint="put the photo itself there; --allow-outside follows such links",
            )
        return image_id

    def file(self, image_id: str) -> Path:
        """The photo's file."""
        if _is_outside(image_id):
            # By the text alone, as in the id: where a folder is a link, the system would go up from its target.
            return Path(os.path.normpath(self._absolute[0] / image_id))
        return self._folder / image_id

    def _linked_outside(self, image_id: str) -> str | None:
        """Where symbolic links lead to, if that is outside of the folder."""
        parent, _, name = image_id.rpartition("/")
        real = self._real_folders.get(parent)
        if real is None:
            real = self._real_folders[parent] = os.path.realpath(f"{self._real}/{parent}")
        # A folder has many files, and few of them are links.
        if os.path.islink(f"{real}/{name}"):  # noqa: PTH114
            real = os.path.realpath(f"{real}/{name}")
        return None if real == self._real or real.startswith(self._real.rstrip("/") + "/") else real

    def _forward_slashes(self, text: str) -> str:
        r"""The same path where it was written on Windows: `\` is also a legal character of a file name elsewhere."""
        if "\\" not in text:
            return text
        changed = text.replace("\\", "/")
        return changed if "/" not in text or (self._folder / changed).exists() else text

    def _relative(self, text: str) -> str:
        """An absolute path, relative to the folder."""
        path = Path(os.path.normpath(text))
        base = next((base for base in self._absolute if path.is_relative_to(base)), self._absolute[0])
        return Path(os.path.relpath(path, base)).as_posix()


def _is_outside(image_id: str) -> bool:
    return image_id.split("/", 1)[0] == ".."
