"""Files written whole or not at all, and folders that one process at a time works in."""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from socialtag_jax.errors import UserError
from socialtag_jax.gcs import RemotePath
from socialtag_jax.storage import Location

_LONGEST_NAME = 255
"""Bytes; of nearly all file systems."""


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; renamed to `path` on success, deleted on failure.

    The data is synced to disk before the rename, and the folder after it: a power cut leaves the old file or the new
    one, and once this has returned, the new one.
    """
    whose = f"{os.getpid()}-{threading.get_ident()}@{socket.gethostname()}"
    # A name may be as long as the file system allows, and this one no longer.
    start = os.fsencode(path.name)[: _LONGEST_NAME - len(f"..{whose}.tmp")].decode(errors="ignore")
    temporary = path.with_name(f".{start}.{whose}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        # Whoever reads the message knows nothing of the temporary name.
        if error.filename is not None and Path(error.filename) == temporary:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_TEMPORARY = re.compile(r"\..*\.(\d+)-\d+@([^@]+)\.tmp", re.DOTALL)
_LONGEST_WRITE = 24 * 3600.0


def sweep(folder: Path) -> None:
    """Deletes the temporary files of `atomic_path` that processes which were killed left in a folder.

    Those of this computer's living processes stay. Of other computers' processes, which may share the folder, nothing
    is known: theirs are left behind when they are a day old.
    """
    for path in folder.glob(".*.tmp"):
        found = _TEMPORARY.fullmatch(path.name)
        if found is None:
            continue
        # It is finished, another process sweeps as well, or it is not ours to delete.
        with contextlib.suppress(FileNotFoundError, PermissionError):
            old = time.time() - path.stat().st_mtime > _LONGEST_WRITE
            if old or (found[2] == socket.gethostname() and not _is_alive(int(found[1]))):
                path.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


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
