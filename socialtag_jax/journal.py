"""What a run over many photos has done so far: killed at any instant, it goes on from there.

A file of JSON Lines: the settings first, then a photo a line. Lines of a batch are appended together; a line that was
cut short, or that a power cut left as zeros, is where the next run goes on.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

from socialtag_jax.errors import UserError
from socialtag_jax.predict import Prediction
from socialtag_jax.tagger import SuggestedTag

_KIND = "socialtag predict"

FileState = list[int]
"""A file's size in bytes and when its content and its status were last changed, in nanoseconds."""

_NO_FILE: FileState = [-1, -1, -1]


def file_state(path: Path) -> FileState:
    """What tells whether a file has changed."""
    try:
        stat = path.stat()
    except OSError:
        return _NO_FILE
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


class Journal:
    """The journal of a run, which one process at a time has open.

    Args:
      file: open for reading and writing, and locked.
      path: of the file.
      settings: all that the results depend on, besides the photos.
      sidecar: a photo -> its sidecar, where the run writes those.

    Raises:
      UserError: the file is of a run with other settings, or no journal.
    """

    def __init__(
        self, file: BinaryIO, path: Path, settings: Mapping[str, Any], sidecar: Callable[[Path], Path] | None
    ) -> None:
        self._file, self._path, self._sidecar = file, path, sidecar
        self._offsets: dict[str, int] = {}
        self._states: dict[str, tuple[object, object]] = {}
        header = json.dumps({"journal": _KIND, "settings": settings}, sort_keys=True)
        first = file.readline()
        if not first.endswith(b"\n"):
            # Nothing was done yet: of what is no journal, nothing may be lost.
            if not header.encode().startswith(first):
                raise self._not_a_journal()
            file.seek(0)
            file.truncate()
            self._write(header + "\n")
            return
        found = _parsed(first)
        if found.get("journal") != _KIND:
            raise self._not_a_journal()
        if found != json.loads(header):
            ours, theirs = dict(settings), found.get("settings", {})
            changed = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
            raise UserError(
                f"an unfinished run had other settings: {', '.join(changed)}",
                where=path,
                hint="finish it with those, or delete this file to start anew",
            )
        self._take_up()

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, path: Path, settings: Mapping[str, Any], *, sidecar: Callable[[Path], Path] | None = None
    ) -> Iterator[Self]:
        """Opens a journal, or begins it; it stays where it is unless `finish` is called.

        Raises:
          UserError: as the class; another process has it open.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "rb+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                what = "another process is at work on these photos"
                raise UserError(what, where=path, hint="wait for it, or stop it") from None
            yield cls(file, path, settings, sidecar)

    def __len__(self) -> int:
        """How many photos it has, as they were then."""
        return len(self._offsets)

    def has(self, photo: Path, state: FileState) -> bool:
        """Whether it has a photo in this state, and the sidecar that was written has not changed or gone since."""
        known = self._states.get(str(photo))
        return known is not None and known == (state, self._sidecar_state(photo))

    def get(self, photo: Path) -> Prediction:
        """What became of a photo."""
        self._file.seek(self._offsets[str(photo)])
        return _decoded(_parsed(self._file.readline()))

    def add(self, predictions: Iterable[Prediction], states: Mapping[Path, FileState]) -> None:
        """Adds what became of some photos: all of it, or, at the worst time to be killed, the first few.

        Args:
          predictions: of the photos; their sidecars are written.
          states: of each photo, before it was read.
        """
        offset = self._file.seek(0, os.SEEK_END)
        lines = []
        for prediction in predictions:
            photo = prediction.path
            now = file_state(photo)
            # What has changed since is not what was looked at; of what went, perhaps no sidecar could be written. What
            # could not be read is as it is now, though: it may have been gone before.
            state = now if prediction.unreadable is not None or now == states[photo] else _NO_FILE
            both = state, self._sidecar_state(photo)
            line = json.dumps(_encoded(prediction, *both)) + "\n"
            lines.append(line)
            self._offsets[str(photo)], self._states[str(photo)] = offset, both
            offset += len(line)
        self._write("".join(lines))

    def finish(self) -> None:
        """Deletes it: the results are written."""
        self._path.unlink()

    def _take_up(self) -> None:
        offset = self._file.tell()
        for line in self._file:
            content = _parsed(line)
            if not line.endswith(b"\n") or not isinstance(content.get("path"), str):
                break
            self._offsets[content["path"]] = offset
            self._states[content["path"]] = content.get("photo"), content.get("sidecar")
            offset += len(line)
        self._file.seek(offset)
        self._file.truncate()

    def _sidecar_state(self, photo: Path) -> FileState:
        return _NO_FILE if self._sidecar is None else file_state(self._sidecar(photo))

    def _write(self, text: str) -> None:
        self._file.write(text.encode("ascii"))
        self._file.flush()

    def _not_a_journal(self) -> UserError:
        return UserError("is in the way: it is no journal of socialtag", where=self._path, hint="move it away")


def _parsed(line: bytes) -> dict[str, Any]:
    """The object of a line; an empty one where it holds none."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _encoded(prediction: Prediction, photo: FileState, sidecar: FileState) -> dict[str, Any]:
    return {
        "path": str(prediction.path),
        "photo": photo,
        "sidecar": sidecar,
        "tags": [[one.tag, one.display, one.confidence] for one in prediction.tags],
        "abstained": prediction.abstained,
        "unreadable": prediction.unreadable,
        "sidecar_left": prediction.sidecar_left,
    }


def _decoded(content: Mapping[str, Any]) -> Prediction:
    return Prediction(
        Path(content["path"]),
        tuple(SuggestedTag(*one) for one in content["tags"]),
        content["abstained"],
        content["unreadable"],
        content["sidecar_left"],
    )
