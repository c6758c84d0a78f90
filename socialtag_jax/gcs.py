"""Objects on Google Cloud Storage, read and written like files; the one place that talks to it, but for orbax.

Requests go out under the application default credentials. Where `STORAGE_EMULATOR_HOST` is set, they go to that
emulator, without any. What is refused for the moment (429, 5xx), breaks off or takes too long is tried again, for five
minutes.
"""

import base64
import contextlib
import errno
import fnmatch
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from socialtag_jax.errors import UserError

SCHEME = "gs://"
EMULATOR = "STORAGE_EMULATOR_HOST"
REQUESTS = 8
"""Requests that one transfer has under way at once."""

_TIMEOUT = (10.0, 30.0)
"""Seconds: to connect, and for the next bytes to arrive."""
_FIRST_DELAY, _LONGEST_DELAY, _GIVE_UP = 0.2, 30.0, 300.0
"""Seconds: between tries (each waits up to twice as long as the one before), and for all tries together."""
INSTALL = "pip install '.[gcs]'"


class ChangedError(UserError):
    """An object is not, or no longer, of the generation that was asked for."""


class _ShortReadError(ConnectionError):
    """The answer ended early; counts among the errors that are tried again."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What the bucket says of an object.

    Attributes:
      name: the last part of its key.
      size: in bytes.
      crc32c: of the content.
      generation: another one whenever the object is written.
    """

    name: str
    size: int
    crc32c: int
    generation: int


@dataclass(frozen=True, order=True)
class RemotePath:
    """An object, or a folder (a common beginning of keys), on Google Cloud Storage.

    Every access may raise `UserError`: no such bucket, no permission, no credentials, or no answer.
    """

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(self.bucket, f"{self.key}/{name}".strip("/"))

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> "RemotePath":
        """The folder around it."""
        return RemotePath(self.bucket, self.key.rpartition("/")[0])

    def with_name(self, name: str) -> "RemotePath":
        """The same folder's `name`."""
        return self.parent / name

    def stat(self) -> StoredObject:
        """The object that lies here.

        Raises:
          FileNotFoundError: none does.
        """
        if not self.key:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        with _readable_errors(self):
            blob = self._blob()
            blob.reload(timeout=_TIMEOUT, retry=_retry())
            return _described(blob)

    def exists(self) -> bool:
        """Whether an object or a folder lies here."""
        try:
            self.stat()
        except FileNotFoundError:
            return self.is_dir()
        return True

    def is_dir(self) -> bool:
        """Whether any object lies below."""
        with _readable_errors(self, no_bucket=True):
            blobs = _client().list_blobs(
                self.bucket, prefix=self._prefix, max_results=1, timeout=_TIMEOUT, retry=_retry()
            )
            return any(True for _ in blobs)

    def objects(self) -> list[StoredObject]:
        """The objects of this folder, those of folders in it left out."""
        return self._children()[0]

    def iterdir(self) -> Iterator["RemotePath"]:
        """The objects and folders of this folder."""
        objects, folders = self._children()
        yield from (self / stored.name for stored in objects)
        yield from (self / name for name in folders)

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """What lies below and fits a pattern, part by part: a name, or one with `*`."""
        first, _, rest = pattern.partition("/")
        if "*" not in first:
            found = [self / first]
        elif rest:
            found = [self / name for name in self._children()[1] if fnmatch.fnmatchcase(name, first)]
        else:
            found = [path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, first)]
        for path in found:
            if rest:
                yield from path.glob(rest)
            elif path.exists():
                yield path

    def read_bytes(self) -> bytes:
        """The content, checked against the bucket's checksum.

        Raises:
          FileNotFoundError: there is no such object.
        """

        def read() -> bytes:
            from google.cloud.storage.exceptions import DataCorruption

            try:
                return self._blob().download_as_bytes(checksum="crc32c", timeout=_TIMEOUT, retry=None)
            except DataCorruption as error:
                raise _ShortReadError(str(error)) from None

        with _readable_errors(self):
            return _retry()(read)()

    def read_text(self, encoding: str) -> str:
        """The content as text."""
        return self.read_bytes().decode(encoding)

    def read_range(self, start: int, end: int, generation: int) -> bytes:
        """Bytes `start` to `end` (not included) of one generation of an object: all of them.

        Raises:
          ChangedError: the object was written again, or is gone.
        """

        def read() -> bytes:
            data = self._blob().download_as_bytes(
                start=start,
                end=end - 1,
                raw_download=True,
                if_generation_match=generation,
                checksum=None,
                timeout=_TIMEOUT,
                retry=None,
            )
            if len(data) != end - start:
                raise _ShortReadError(f"{len(data)} bytes arrived, expected {end - start}")
            return data

        try:
            with _readable_errors(self):
                return _retry()(read)()
        except FileNotFoundError:
            raise _changed(self) from None

    def write_bytes(self, data: bytes, *, generation: int | None = None, seconds: float | None = None) -> int:
        """Writes the object; it appears when all of it has arrived unchanged.

        Args:
          data: the content.
          generation: write only over this generation; 0: only where there is no object; None: over anything.
          seconds: after which it is not tried again; one try waits for half of them at most. None: five minutes.

        Returns:
          the new generation.

        Raises:
          ChangedError: another generation lies there.
        """
        with _readable_errors(self):
            blob = self._blob()
            blob.upload_from_string(
                data,
                content_type="application/octet-stream",
                if_generation_match=generation,
                checksum="crc32c",
                timeout=_TIMEOUT if seconds is None else (seconds / 2, seconds / 2),
                retry=_retry() if seconds is None else _retry().with_timeout(seconds),
            )
            return int(blob.generation)

    def upload(self, file: Path) -> None:
        """Writes the object with a local file's content."""
        with _readable_errors(self):
            self._blob().upload_from_filename(
                str(file),
                content_type="application/octet-stream",
                checksum="crc32c",
                timeout=_TIMEOUT,
                retry=_retry(),
            )

    def unlink(self, *, generation: int) -> None:
        """Deletes that generation of the object; where another one lies, nothing happens."""
        with contextlib.suppress(FileNotFoundError, ChangedError), _readable_errors(self):
            self._blob().delete(if_generation_match=generation, timeout=_TIMEOUT, retry=_retry())

    @property
    def _prefix(self) -> str:
        return f"{self.key}/" if self.key else ""

    def _blob(self) -> Any:
        return _client().bucket(self.bucket).blob(self.key)

    def _children(self) -> tuple[list[StoredObject], list[str]]:
        """The objects and the folders' names directly below."""
        with _readable_errors(self, no_bucket=True):
            blobs = _client().list_blobs(
                self.bucket, prefix=self._prefix, delimiter="/", timeout=_TIMEOUT, retry=_retry()
            )
            # An object whose key ends in / only makes an empty folder show in Google's console.
            objects = [_described(blob) for blob in blobs if not blob.name.endswith("/")]
            folders = [prefix.rstrip("/").rpartition("/")[2] for prefix in blobs.prefixes]
        return objects, sorted(folders)


