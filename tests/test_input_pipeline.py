"""Batches: every record once, in an order of (seed, epoch) alone, independent of devices and threads."""

from pathlib import Path

import numpy as np
import pytest

from socialtag_jax import augment
from socialtag_jax.config import Augmentation
from socialtag_jax.counter_random import random_units
from socialtag_jax.errors import UserError
from socialtag_jax.input_pipeline import Batch, BatchShape, batch_count, eval_batches, train_batches
from socialtag_jax.shards.dataset import Dataset, ParsedRecords, open_dataset
from socialtag_jax.shards.example import Record, encode_example
from socialtag_jax.shards.pixels import decode
from socialtag_jax.shards.tfrecord import CorruptShardError, RecordSource, index_path, write_shard
from tests.photos import colour_rows, photo_folder, prepared

SIZE = 32


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = photo_folder(tmp_path_factory.mktemp("source"), colour_rows(50))
    return open_dataset(prepared(folder, tmp_path_factory.mktemp("data")).folder)


@pytest.fixture
def records(dataset: Dataset) -> ParsedRecords:
    return dataset.records("train")  # 40 of them


def shape(devices: int = 1, rows: int = 12) -> BatchShape:
    return BatchShape(devices, rows, SIZE, max_tags=2)


def epoch(records: ParsedRecords, devices: int = 1, rows: int = 12, **options) -> list[Batch]:
    chosen = {"seed": 1, "epoch": 0, "augmentation": Augmentation(), "threads": 2, **options}
    return list(train_batches(records, shape(devices, rows), **chosen))


def rows_of(batches: list[Batch], key: str) -> np.ndarray:
    """All rows in order, without the devices' axis."""
    return np.concatenate([batch[key].reshape(-1, *batch[key].shape[2:]) for batch in batches])


def test_contract(records: ParsedRecords):
    batches = epoch(records, devices=2, rows=6)
    assert len(batches) == batch_count(40, 12) == 4
    for batch in batches:
        assert (batch["images"].shape, batch["images"].dtype) == ((2, 6, SIZE, SIZE, 3), np.uint8)
        assert (batch["tag_ids"].shape, batch["tag_ids"].dtype) == ((2, 6, 2), np.int32)
        assert (batch["weight"].shape, batch["weight"].dtype) == ((2, 6), np.float32)


def test_every_record_once_and_padding_weighs_nothing(records: ParsedRecords):
    batches = epoch(records, augmentation=Augmentation(enabled=False))
    weight = rows_of(batches, "weight")
    assert weight.sum() == 40
    assert not rows_of(batches, "images")[weight == 0].any()
    assert (rows_of(batches, "tag_ids")[weight == 0] == -1).all()
    found = {row.tobytes() for row in rows_of(batches, "images")[weight > 0]}
    expected = set()
    for index in range(40):
        image = np.empty((SIZE, SIZE, 3), np.uint8)
        augment.warp(decode(records[index].image, SIZE), augment.IDENTITY, image)
        expected.add(image.tobytes())
    assert found == expected
    assert len(expected) == 40


def test_evaluation_keeps_the_stored_order(records: ParsedRecords):
    tag_ids = rows_of(list(eval_batches(records, shape())), "tag_ids")
    for index in range(40):
        assert tuple(tag for tag in tag_ids[index] if tag >= 0) == records[index].tags


