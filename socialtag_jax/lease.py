"""A folder on Google Cloud Storage that one process at a time works in.

There are no locks there that end with their process. The holder writes an object again and again as its sign of life;
who comes later waits for one, and takes the folder over if there is none for a minute. Both write on the condition that
the object is still the one that they saw, so that of two only one can win.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from socialtag_jax.errors import UserError
from socialtag_jax.gcs import ChangedError, RemotePath

RENEWED, EXPIRES = 15.0, 60.0
"""Seconds: between two signs of life, and without one until the folder counts as free."""
_LOOK = 5.0


@contextlib.contextmanager
def held(
    folder: RemotePath,
    log: Callable[[str], None],
    *,
    renewed: float = RENEWED,
    expires: float = EXPIRES,
    look: float = _LOOK,
) -> Iterator[Callable[[], None]]:
    """Holds `folder` against other processes, anywhere; one that was killed holds it for a minute longer.

    Args:
      folder: which holds the object `.lock` meanwhile.
      log: takes the line that says what is waited for.
      renewed: seconds between two signs of life.
      expires: seconds without one until the folder counts as free; several times `renewed`.
      look: seconds between two looks for one.

    Yields:
      a check, to be made before anything is written: raises `UserError` where another process has taken the folder over
      (this one was cut off, or asleep).

    Raises:
      UserError: another process holds it.
    """
    lock = folder / ".lock"
    # The number tells this process's own writes from others' when the answer to one was lost.
    holder = {"holder": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid()}
    generation = _acquire(lock, holder, log, expires, look)
    done, lost = threading.Event(), threading.Event()
    current = [generation]

    def renew() -> None:
        while not done.wait(renewed):
            try:
                current[0] = _write(lock, holder, current[0])
            except ChangedError:
                lost.set()
                return
            except UserError:
                # No answer: whoever takes the folder over meanwhile is seen at the next that comes.
                continue

    def check() -> None:
        if lost.is_set():
            what = f"another process has taken the folder over{_holder_of(lock)}: this one stops"
            raise UserError(what, where=folder, hint="it went without a sign of life for too long")

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        done.set()
        thread.join()
        with contextlib.suppress(UserError):  # it expires by itself
            lock.unlink(generation=current[0])


def _acquire(lock: RemotePath, holder: dict[str, Any], log: Callable[[str], None], expires: float, look: float) -> int:
    """The generation of the lock, written by this process."""
    found = seen = 0
    since = 0.0
    while True:
        if found == 0 or (found == seen and time.monotonic() - since >= expires):
            with contextlib.suppress(ChangedError):  # another process was faster
                return _write(lock, holder, found)
        elif seen and found != seen:
            what = f"another process is at work here{_holder_of(lock)}"
            raise UserError(what, where=lock.parent, hint="wait for it, or stop it")
        if found and not seen:
            seen, since = found, time.monotonic()
            log(
                f"{lock.parent}: another process{_holder_of(lock)} holds the folder, or was killed: "
                f"waiting {expires:.0f} s for a sign of life"
            )
        if found:
            time.sleep(look)
        found = _generation(lock)


def _generation(lock: RemotePath) -> int:
    try:
        return lock.stat().generation
    except FileNotFoundError:
        return 0


def _write(lock: RemotePath, holder: dict[str, Any], generation: int) -> int:
    try:
        return lock.write_bytes(json.dumps(holder).encode(), generation=generation)
    except ChangedError:
        with contextlib.suppress(FileNotFoundError):
            written = lock.stat().generation
            if written != generation and json.loads(lock.read_bytes()) == holder:
                return written
        raise


def _holder_of(lock: RemotePath) -> str:
    try:
        content = json.loads(lock.read_bytes())
        return f" (process {content['pid']} on {content['host']})"
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return ""
