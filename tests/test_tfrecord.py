"""The framing against published check values, random access against what was written, and every kind of damage."""

import importlib
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socialtag_jax.shards import tfrecord
from socialtag_jax.shards.tfrecord import CorruptShardError, RecordSource, index_path, masked_crc32c, write_shard


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "demo-train.tfrecord-00000-of-00001"
    write_shard(path, iter([b"first", b"", b"third" * 100]))
    return path


def test_masked_crc_of_published_vector():
    # CRC-32C of 32 zero bytes is 0x8a9136aa (RFC 3720, B.4), masked by hand.
    crc = 0x8A9136AA
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32
    assert masked_crc32c(bytes(32)) == masked


def test_bytes_of_a_known_record(tmp_path: Path):
    """An empty record is 8 zero bytes, their checksum, no data, and the checksum of nothing (CRC-32C 0, masked)."""
    path = tmp_path / "shard"
    write_shard(path, iter([b""]))
    data = path.read_bytes()
    assert len(data) == 16
    assert data[:8] == bytes(8)
    assert int.from_bytes(data[12:], "little") == 0xA282EAD8


@settings(max_examples=30, deadline=None)
@given(parts=st.lists(st.lists(st.binary(max_size=200), max_size=8), min_size=1, max_size=3))
def test_random_access_reads_what_was_written(parts: list[list[bytes]], tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("shards")
    paths = [folder / f"shard-{number}" for number in range(len(parts))]
    for path, records in zip(paths, parts, strict=True):
        assert write_shard(path, iter(records)) == len(records)
    expected = [record for records in parts for record in records]
    source = RecordSource(paths, [len(records) for records in parts])
    assert len(source) == len(expected)
    assert [source[index] for index in reversed(range(len(source)))] == expected[::-1]
    with pytest.raises(IndexError):
        source[len(expected)]
    source.close()


def test_scan_agrees_with_the_written_index(shard: Path):
    written = tfrecord.read_index(shard)
    assert written is not None
    np.testing.assert_array_equal(tfrecord.scan_offsets(shard), written)


def test_missing_index_is_rebuilt_and_kept(shard: Path):
    before = index_path(shard).read_bytes()
    index_path(shard).unlink()
    source = RecordSource([shard])
    assert source[2] == b"third" * 100
    assert index_path(shard).read_bytes() == before
    source.close()


# Record 0 ("first"): length at 0, its checksum at 8, data at 12, the data's checksum at 17.
FIELDS = {"length": 0, "length checksum": 9, "data": 14, "data checksum": 18}


@pytest.mark.parametrize("field", FIELDS)
def test_one_flipped_byte_is_found(shard: Path, field: str):
    data = bytearray(shard.read_bytes())
    data[FIELDS[field]] ^= 0x40
    shard.write_bytes(data)
    source = RecordSource([shard])
    part = "length" if field.startswith("length") else "data"
    with pytest.raises(CorruptShardError, match=f"record 0 at offset 0: the checksum of the record's {part}"):
        source[0]
    assert source[2] == b"third" * 100
    source.close()


def test_index_of_another_size_is_refused(shard: Path):
    shard.write_bytes(shard.read_bytes() + b"more")
    with pytest.raises(CorruptShardError, match="stale offset index: made for a shard of 553 bytes"):
        RecordSource([shard])


def test_a_million_records_take_little_time_and_memory_to_open(tmp_path: Path):
    """A sparse shard with a real index: 8 bytes a record, held once."""
    path, count, record = tmp_path / "large", 1_000_000, 40_000
    with path.open("wb") as file:
        file.truncate(count * record)
    tfrecord.write_index(path, np.arange(count, dtype=np.uint64) * record)
    tracemalloc.start()
    try:
        start = time.perf_counter()
        source = RecordSource([path], [count])
        elapsed = time.perf_counter() - start
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert source.frame_size(count - 1) == record
    assert peak < 1.2 * 8 * count
    assert elapsed < 2.0


def test_damaged_index_is_refused(shard: Path):
    data = bytearray(index_path(shard).read_bytes())
    data[30] ^= 1
    index_path(shard).write_bytes(data)
    with pytest.raises(CorruptShardError, match="offset index is damaged"):
        RecordSource([shard])


def test_index_of_another_shard_is_found(tmp_path: Path):
    """Two shards of the same size whose records lie elsewhere."""
    one, other = tmp_path / "one", tmp_path / "other"
    write_shard(one, iter([b"12345678", b"1234"]))
    write_shard(other, iter([b"1234", b"12345678"]))
    index_path(one).write_bytes(index_path(other).read_bytes())
    source = RecordSource([one])
    for index in range(2):
        with pytest.raises(CorruptShardError, match=f"record {index} at offset"):
            source[index]
    source.close()


def test_truncated_shard_is_found(shard: Path):
    shard.write_bytes(shard.read_bytes()[:-1])
    index_path(shard).unlink()
    with pytest.raises(CorruptShardError, match="record 2 at offset 37: the shard ends inside a record of 500 bytes"):
        RecordSource([shard])


def test_wrong_record_count_is_found(shard: Path):
    with pytest.raises(CorruptShardError, match=r"holds 3 records where dataset_info.json says 4"):
        RecordSource([shard], [4])


def test_missing_shard_is_named(tmp_path: Path):
    with pytest.raises(CorruptShardError, match="nothing-here: the shard is missing"):
        RecordSource([tmp_path / "nothing-here"])


@pytest.mark.interop
def test_tensorflow_reads_the_shard_and_we_read_tensorflows(shard: Path, tmp_path: Path):
    tf: Any = importlib.import_module("tensorflow")
    records = [b"first", b"", b"third" * 100]
    assert list(tf.data.TFRecordDataset(str(shard)).as_numpy_iterator()) == records
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in records:
            writer.write(record)
    assert (tmp_path / "theirs").read_bytes() == shard.read_bytes()
