"""An epoch's books by hand: what the devices wait for, how much of their peak is used, and what is written down."""

import io
import json
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from socialtag_jax.epoch import Epoch
from socialtag_jax.position import Position
from socialtag_jax.roofline import Roof, Roofline
from socialtag_jax.run_folder import RunLog


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Value(np.ndarray):
    """A step's result, on its way until `ready`."""

    ready: bool

    def is_ready(self) -> bool:
        return self.ready


def sums(loss: float, images: float, *, ready: bool) -> dict[str, Any]:
    values = {name: np.array(value, np.float32).view(Value) for name, value in {"loss": loss, "images": images}.items()}
    for value in values.values():
        value.ready = ready
    return values


def run(
    folder: Path,
    *,
    batch_seconds: float,
    host_seconds: float,
    step_seconds: float,
    ready: bool,
    seconds_after_launch: float = 0.0,
):
    """Four steps of 8 images and 100 operations; the devices' peak is 50 operations per second.

    A step takes `step_seconds` before its launch returns, and `seconds_after_launch` while the next batch is made.
    """
    clock, host_clock = Clock(), Clock()
    stream = io.StringIO()

    def done_at(_: Mapping[str, Any]) -> Future[float]:
        future: Future[float] = Future()
        future.set_result(clock.now + seconds_after_launch)
        return future

    def batches():
        for number in range(4):
            clock.now += batch_seconds
            yield number

    with RunLog(folder, Position()) as run_log:
        epoch = Epoch(
            "epoch 1/1",
            position=Position(),
            images=32,
            images_after=0,
            learning_rate=0.5,
            roofline=Roofline(100.0, 10.0, Roof(50.0, 2.0, "datasheet")),
            stream=stream,
            run_log=run_log,
            clock=clock,
            host_clock=host_clock,
            done_at=done_at,
        )
        for _ in epoch.timed(batches()):
            clock.now += host_seconds + step_seconds
            host_clock.now += host_seconds
            epoch.launched(sums(16.0, 8.0, ready=ready))
        values = epoch.finish()
    (line,) = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {key: line[key] for key in values} == values
    return values, line["bound"], stream.getvalue()


def test_devices_that_never_wait_are_the_bound(tmp_path: Path):
    """Only the first batch is waited for: 1 s of 40; 10 operations a second are a fifth of the peak."""
    values, bound, text = run(tmp_path, batch_seconds=1, host_seconds=1, step_seconds=8, ready=False)
    assert values == {
        "epoch": 1,
        "loss": 2.0,
        "images_per_second": pytest.approx(32 / 40),
        "data_wait_share": pytest.approx(1 / 40),
        "host_share": pytest.approx(1 / 40),
        "mfu": pytest.approx(4 * 100 / 40 / 50),
        "learning_rate": 0.5,
    }
    # 10 operations a byte, where 25 would keep the arithmetic busy.
    assert bound == "memory"
    assert "data wait 2.5%, MFU 20.0% (memory bound), loss 2.0000" in text


@pytest.mark.parametrize(
    ("batch_seconds", "host_seconds", "bound", "shares"),
    [(6, 1, "data", (0.6, 0.1)), (1, 6, "host", (0.1, 0.6)), (2, 2, "memory", (0.2, 0.2))],
)
def test_devices_that_wait(
    tmp_path: Path, batch_seconds: float, host_seconds: float, bound: str, shares: tuple[float, float]
):
    """Each step is done before the next batch is there; a step of 10 s in all."""
    step_seconds = 10 - batch_seconds - host_seconds
    values, found, _ = run(
        tmp_path, batch_seconds=batch_seconds, host_seconds=host_seconds, step_seconds=step_seconds, ready=True
    )
    assert (values["data_wait_share"], values["host_share"]) == pytest.approx(shares)
    assert found == bound


def test_devices_that_were_at_work_did_not_wait(tmp_path: Path):
    """Of the 10 s until a batch is there, the step before takes 9; the first batch has no step before it."""
    values, _, _ = run(tmp_path, batch_seconds=10, host_seconds=0, step_seconds=0, ready=True, seconds_after_launch=9.0)
    assert values["data_wait_share"] == pytest.approx((10 + 3 * 1) / 40)


def test_words_go_to_the_metrics_file_alone(tmp_path: Path):
    with RunLog(tmp_path, Position()) as run_log:
        run_log.write("train", 1, {"loss": float("nan"), "bound": "data"})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"kind": "train", "step": 1, "loss": None, "bound": "data"}
    events = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert b"train/loss" in events
    assert b"train/bound" not in events
