"""A matrix on disk that is written row by row and read column by column, for what does not fit in memory."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from socialtag_jax.errors import UserError

_BLOCK_BYTES = 64 * 2**20


class ColumnFile:
    """A float32 matrix in an unnamed temporary file: it is gone when closed, or however this process ends.

    Columns lie together in blocks of about 64 MiB, so that neither rows nor columns need more memory than that.

    Args:
      folder: on the file system that is to hold it.
      rows: of the matrix.
      columns: of the matrix.
      hint: where there is too little space, how to choose another folder.

    Raises:
      UserError: the file system has too little free space.
    """

    def __init__(self, folder: Path, rows: int, columns: int, *, hint: str, block_bytes: int = _BLOCK_BYTES) -> None:
        self._folder, self._rows, self._columns, self._hint = folder, rows, columns, hint
        self._width = min(columns, max(1, block_bytes // (4 * rows)))
        free = shutil.disk_usage(folder).free
        if free < self._size:
            raise self._no_space(f"{free / 1e9:.2f} GB are free")
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def _size(self) -> int:
        return 4 * self._rows * self._columns

    def write(self, first_row: int, values: np.ndarray) -> None:
        """Puts float32 [n, columns] at rows `first_row` and after.

        Raises:
          UserError: the file system has become full.
        """
        for first in range(0, self._columns, self._width):
            block = np.ascontiguousarray(values[:, first : first + self._width], np.float32)
            data = block.data.cast("B")
            offset = 4 * (first * self._rows + first_row * block.shape[1])
            while data:
                try:
                    written = os.pwrite(self._file.fileno(), data, offset)
                except OSError as error:
                    if error.errno in (errno.ENOSPC, errno.EDQUOT):
                        raise self._no_space(os.strerror(error.errno)) from error
                    raise
                data, offset = data[written:], offset + written

    def columns(self) -> Iterator[np.ndarray]:
        """Every column in order, float32 [rows]; a view that the next ones overwrite."""
        buffer = np.empty(self._rows * self._width, np.float32)
        for first in range(0, self._columns, self._width):
            width = min(self._width, self._columns - first)
            block = buffer[: self._rows * width]
            data, offset = block.data.cast("B"), 4 * first * self._rows
            while data:
                read = os.preadv(self._file.fileno(), [data], offset)
                if not read:
                    raise EOFError(f"{len(data)} bytes were never written")
                data, offset = data[read:], offset + read
            yield from block.reshape(self._rows, width).T

    def _no_space(self, found: str) -> UserError:
        return UserError(
            f"{self._rows:,} x {self._columns:,} probabilities need {self._size / 1e9:.2f} GB for a while: {found}",
            where=self._folder,
            hint=f"free some space, or {self._hint}",
        )
