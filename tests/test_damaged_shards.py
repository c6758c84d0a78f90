"""Every bit of a shard and of its index flipped, every length cut off: an error that names the record, or the records
as they were written, and never a third thing.
"""

import functools
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from socialtag_jax.shards import chunks
from socialtag_jax.shards.dataset import ParsedRecords
from socialtag_jax.shards.example import Record, encode_example
from socialtag_jax.shards.tfrecord import (
    CorruptShardError,
    RecordSource,
    index_path,
    scan_offsets,
    write_index,
    write_shard,
)
from tests.attempts import attempt

PARSED = [
    Record(b"\xff\xd8 pretend this is a photo \xff\xd9", "a/1.jpg", (0, 2)),
    Record(b"\xff\xd8\xff\xd9", "b/2.jpg", ()),
    Record(b"\xff\xd8 another one \xff\xd9", "c/3.jpg", (1,)),
]
RECORDS = [encode_example(record) for record in PARSED]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "demo-train.tfrecord-00000-of-00001"
    write_shard(path, iter(RECORDS))
    return path


def offsets_of(records: Sequence[bytes]) -> list[int]:
    return np.cumsum([0, *(16 + len(record) for record in records)]).tolist()


def flips(data: bytes, bits: Iterable[int] = range(8)) -> Iterator[tuple[int, bytes]]:
    """(position, data with one bit of that byte flipped), for every byte and bit."""
    for position in range(len(data)):
        for bit in bits:
            yield position, data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


def refused(source: RecordSource, shard: Path, expected: Sequence[bytes] = RECORDS) -> list[int]:
    """The records that are refused by file, number and offset; all others are as they were written."""
    found = []
    for number, record in enumerate(expected):
        read, error = attempt(functools.partial(source.__getitem__, number))
        if error is None:
            assert read == record
        else:
            assert isinstance(error, CorruptShardError)
            assert error.where == f"{shard}: record {number} at offset {offsets_of(expected)[number]}"
            found.append(number)
    return found


def test_every_bit_of_every_field_of_every_record(shard: Path):
    """The record that the bit is of is refused, whichever of its four fields it is in; the others are read."""
    ends = offsets_of(RECORDS)[1:]
    tried = 0
    for position, damaged in flips(shard.read_bytes()):
        shard.write_bytes(damaged)
        source = RecordSource([shard], [len(RECORDS)])
        assert refused(source, shard) == [next(number for number, end in enumerate(ends) if position < end)]
        source.close()
        tried += 1
    assert tried == 8 * ends[-1] > 2000


def test_every_bit_where_there_is_no_index(shard: Path):
    """A damaged length is found when the shard is opened, for what follows cannot be; all else when it is read."""
    index_path(shard).unlink()
    starts, ends = offsets_of(RECORDS)[:-1], offsets_of(RECORDS)[1:]
    for position, damaged in flips(shard.read_bytes()):
        shard.write_bytes(damaged)
        number = next(number for number, end in enumerate(ends) if position < end)
        if position < starts[number] + 12:
            with pytest.raises(CorruptShardError, match=rf"record {number} at offset {starts[number]}: the "):
                RecordSource([shard], [len(RECORDS)], keep_indexes=False)
        else:
            source = RecordSource([shard], [len(RECORDS)], keep_indexes=False)
            assert refused(source, shard) == [number]
            source.close()


def test_every_bit_of_an_index(shard: Path):
    index = index_path(shard)
    for _, damaged in flips(index.read_bytes()):
        index.write_bytes(damaged)
        with pytest.raises(CorruptShardError, match=rf"^{index}: .* -- delete it: it is rebuilt from the shard"):
            RecordSource([shard])


@pytest.mark.parametrize("indexed", [True, False])
def test_every_length_that_a_shard_may_be_cut_to(shard: Path, indexed: bool):
    """Empty, inside a record, and between two: whether the index is there or not."""
    data = shard.read_bytes()
    if not indexed:
        index_path(shard).unlink()
    for length in range(len(data)):
        shard.write_bytes(data[:length])
        words = "stale offset index: made for a shard of" if indexed else "the shard ends inside|holds [012] records"
        with pytest.raises(CorruptShardError, match=words) as caught:
            RecordSource([shard], [len(RECORDS)], keep_indexes=False)
        assert shard.name in str(caught.value)


@pytest.mark.parametrize("bytes_more", [1, 4, 16, 100])
def test_a_shard_that_goes_on(shard: Path, bytes_more: int):
    shard.write_bytes(shard.read_bytes() + bytes(bytes_more))
    with pytest.raises(CorruptShardError, match="stale offset index"):
        RecordSource([shard], [len(RECORDS)])
    index_path(shard).unlink()
    with pytest.raises(CorruptShardError, match="record 3 at offset"):
        RecordSource([shard], [len(RECORDS)])


def test_an_index_that_was_cut(shard: Path):
    index = index_path(shard)
    data = index.read_bytes()
    for length in range(len(data)):
        index.write_bytes(data[:length])
        with pytest.raises(CorruptShardError, match="offset index"):
            RecordSource([shard])


