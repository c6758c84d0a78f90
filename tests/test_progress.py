"""The progress line, with a clock of our own."""

import io

import pytest

from socialtag_jax.progress import Progress, format_duration


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (59.6, "1m00s"), (200, "3m20s"), (7500, "2h05m")])
def test_durations(seconds: float, text: str):
    assert format_duration(seconds) == text


def test_rate_and_eta_leave_out_what_was_done_before():
    clock = Clock()
    progress = Progress("prepare", 1100, "images", io.StringIO(), done=100, clock=clock)
    clock.now = 10.0
    assert progress.line(600) == "prepare 600/1,100 (55%), 50.0 images/s, ETA 10s"
    assert progress.line(1100, "extra") == "prepare 1,100/1,100 (100%), 100 images/s, extra"


def test_a_log_gets_an_estimate_after_a_second_and_a_line_every_ten():
    clock, stream = Clock(), io.StringIO()
    progress = Progress("train", 100, "images", stream, clock=clock)
    for step in range(1, 101):
        clock.now = float(step) / 4
        progress.update(step)
    progress.finish(100)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "train 4/100 (4%), 4.0 images/s, ETA 24s"
    assert [line.split("/")[0] for line in lines] == ["train 4", "train 44", "train 84", "train 100"]
    assert lines[-1].endswith("in 25s")


def test_a_terminal_line_is_redrawn():
    clock, stream = Clock(), Terminal()
    progress = Progress("train", 100, "images", stream, clock=clock)
    for step in (1, 2):
        clock.now = float(step)
        progress.update(step)
    assert stream.getvalue().count("\r") == 2
    assert "\n" not in stream.getvalue()
