"""A folder on Google Cloud Storage that one process at a time works in.

There are no locks there that end with their process. The holder writes an object again and again as its sign of life;
who comes later waits for one, and takes the folder over if there is none for a minute. Both write on the condition that
the object is still the one that they saw, so that of two only one can win.
"""

import contextlib
import json
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from socialtag_jax.errors import UserError
from socialtag_jax.gcs import ChangedError, RemotePath

RENEWED, EXPIRES = 15.0, 60.0
"""Seconds: between two signs of life, and without one until the folder counts as free."""
_LOOK = 5.0
# Linux' monotonic clock stands still while the computer sleeps, and others' do not.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


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
      (this one was cut off, or asleep). It waits for a sign of life where the last one is older than a third of
      `expires`, so that two thirds are left for what is then written.

    Raises:
      UserError: another process holds it.
    """
    lock = folder / ".lock"
    # The number tells this process's own writes from others' when the answer to one was lost.
    content = {"holder": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid()}
    holding = _Hold(lock, json.dumps(content).encode(), expires)
    holding.generation = _acquire(holding, log, look)
    done = threading.Event()

    def renew() -> None:
        while not done.wait(renewed):
            try:
                # It need not succeed: the next one, or the check, tries again, and finds out who has the folder.
                holding.renew(seconds=expires / 4)
            except ChangedError:
                return
            except UserError:
                continue

    def check() -> None:
        try:
            while holding.age() > expires / 3:
                holding.renew(seconds=None)
        except ChangedError:
            what = f"another process has taken the folder over{_holder_of(lock)}: this one stops"
            raise UserError(what, where=folder, hint="it went without a sign of life for too long") from None

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        done.set()
        thread.join()
        with contextlib.suppress(UserError):  # it expires by itself
            lock.unlink(generation=holding.generation)


class _Hold:
    """The lock as this process holds it.

    Args:
      lock: the object.
      content: of the object, while this process holds it.
      expires: seconds.
    """

    def __init__(self, lock: RemotePath, content: bytes, expires: float) -> None:
        self.lock, self.content, self.expires = lock, content, expires
        self.generation = 0
        self._lost: ChangedError | None = None
        self._written = -math.inf
        self._writing = threading.Lock()

    def age(self) -> float:
        """Seconds since the last sign of life; infinite where there is none, or the folder is lost."""
        return time.clock_gettime(_CLOCK) - self._written

    def renew(self, *, seconds: float | None) -> None:
        """Gives a sign of life, on the condition that the last one was this process's own.

        Args:
          seconds: for all tries; None for as long as any other write.

        Raises:
          ChangedError: it was not, now or earlier.
          UserError: no answer.
        """
        with self._writing:
            if self._lost is not None:
                raise self._lost
            # Others count from when they see it, which may be as early as this.
            start = time.clock_gettime(_CLOCK)
            try:
                self.generation = self.write(self.generation, seconds=seconds)
            except ChangedError as error:
                self._lost, self._written = error, -math.inf
                raise
            self._written = start

    def write(self, generation: int, *, seconds: float | None = None) -> int:
        """Writes the lock over that generation of it; returns the new one."""
        try:
            return self.lock.write_bytes(self.content, generation=generation, seconds=seconds)
        except ChangedError:
            with contextlib.suppress(FileNotFoundError):
                written = self.lock.stat().generation
                if written != generation and self.lock.read_bytes() == self.content:
                    return written
            raise


def _acquire(holding: _Hold, log: Callable[[str], None], look: float) -> int:
    """The generation of the lock, written by this process."""
    lock, expires = holding.lock, holding.expires
    found = seen = 0
    since = 0.0
    while True:
        if found == 0 or (found == seen and time.monotonic() - since >= expires):
            with contextlib.suppress(ChangedError):  # another process was faster
                return holding.write(found)
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


def _holder_of(lock: RemotePath) -> str:
    try:
        content = json.loads(lock.read_bytes())
        return f" (process {content['pid']} on {content['host']})"
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return ""
