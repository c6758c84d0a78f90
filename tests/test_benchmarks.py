"""The benchmarks' harness: turns, peers, and the table."""

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.benchmarks import __main__ as all_questions
from experiments.benchmarks import harness
from experiments.benchmarks.harness import Answer, Context, Peer, Row
from socialtag_jax.errors import UserError

ECHO = """
import os
from experiments.benchmarks.peers.serve import serve

def build(settings):
    calls = []
    def measure(**request):
        calls.append(request)
        print("noise on the standard output")
        if request.get("fail"):
            raise ValueError("no such batch")
        return {"pid": os.getpid(), "calls": len(calls), "settings": settings, **request}
    return measure

serve(build, ("pip",))
"""


def test_row_says_how_many_times_better_ours_is() -> None:
    rate = Row("rate", 30.0, "peer", 20.0, "images/s", goal=1.5)
    assert (rate.ratio, rate.verdict) == (1.5, "met")
    seconds = Row("start", 4.0, "limit", 2.0, "s", goal=1.0, less_is_better=True)
    assert (seconds.ratio, seconds.verdict) == (0.5, "missed")
    assert Row("no goal", 1.0, "peer", 2.0, "s").verdict == ""
    assert math.isinf(Row("nothing away", 0.0, "limit", 1.0, "away", less_is_better=True).ratio)


def test_contenders_take_turns_and_medians_are_compared(tmp_path: Path) -> None:
    turns: list[str] = []
    values = {"ours": iter([10.0, 90.0, 20.0]), "peer": iter([10.0, 5.0, 1.0])}

    def contender(name: str) -> Callable[[], float]:
        def measure() -> float:
            turns.append(name)
            return next(values[name])

        return measure

    context = Context(tmp_path, tmp_path, time.monotonic() + 60)
    series = context.interleave({name: contender(name) for name in values}, repeats=3, unit="images/s")
    assert turns == ["ours", "peer"] * 3
    assert series.row("question", "ours", "peer").ratio == 4.0


def test_no_turn_begins_that_would_end_after_the_deadline(tmp_path: Path) -> None:
    def slow() -> float:
        time.sleep(0.1)
        return 1.0

    context = Context(tmp_path, tmp_path, time.monotonic() + 0.25)
    assert len(context.interleave({"ours": slow}, repeats=100, unit="s").repeats["ours"]) == 2
    late = dataclasses.replace(context, deadline=0.0)
    assert len(late.interleave({"ours": slow}, repeats=100, unit="s").repeats["ours"]) == 1


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A peer program that answers with its request, run by this interpreter."""
    peers = tmp_path / "experiments" / "benchmarks" / "peers"
    peers.mkdir(parents=True)
    (peers / "echo.py").write_text(ECHO)
    (peers / "serve.py").write_bytes((harness.PROJECT / "experiments/benchmarks/peers/serve.py").read_bytes())
    monkeypatch.setattr(harness, "PROJECT", tmp_path)
    monkeypatch.setattr(harness, "environment", lambda name: Path(sys.executable))
    return tmp_path / "log"


def test_a_peer_answers_each_request_and_is_stopped_in_between(echo: Path) -> None:
    with Peer("any", "echo", {"batch": 8}, log=echo) as peer:
        assert peer.versions["pip"]
        first = peer.measure(freeze_layers=19)
        assert (first["calls"], first["settings"], first["freeze_layers"]) == (1, {"batch": 8}, 19)
        assert state(first["pid"]) == "T"
        assert peer.measure()["calls"] == 2
    assert not Path(f"/proc/{first['pid']}").exists()
    assert "noise" in echo.read_text()


def state(pid: int) -> str:
    """Linux's letter for what a process does: T where it is stopped."""
    deadline, found = time.monotonic() + 10, ""
    while found != "T" and time.monotonic() < deadline:
        found = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        time.sleep(0.01)
    return found


def test_a_peer_that_fails_is_an_error_with_its_reason(echo: Path) -> None:
    with Peer("any", "echo", {}, log=echo) as peer, pytest.raises(UserError, match=r"(?s)echo in any.*no such batch"):
        peer.measure(fail=True)


@pytest.mark.slow
def test_pip_failing_is_an_error_and_leaves_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "PROJECT", tmp_path)
    monkeypatch.setattr(harness, "ENVIRONMENTS", tmp_path)
    monkeypatch.setattr(harness, "requirements", lambda: {"broken": ("no-such-package @ file:///nowhere/at-all.whl",)})
    for _ in range(2):  # it is not taken for finished the second time
        with pytest.raises(UserError, match="pip could not install it"):
            harness.environment("broken")


def test_the_readme_gets_the_table_between_its_markers() -> None:
    readme = f"before\n{all_questions.BEGIN}\nold\n{all_questions.END}\nafter\n"
    expected = f"before\n{all_questions.BEGIN}\nnew\n{all_questions.END}\nafter\n"
    assert all_questions.with_table(readme, "new\n") == expected
    project = all_questions.README.read_text(encoding="utf-8")
    assert all_questions.BEGIN in project
    assert all_questions.END in project


def test_an_answer_becomes_a_file_and_lines_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(all_questions, "QUESTIONS", {"test_benchmarks": 1, "not_answered": 1})
    monkeypatch.setattr("sys.argv", ["test_benchmarks", "--scratch", str(tmp_path / "scratch")])
    row = Row("input", 300.0, "tf.data", 200.0, "images/s", goal=1.0, note="a note")
    harness.main(lambda _: Answer([row], {"photos": 3}, {"tensorflow": {"keras": "3"}}))
    found = json.loads((tmp_path / "test_benchmarks.json").read_text())
    assert (found["photos"], found["versions"]["tensorflow"], found["rows"][0]["ratio"]) == (3, {"keras": "3"}, 1.5)
    expected = "| input (a note) | 300 images/s | tf.data | 200 images/s | 1.50 × | ≥ 1 × | met |"
    assert expected in all_questions.table(all_questions.QUESTIONS).splitlines()
