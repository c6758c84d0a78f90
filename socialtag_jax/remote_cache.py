"""Local copies of folders on Google Cloud Storage: data sets, whose shards are read at random, and bundles.

A copy belongs to one state of one folder: its name is made of the address and of all objects' names, sizes and
checksums, so that what was changed in the bucket is another copy, and nothing stale is ever read. Files are fetched
when they are asked for, several at once, in pieces; what a killed process has fetched is kept. A file takes its name
when its size and checksums have been found right.

All copies together stay within `SOCIALTAG_SHARD_CACHE_GB`, or within what the disk has room for; beyond it, those go
that were not used for longest. Processes share the copies: a lock in each copy says that it is in use, and so stays.

    CACHE/shards/.lock                       held while room is made
    CACHE/shards/NAME-0123456789abcdef/      one copy
        lock      held, shared, by all who use the copy; its time of change is that of the last use
        copy.json its address, and the sizes of the files that were asked for: what the copy takes, or will take
        files/    complete files
        parts/    files that are being fetched
        locks/    of these
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

import google_crc32c

from socialtag_jax import files, machine
from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.gcs import REQUESTS, RemotePath, StoredObject
from socialtag_jax.progress import Progress, format_bytes

LIMIT = "SOCIALTAG_SHARD_CACHE_GB"
_PIECE = 2**23
"""Bytes of one request: what is fetched again after an interruption, at most, of each file."""
_READ = 2**20
_FREE = 10**9
"""Bytes of the disk that the cache leaves to others."""
_LOCK, _COPY, _FILES, _PARTS, _LOCKS = "lock", "copy.json", "files", "parts", "locks"


class RemoteCopy:
    """The local copy of a remote folder, which stays while this object lives.

    Args:
      remote: the folder.
      stream: where progress is shown; by default `sys.stderr`.

    Attributes:
      folder: where the files lie that were fetched.
      objects: those of the remote folder, by name; but for offset indexes, which are made from the shards.

    Raises:
      UserError: the bucket cannot be read, or does not exist.
    """

    def __init__(self, remote: RemotePath, *, stream: TextIO | None = None) -> None:
        self.remote, self._stream = remote, stream or sys.stderr
        found = sorted(remote.objects(), key=lambda one: one.name)
        # "." and ".." are lawful parts of a key, but no names of files.
        self.objects = {
            one.name: one for one in found if not one.name.endswith(".index") and one.name not in (".", "..")
        }
        root = machine.cache_folder() / "shards"
        self._copy = root / _copy_name(remote, self.objects)
        self.folder, self._parts = self._copy / _FILES, self._copy / _PARTS
        with _locked(root / ".lock"):
            for folder in (self.folder, self._parts):
                folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._copy / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            os.utime(self._descriptor)
            if not (self._copy / _COPY).exists():
                _write_copy(self._copy, str(remote), {})

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the copy: from now on it may be deleted when room is needed."""
        descriptor, self._descriptor = getattr(self, "_descriptor", None), None
        if descriptor is not None:
            os.close(descriptor)

    def fetch(self, names: Collection[str], sha256: Mapping[str, str] | None = None) -> None:
        """Fetches what is not here yet.

        Args:
          names: of objects.
          sha256: in hexadecimal, of the contents of those of which it is known.

        Raises:
          UserError: no room; the bucket does not answer; its content is not what its checksum, or `sha256`, says.
        """
        for name in names:
            if name not in self.objects:
                raise UserError("no such object", where=self.remote / name, hint="copy the data to the bucket again")
        missing = [self.objects[name] for name in names if not self._is_complete(self.objects[name])]
        if not missing:
            return
        self._make_room(names)
        total = sum(one.size for one in missing)
        started = sum(self._fetched(one) for one in missing)
        progress = Progress(f"fetching {self.remote}", _megabytes(total), "MB", self._stream, done=_megabytes(started))
        done, lock = started, threading.Lock()

        def advance(count: int) -> None:
            nonlocal done
            with lock:
                done += count
                progress.update(_megabytes(done))

        failed = threading.Event()

        def one(stored: StoredObject) -> None:
            if failed.is_set():
                return
            try:
                self._fetch_one(stored, (sha256 or {}).get(stored.name), advance, failed)
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(REQUESTS) as pool:
            try:
                # Large ones first: the last to end are then small.
                list(pool.map(one, sorted(missing, key=lambda stored: -stored.size)))
            except BaseException:
                failed.set()
                progress.clear()
                raise
        progress.finish(_megabytes(total))

    def _is_complete(self, stored: StoredObject) -> bool:
        path = self.folder / stored.name
        return path.exists() and path.stat().st_size == stored.size

    def _fetched(self, stored: StoredObject) -> int:
        part = self._parts / stored.name
        return min(part.stat().st_size, stored.size) if part.exists() else 0

    def _fetch_one(
        self, stored: StoredObject, sha256: str | None, advance: Callable[[int], None], failed: threading.Event
    ) -> None:
        part = self._parts / stored.name
        with _locked(self._copy / _LOCKS / stored.name):
            # Another process may have fetched it while this one waited.
            if self._is_complete(stored):
                advance(stored.size - self._fetched(stored))
                return
            for attempt in (1, 2):
                if not self._append(stored, part, advance, failed):
                    return
                crc32c, found_sha256 = _checksums(part)
                if crc32c == stored.crc32c:
                    break
                # A power cut may have left a part that was never written; fetched anew, it must be right.
                part.unlink()
                advance(-stored.size)
                if attempt == 2:
                    raise UserError(
                        f"its CRC-32C is {crc32c:08x}, the bucket says {stored.crc32c:08x}, twice",
                        where=self.remote / stored.name,
                        hint="run the same command again; if it stays so, copy the data to the bucket again",
                    )
            if sha256 is not None and found_sha256 != sha256:
                part.unlink()
                raise UserError(
                    "the content is not what the folder's own list of files says (SHA-256 differs)",
                    where=self.remote / stored.name,
                    hint="copy the data to the bucket again",
                )
            part.rename(self.folder / stored.name)

    def _append(
        self, stored: StoredObject, part: Path, advance: Callable[[int], None], failed: threading.Event
    ) -> bool:
        """Fetches the rest of a part; False where another transfer failed meanwhile, and this part is left as it is."""
        with part.open("ab") as file:
            if file.tell() > stored.size:
                file.truncate(0)
            start = file.tell()
            while start < stored.size:
                if failed.is_set():
                    return False
                end = min(start + _PIECE, stored.size)
                file.write((self.remote / stored.name).read_range(start, end, stored.generation))
                file.flush()
                advance(end - start)
                start = end
            os.fsync(file.fileno())
        return True

    def _make_room(self, names: Collection[str]) -> None:
        """Deletes copies that are not in use until all that was asked for fits.

        Raises:
          UserError: it does not fit.
        """
        root = self._copy.parent
        with _locked(root / ".lock"):
            wanted = _wanted(self._copy) | {name: self.objects[name].size for name in names}
            others = {path: sum(_wanted(path).values()) for path in root.iterdir() if (path / _LOCK).exists()}
            others.pop(self._copy, None)
            needed = sum(wanted.values())
            limit, reason = _limit(root, [*others, self._copy])
            oldest_first = sorted(others, key=lambda path: (path / _LOCK).stat().st_mtime_ns)
            for path in oldest_first:
                if needed + sum(others.values()) <= limit:
                    break
                if _delete_unused(path):
                    others.pop(path)
            in_use = sum(others.values())
            if needed + in_use > limit:
                raise UserError(
                    f"{format_bytes(needed)} are to be kept locally, beside {format_bytes(in_use)} in use by other "
                    f"processes, but the cache may hold {format_bytes(max(limit, 0))} ({reason})",
                    where=root,
                    hint=f"set {LIMIT} to more, free some disk, or put the cache elsewhere (SOCIALTAG_CACHE)",
                )
            _write_copy(self._copy, str(self.remote), wanted)


