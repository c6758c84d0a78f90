"""Whatever ends a run, the same command again ends where a run that was never stopped does: bit for bit on CPUs."""

import dataclasses
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from socialtag_jax import stopping, trained
from socialtag_jax.checkpoints import RunCheckpoints
from socialtag_jax.config import Augmentation, Checkpoints, Experiment, Input, Loss, Model, Optimizer, Stage
from socialtag_jax.divergence import DivergedError
from socialtag_jax.input_pipeline import train_order
from socialtag_jax.parallel import Devices
from socialtag_jax.position import EpochSums, Position
from socialtag_jax.run_folder import RunLog
from socialtag_jax.shards.dataset import Dataset, open_dataset
from socialtag_jax.stopping import Stopped, StopRequest
from socialtag_jax.train import Trainer
from tests.photos import colour_rows, photo_folder, prepared
from tests.runs import outcome

EXPERIMENT = Experiment(
    name="resumed",
    weights="random",
    model=Model(input_size=48, hidden_units=16),
    augmentation=Augmentation(),
    optimizer=Optimizer(learning_rate=1e-3, ema_decay=0.9),
    input=Input(batch_size=8, eval_batch_size=4),
    stages=(Stage(epochs=2, freeze_layers=19), Stage(epochs=1, freeze_layers=16)),
    checkpoints=Checkpoints(every_minutes=0, patience=3),
)
STEPS, BATCHES = 3, 2
"""Of an epoch of 24 photos, and of a validation of 8."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    tags = [tags for tags, _ in colour_rows(32).values()]
    rows = {f"{n:02d}.png": (its, "train" if n < 24 else "validation") for n, its in enumerate(tags)}
    source = photo_folder(tmp_path_factory.mktemp("source"), rows)
    return open_dataset(prepared(source, tmp_path_factory.mktemp("data")).folder)


@pytest.fixture(scope="module")
def whole(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    trainer(dataset, workdir).run()
    return workdir


def trainer(
    dataset: Dataset, workdir: Path, experiment: Experiment = EXPERIMENT, devices: int = 4, **options: Any
) -> Trainer:
    some = Devices(jax.local_devices()[:devices])
    return Trainer(experiment, dataset, workdir, devices=some, log=lambda _: None, stream=io.StringIO(), **options)


class AskedAfter(StopRequest):
    """Asks when it was looked at so many times: after every training step, and after every batch of a validation."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._looks = looks

    def __getattribute__(self, name: str) -> Any:
        if name == "signal":
            left = object.__getattribute__(self, "_looks")
            object.__setattr__(self, "_looks", left - 1)
            return signal.SIGTERM if left <= 0 else None
        return object.__getattribute__(self, name)


@pytest.mark.parametrize(
    ("looks", "step", "epoch", "done"),
    [
        (0, 1, 0, 1),
        (STEPS, STEPS, 0, STEPS),  # in the validation
        (STEPS + BATCHES + 1, STEPS + 2, 1, 2),
        (2 * (STEPS + BATCHES), 2 * STEPS + 1, 2, 1),  # in the second stage
        (3 * (STEPS + BATCHES) - 1, 3 * STEPS, 2, STEPS),  # before the last batch of all
    ],
)
def test_a_stopped_run_goes_on_to_the_same_bits(
    looks: int, step: int, epoch: int, done: int, dataset: Dataset, whole: Path, tmp_path: Path
):
    with pytest.raises(Stopped):
        trainer(dataset, tmp_path, stop=AskedAfter(looks)).run()
    with RunCheckpoints(tmp_path / "checkpoints", Checkpoints(), log=lambda _: None, read_only=True) as saved:
        position = Position.from_json(saved.meta(saved.steps[-1]).fields("position"))
    assert (position.step, position.epoch, position.current.steps) == (step, epoch, done)
    assert trainer(dataset, tmp_path).run().position.step == 3 * STEPS
    assert outcome(tmp_path) == outcome(whole)


def test_the_same_seed_gives_the_same_bits(dataset: Dataset, whole: Path, tmp_path: Path):
    """Whatever the number of threads that make batches."""
    threads = dataclasses.replace(EXPERIMENT, input=dataclasses.replace(EXPERIMENT.input, threads=3))
    trainer(dataset, tmp_path, threads).run()
    assert outcome(tmp_path) == outcome(whole)


