"""Tags stay indices on the host: what is read, moved and fetched does not grow with the vocabulary."""

import dataclasses
import tracemalloc
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from socialtag_jax.config import Augmentation, Stage
from socialtag_jax.input_pipeline import BatchShape, eval_batches, train_batches
from socialtag_jax.parallel import CompiledStep, Devices
from socialtag_jax.rules import parse_pruning
from socialtag_jax.shards.dataset import Dataset, ParsedRecords, open_dataset
from socialtag_jax.shards.tfrecord import RecordSource
from tests.photos import COLOURS, colour_rows, photo_folder, prepared
from tests.test_train import EXPERIMENT, train

TAGS = 601
"""A number that no other size in the run has."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("many")
    unused = [f"tag{number}" for number in range(TAGS - len(COLOURS) - 1)]
    vocabulary = root / "vocabulary.txt"
    vocabulary.write_text("".join(f"{tag}\n" for tag in [*COLOURS, "even", *unused]))
    source = photo_folder(root / "source", colour_rows(20))
    return open_dataset(prepared(source, root / "data", pruning=parse_pruning([f"vocabulary=@{vocabulary}"])).folder)


def test_batches_of_ten_million_tags_take_no_more_memory(dataset: Dataset):
    """A row of bits would be 1.25 MB, a batch of bytes 80 MB."""
    records = ParsedRecords(RecordSource(dataset.split("train").shards), 10_000_000)
    shape = BatchShape(1, 8, 32, max_tags=2)
    tracemalloc.start()
    try:
        trained = list(train_batches(records, shape, seed=0, epoch=0, augmentation=Augmentation(), threads=1))
        validated = list(eval_batches(records, shape, threads=1))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
    for batch in [*trained, *validated]:
        assert batch["tag_ids"].shape == (1, 8, 2)


def test_a_run_moves_and_fetches_no_array_of_images_by_tags(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """All that goes to the devices for a step, and all that a step gives besides the state."""
    assert len(dataset.vocabulary) == TAGS
    moved: list[Any] = []
    fetched: list[Any] = []
    shard, call = Devices.shard, CompiledStep.__call__

    def record_shard(self: Devices, batch: Any) -> Any:
        moved.append(batch)
        return shard(self, batch)

    def record_call(self: CompiledStep, *arguments: Any) -> Any:
        outputs = call(self, *arguments)
        # A training step gives (state, sums), an evaluation step its outputs.
        fetched.append(outputs[1] if isinstance(outputs, tuple) else outputs)
        return outputs

    monkeypatch.setattr(Devices, "shard", record_shard)
    monkeypatch.setattr(CompiledStep, "__call__", record_call)
    experiment = dataclasses.replace(EXPERIMENT, stages=(Stage(epochs=1),))
    train(experiment, dataset, tmp_path / "run")
    assert len(moved) == len(fetched) == 3
    for leaf in jax.tree.leaves([moved, fetched]):
        assert TAGS not in np.shape(leaf)
        assert np.size(leaf) < TAGS or np.shape(leaf)[-3:] == (48, 48, 3)
