"""TFRecord shards: framing, checksums, an offset index, and random access.

A record is `uint64 length, uint32 masked CRC-32C of the length, data, uint32 masked CRC-32C of the data`, little-endian
(TensorFlow, `tensorflow/core/lib/io/record_writer.h`). The index beside a shard (`SHARD.index`) holds each record's
offset, so that any record is one read away; it can always be rebuilt from the shard.
"""

import bisect
import itertools
import os
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, SupportsIndex

import google_crc32c
import numpy as np

from socialtag_jax import files
from socialtag_jax.errors import UserError

_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_OVERHEAD = _HEADER.size + _CRC.size
_INDEX_MAGIC = b"STAGIDX1"
_INDEX_HEADER = struct.Struct("<8sQQ")
_INDEX_PIECE = 2**18
_RESTORE = "restore the file from a copy, or delete the data set's folder and run `socialtag prepare` again"


class CorruptShardError(UserError):
    """A shard whose bytes are not what was written."""


def masked_crc32c(data: bytes) -> int:
    """TFRecord's checksum: CRC-32C rotated right by 15 bits plus a constant, modulo 2**32."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def index_path(shard: Path) -> Path:
    """Where the offset index of `shard` lies."""
    return shard.with_name(shard.name + ".index")


class ShardWriter:
    """Appends records to an open binary file and remembers their offsets."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = 0
        self.offsets: list[int] = []

    def write(self, record: bytes) -> None:
        """Appends one record."""
        length = struct.pack("<Q", len(record))
        self.offsets.append(self._size)
        header = length + _CRC.pack(masked_crc32c(length))
        self._file.write(b"".join((header, record, _CRC.pack(masked_crc32c(record)))))
        self._size += len(record) + _OVERHEAD


def write_records(path: Path, records: Iterator[bytes]) -> list[int]:
    """Writes a TFRecord file atomically, and returns the records' offsets."""
    with files.atomic_path(path) as temporary, temporary.open("wb") as file:
        writer = ShardWriter(file)
        for record in records:
            writer.write(record)
    return writer.offsets


def write_shard(shard: Path, records: Iterator[bytes]) -> int:
    """Writes a shard and its index, each atomically, and returns the number of records."""
    offsets = write_records(shard, records)
    write_index(shard, np.array(offsets, np.uint64))
    return len(offsets)


def write_index(shard: Path, offsets: np.ndarray) -> None:
    """Writes the index of `shard` from its records' offsets (uint64 [records])."""
    body = _INDEX_HEADER.pack(_INDEX_MAGIC, shard.stat().st_size, len(offsets)) + offsets.astype("<u8").tobytes()
    files.write_bytes(index_path(shard), body + _CRC.pack(google_crc32c.value(body)))


