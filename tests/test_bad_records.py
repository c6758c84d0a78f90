"""Damaged records while training: the run stops, or skips so many and says which; everything else stays as it was."""

import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from socialtag_jax import evaluate as evaluation
from socialtag_jax.bad_records import BAD_RECORDS, BadRecords
from socialtag_jax.config import Augmentation, Cache, Experiment, Input, Model, Optimizer, Stage, Suggestion
from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.feature_cache import SKIPPED_RECORDS
from socialtag_jax.input_pipeline import Batch, BatchShape, eval_batches, train_batches, train_order
from socialtag_jax.parallel import Devices
from socialtag_jax.search_space import parse_space
from socialtag_jax.shards.dataset import Dataset, open_dataset
from socialtag_jax.shards.example import Record, encode_example
from socialtag_jax.shards.tfrecord import RecordSource, write_shard
from socialtag_jax.sweep import SweepOptions, run_sweep
from socialtag_jax.train import Trainer, TrainResult
from tests.photos import colour_rows, photo_folder, prepared
from tests.runs import metrics_of
from tests.test_feature_cache import feature_data

SIZE = 32
EXPERIMENT = Experiment(
    name="colours",
    weights="random",
    model=Model(input_size=SIZE, hidden_units=16),
    augmentation=Augmentation(enabled=False),
    optimizer=Optimizer(learning_rate=1e-3),
    input=Input(batch_size=8, eval_batch_size=8, threads=3),
    stages=(Stage(epochs=1),),
)
BROKEN = (3, 11, 20)
"""Of the 24 training records."""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = photo_folder(tmp_path_factory.mktemp("source"), colour_rows(30))
    return prepared(source, tmp_path_factory.mktemp("data")).folder


def damage(folder: Path, split: str, records: tuple[int, ...]) -> None:
    """Flips a bit in the data of these records."""
    (shard,) = folder.glob(f"demo-{split}.tfrecord-*-of-?????")
    source, data = RecordSource([shard]), bytearray(shard.read_bytes())
    for record in records:
        data[int(source.where(record).rpartition(" ")[2]) + 40] ^= 1
    shard.write_bytes(data)


@pytest.fixture
def broken(original: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(original, tmp_path / "data")
    damage(folder, "train", BROKEN)
    return folder


def allowing(most: int, **changes: Any) -> Experiment:
    experiment = dataclasses.replace(EXPERIMENT, **changes)
    return dataclasses.replace(experiment, input=dataclasses.replace(experiment.input, max_bad_records=most))


def train(experiment: Experiment, folder: Path, run: Path, log: Callable[[str], None] = lambda _: None) -> TrainResult:
    trainer = Trainer(experiment, open_dataset(folder), run, devices=Devices(), log=log, stream=io.StringIO())
    return trainer.run()


def listed(run: Path) -> list[tuple[str, int]]:
    lines = (run / BAD_RECORDS).read_text().splitlines()
    return [(one["split"], one["record"]) for one in map(json.loads, lines)]


def rows_of(batches: list[Batch], key: str) -> np.ndarray:
    return np.concatenate([batch[key].reshape(-1, *batch[key].shape[2:]) for batch in batches])


# ---- batches


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_skipped_records_are_padding_and_all_else_is_as_before(
    original: Path, broken: Path, tmp_path: Path, threads: int
):
    """Same shapes, same order, same pixels of all other rows, over two epochs; each is counted once."""
    bad = BadRecords(3, tmp_path / BAD_RECORDS, log=lambda _: None)
    whole, records = (open_dataset(folder).records("train") for folder in (original, broken))
    shape = BatchShape(2, 4, SIZE, max_tags=2)
    for epoch in range(2):
        options: dict[str, Any] = {"seed": 5, "epoch": epoch, "augmentation": Augmentation(), "threads": threads}
        expected = list(train_batches(whole, shape, **options))
        found = list(train_batches(records, shape, **options, damaged=bad.of("train")))
        skipped = np.isin(train_order(24, 5, epoch), BROKEN)
        np.testing.assert_array_equal(rows_of(found, "weight"), ~skipped)
        for key, padding in (("images", 0), ("tag_ids", -1)):
            np.testing.assert_array_equal(rows_of(found, key)[~skipped], rows_of(expected, key)[~skipped])
            assert (rows_of(found, key)[skipped] == padding).all()
        assert len(bad) == 3
    assert listed(tmp_path) == [("train", record) for record in BROKEN]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xff\xff", r"not a tf\.train\.Example"),
        (encode_example(Record(b"no JPEG", "a.jpg", ())), "the stored image does not decode"),
        (encode_example(Record(b"", "a.jpg", (7,))), "reach outside the vocabulary"),
        (encode_example(Record(b"", "a.jpg", (0, 1, 2))), "3 tags, more than the 2"),
        (b"", "feature 'image' has 0 byte values"),
    ],
    ids=["no example", "no image", "unknown tag", "many tags", "empty"],
)
def test_every_kind_of_damage_counts(original: Path, tmp_path: Path, data: bytes, words: str):
    """Also of records whose checksums are right, written damaged."""
    (shard,) = original.glob("demo-train.tfrecord-*-of-?????")
    good = RecordSource([shard])
    write_shard(tmp_path / "shard", iter([good[0], data, good[2]]))
    from socialtag_jax.shards.dataset import ParsedRecords

    records = ParsedRecords(RecordSource([tmp_path / "shard"]), 4)
    shape = BatchShape(1, 4, SIZE, max_tags=2)
    with pytest.raises(UserError, match=rf"shard: record 1 at offset \d+.*{words}"):
        list(eval_batches(records, shape))
    lines: list[str] = []
    bad = BadRecords(1, tmp_path / BAD_RECORDS, log=lines.append)
    (batch,) = eval_batches(records, shape, damaged=bad.of("validation"))
    assert batch["weight"].tolist() == [[1, 0, 1, 0]]
    assert (batch["tag_ids"][0, 1] == -1).all()
    assert not batch["images"][0, 1].any()
    assert listed(tmp_path) == [("validation", 1)]
    assert "record skipped (1 of at most 1)" in lines[0]


