"""Files written whole or not at all, and folders that one process at a time works in."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from socialtag_jax.errors import UserError
from socialtag_jax.gcs import RemotePath
from socialtag_jax.storage import Location


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; renamed to `path` on success, deleted on failure.

    The data is synced to disk before the rename, so that a power cut leaves the old file or the new one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        yield temporary
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except OSError as error:
        # Whoever reads the message knows nothing of the temporary name.
        if error.filename is not None and Path(error.filename) == temporary:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Deletes what writes of `path` that were killed have left; for whom nobody else writes it meanwhile."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        left.unlink(missing_ok=True)


def write_bytes(path: Location, data: bytes) -> None:
    """Writes `data` to `path` atomically."""
    if isinstance(path, RemotePath):
        path.write_bytes(data)
        return
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Location, text: str) -> None:
    """Writes `text` to `path` atomically, as UTF-8 and with its line ends as they are.

    File names that are not UTF-8 come back as the bytes that they are.
    """
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def read_bytes(path: Location, *, most: int | None = None) -> bytes:
    """The content of an object or a regular file: nothing waits for the other end of a pipe, or reads without end.

    Args:
      path: of the file.
      most: bytes that it may have; None for any number.

    Raises:
      OSError: it cannot be read, is no regular file, or is too large; `strerror` says which.
      ValueError: the path has a NUL character, or one that file names cannot have.
    """
    if isinstance(path, RemotePath):
        if most is not None and path.stat().size > most:
            raise OSError(errno.EFBIG, f"expected at most {most:,} bytes", str(path))
        return path.read_bytes()
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "Not a regular file (a pipe, a socket or a device)", str(path))
        if most is not None and status.st_size > most:
            raise OSError(errno.EFBIG, f"{status.st_size:,} bytes, expected at most {most:,}", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Makes `folder` and holds it against other processes; however this one ends, the hold ends with it.

    Raises:
      UserError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("another process is at work here", where=folder, hint="wait for it, or stop it") from None
        yield
    finally:
        os.close(descriptor)