small_records = st.lists(st.binary(max_size=12), min_size=1, max_size=5)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mine=small_records, other=small_records)
def test_the_index_of_another_shard(mine: list[bytes], other: list[bytes], tmp_path: Path):
    """It does not open, or each record is either refused or the right one; all are right only where the index is."""
    paths = tmp_path / "mine", tmp_path / "other"
    for path, records in zip(paths, (mine, other), strict=True):
        write_shard(path, iter(records))
    index_path(paths[0]).write_bytes(index_path(paths[1]).read_bytes())
    same = offsets_of(mine) == offsets_of(other)
    source, error = attempt(lambda: RecordSource([paths[0]], [len(mine)]))
    if error is not None:
        assert "mine" in str(error.where)
        assert not same
        return
    read = [attempt(functools.partial(source.__getitem__, number)) for number in range(len(mine))]
    assert all(
        data == record if error is None else "record" in str(error.where)
        for record, (data, error) in zip(mine, read, strict=True)
    )
    assert all(error is None for _, error in read) == same
    source.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda offsets: offsets[1:],
        lambda offsets: offsets[:-1],
        lambda offsets: offsets[:1],
        lambda offsets: offsets[:0],
        lambda offsets: offsets[[0, 2, 1]],
        lambda offsets: offsets[[0, 0, 1]],
        lambda offsets: offsets[[2, 2, 2]],
        lambda offsets: offsets + np.uint64(1),
        lambda offsets: offsets * np.uint64(1000),
        lambda offsets: np.array([0, 2**63, 2**64 - 1], np.uint64),
        lambda offsets: np.array([0, 8, 16], np.uint64),
        lambda offsets: np.arange(0, 200, 16, dtype=np.uint64),
    ],
    ids=[
        "no first",
        "no last",
        "one",
        "none",
        "turned",
        "twice",
        "thrice",
        "moved",
        "far",
        "huge",
        "close",
        "every 16",
    ],
)
def test_an_index_that_lies_with_a_right_checksum(shard: Path, change):
    """It leaves out, repeats or invents records: no reader of all records gets through."""
    offsets = scan_offsets(shard)
    write_index(shard, change(offsets))
    with pytest.raises(CorruptShardError):  # noqa: PT012 -- on opening, or on reading
        source = RecordSource([shard])
        for number in range(len(source)):
            assert source[number] in RECORDS


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 400), removed=st.integers(0, 40), put=st.binary(max_size=40), indexed=st.booleans())
def test_any_piece_replaced(start: int, removed: int, put: bytes, indexed: bool, tmp_path: Path):
    path = tmp_path / "shard"
    write_shard(path, iter(RECORDS))
    data = path.read_bytes()
    path.write_bytes(data[:start] + put + data[start + removed :])
    if not indexed:
        index_path(path).unlink()
    source, error = attempt(lambda: RecordSource([path], [len(RECORDS)], keep_indexes=False))
    if error is not None:
        assert str(path) in str(error.where)
        return
    refused(source, path)
    source.close()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.sampled_from(RECORDS).flatmap(
            lambda record: st.tuples(st.integers(0, len(record)), st.binary(max_size=8)).map(
                lambda change: record[: change[0]] + change[1] + record[change[0] + len(change[1]) :]
            )
        ),
    )
)
def test_anything_in_a_frame_is_a_record_or_refused(data: bytes, tmp_path: Path):
    """Whatever is in a whole frame: a record of that vocabulary, or an error that says where it stands."""
    path = tmp_path / "shard"
    write_shard(path, iter([data]))
    records = ParsedRecords(RecordSource([path]), 3)
    record, error = attempt(lambda: records[0])
    if error is not None:
        assert error.where == f"{path}: record 0 at offset 0"
    else:
        assert all(0 <= tag < 3 for tag in record.tags)
        assert encode_example(record)


def test_a_record_on_a_broken_disk(shard: Path, monkeypatch: pytest.MonkeyPatch):
    source = RecordSource([shard])

    def broken(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.pread", broken)
    with pytest.raises(
        CorruptShardError, match=r"record 1 at offset \d+: the record cannot be read: Input/output error"
    ):
        source[1]


def chunk_file(folder: Path) -> Path:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(buffer, "PNG")
    photos = [folder / f"{number}.png" for number in range(3)]
    for photo in photos:
        photo.write_bytes(buffer.getvalue())
    chunks.write_chunk([*photos, folder / "missing.png"], folder / "chunk-000000000", 32)
    return folder / "chunk-000000000"


def test_a_cut_chunk_of_an_interrupted_prepare(tmp_path: Path):
    """Also where the cut leaves whole records."""
    path = chunk_file(tmp_path)
    result, source = chunks.read_chunk(path)
    assert (result.kept, result.rejected) == ([0, 1, 2], [(3, "no such file")])
    data, ends = path.read_bytes(), [source.frame_size(0)]
    for number in range(1, 3):
        ends.append(ends[-1] + source.frame_size(number))
    for length in [0, 5, *ends, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(
            CorruptShardError, match=r"chunk-000000000: decoded photos .* are damaged: .* -- delete the file"
        ):
            chunks.read_chunk(path)