def test_a_run_goes_on_with_4_then_1_then_2_devices(dataset: Dataset, whole: Path, tmp_path: Path):
    """What was saved is restored to the bit; from there on sums over a batch are taken in another order."""
    with pytest.raises(Stopped):
        trainer(dataset, tmp_path, stop=AskedAfter(STEPS + BATCHES + 1)).run()
    saved = outcome(tmp_path)["checkpoints"][STEPS + 2]
    for count in (1, 2):
        devices = Devices(jax.local_devices()[:count])
        loaded = trained.load(tmp_path, str(STEPS + 2), devices, log=lambda _: None)
        assert len(loaded.params["tags_logits"]["kernel"].devices()) == count
        for layer, leaves in loaded.params.items():
            for name, leaf in leaves.items():
                if layer.startswith("block"):  # of the head, the average is loaded
                    assert np.asarray(leaf).tobytes() == saved[f"params['{layer}']['{name}']"]
    with pytest.raises(Stopped):
        trainer(dataset, tmp_path, devices=1, stop=AskedAfter(STEPS)).run()
    assert trainer(dataset, tmp_path, devices=2).run().position.step == 3 * STEPS
    metrics, expected = (
        [line for line in outcome(folder)["metrics"] if line["kind"] != "train"] for folder in (tmp_path, whole)
    )
    assert [(line["kind"], line["step"]) for line in metrics] == [(line["kind"], line["step"]) for line in expected]
    for found, wanted in zip(metrics, expected, strict=True):
        assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-5)


class Clock:
    """A minute later at every look; fails at one of them."""

    def __init__(self, fails_at: int) -> None:
        self.looks, self._fails_at = 0, fails_at

    def __call__(self) -> float:
        self.looks += 1
        if self.looks == self._fails_at:
            raise MemoryError("the machine is gone")
        return 60.0 * self.looks


def test_a_run_that_saves_every_step_and_fails(dataset: Dataset, whole: Path, tmp_path: Path):
    """Of the checkpoints within an epoch only the newest is kept; what is best does not change."""
    often = dataclasses.replace(EXPERIMENT, checkpoints=Checkpoints(every_minutes=0.5, patience=3))
    failures = 0
    for fails_at in (4, 7, 5, 100):
        try:
            trainer(dataset, tmp_path, often, clock=Clock(fails_at)).run()
        except MemoryError:
            failures += 1
        with RunCheckpoints(tmp_path / "checkpoints", Checkpoints(), log=lambda _: None, read_only=True) as saved:
            within = [step for step in saved.steps if saved.meta(step).content["position"]["current"]["steps"]]
            assert within in ([], [saved.steps[-1]])
    assert failures == 3
    assert outcome(tmp_path) == outcome(whole)


def test_metrics_of_a_validation_that_was_not_saved_are_dropped(tmp_path: Path):
    """A run saved within an epoch, after its last step: the epoch's lines come again."""
    lines = [
        {"kind": "train", "step": 20},
        {"kind": "validation", "step": 20},
        {"kind": "train", "step": 40},
        {"kind": "epoch", "step": 40},
        {"kind": "validation", "step": 40},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "tra'
    for position, kept in [
        (Position(step=40, current=EpochSums(20, 1.0, 160.0)), lines[:3]),
        (Position(step=40, epoch=2), lines),
        (Position(step=20, epoch=1), lines[:2]),
    ]:
        (tmp_path / "metrics.jsonl").write_text(text)
        RunLog(tmp_path, position).__exit__(None)
        assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == kept


def test_a_second_ctrl_c_ends_at_once():
    with stopping.on_signals() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with pytest.raises(Stopped) as stopped:
        request.check()
    assert stopped.value.exit_code == 130


PROGRAM = """
from socialtag_jax.config import Augmentation, Cache, Checkpoints, Experiment, Input, Model, Optimizer, Stage

experiment = Experiment(
    name="killed",
    weights="random",
    model=Model(input_size=48, hidden_units=16),
    optimizer=Optimizer(learning_rate=1e-3, ema_decay=0.9),
    input=Input(batch_size=8, eval_batch_size=4),
    cache=Cache(views=2),
    stages=(Stage(epochs=3, freeze_layers=19), Stage(epochs=1, freeze_layers=16)),
    checkpoints=Checkpoints(every_minutes=1e-6),
)
"""


class Commands:
    """`socialtag train` in processes, which may be killed."""

    def __init__(self, dataset: Dataset, folder: Path) -> None:
        self.dataset, self.folder = dataset, folder
        self.experiment = folder / "killed.py"
        self.experiment.write_text(PROGRAM)
        self.environment = {**os.environ, "SOCIALTAG_CACHE": str(folder / "cache")}

    def start(self, workdir: Path) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "socialtag_jax.cli", "train", str(self.experiment)]
        line += ["--dataset", str(self.dataset.folder), "--workdir", str(workdir)]
        line += ["--cache.folder", str(workdir.with_suffix(".features"))]
        return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment)

    def seconds(self, workdir: Path) -> float:
        """Of a run that nobody kills."""
        start = time.monotonic()
        process = self.start(workdir)
        said, _ = process.communicate()
        assert process.returncode == 0, said
        return time.monotonic() - start


