"""The parallel part of `prepare`: chunks of photos -> files of canonical images, in worker processes.

A worker imports this module and little else, so that starting it costs a fraction of a second. A chunk's file is a
TFRecord file: first a JSON record of what was kept and what was rejected, then the kept images in order. It is written
whole or not at all, which makes a killed `prepare` resumable.
"""

import concurrent.futures
import json
import multiprocessing
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from socialtag_jax.errors import UserError
from socialtag_jax.machine import usable_cores
from socialtag_jax.progress import Progress
from socialtag_jax.shards.images import ImageError, canonical_jpeg
from socialtag_jax.shards.tfrecord import RecordSource, write_records

CHUNK_PHOTOS = 64


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What became of a chunk's photos.

    Attributes:
      kept: positions in the chunk, ascending, of the photos whose image was written.
      rejected: (position in the chunk, reason) of the others.
    """

    kept: list[int]
    rejected: list[tuple[int, str]]


def write_chunk(paths: Sequence[Path], output: Path, image_size: int) -> None:
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
    write_records(output, iter([header, *images]))


def read_chunk(path: Path) -> tuple[ChunkResult, RecordSource]:
    """The result of a written chunk, and its records: image k of `kept` is record k + 1. No file stays open."""
    source = RecordSource([path], keep_indexes=False)
    header = json.loads(source[0])
    source.close()
    return ChunkResult(header["kept"], [(position, reason) for position, reason in header["rejected"]]), source


class ChunkPool:
    """Writes the chunk files of a list of photos that are still missing, on as many processes as are wanted.

    Work starts at once; `wait` shows progress until it is done. Leaving the block early drops what has not begun.

    Args:
      paths: all photos, in order.
      folder: where the chunk files go, and where those of an interrupted run are found.
      image_size: of the canonical images.
      workers: processes; None for one a usable core.
    """

    def __init__(self, paths: Sequence[Path], folder: Path, image_size: int, workers: int | None) -> None:
        self.files = [folder / f"chunk-{start:09d}" for start in range(0, len(paths), CHUNK_PHOTOS)]
        self._total = len(paths)
        missing = [number for number, file in enumerate(self.files) if not file.exists()]
        count = min(workers or usable_cores(), max(len(missing), 1))
        # Spawned, not forked: a forked child inherits the locks that other threads of this process happened to hold.
        context = multiprocessing.get_context("spawn")
        self._pool = concurrent.futures.ProcessPoolExecutor(count, context, _ignore_interrupts)
        self._sizes: dict[concurrent.futures.Future[None], int] = {}
        for number in missing:
            chunk = paths[number * CHUNK_PHOTOS : (number + 1) * CHUNK_PHOTOS]
            self._sizes[self._pool.submit(write_chunk, chunk, self.files[number], image_size)] = len(chunk)

    def __enter__(self) -> "ChunkPool":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def wait(self, stream: TextIO) -> None:
        """Waits until every chunk file is there.

        Raises:
          UserError: a worker process died.
        """
        done = self._total - sum(self._sizes.values())
        progress = Progress("prepare", self._total, "images", stream, done=done)
        try:
            for future in concurrent.futures.as_completed(self._sizes):
                future.result()
                done += self._sizes[future]
                progress.update(done)
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                "a worker process died (out of memory?)",
                hint="run the same command again with fewer --workers: it goes on where it stopped",
            ) from error
        progress.finish(done)


def _ignore_interrupts() -> None:
    """Ctrl-C reaches every process of a terminal; the main one tells the workers to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
