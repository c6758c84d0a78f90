"""Where files are: on this computer, or on Google Cloud Storage.

A location is a local `Path`, or a `RemotePath` where the user wrote `gs://BUCKET/KEY`. A `RemotePath` reads and writes
like a `Path`, as far as this project needs it, but never passes for one: `open` refuses it. An object appears whole or
not at all, and is replaced whole; nothing can be appended to it.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.gcs import EMULATOR, INSTALL, REQUESTS, SCHEME, RemotePath

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_RESERVED = "#?*[]"
"""Characters that Google advises against, and that libraries below take for something else."""

Location = Path | RemotePath
"""A path as the user may give it: on this computer, or `gs://`."""


def location(text: str | Location) -> Location:
    """What the user wrote, as a path.

    Raises:
      UsageError: a `gs://` address that is none, or that went through `pathlib.Path`, which leaves one slash of two.
    """
    if isinstance(text, RemotePath):
        return text
    if isinstance(text, Path):
        if text.parts[:1] == ("gs:",):
            raise UsageError("a pathlib.Path cannot hold a gs:// address", where=text, hint="give it as text")
        return text
    if not text.startswith(SCHEME):
        return Path(text)
    bucket, _, key = text.removeprefix(SCHEME).partition("/")
    key = key.rstrip("/")
    odd_parts = {"", ".", ".."} & set(key.split("/") if key else [])
    if not _BUCKET.fullmatch(bucket) or odd_parts or set(text) & set(_RESERVED):
        raise UsageError(
            f"expected {SCHEME}BUCKET/FOLDER, without empty parts, '.', '..' and any of {_RESERVED}", where=text
        )
    return RemotePath(bucket, key)


def local_path(text: str | Path) -> Path:
    """What the user wrote, where only a path on this computer will do.

    Raises:
      UsageError: it is a `gs://` address.
    """
    found = location(text)
    if isinstance(found, RemotePath):
        hint = "`gcloud storage rsync FOLDER gs://... --recursive` copies to and from there"
        raise UsageError("must be on this computer", where=found, hint=hint)
    return found


@contextlib.contextmanager
def staged(folder: Location, *, last: str | None = None) -> Iterator[Path]:
    """Yields a local folder to write to; for a remote one, its files are uploaded when all has gone well.

    Args:
      folder: where the files go; a local folder is made, and written to at once.
      last: the file that makes the others complete: uploaded after all of them.
    """
    if isinstance(folder, Path):
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="socialtag-") as temporary:
        yield Path(temporary)
        paths = [path for path in sorted(Path(temporary).rglob("*")) if path.is_file()]
        upload([path for path in paths if path.name != last], Path(temporary), folder)
        upload([path for path in paths if path.name == last], Path(temporary), folder)


def upload(paths: Sequence[Path], root: Path, folder: RemotePath) -> None:
    """Uploads files, several at once, to where they lie in `folder` as they do in `root`."""
    with ThreadPoolExecutor(REQUESTS) as pool:
        list(pool.map(lambda path: (folder / path.relative_to(root).as_posix()).upload(path), paths))


def checkpoint_folder(folder: Location) -> Any:
    """The folder as orbax takes it: absolute, and a remote one as an `etils.epath.Path`.

    orbax lists and deletes with gcsfs, and reads and writes arrays with TensorStore's own client; both retry by
    themselves.

    Raises:
      UserError: a package of the `gcs` extra is missing; there is no such bucket.
    """
    if isinstance(folder, Path):
        return folder.absolute()
    # gcsfs would make a bucket that is not there, and so does not get to see one.
    folder.is_dir()
    emulator = os.environ.get(EMULATOR)
    if emulator:
        # TensorStore has a name of its own for it, and emulators do not speak gRPC, in which gcsfs asks for the
        # bucket's kind. Both are read once, at the first use.
        os.environ.setdefault("TENSORSTORE_GCS_HTTP_URL", emulator)
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        import fsspec.config
        import gcsfs  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is missing", where=folder, hint=INSTALL) from None
    from etils import epath

    # gcsfs remembers listings, and knows nothing of what TensorStore writes: it must look again each time.
    fsspec.config.conf.setdefault("gcs", {}).update(use_listings_cache=False, **({"token": "anon"} if emulator else {}))
    return epath.Path(str(folder))