@pytest.fixture
def commands(dataset: Dataset, folder: Path) -> Commands:
    return Commands(dataset, folder)


@pytest.mark.parametrize("kills", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_killed_at_random_instants(commands: Commands, kills: int):
    """SIGKILL while it starts, computes features, trains, validates or saves; several runs, until that many kills."""
    commands.seconds(commands.folder / "compiles")
    lasts = commands.seconds(commands.folder / "whole")
    expected, rng, killed, number = outcome(commands.folder / "whole"), random.Random(0), 0, 0
    while killed < kills:
        number, before = number + 1, killed
        workdir = commands.folder / f"run{number}"
        while True:
            start = time.monotonic()
            process = commands.start(workdir)
            try:
                # Most of the time passes before the first step: the latter half is hit as often as the first.
                said, _ = process.communicate(timeout=lasts * max(rng.random(), rng.random()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                killed += 1
                continue
            assert process.returncode == 0, said
            if killed == before:  # not once: the machine has less to do than when `lasts` was measured
                lasts = min(lasts, time.monotonic() - start)
            break
        assert outcome(workdir) == expected, f"run {number}, after {killed} kills"


def test_sigterm_ends_with_0_and_says_how_to_go_on(commands: Commands):
    """Twice: within the feature cache or an epoch, wherever it is a little after it began."""
    commands.seconds(commands.folder / "whole")
    workdir = commands.folder / "stopped"
    for delay in (0.0, 0.3):
        process = commands.start(workdir)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("estimated time"):
                break
        time.sleep(delay)
        process.terminate()
        said = process.communicate()[0]
        assert process.returncode == 0, said
        assert said.splitlines()[-1] == "socialtag: stopped by SIGTERM; run the same command again to go on"
    commands.seconds(workdir)
    assert outcome(workdir) == outcome(commands.folder / "whole")


def listed_batch(dataset: Dataset, workdir: Path, step: int) -> None:
    """`diverged.json` lists the photos of that step of the first epoch, and no others."""
    listed: Mapping[str, Any] = json.loads((workdir / "diverged.json").read_text())
    records = dataset.records("train")
    expected = train_order(len(records), EXPERIMENT.seed, 0)[(step - 1) * 8 : step * 8]
    assert [one["index"] for one in listed["records"]] == expected.tolist()
    for one in listed["records"]:
        assert one["image_id"] == records[one["index"]].image_id
        assert one["where"] == records.where(one["index"])


def test_the_photos_of_a_diverged_step_are_listed(dataset: Dataset, tmp_path: Path):
    wild = dataclasses.replace(EXPERIMENT, optimizer=Optimizer(kind="sgd", learning_rate=1e30))
    with pytest.raises(DivergedError, match=r"epoch 1, is (nan|inf): .* listed in .*diverged.json") as diverged:
        trainer(dataset, tmp_path, wild).run()
    said = re.search(r"the loss in step (\d)", str(diverged.value))
    assert said is not None
    listed_batch(dataset, tmp_path, int(said[1]))


def test_parameters_that_are_no_numbers_are_not_saved(dataset: Dataset, tmp_path: Path):
    """A step's loss is that before its update: the step after would be the first to show them."""
    wild = dataclasses.replace(
        EXPERIMENT,
        loss=Loss(positive_weight=1e4),
        optimizer=Optimizer(kind="sgd", learning_rate=1e38, ema_decay=0.9),
        checkpoints=Checkpoints(every_minutes=1e-9),
    )
    with pytest.raises(DivergedError, match=r"a parameter after step (\d), epoch 1, is nan") as diverged:
        trainer(dataset, tmp_path, wild).run()
    said = re.search(r"after step (\d)", str(diverged.value))
    assert said is not None
    listed_batch(dataset, tmp_path, int(said[1]))
    with RunCheckpoints(tmp_path / "checkpoints", Checkpoints(), log=lambda _: None, read_only=True) as saved:
        assert all(step < int(said[1]) for step in saved.steps)