def test_same_stream_on_any_devices_and_threads(records: ParsedRecords):
    reference = epoch(records, devices=1, rows=12, threads=1)
    for devices, threads in ((2, 1), (4, 3), (12, 8)):
        other = epoch(records, devices=devices, rows=12 // devices, threads=threads)
        for key in ("images", "tag_ids", "weight"):
            np.testing.assert_array_equal(rows_of(other, key), rows_of(reference, key))


@pytest.mark.parametrize(("processes", "devices", "rows"), [(2, 2, 3), (3, 1, 4), (4, 3, 5)])
def test_processes_share_a_batch(records: ParsedRecords, processes: int, devices: int, rows: int):
    """Each assembles the rows of its own devices; of the last batch, with 40 records, some have fewer, or none."""
    size = processes * devices * rows
    chosen = {"seed": 1, "epoch": 0, "augmentation": Augmentation(), "threads": 2}
    whole = list(train_batches(records, shape(1, size), **chosen))
    parts = [
        list(train_batches(records, BatchShape(devices, rows, SIZE, 2, processes, process), **chosen))
        for process in range(processes)
    ]
    assert {len(part) for part in parts} == {len(whole)}
    assert parts[0][0]["images"].shape == (devices, rows, SIZE, SIZE, 3)
    for key in ("images", "tag_ids", "weight"):
        for batches, batch in zip(zip(*parts, strict=True), whole, strict=True):
            np.testing.assert_array_equal(rows_of(list(batches), key), batch[key][0])
    assert sum(rows_of(part, "weight").sum() for part in parts) == 40
    stored = [list(eval_batches(records, BatchShape(devices, rows, SIZE, 2, processes, p))) for p in range(processes)]
    together = [rows_of(list(batches), "tag_ids") for batches in zip(*stored, strict=True)]
    np.testing.assert_array_equal(
        np.concatenate(together)[:40], rows_of(list(eval_batches(records, shape())), "tag_ids")[:40]
    )


def test_order_and_augmentation_follow_seed_and_epoch(records: ParsedRecords):
    first = rows_of(epoch(records), "images")
    np.testing.assert_array_equal(first, rows_of(epoch(records), "images"))
    for changed in ({"epoch": 1}, {"seed": 2}):
        assert not np.array_equal(first, rows_of(epoch(records, **changed), "images"))
    plain = Augmentation(enabled=False)
    orders = [rows_of(epoch(records, epoch=number, augmentation=plain), "tag_ids") for number in range(3)]
    assert not np.array_equal(orders[0], orders[1])
    assert sorted(map(tuple, orders[0].tolist())) == sorted(map(tuple, orders[1].tolist()))


def test_an_image_is_augmented_by_its_record_index(records: ParsedRecords):
    """Not by its place in the batch: the batch size changes nothing."""
    small, large = (rows_of(epoch(records, rows=rows), "images")[:40] for rows in (5, 40))
    np.testing.assert_array_equal(small, large)


def test_augmentation_of_a_record_ignores_all_other_records(records: ParsedRecords):
    """Record 7 alone, transformed by hand from (seed, epoch, index), is the row with its pixels."""
    chosen = Augmentation()
    stream = int(np.random.SeedSequence((1, 3)).spawn(2)[1].generate_state(1, np.uint64)[0])
    unit = random_units(stream, 7 * augment.DRAWS + np.arange(augment.DRAWS))
    expected = np.empty((SIZE, SIZE, 3), np.uint8)
    augment.warp(decode(records[7].image, SIZE), augment.matrix(augment.draw(chosen, unit), SIZE), expected)
    images = rows_of(epoch(records, epoch=3, augmentation=chosen), "images")
    assert (images == expected).all(axis=(1, 2, 3)).sum() == 1


def test_starting_inside_an_epoch(records: ParsedRecords):
    whole, rest = epoch(records), epoch(records, start=2)
    assert len(rest) == len(whole) - 2
    for one, other in zip(whole[2:], rest, strict=True):
        np.testing.assert_array_equal(one["images"], other["images"])


def test_limit_cuts_the_epoch(records: ParsedRecords):
    assert len(epoch(records, limit=2)) == 2
    assert len(list(eval_batches(records, shape(), limit=1))) == 1


@pytest.mark.parametrize("offset", [3, 9, 30, -1])
def test_a_damaged_record_stops_the_epoch(dataset: Dataset, tmp_path: Path, offset: int):
    """One flipped byte in each of the four fields of a record: length, its checksum, data, its checksum."""
    shard = dataset.splits["train"].shards[0]
    copy = tmp_path / shard.name
    data = bytearray(shard.read_bytes())
    end = RecordSource([shard]).frame_size(0)
    data[offset if offset >= 0 else end - 1] ^= 1
    copy.write_bytes(data)
    index_path(copy).write_bytes(index_path(shard).read_bytes())
    records = ParsedRecords(RecordSource([copy]), len(dataset.vocabulary))
    with pytest.raises(CorruptShardError, match=r"record 0 at offset 0: the checksum of the record's"):
        epoch(records)


def test_a_record_that_is_no_example_is_named(tmp_path: Path):
    shard = tmp_path / "shard"
    write_shard(shard, iter([b"\xff\xff\xff"]))
    with pytest.raises(UserError, match=r"shard: record 0 at offset 0: not a tf\.train\.Example"):
        list(eval_batches(ParsedRecords(RecordSource([shard]), 1), shape()))


def test_an_image_that_does_not_decode_is_named(tmp_path: Path):
    shard = tmp_path / "shard"
    write_shard(shard, iter([encode_example(Record(b"no JPEG", "a/b.jpg", ()))]))
    with pytest.raises(UserError, match=r"record 0 at offset 0 \(a/b\.jpg\): the stored image does not decode"):
        list(eval_batches(ParsedRecords(RecordSource([shard]), 1), shape()))


def test_more_tags_than_room_is_an_error(records: ParsedRecords):
    narrow = BatchShape(1, 4, SIZE, max_tags=1)
    with pytest.raises(UserError, match=r"the record has 2 tags, more than the 1 that statistics\.json allows"):
        list(eval_batches(records, narrow))
