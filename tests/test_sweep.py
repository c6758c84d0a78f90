"""`socialtag sweep` whole: what it writes, and that its winner trains to the same scores by `socialtag train`."""

import dataclasses
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from socialtag_jax.config import Checkpoints, Experiment, Loss, Model, Optimizer, Schedule, Stage
from socialtag_jax.experiment_files import load_experiment, to_text
from socialtag_jax.sweep_training import Sweep
from socialtag_jax.sweep_trials import EpochScores, Rung, Trial, halving_rungs, ranked
from tests.conftest import Socialtag
from tests.photos import colour_rows, photo_folder, prepared

TEXT = """
from socialtag_jax.config import Augmentation, Checkpoints, Experiment, Input, Model, Optimizer, Stage

experiment = Experiment(
    name="colours",
    weights="random",
    model=Model(input_size=32, hidden_units=16),
    augmentation=Augmentation(enabled=False),
    optimizer=Optimizer(learning_rate=1e-2),
    input=Input(batch_size=8, eval_batch_size=8),
    stages=(Stage(epochs=2),),
    checkpoints=Checkpoints(monitor="f1"),
)
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = photo_folder(tmp_path_factory.mktemp("source"), colour_rows(30))
    return prepared(source, tmp_path_factory.mktemp("data")).folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOCIALTAG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    path = tmp_path / "colours.py"
    path.write_text(TEXT)
    return path


def test_the_winner_trains_to_the_same_scores(socialtag: Socialtag, experiment: Path, dataset: Path, tmp_path: Path):
    output = tmp_path / "sweep"
    result = socialtag(
        "sweep", experiment, "--dataset", dataset, "--output", output, "--search", "optimizer.learning-rate=1e-3,1e-2",
        "--search", "loss.positive-weight=log:1:10:2", "--search", "model.dropout-rate=0.3", "--stages.0.epochs", 3,
        "--json"
    )  # fmt: skip
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert document == json.loads((output / "sweep.json").read_text())
    assert "search: 4 heads, grid, up to 3 epochs" in result.err
    assert "head epochs/s" in result.err
    assert "memory: " in result.err
    trials = document["trials"]
    assert [trial["rank"] for trial in trials] == [1, 2, 3, 4]
    f1 = [trial["validation_f1"] for trial in trials]
    assert f1 == sorted(f1, reverse=True)
    assert f1 == [max(trial["curve"]["validation_f1"]) for trial in trials]
    picture = cv2.imread(str(output / "sweep.png"))
    assert picture is not None
    assert min(picture.shape[:2]) > 500

    best = load_experiment(output / "best.py")
    found = trials[0]["configuration"]
    assert best.name == "colours_best"
    assert (best.optimizer.learning_rate, best.loss.positive_weight, best.model.dropout_rate) == tuple(found.values())
    assert (best.stages[0].epochs, best.cache.views, best.model.compute_dtype) == (3, 1, "auto")
    assert f"Validation: F1 {f1[0]:.4f}" in (output / "best.py").read_text()

    assert socialtag("train", output / "best.py", "--dataset", dataset, "--workdir", tmp_path / "run").code == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for kind, scores in (("validation", ("loss", "f1")), ("epoch", ("loss",))):
        for name in scores:
            curve = trials[0]["curve"][f"{'training' if kind == 'epoch' else 'validation'}_{name}"]
            np.testing.assert_allclose([line[name] for line in lines if line["kind"] == kind], curve, rtol=2e-5)

    again = socialtag("sweep", experiment, "--dataset", dataset, "--output", output, "--search", "loss.l1=0,1")
    assert again.code == 2
    assert "the folder holds a sweep already" in again.err


def test_table_and_interruption(
    socialtag: Socialtag, experiment: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Ctrl-C after the first of two epochs: what there is so far is ranked and written."""
    append = Sweep._append

    def interrupt(self: Sweep, *arguments: Any) -> None:
        append(self, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Sweep, "_append", interrupt)
    output = tmp_path / "sweep"
    result = socialtag(
        "sweep", experiment, "--dataset", dataset, "--output", output, "--search", "model.dropout-rate=0:0.5",
        "--strategy", "random", "--trials", 3, "--top", 2, "--no-plot"
    )  # fmt: skip
    assert result.code == 130
    lines = result.out.splitlines()
    assert lines[0].split() == ["rank", "F1", "loss", "epoch", "of", "model.dropout-rate"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "and"]
    assert lines[3] == "and 1 more in sweep.json"
    document = json.loads((output / "sweep.json").read_text())
    assert document["interrupted"]
    assert [len(trial["curve"]["validation_f1"]) for trial in document["trials"]] == [1, 1, 1]
    assert (output / "best.py").exists()
    assert not (output / "sweep.png").exists()


