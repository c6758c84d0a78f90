"""One line of progress that says how fast and how long still."""

import time
from collections.abc import Callable
from typing import TextIO


def format_duration(seconds: float) -> str:
    """Seconds as `45s`, `3m20s` or `2h05m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def format_bytes(count: float) -> str:
    """Bytes as `12.3 MB`, `4.56 GB` or `1.20 TB`, decimal."""
    if count < 1e9:
        return f"{count / 1e6:.1f} MB"
    return f"{count / 1e9:.2f} GB" if count < 1e12 else f"{count / 1e12:.2f} TB"


class Progress:
    """Prints `LABEL done/total (share), rate, ETA, extra` to a stream.

    On a terminal the line is redrawn up to four times a second. In a log file the first line comes after a second, with
    the first estimate of how long all will take, and a new one every ten seconds.

    Args:
      label: what is being done.
      total: how many units there are.
      unit: what is counted, in the plural.
      stream: where to write, normally `sys.stderr`.
      done: how many units were done before (a resumed job): they do not count towards the rate.
      clock: seconds, monotonic.
    """

    def __init__(
        self,
        label: str,
        total: int,
        unit: str,
        stream: TextIO,
        *,
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label, self.total, self._unit, self._stream, self._clock = label, total, unit, stream, clock
        self._first = done
        self._start = self._last = clock()
        self._terminal = stream.isatty()
        self._pause = 0.25 if self._terminal else 1.0
        self._width = 0

    def line(self, done: int, extra: str = "") -> str:
        """The line for `done` units."""
        elapsed = max(self._clock() - self._start, 1e-9)
        rate = (done - self._first) / elapsed
        rate_text = f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"
        parts = [f"{self._label} {done:,}/{self.total:,} ({done / max(self.total, 1):.0%})"]
        parts.append(f"{rate_text} {self._unit}/s")
        if rate > 0 and done < self.total:
            parts.append(f"ETA {format_duration((self.total - done) / rate)}")
        return ", ".join([*parts, extra] if extra else parts)

    def update(self, done: int, extra: str = "") -> None:
        """Shows the line if enough time has passed since the last one."""
        now = self._clock()
        if now - self._last >= self._pause:
            self._last = now
            if not self._terminal:
                self._pause = 10.0
            self._write(self.line(done, extra), end="" if self._terminal else "\n")

    def finish(self, done: int, extra: str = "") -> None:
        """Shows the last line, with the time it took in all."""
        took = f"in {format_duration(self._clock() - self._start)}"
        self._write(self.line(done, f"{took}, {extra}" if extra else took), end="\n")

    def clear(self) -> None:
        """Takes an unfinished line off the terminal, so that other text can be written."""
        if self._terminal and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._width = 0

    def _write(self, line: str, *, end: str) -> None:
        self.clear()
        self._stream.write(line + end)
        self._stream.flush()
        self._width = len(line) if not end else 0