def read_index(shard: Path) -> np.ndarray | None:
    """The offsets (uint64 [records]) in the index of `shard`; None where there is no index.

    Raises:
      CorruptShardError: the index is damaged, or it was made for a shard of another size.
    """
    path = index_path(shard)
    rebuild = "delete it: it is rebuilt from the shard"
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        header = file.read(_INDEX_HEADER.size)
        if len(header) < _INDEX_HEADER.size or header[:8] != _INDEX_MAGIC:
            raise CorruptShardError("not an offset index", where=path, hint=rebuild)
        _, size, count = _INDEX_HEADER.unpack(header)
        whole = os.fstat(file.fileno()).st_size == _INDEX_HEADER.size + 8 * count + _CRC.size
        offsets = np.empty(count if whole else 0, "<u8")
        # In pieces: what is checked must be bytes, and those of a shard of millions of records are not held twice.
        crc, content = google_crc32c.value(header), offsets.view(np.uint8)
        in_order = count > 0 or size == 0
        for start in range(0, len(content), _INDEX_PIECE):
            piece = file.read(min(_INDEX_PIECE, len(content) - start))
            content[start : start + len(piece)] = np.frombuffer(piece, np.uint8)
            crc = google_crc32c.extend(crc, piece)
            in_order &= _is_in_order(offsets, start // 8, (start + len(piece)) // 8, size)
        if not whole or file.read() != _CRC.pack(crc):
            damaged = "the offset index is damaged (its checksum does not match)"
            raise CorruptShardError(damaged, where=path, hint=rebuild)
        if not in_order:
            # Offsets that leave out records, or lead out of the shard, were not made from it.
            raise CorruptShardError("the offsets are not those of a shard's records", where=path, hint=rebuild)
    if size != shard.stat().st_size:
        raise CorruptShardError(
            f"stale offset index: made for a shard of {size} bytes, but {shard.name} has {shard.stat().st_size}",
            where=path,
            hint=f"{rebuild}, if the shard is whole; otherwise {_RESTORE}",
        )
    return offsets


def _is_in_order(offsets: np.ndarray, start: int, stop: int, size: int) -> bool:
    """Whether offsets `start` to `stop` ascend from 0, with room for a record after each, in a shard of that size."""
    part = offsets[max(start - 1, 0) : stop]
    if not len(part) or size < _OVERHEAD or (start == 0 and part[0] != 0) or part[-1] > size - _OVERHEAD:
        return False
    # Compared, not subtracted: offsets have no sign.
    return bool((part[1:] >= _OVERHEAD).all() and (part[1:] - _OVERHEAD >= part[:-1]).all())


def scan_offsets(shard: Path) -> np.ndarray:
    """Finds the records' offsets (uint64 [records]) by walking through the shard, checking every length.

    Raises:
      CorruptShardError: a length fails its checksum, or the shard ends inside a record.
    """
    size = shard.stat().st_size
    offsets: list[int] = []
    offset = 0
    with shard.open("rb") as file:
        while offset < size:
            file.seek(offset)
            header = file.read(_HEADER.size)
            where = f"{shard}: record {len(offsets)} at offset {offset}"
            if len(header) < _HEADER.size:
                raise CorruptShardError("the shard ends inside a record's length", where=where, hint=_RESTORE)
            length, crc = _HEADER.unpack(header)
            if crc != masked_crc32c(header[:8]):
                raise _length_error(length, where)
            if offset + length + _OVERHEAD > size:
                raise CorruptShardError(
                    f"the shard ends inside a record of {length} bytes (shard size {size})", where=where, hint=_RESTORE
                )
            offsets.append(offset)
            offset += length + _OVERHEAD
    return np.array(offsets, np.uint64)


def load_offsets(shard: Path, *, keep_index: bool = True) -> np.ndarray:
    """The offsets (uint64 [records]) of a shard: from its index, or by a scan that leaves an index behind."""
    offsets = read_index(shard)
    if offsets is None:
        offsets = scan_offsets(shard)
        # A read-only data set is no error: the scan is only repeated next time.
        if keep_index and os.access(shard.parent, os.W_OK):
            write_index(shard, offsets)
    return offsets


def _length_error(length: int, where: str) -> CorruptShardError:
    return CorruptShardError(
        f"the checksum of the record's length ({length}) does not match: either of the two is damaged",
        where=where,
        hint=_RESTORE,
    )


class RecordSource:
    """All records of a list of shards as one random-access sequence of bytes (a grain `RandomAccessDataSource`).

    Both checksums of a record are checked on every read. Safe to read from several threads.

    Args:
      shards: the shards' paths, in order.
      lengths: the number of records each should hold, where known (from `dataset_info.json`).
      keep_indexes: leave an index beside a shard that has none.

    Raises:
      CorruptShardError: a shard is missing, stale or holds another number of records than `lengths` says; on reading, a
        record fails a checksum.
    """

    def __init__(
        self, shards: Sequence[Path], lengths: Sequence[int] | None = None, *, keep_indexes: bool = True
    ) -> None:
        if google_crc32c.implementation != "c":
            raise UserError(
                "google-crc32c runs without its C implementation, which is far too slow to check every record",
                hint="reinstall it from a wheel: pip install --force-reinstall google-crc32c",
            )
        self.shards = tuple(shards)
        self._offsets: list[np.ndarray] = []
        self._sizes: list[int] = []
        for position, shard in enumerate(self.shards):
            if not shard.is_file():
                raise CorruptShardError("the shard is missing", where=shard, hint=_RESTORE)
            offsets = load_offsets(shard, keep_index=keep_indexes)
            if lengths is not None and len(offsets) != lengths[position]:
                raise CorruptShardError(
                    f"holds {len(offsets)} records where dataset_info.json says {lengths[position]}",
                    where=shard,
                    hint=_RESTORE,
                )
            self._offsets.append(offsets)
            self._sizes.append(shard.stat().st_size)
        # starts[k] is the global index of shard k's first record.
        self._starts = [0, *itertools.accumulate(map(len, self._offsets))]
        self._descriptors: dict[int, int] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._starts[-1]

    def __repr__(self) -> str:  # grain shows it in its own messages and fingerprints
        return f"RecordSource(shards={len(self.shards)}, records={len(self)})"

    def locate(self, index: SupportsIndex) -> tuple[int, int]:
        """(shard number, record number in that shard) of a global record index."""
        position = range(len(self))[index]
        shard = bisect.bisect_right(self._starts, position) - 1
        return shard, position - self._starts[shard]

    def where(self, index: SupportsIndex) -> str:
        """The file, record and offset of a global record index, for messages."""
        shard, record = self.locate(index)
        return f"{self.shards[shard]}: record {record} at offset {self._offsets[shard][record]}"

    def _frame(self, index: SupportsIndex) -> tuple[int, int, int]:
        """(shard, first byte, end) of a record with its framing."""
        shard, record = self.locate(index)
        offsets = self._offsets[shard]
        end = int(offsets[record + 1]) if record + 1 < len(offsets) else self._sizes[shard]
        return shard, int(offsets[record]), end

    def frame_size(self, index: SupportsIndex) -> int:
        """A record's size on disk, in bytes."""
        _, start, end = self._frame(index)
        return end - start

    def __getitem__(self, index: SupportsIndex) -> bytes:
        shard, start, end = self._frame(index)
        try:
            frame = os.pread(self._descriptor(shard), end - start, start)
        except OSError as error:
            what = f"the record cannot be read: {error.strerror}"
            raise CorruptShardError(what, where=self.where(index), hint=_RESTORE) from error
        if len(frame) < _OVERHEAD:
            raise CorruptShardError("the shard ends inside a record", where=self.where(index), hint=_RESTORE)
        length, length_crc = _HEADER.unpack_from(frame)
        if length_crc != masked_crc32c(frame[:8]):
            raise _length_error(length, self.where(index))
        if length + _OVERHEAD != len(frame):
            raise CorruptShardError(
                f"the record is {length} bytes long where the index has room for {len(frame) - _OVERHEAD}",
                where=self.where(index),
                hint=f"delete {index_path(self.shards[shard]).name} if it is another shard's; otherwise {_RESTORE}",
            )
        data, (crc,) = frame[_HEADER.size : -_CRC.size], _CRC.unpack_from(frame, len(frame) - _CRC.size)
        if crc != masked_crc32c(data):
            raise CorruptShardError(
                "the checksum of the record's data does not match: either of the two is damaged",
                where=self.where(index),
                hint=_RESTORE,
            )
        return data

    def _descriptor(self, shard: int) -> int:
        descriptor = self._descriptors.get(shard)
        if descriptor is None:
            with self._lock:
                descriptor = self._descriptors.get(shard)
                if descriptor is None:
                    descriptor = self._descriptors[shard] = os.open(self.shards[shard], os.O_RDONLY)
        return descriptor

    def close(self) -> None:
        """Closes the files; reading again opens them anew."""
        with self._lock:
            for descriptor in self._descriptors.values():
                os.close(descriptor)
            self._descriptors.clear()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # When the interpreter ends, what `close` needs may be gone; the files are closed anyway.
        if hasattr(self, "_lock") and not is_finalizing():
            self.close()