@pytest.mark.parametrize("threads", [1, 8])
def test_one_more_than_may_be_skipped(broken: Path, tmp_path: Path, threads: int):
    bad = BadRecords(2, tmp_path / BAD_RECORDS, log=lambda _: None)
    batches = train_batches(
        open_dataset(broken).records("train"),
        BatchShape(1, 3, SIZE, max_tags=2),
        seed=0,
        epoch=0,
        augmentation=Augmentation(),
        threads=threads,
        damaged=bad.of("train"),
    )
    with pytest.raises(
        UserError, match=r"record \d+ at offset \d+: the checksum .*, more records are damaged than the 2"
    ):
        list(batches)
    assert len(listed(tmp_path)) == 2


# ---- runs


def test_a_run_stops_by_default(broken: Path, tmp_path: Path):
    with pytest.raises(
        UserError, match=r"demo-train.*: record (3|11|20) at offset \d+: the checksum of the record's data"
    ):
        train(EXPERIMENT, broken, tmp_path / "run")
    assert not (tmp_path / "run" / BAD_RECORDS).exists()


def test_a_run_goes_on_without_them(broken: Path, tmp_path: Path):
    """In training and in validation; they are listed, and counted at the end."""
    damage(broken, "validation", (1,))
    lines: list[str] = []
    result = train(allowing(4), broken, tmp_path / "run", lines.append)
    assert result.position.step == 3
    assert listed(tmp_path / "run") == [*(("train", record) for record in BROKEN), ("validation", 1)]
    assert sum("record skipped" in line for line in lines) == 4
    assert lines[-1] == f"warning: 4 damaged records were skipped; they are listed in {tmp_path / 'run' / BAD_RECORDS}"
    entry = json.loads((tmp_path / "run" / BAD_RECORDS).read_text().splitlines()[0])
    assert entry["where"].endswith(f"record {BROKEN[0]} at offset " + entry["where"].rpartition(" ")[2])
    assert "checksum" in entry["what"]
    # Where one is too many, the error says so, and names the list.
    with pytest.raises(
        UserError, match=r"more records are damaged than the 3 that may be skipped -- the others .*bad_records"
    ):
        train(allowing(3), broken, tmp_path / "other")
    assert len(listed(tmp_path / "other")) == 3


def test_a_run_may_be_continued_with_more(broken: Path, tmp_path: Path):
    """What was listed before the end still counts, and the limit is no other experiment."""
    train(allowing(3), broken, tmp_path / "run")
    damage(broken, "validation", (0,))
    longer = (Stage(epochs=2),)
    for most in (2, 3):
        with pytest.raises(UserError, match=f"more records are damaged than the {most}"):
            train(allowing(most, stages=longer), broken, tmp_path / "run")
    assert train(allowing(5, stages=longer), broken, tmp_path / "run").position.epoch == 2
    assert len(listed(tmp_path / "run")) == 4


def test_a_batch_of_nothing_but_damaged_records(original: Path, tmp_path: Path):
    """Eight of the 24, those of the first batch: its loss is no 0 / 0, and the run goes on to finite numbers."""
    folder = shutil.copytree(original, tmp_path / "data")
    damage(folder, "train", tuple(train_order(24, EXPERIMENT.seed, 0)[:8].tolist()))
    result = train(allowing(8), folder, tmp_path / "run")
    assert all(np.isfinite(value) for value in result.summary.values())
    assert all(np.isfinite(line["loss"]) for line in metrics_of(tmp_path / "run"))


def test_a_validation_split_of_damaged_records(original: Path, tmp_path: Path):
    folder = shutil.copytree(original, tmp_path / "data")
    damage(folder, "validation", (0, 1, 2))
    with pytest.raises(UserError, match="no record of the validation split is whole"):
        train(allowing(3), folder, tmp_path / "run")


