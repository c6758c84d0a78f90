"""Being asked to stop: by SIGTERM, which a machine that is taken away sends, or by Ctrl-C."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class StopRequest:
    """Whether the program was asked to stop. Long work looks at it between two pieces, and leaves what it has in order.

    Attributes:
      signal: that asked; None as long as none did.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def ask(self, signal_number: int) -> None:
        """Asks to stop, as if by that signal."""
        self.signal = signal.Signals(signal_number)

    def check(self) -> None:
        """Ends the work, where that leaves nothing behind.

        Raises:
          Stopped: the program was asked to stop.
        """
        if self.signal is not None:
            raise Stopped(self.signal)


class Stopped(Exception):  # noqa: N818 - not an error
    """The work ended early, as it was asked to; whatever was done is saved.

    Args:
      asked_by: the signal.
    """

    def __init__(self, asked_by: signal.Signals) -> None:
        super().__init__(f"stopped by {asked_by.name}")
        self.signal = asked_by

    @property
    def exit_code(self) -> int:
        """0 for a machine that is taken away, 130 for Ctrl-C."""
        return 130 if self.signal == signal.SIGINT else 0


@contextlib.contextmanager
def on_signals() -> Iterator[StopRequest]:
    """A request that SIGTERM and Ctrl-C make; a second Ctrl-C ends the program at once. For the main thread."""
    request = StopRequest()

    def ask(number: int, _: FrameType | None) -> None:
        request.ask(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
