"""The model's own speed: steps that are timed, nothing that is kept."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from socialtag_jax import step_rate
from socialtag_jax.parallel import Devices
from socialtag_jax.shards.dataset import Dataset, open_dataset
from socialtag_jax.step_rate import Batches, step_rates
from socialtag_jax.training_data import ImageData
from tests.conftest import Socialtag
from tests.photos import colour_rows, photo_folder, prepared
from tests.test_train import EXPERIMENT


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    source = photo_folder(tmp_path_factory.mktemp("source"), colour_rows(30))
    return open_dataset(prepared(source, tmp_path_factory.mktemp("data")).folder)


@pytest.mark.parametrize("batches", ["synthetic", "reuse"])
def test_each_kind_of_stage_is_timed(dataset: Dataset, batches: Batches):
    """By a clock of which every look takes a second: a step takes one, and a batch of 8 images is 8 images/s."""
    first, second = EXPERIMENT.stages
    experiment = dataclasses.replace(EXPERIMENT, stages=(first, second, first))
    lines: list[str] = []
    ticks = itertools.count()
    found = step_rates(experiment, dataset, Devices(), batches, log=lines.append, seconds=5.0, clock=ticks.__next__)
    assert [(rate.stage, rate.freeze_layers) for rate in found] == [(1, 19), (2, 16)]
    assert {(rate.step_milliseconds, rate.images_per_second, rate.steps) for rate in found} == {(1000.0, 8.0, 5)}
    assert lines[1] == "stage 2, first 16 of 19 layers frozen: 1000.0 ms a step, 8.0 images/s (median of 5 steps)"


def test_synthetic_batches_are_not_read(dataset: Dataset, monkeypatch: pytest.MonkeyPatch):
    data = ImageData(EXPERIMENT, dataset, Devices())
    source = step_rate._synthetic(data, n_tags=4, seed=0)
    one, other, again = itertools.islice(source, 3)
    for batch in (one, other):
        for name, shape in data.train_shapes.items():
            assert batch[name].shape == shape.shape
            assert batch[name].dtype == shape.dtype
        assert batch["tag_ids"].max() < 4
    assert not np.array_equal(one["images"], other["images"])
    assert again is one


def test_command(dataset: Dataset, folder: Path, socialtag: Socialtag):
    experiment = folder / "one.py"
    experiment.write_text(
        "from socialtag_jax.config import *\n"
        "experiment = Experiment(name='one', weights='random', model=Model(input_size=48, hidden_units=8),\n"
        "    input=Input(batch_size=4), stages=(Stage(epochs=1),))\n"
    )
    command = ("train", experiment, "--dataset", dataset.folder)
    result = socialtag(*command, "--reuse-batch")
    assert result.code == 0
    assert result.out.startswith("stage 1, first 19 of 19 layers frozen: ")
    assert [path.name for path in folder.iterdir() if path.name != "__pycache__"] == ["one.py"]
    assert "--workdir: is required" in socialtag(*command).err
    assert socialtag(*command, "--reuse-batch", "--synthetic").code == 2