def test_all_diverge(socialtag: Socialtag, experiment: Path, dataset: Path, tmp_path: Path):
    result = socialtag(
        "sweep", experiment, "--dataset", dataset, "--output", tmp_path / "sweep", "--search",
        "optimizer.learning-rate=1e30,1e35", "--optimizer.kind", "sgd", "--no-plot"
    )  # fmt: skip
    assert result.code == 1
    assert "all 2 heads diverged" in result.err
    assert result.out.count("diverged") == 2
    assert not (tmp_path / "sweep" / "best.py").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--search: nothing to search"),
        (["--search", "loss.l1=0:1"], "a grid needs values, not a range"),
        (["--search", "loss.l1=0,1", "--trials", "3"], "a grid has as many as its values give"),
        (["--search", "loss.l1=0:1", "--strategy", "random"], "--strategy random needs it -- for example --trials 64"),
        (["--search", "loss.l1=-1,1"], "loss.l1: -1.0: expected 0 or more"),
        (["--search", "loss.l1=0,1", "--augmentation.enabled"], "cache.views: 0"),
    ],
)
def test_usage_errors(
    socialtag: Socialtag, experiment: Path, dataset: Path, tmp_path: Path, arguments: list[str], words: str
):
    result = socialtag("sweep", experiment, "--dataset", dataset, "--output", tmp_path / "sweep", *arguments)
    assert result.code == 2
    assert words in result.err
    assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "sweep").exists()


def test_without_matplotlib(
    socialtag: Socialtag, experiment: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    result = socialtag(
        "sweep", experiment, "--dataset", dataset, "--output", tmp_path / "sweep", "--search", "loss.l1=0,1"
    )
    assert result.code == 2
    assert "pip install 'socialtag-jax[report]', or go without a plot: --no-plot" in result.err


def test_an_experiment_survives_its_file(tmp_path: Path):
    experiment = Experiment(
        name='one "two" \\ three',
        weights="random",
        stages=(Stage(epochs=3), Stage(freeze_layers=16, learning_rate=1e-5)),
        model=Model(hidden_units=64),
        loss=Loss(positive_weight=3.0, l1=1e-7),
        optimizer=Optimizer(schedule=Schedule(kind="cosine", warmup_epochs=0.5), clip_norm=0.1, max_norm=1 / 3),
        debug_batches=3,
    )
    path = tmp_path / "one.py"
    for one in (experiment, Experiment(name="plain")):
        path.write_text(to_text(one, 'Says """hello""" and \\n.\n'))
        assert load_experiment(path) == one


def trial(number: int, curve: list[tuple[float, float]], *, patience: int = 0, monitor: Any = "loss") -> Trial:
    limits = Checkpoints(monitor=monitor, patience=patience)
    experiment = Experiment(name="one", stages=(Stage(epochs=5),), checkpoints=limits)
    return Trial(number, {}, experiment, [EpochScores(1.0, loss, f1) for loss, f1 in curve])


def test_outcomes_are_those_of_the_best_checkpoint():
    curve = [(0.5, 0.1), (0.4, 0.3), (0.45, 0.2), (0.42, 0.4), (0.3, 0.35)]
    outcome = trial(1, curve).outcome
    assert (outcome.status, outcome.epoch, outcome.loss, outcome.f1) == ("trained", 5, 0.3, 0.35)
    assert trial(1, curve, monitor="f1").outcome.epoch == 4
    # Two epochs no better than the second end the stage: what comes later was never trained.
    assert trial(1, curve, patience=2).outcome.epoch == 2
    assert trial(1, []).outcome.status == "untrained"


def test_what_diverged_ranks_last():
    good, untrained = trial(1, [(9.0, 0.0)]), trial(2, [])
    diverged = trial(3, [(0.1, 0.9), (math.nan, 0.0)])
    assert diverged.outcome.status == "diverged"
    assert diverged.outcome.epoch == 2
    assert ranked([untrained, diverged, good])[0] is good
    blown_up = trial(4, [(0.1, 0.9)])
    blown_up.curve[0] = dataclasses.replace(blown_up.curve[0], training_loss=math.inf)
    assert blown_up.outcome.status == "diverged"


@pytest.mark.parametrize(
    ("heads", "epochs", "eta", "expected"),
    [
        (64, 10, 3, [(64, 1), (21, 3), (7, 10)]),
        (81, 81, 3, [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)]),  # Jamieson and Talwalkar's halving with eta 3
        (2, 10, 3, [(2, 10)]),
        (16, 1, 2, [(16, 1)]),
        (4, 10, 2, [(4, 2), (2, 5), (1, 10)]),
    ],
)
def test_rungs(heads: int, epochs: int, eta: int, expected: list[tuple[int, int]]):
    assert halving_rungs(heads, epochs, eta) == [Rung(*one) for one in expected]