def _megabytes(count: int) -> int:
    """Rounded up: a small folder is not shown as nothing."""
    return -(-count // 10**6)


def _copy_name(remote: RemotePath, objects: Mapping[str, StoredObject]) -> str:
    state = [str(remote), [[one.name, one.size, one.crc32c] for one in objects.values()]]
    readable = re.sub(r"[^\w.-]+", "-", "-".join(str(remote).split("/")[-2:])).strip("-.")
    return f"{readable[-60:]}-{hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]}"


def _write_copy(copy: Path, address: str, wanted: Mapping[str, int]) -> None:
    files.write_text(copy / _COPY, json.dumps({"address": address, "wanted": wanted}, indent=1) + "\n")


def _wanted(copy: Path) -> dict[str, int]:
    """The sizes of the files that were asked for, by name."""
    try:
        return json.loads((copy / _COPY).read_text(encoding="utf-8"))["wanted"]
    except FileNotFoundError:
        return {}


def _limit(root: Path, copies: Collection[Path]) -> tuple[int, str]:
    """Bytes that all copies together may have, and what sets the limit."""
    on_disk = sum(path.stat().st_size for copy in copies for path in copy.rglob("*") if path.is_file())
    of_disk = shutil.disk_usage(root).free + on_disk - _FREE
    text = os.environ.get(LIMIT)
    if not text:
        return of_disk, "what the disk has room for"
    try:
        limit = int(float(text) * 1e9)
    except (ValueError, OverflowError):
        limit = 0
    if limit <= 0:
        raise UsageError(f"{text!r}: expected a number of gigabytes over 0", where=LIMIT)
    return min((limit, LIMIT), (of_disk, "what the disk has room for"))


def _delete_unused(copy: Path) -> bool:
    """Deletes a copy, unless a process holds it. The caller holds the cache's lock: nobody can take it up meanwhile."""
    descriptor = os.open(copy / _LOCK, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        shutil.rmtree(copy)
        return True
    finally:
        os.close(descriptor)


def _checksums(path: Path) -> tuple[int, str]:
    """CRC-32C and SHA-256 of a file."""
    crc32c, sha256 = 0, hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ):
            crc32c = google_crc32c.extend(crc32c, piece)
            sha256.update(piece)
    return crc32c, sha256.hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock file against other processes and threads, waiting for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
