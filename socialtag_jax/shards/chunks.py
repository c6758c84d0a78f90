"""The parallel part of `prepare`: chunks of photos -> files of canonical images.

A worker process imports this module and little else, so that starting it costs a fraction of a second. A chunk's file
is a TFRecord file: first a JSON record of what was kept and what was rejected, then the kept images in order. It is
written whole or not at all, which makes a killed `prepare` resumable.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from socialtag_jax.shards.images import ImageError, canonical_jpeg
from socialtag_jax.shards.tfrecord import RecordSource, write_shard


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What became of a chunk's photos.

    Attributes:
      kept: positions in the chunk, ascending, of the photos whose image was written.
      rejected: (position in the chunk, reason) of the others.
    """

    kept: list[int]
    rejected: list[tuple[int, str]]


def write_chunk(paths: Sequence[Path], output: Path, image_size: int) -> ChunkResult:
    """Canonicalises the photos at `paths` into the chunk file `output`."""
    images: list[bytes] = []
    result = ChunkResult([], [])
    for position, path in enumerate(paths):
        try:
            images.append(canonical_jpeg(path, image_size))
            result.kept.append(position)
        except ImageError as error:
            result.rejected.append((position, error.what))
    header = json.dumps({"kept": result.kept, "rejected": result.rejected}).encode()
    write_shard(output, iter([header, *images]))
    return result


def read_chunk(path: Path) -> tuple[ChunkResult, RecordSource]:
    """The result of a written chunk, and its records: image k of `kept` is record k + 1."""
    source = RecordSource([path])
    header = json.loads(source[0])
    return ChunkResult(header["kept"], [(position, reason) for position, reason in header["rejected"]]), source