def test_a_list_that_is_damaged(tmp_path: Path):
    (tmp_path / BAD_RECORDS).write_text('{"split": "train"}\n')
    bad = BadRecords(3, tmp_path / BAD_RECORDS, log=lambda _: None)
    with pytest.raises(UserError, match=r"bad_records\.jsonl: the list of skipped records cannot be read"):
        bad.start(continued=True)
    bad.start(continued=False)
    assert (tmp_path / BAD_RECORDS).read_text() == ""


def test_a_negative_limit():
    with pytest.raises(UsageError, match=r"input\.max_bad_records: -1: expected 0 or more"):
        Input(max_bad_records=-1)


# ---- cached features


def cached(folder: Path) -> Experiment:
    return dataclasses.replace(EXPERIMENT, cache=Cache(views=1, folder=str(folder)))


def features_of(folder: Path, cache: Path, most: int) -> tuple[list[Any], list[tuple[str, int]]]:
    """The batches of an epoch over cached features, and the records that were skipped."""
    lists = cache.parent / f"lists-{len(list(cache.parent.iterdir()))}"
    lists.mkdir()
    bad = BadRecords(most, lists / BAD_RECORDS, log=lambda _: None)
    data = feature_data(cached(cache), open_dataset(folder), damaged_of=bad.of)
    batches = [*data.train(0, 0), *data.validation()]
    return batches, listed(lists) if len(bad) else []


def assert_same(found: list[Any], expected: list[Any]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_features_of_skipped_records(original: Path, broken: Path, tmp_path: Path):
    """Rows of no weight in the same places, all others as without the damage; found again, they are skipped again."""
    damage(broken, "validation", (2,))
    whole, _ = features_of(original, tmp_path / "whole", 0)
    found, names = features_of(broken, tmp_path / "cache", 4)
    assert names == [*(("train", record) for record in BROKEN), ("validation", 2)]
    skipped = np.isin(train_order(24, EXPERIMENT.seed, 0), BROKEN)
    validation = [False, False, True, *[True] * 5]  # the last five pad the batch
    np.testing.assert_array_equal(rows_of(found, "weight"), ~np.array([*skipped, *validation]))
    kept = rows_of(found, "weight") > 0
    for key in ("features", "tag_ids"):
        np.testing.assert_array_equal(rows_of(found, key)[kept], rows_of(whole, key)[kept])
    assert (rows_of(found, "tag_ids")[~kept] == -1).all()
    again, same_names = features_of(broken, tmp_path / "cache", 4)
    assert same_names == names
    assert_same(again, found)


def test_another_run_finds_no_skipped_features_unawares(broken: Path, original: Path, tmp_path: Path):
    features_of(broken, tmp_path / "cache", 3)
    # Fewer may be skipped: the records are still damaged.
    with pytest.raises(UserError, match=r"record 3 at offset .*: the checksum of the record's data"):
        features_of(broken, tmp_path / "cache", 0)
    # Repaired: their features are computed now, and nothing is skipped.
    for shard in original.glob("demo-train*"):
        shutil.copy(shard, broken)
    repaired, names = features_of(broken, tmp_path / "cache", 0)
    assert not names
    assert_same(repaired, features_of(original, tmp_path / "whole", 0)[0])


def test_a_lost_list_of_skipped_features(broken: Path, tmp_path: Path):
    features_of(broken, tmp_path / "cache", 3)
    (path,) = (tmp_path / "cache").glob(f"*/{SKIPPED_RECORDS}")
    path.unlink()
    with pytest.raises(UserError, match=r"skipped\.json: does not list record \d+, whose features are"):
        features_of(broken, tmp_path / "cache", 3)


def test_training_from_the_features_that_are_left(broken: Path, tmp_path: Path):
    """Is training from the photos that are left."""
    train(allowing(3), broken, tmp_path / "photos")
    train(allowing(3, cache=Cache(views=1, folder=str(tmp_path / "cache"))), broken, tmp_path / "cached")
    assert listed(tmp_path / "cached") == listed(tmp_path / "photos")
    for one, other in zip(metrics_of(tmp_path / "cached"), metrics_of(tmp_path / "photos"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


# ---- what never skips


def constant_scorer(dataset: Dataset) -> evaluation.Scorer:
    def score(images: np.ndarray) -> np.ndarray:
        return np.full((images.shape[0] * images.shape[1], len(dataset.vocabulary)), 0.5, np.float32)

    return evaluation.Scorer("half", dataset.vocabulary, 32, Suggestion(), 1, score, "")


def test_evaluation_always_stops(broken: Path):
    dataset = open_dataset(broken)
    with pytest.raises(UserError, match=r"record (3|11|20) at offset .*: the checksum of the record's data"):
        evaluation.evaluate(constant_scorer(dataset), dataset, "train", batch_size=4, threads=2, stream=io.StringIO())


def test_a_sweep_takes_no_limit(original: Path, tmp_path: Path):
    with pytest.raises(UsageError, match=r"--input\.max-bad-records: a sweep skips no damaged records"):
        run_sweep(
            allowing(1),
            open_dataset(original),
            SweepOptions(parse_space(["model.dropout-rate=0.1,0.2"]), plot=False),
            tmp_path / "sweep",
            devices=Devices(),
            log=print,
            stream=io.StringIO(),
        )
