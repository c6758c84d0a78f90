"""Several processes that train together: how they find each other, and how they end when one of them is lost.

jax is imported inside of functions: `watch` forks, before there are any threads.
"""

import atexit
import contextlib
import ctypes
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.stopping import Stopped

_START_SECONDS = 300
"""How long a process waits for the others to start."""
_HEARTBEAT_SECONDS = 30
"""A process that was not heard of for so long is lost; that process 0 is, the others know at once."""
_END_SECONDS = 600
"""How long processes wait at the end for process 0, which may still be writing."""
_LOST = re.compile(r"gloo|connection (closed|reset)|heartbeat|coordination|UNAVAILABLE", re.IGNORECASE)


@dataclass(frozen=True)
class Group:
    """How the processes of a training find each other.

    Attributes:
      coordinator: HOST:PORT of process 0, on which it listens; None where jax finds the others by itself: on TPU pods,
        and under Slurm, Open MPI and Kubernetes.
      processes: how many.
      process: this one's number, from 0.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None

    def __str__(self) -> str:
        return "this process" if self.processes is None else f"process {self.process} of {self.processes}"

    def check(self) -> None:
        """Refuses what cannot be.

        Raises:
          UsageError: so it is.
        """
        given = {"--coordinator": self.coordinator, "--processes": self.processes, "--process": self.process}
        missing = [flag for flag, value in given.items() if value is None]
        if len(missing) == len(given):
            return
        if missing:
            raise UsageError(
                f"{', '.join(missing)}: missing", where="--coordinator", hint=f"it goes with {_all(given)}"
            )
        assert self.coordinator is not None
        assert self.processes is not None
        assert self.process is not None
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise UsageError(f"{self.coordinator!r} is not HOST:PORT", where="--coordinator", hint="as 10.0.0.1:8476")
        if self.process >= self.processes:
            raise UsageError(f"{self.process}: the {self.processes} processes are numbered from 0", where="--process")


def watch(group: Group) -> None:
    """From here on the program is the child of a process that waits for it, and tells how it ended if it could not.

    When it misses another process, jax's runtime may end this one from a thread of its own, before anybody can say a
    word, and so does the system when memory runs out. The two get the same signals; neither outlives the other.
    """
    parent = os.getpid()
    child = os.fork()
    if child:
        _wait_for(child, group)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it was gone before
            os._exit(1)


def _wait_for(child: int, group: Group) -> None:
    def hand_on(number: int, _: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    signal.signal(signal.SIGTERM, hand_on)
    # A terminal sends Ctrl-C to both.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -signal.SIGABRT:
        print(f"socialtag: error: {lost(group, 'jax has aborted this one; see above')}", file=sys.stderr)
        code = 1
    elif code < 0:
        name = signal.Signals(-code).name
        hint = "SIGKILL is also what the system sends when memory runs out" if code == -signal.SIGKILL else None
        print(f"socialtag: error: {UserError(f'ended by {name}', where=group, hint=hint)}", file=sys.stderr)
        code = 128 - code
    sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def together(group: Group) -> Iterator[None]:
    """Joins the other processes, before any device is touched; leaves them in good order, or at once.

    Raises:
      UserError: the others cannot be found or did not come, or one of them is lost.
      Stopped: as the work within does.
    """
    import jax

    _join(group)
    try:
        yield
    except Stopped:
        # All of them stop; process 0 may still be saving, and would miss those that left before.
        jax.distributed.shutdown()
        raise
    except BaseException as error:
        # jax's own way out waits for the others, which wait for this process. What is registered last runs first.
        atexit.register(_end, getattr(error, "exit_code", 1))
        if isinstance(error, jax.errors.JaxRuntimeError) and _LOST.search(str(error)):
            raise lost(group, str(error).strip().partition("\n")[0][:300]) from error
        raise
    jax.distributed.shutdown()


def lost(group: Group, reason: str) -> UserError:
    """The error of a process that misses another one."""
    return UserError(
        f"another process of this training has ended, or cannot be reached: {reason}",
        where=group,
        hint="its own output says why; start all with the same command to go on from the last checkpoint, within "
        f"{_START_SECONDS} s of each other",
    )


def _join(group: Group) -> None:
    import jax

    if group.process == 0:
        _require_free_port(group)
    # SIGTERM is the program's own business; jax would catch it, and end nothing.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            group.coordinator,
            group.processes,
            group.process,
            initialization_timeout=_START_SECONDS,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_END_SECONDS,
        )
    except ValueError as error:  # nothing was found that says who the others are
        raise UsageError(
            f"jax does not find the other processes by itself here: {error}",
            where="--distributed",
            hint="say who they are: --coordinator HOST:PORT --processes N --process I",
        ) from error
    except RuntimeError as error:  # JaxRuntimeError is one
        raise UserError(
            f"the processes did not come together: {str(error).splitlines()[0]}",
            where=group.coordinator or "--distributed",
            hint=f"start all of them within {_START_SECONDS} s; HOST:PORT is process 0's, and all must reach it",
        ) from error


def _require_free_port(group: Group) -> None:
    """What listens on a port that is taken crashes."""
    assert group.coordinator is not None
    port = int(group.coordinator.rpartition(":")[2])
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen on port {port}: {error.strerror or error}",
            where="--coordinator",
            hint="name another port, the same for all processes",
        ) from error


def _end(exit_code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _all(flags: dict[str, object]) -> str:
    return ", ".join(flags)
