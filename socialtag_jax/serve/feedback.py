"""Which suggestions people accept and reject: appended to a file of JSON Lines."""

import datetime
import errno
import fcntl
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from socialtag_jax.errors import UserError

LARGEST = 2**30
"""Bytes that the file may grow to."""


def now() -> datetime.datetime:
    """The time, in UTC."""
    return datetime.datetime.now(datetime.UTC)


class FeedbackFile:
    """Lines that are on disk when `append` returns; several servers may share the file.

    Args:
      path: of the file, which is made at once: better an error now than at the first choice.
      clock: the time of a line, in UTC.

    Raises:
      UserError: the file cannot be written.
    """

    def __init__(self, path: Path, *, clock: Callable[[], datetime.datetime] = now) -> None:
        self.path, self._clock = path, clock
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(self._open())
        except OSError as error:
            what = f"cannot be written: {error.strerror or error}"
            raise UserError(what, where=path, hint="name another file with --feedback") from None

    def append(self, choices: Sequence[dict[str, Any]]) -> None:
        """Appends one line a choice, each with the time first: all of them, or none.

        Raises:
          OSError: the disk is full, the file may not grow further, or the like.
        """
        time = self._clock().isoformat(timespec="milliseconds")
        # As ASCII: some programs take more than a line feed for the end of a line.
        data = "".join(json.dumps({"time": time, **choice}) + "\n" for choice in choices).encode()
        descriptor = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            if size + len(data) > LARGEST:
                raise OSError(errno.EFBIG, f"the file has reached {LARGEST:,} bytes", str(self.path))
            # A line that a power cut left unfinished stays a line of its own.
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                data = b"\n" + data
            try:
                written = os.write(descriptor, data)
                if written < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