def _described(blob: Any) -> StoredObject:
    checksum = int.from_bytes(base64.b64decode(blob.crc32c), "big")
    return StoredObject(blob.name.rpartition("/")[2], int(blob.size), checksum, int(blob.generation))


def google_storage(where: object) -> Any:
    """The package, which is imported at the first use.

    Raises:
      UserError: it is missing.
    """
    try:
        from google.cloud import storage
    except ImportError:
        raise UserError("google-cloud-storage is missing", where=where, hint=INSTALL) from None
    return storage


def _client() -> Any:
    return _client_of(os.environ.get(EMULATOR))


@functools.lru_cache(maxsize=4)
def _client_of(emulator: str | None) -> Any:
    del emulator  # the client reads the variable itself
    # No project: that is asked for only where a bucket is made.
    return google_storage(SCHEME).Client(project=None)


@functools.cache
def _retry() -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_delay(_FIRST_DELAY, _LONGEST_DELAY, 2.0).with_timeout(_GIVE_UP)


def _changed(path: RemotePath) -> ChangedError:
    return ChangedError("the object was changed meanwhile", where=path, hint="run the same command again")


@contextlib.contextmanager
def _readable_errors(path: RemotePath, *, no_bucket: bool = False) -> Iterator[None]:
    """Turns the client's errors into ours.

    Args:
      path: what is accessed.
      no_bucket: "not found" is said of the bucket, not of the object.
    """
    google_storage(path)
    import requests
    from google.api_core import exceptions
    from google.auth import exceptions as auth

    try:
        yield
    except exceptions.NotFound:
        if no_bucket:
            hint = "check its name, and that your account may see it"
            raise UserError("no such bucket", where=f"{SCHEME}{path.bucket}", hint=hint) from None
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    except exceptions.PreconditionFailed:
        raise _changed(path) from None
    except auth.DefaultCredentialsError as error:
        hint = "run `gcloud auth application-default login`"
        raise UserError("no credentials for Google Cloud on this computer", where=path, hint=hint) from error
    except (exceptions.Unauthorized, exceptions.Forbidden, auth.RefreshError) as error:
        hint = "your account needs roles on the bucket: Storage Object User and Storage Legacy Bucket Reader"
        raise UserError(f"no permission: {first_line(error)}", where=path, hint=hint) from error
    except (exceptions.GoogleAPIError, auth.GoogleAuthError, requests.RequestException, ConnectionError) as error:
        what = f"the storage does not answer as it should: {first_line(error)}"
        raise UserError(what, where=path, hint="run the same command again to go on") from error


def first_line(error: Exception) -> str:
    """The first line of an error's message; its kind, where it has none."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
