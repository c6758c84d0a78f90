"""Runs on `gs://`: trained, gone on with, evaluated and exported, to the bits of a run on disk."""

import functools
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from socialtag_jax import Tagger, lease, run_folder, trained
from socialtag_jax.checkpoints import RunCheckpoints
from socialtag_jax.config import Checkpoints, Experiment, Input, Model, Optimizer, Stage
from socialtag_jax.errors import UserError
from socialtag_jax.gcs import RemotePath
from socialtag_jax.parallel import Devices
from socialtag_jax.shards.dataset import open_dataset
from socialtag_jax.storage import Location
from socialtag_jax.train import Trainer
from tests.conftest import Bucket
from tests.gcs_emulator import Fault
from tests.photos import colour_rows, photo_folder, prepared

EXPERIMENT = Experiment(
    name="colours",
    weights="random",
    model=Model(input_size=48, hidden_units=32),
    optimizer=Optimizer(learning_rate=1e-3),
    input=Input(batch_size=8, eval_batch_size=8),
    checkpoints=Checkpoints(keep_latest=1, keep_best=1),
    stages=(Stage(epochs=2, freeze_layers=19),),
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_folder(tmp_path_factory.mktemp("source"), colour_rows(30))


@pytest.fixture(scope="module")
def local(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(source, tmp_path_factory.mktemp("data")).folder


def train(dataset: Location, workdir: Location, log: Callable[[str], None] = lambda _: None) -> None:
    Trainer(EXPERIMENT, open_dataset(dataset), workdir, devices=Devices(), log=log, stream=io.StringIO()).run()


@pytest.fixture(scope="module")
def run(local: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """On disk, never interrupted."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    train(local, workdir)
    return workdir


def metrics_of(workdir: Location) -> list[dict[str, Any]]:
    """Without what depends on how fast it went."""
    timed = ("images_per_second", "data_wait_share", "host_share", "mfu", "bound")
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in timed} for line in lines]


def arrays_of(workdir: Location) -> dict[str, bytes]:
    model = trained.load(workdir, "latest", Devices(), log=lambda _: None)
    return {
        f"{layer}/{name}": np.asarray(leaf).tobytes()
        for layer, one in model.params.items()
        for name, leaf in one.items()
    }


def kill_while_saving(bucket: Bucket, data: RemotePath, workdir: RemotePath, folder: Path) -> None:
    """Runs `socialtag train` until its first checkpoint is complete and its second one is not, and kills it."""
    file = folder / "experiment.py"
    file.write_text(f"from socialtag_jax.config import *\n\nexperiment = {EXPERIMENT!r}\n")
    command = [sys.executable, "-m", "socialtag_jax.cli", "train", str(file)]
    command += ["--dataset", str(data), "--workdir", str(workdir)]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(len(Devices())), "JAX_PLATFORMS": "cpu"}
    # What TensorStore has begun to write goes on being written for as long as the test lasts.
    bucket.emulator.inject(Fault("slow", method="POST", part="checkpoints/6/", times=1000, seconds=120))
    with (folder / "log").open("w") as log, subprocess.Popen(command, env=environment, stderr=log) as process:
        while not bucket.count("POST", "checkpoints/6/"):
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.2)
        process.kill()
    assert "fetching gs://" in (folder / "log").read_text()
    assert (workdir / "checkpoints/3/commit_success.txt").exists()
    assert not (workdir / "checkpoints/6/commit_success.txt").exists()


def test_a_run_in_a_bucket(
    bucket: Bucket,
    local: Path,
    run: Path,
    source: Path,
    socialtag,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Train, get killed, go on, evaluate, export and predict, with an error here and there: all as on disk."""
    data, workdir = bucket.upload(local, "data/demo/1.0.0"), bucket.root / "runs/demo"
    kill_while_saving(bucket, data, workdir, tmp_path)
    bucket.emulator.reset()
    bucket.emulator.inject(
        Fault("503", method="POST", part="upload", times=1, after=3),
        Fault("503", method="GET", part="checkpoints", times=1, after=3),
    )
    # Not a whole minute until the killed process counts as gone.
    monkeypatch.setattr(run_folder.lease, "held", functools.partial(lease.held, expires=0.5, look=0.1))
    lines: list[str] = []
    train(data, workdir, lines.append)
    assert "was killed: waiting 0 s for a sign of life" in lines[0]
    assert "continuing after epoch 1, step 3" in lines
    assert arrays_of(workdir) == arrays_of(run)
    assert metrics_of(workdir) == metrics_of(run)
    assert json.loads((workdir / "config.json").read_bytes())["dataset"]["path"] == str(data)
    assert len(list((workdir / "tensorboard").iterdir())) == 2  # one of each start
    assert not (workdir / ".lock").exists()

    there = socialtag("evaluate", workdir, "--dataset", data, "--json")
    here = socialtag("evaluate", run, "--dataset", local, "--json", "--output", tmp_path / "evaluation")
    assert there.code == here.code == 0, there.err
    scores = json.loads(here.out)["scores"]
    assert json.loads(there.out)["scores"] == scores
    assert json.loads((workdir / "evaluation/test/metrics.json").read_bytes())["scores"] == scores
    for name in ("per_tag.csv", "predictions.csv"):
        assert (workdir / "evaluation/test" / name).read_bytes() == (tmp_path / "evaluation" / name).read_bytes()

    bundle = bucket.root / "demo.tagger"
    assert socialtag("export", workdir, "--output", bundle).code == 0
    photo = source / "photos/000.png"
    predicted = socialtag("predict", bundle, photo, "--json")
    assert predicted.code == 0, predicted.err
    suggested = Tagger.load(bundle).suggest(photo)[0]
    assert [one["tag"] for one in json.loads(predicted.out)[0]["tags"]] == [one.tag for one in suggested]


def test_folders_that_are_no_runs(bucket: Bucket, local: Path, socialtag):
    (bucket.root / "other/x").write_bytes(b"1")
    with pytest.raises(UserError, match=r"/other: the folder is not empty and holds no run"):
        train(local, bucket.root / "other")
    with pytest.raises(UserError, match=r"/other/x: is a file, not a folder"):
        train(local, bucket.root / "other/x")
    result = socialtag("evaluate", bucket.root / "other", "--dataset", local)
    assert result.code == 1
    assert "/other: not a run folder: no config.json" in result.err


def test_a_run_that_was_copied_from_a_disk(bucket: Bucket, run: Path):
    """orbax deletes checkpoints in a bucket that have no commit file: those of a disk must have one, too."""
    workdir = bucket.upload(run, "runs/copied")
    with RunCheckpoints(workdir / "checkpoints", EXPERIMENT.checkpoints, log=print) as saved:
        assert saved.steps == [6]
    assert arrays_of(workdir) == arrays_of(run)


def test_checkpoints_that_cannot_be_reached(bucket: Bucket):
    """By orbax, which has clients of its own; which never make a bucket."""
    with pytest.raises(UserError, match="gs://not-there: no such bucket"):
        RunCheckpoints(RemotePath("not-there", "run/checkpoints"), EXPERIMENT.checkpoints, log=print)
    (bucket.root / "run/checkpoints/3/x").write_bytes(b"x")
    bucket.emulator.inject(Fault("403", part=f"/b/{bucket.root.bucket}?", times=100))
    with pytest.raises(UserError, match=r"run/checkpoints: the checkpoints cannot be reached: .*403"):
        RunCheckpoints(bucket.root / "run/checkpoints", EXPERIMENT.checkpoints, log=print, read_only=True)
