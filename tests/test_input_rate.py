"""The input pipeline's own speed: batches that are timed, nothing that is kept."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest

from socialtag_jax import input_rate
from socialtag_jax.config import Experiment, Input, Model
from socialtag_jax.input_rate import InputRate
from socialtag_jax.run_folder import last_epoch_rate
from socialtag_jax.shards.dataset import Dataset, open_dataset
from tests.conftest import Socialtag
from tests.photos import colour_rows, photo_folder, prepared

EXPERIMENT = Experiment("rate", model=Model(input_size=48), input=Input(batch_size=4, threads=2))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    source = photo_folder(tmp_path_factory.mktemp("source"), colour_rows(30))
    return open_dataset(prepared(source, tmp_path_factory.mktemp("data")).folder)


def test_a_short_epoch_is_measured_whole(dataset: Dataset):
    """By clocks of which every look takes a second of wall time, and two of the processor's."""
    wall, cpu = itertools.count(), itertools.count(0, 2)
    found = input_rate.measure(EXPERIMENT, dataset, wall=wall.__next__, cpu=cpu.__next__)
    size = sum(shard.stat().st_size for shard in dataset.split("train").shards)
    assert found == InputRate(24, 24, seconds=1, core_seconds=2, read_bytes=size, threads=2)


def test_a_long_epoch_is_cut_to_the_time(dataset: Dataset):
    """The trial's 4 batches of 4 images take a second; half a second is worth 2 batches."""
    wall, cpu = itertools.count(), itertools.count()
    found = input_rate.measure(EXPERIMENT, dataset, seconds=0.5, wall=wall.__next__, cpu=cpu.__next__)
    assert (found.images, found.records) == (8, 24)
    assert 0 < found.read_bytes < sum(shard.stat().st_size for shard in dataset.split("train").shards)


def test_rates_by_hand(dataset: Dataset):
    rate = InputRate(images=3000, records=6000, seconds=2.0, core_seconds=3.0, read_bytes=120_000_000, threads=2)
    assert (rate.images_per_second, rate.images_per_core_second, rate.cores_for(4500)) == (1500, 1000, 4.5)
    rate_line, cores_line, run_line = input_rate.report(rate, EXPERIMENT, dataset, device_rate=250.0)
    assert rate_line == (
        "3,000 images (of 6,000) of demo/1.0.0, 48 px, in 2.0 s: 1,500 images/s, threads: 2, 60.0 MB/s read"
    )
    assert cores_line == (
        "1,000 images/s a core: cores needed for R images/s = R / 1,000 (1.0 for 1,000, 10.0 for 10,000)"
    )
    assert run_line == (
        "the run's last epoch took 250.0 images/s, for which 0.25 cores are needed: "
        "the input pipeline alone is 6.0 times as fast"
    )
    whole = dataclasses.replace(rate, records=3000)
    assert "3,000 images (an epoch) of" in input_rate.report(whole, EXPERIMENT, dataset, None)[0]


def test_the_last_epoch_of_a_run(tmp_path: Path):
    assert last_epoch_rate(tmp_path) is None
    lines = [
        {"kind": "epoch", "step": 4, "images_per_second": 5.0},
        {"kind": "validation", "step": 4, "loss": 1.0},
        {"kind": "epoch", "step": 8, "images_per_second": 7.0},
        {"kind": "train", "step": 9, "images_per_second": 9.0},
    ]
    cut_off = '{"kind": "epoch", "st'
    (tmp_path / "metrics.jsonl").write_text("\n".join([*map(json.dumps, lines), cut_off]))
    assert last_epoch_rate(tmp_path) == 7.0


def test_command(dataset: Dataset, folder: Path, socialtag: Socialtag):
    experiment = folder / "one.py"
    experiment.write_text("from socialtag_jax.config import *\nexperiment = Experiment(name='one')\n")
    command = ("train", experiment, "--dataset", dataset.folder, "--input-only")
    result = socialtag(*command, "--model.input-size", 48, "--input.threads", 1)
    assert result.code == 0
    assert result.out.startswith("24 images (an epoch) of demo/1.0.0, 48 px, in ")
    assert "images/s, threads: 1, " in result.out
    assert "cores needed for R images/s" in result.out
    assert [path.name for path in folder.iterdir() if path.name != "__pycache__"] == ["one.py"]
    assert socialtag(*command, "--synthetic").code == 2
