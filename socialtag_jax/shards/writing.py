"""The last part of `prepare`: canonical images in chunk files -> the shards of each split, and what describes them."""

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from socialtag_jax.labels import Labels
from socialtag_jax.progress import Progress
from socialtag_jax.shards import chunks
from socialtag_jax.shards.dataset import SplitShards
from socialtag_jax.shards.example import Record, encode_example
from socialtag_jax.shards.near_duplicates import HASH_BYTES
from socialtag_jax.shards.tfrecord import RecordSource, write_shard
from socialtag_jax.sources.table import PhotoTable

_SHARD_BYTES = 128 * 2**20


@dataclass(frozen=True, eq=False)
class CanonicalImages:
    """The images that could be decoded, in record order.

    Attributes:
      chunks: the chunk files' records.
      photos: int64 [images], the photo's index in the table of all photos, ascending.
      records: int32 [images], the image's record number in its chunk file.
      sizes: int64 [images], of the image in its chunk file, in bytes.
      hashes: uint8 [images, 18], see `near_duplicates.perceptual_hash`.
      rejected: (index in the table, reason) of the photos that could not be decoded.
    """

    chunks: Sequence[RecordSource]
    photos: np.ndarray
    records: np.ndarray
    sizes: np.ndarray
    hashes: np.ndarray
    rejected: Sequence[tuple[int, str]]

    def __len__(self) -> int:
        return len(self.photos)

    def take(self, kept: np.ndarray) -> "CanonicalImages":
        """Those where the mask, bool [images], is true."""
        return CanonicalImages(
            self.chunks, self.photos[kept], self.records[kept], self.sizes[kept], self.hashes[kept], self.rejected
        )


def read_chunks(paths: Sequence[Path], total: int) -> CanonicalImages:
    """What became of all `total` photos.

    Raises:
      AssertionError: photos in are not photos kept + rejected.
    """
    sources: list[RecordSource] = []
    photos: list[int] = []
    records: list[int] = []
    sizes: list[int] = []
    hashes: list[bytes] = []
    rejected: list[tuple[int, str]] = []
    for number, path in enumerate(paths):
        result, source = chunks.read_chunk(path)
        sources.append(source)
        first = number * chunks.CHUNK_PHOTOS
        photos.extend(first + position for position in result.kept)
        records.extend(range(1, len(result.kept) + 1))
        sizes.extend(source.frame_size(record) for record in range(1, len(result.kept) + 1))
        hashes.append(b"".join(result.hashes))
        rejected.extend((first + position, reason) for position, reason in result.rejected)
    if len(photos) + len(rejected) != total:
        raise AssertionError(f"{total} photos in, {len(photos)} kept + {len(rejected)} rejected")
    return CanonicalImages(
        chunks=sources,
        photos=np.array(photos, np.int64),
        records=np.array(records, np.int32),
        sizes=np.array(sizes, np.int64),
        hashes=np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH_BYTES),
        rejected=rejected,
    )


def write_split(
    split: str,
    images: CanonicalImages,
    photos: PhotoTable,
    labels: Labels,
    folder: Path,
    name: str,
    progress: Progress,
    done: int,
) -> SplitShards:
    """Writes one split's shards, `NAME-SPLIT.tfrecord-00000-of-00008`.

    Args:
      split: its name.
      images: its images, in record order.
      photos: the table that `images.photos` points into.
      labels: with tag indices that are the vocabulary's.
      folder: where the shards go.
      name: the data set's.
      progress: is updated as images are written.
      done: images of other splits that are written already.
    """

    def encoded() -> Iterator[bytes]:
        previous = None
        for index, record in zip(images.photos.tolist(), images.records.tolist(), strict=True):
            source = images.chunks[index // chunks.CHUNK_PHOTOS]
            # A large data set has more chunk files than a process may hold open.
            if previous is not None and previous is not source:
                previous.close()
            previous = source
            tags = labels.of(int(photos.positions[index]))
            yield encode_example(Record(source[record], photos.image_id(index), tags))
        if previous is not None:
            previous.close()

    # Sizes are needed before the first byte is written, since the number of shards is part of every name.
    count = max(1, min(len(images), -(-int(images.sizes.sum()) // _SHARD_BYTES)))
    lengths = [len(part) for part in np.array_split(np.arange(len(images)), count)]
    records = encoded()
    size = written = 0
    for number, length in enumerate(lengths):
        shard = folder / f"{name}-{split}.tfrecord-{number:05d}-of-{count:05d}"
        write_shard(shard, itertools.islice(records, length))
        size += shard.stat().st_size
        written += length
        progress.update(done + written)
    return SplitShards(lengths, size)


def rejects_csv(rejects: Iterable[tuple[str, str, str]]) -> str:
    """The photos that could not be decoded, as CSV text: image id, reason, and the row that names each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image_id", "reason", "where"))
    writer.writerows(sorted(rejects))
    return text.getvalue()
