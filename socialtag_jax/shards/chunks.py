"""The parallel part of `prepare`: chunks of photos -> files of canonical images, in worker processes.

A worker imports this module and little else, so that starting it costs a fraction of a second. A chunk's file is a
TFRecord file: first a JSON record of what was kept and what was rejected, then the kept images in order. It is written
whole or not at all, which makes a killed `prepare` resumable.
"""

import concurrent.futures
import contextlib
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from socialtag_jax.errors import UserError
from socialtag_jax.machine import usable_cores
from socialtag_jax.progress import Progress
from socialtag_jax.shards.images import ImageError, canonical_image, encode_jpeg
from socialtag_jax.shards.near_duplicates import perceptual_hash
from socialtag_jax.shards.tfrecord import CorruptShardError, RecordSource, write_records
from socialtag_jax.sources.photo import Photo

FORMAT = 2
"""Of a chunk's file, and of how its images are made: chunks of another one are not used."""

CHUNK_PHOTOS = 64
_CHUNKS_AHEAD = 64
"""Chunks that wait for each worker: enough for the time in which the main process looks for faults."""


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What became of a chunk's photos.

    Attributes:
      kept: positions in the chunk, ascending, of the photos whose image was written.
      hashes: `near_duplicates.perceptual_hash` of each kept image.
      rejected: (position in the chunk, reason) of the others.
    """

    kept: list[int]
    hashes: list[bytes]
    rejected: list[tuple[int, str]]


def write_chunk(paths: Sequence[Path], output: Path, image_size: int) -> None:
    """Canonicalises the photos at `paths` into the chunk file `output`."""
    images: list[bytes] = []
    result = ChunkResult([], [], [])
    for position, path in enumerate(paths):
        try:
            image = canonical_image(path, image_size)
        except ImageError as error:
            result.rejected.append((position, error.what))
            continue
        images.append(encode_jpeg(image))
        result.kept.append(position)
        result.hashes.append(perceptual_hash(image))
    content = {
        "kept": result.kept,
        "hashes": [one.hex() for one in result.hashes],
        "rejected": result.rejected,
    }
    header = json.dumps(content).encode()
    write_records(output, iter([header, *images]))


def read_chunk(path: Path) -> tuple[ChunkResult, RecordSource]:
    """The result of a written chunk, and its records: image k of `kept` is record k + 1. No file stays open.

    Raises:
      CorruptShardError: the file is damaged.
    """
    try:
        source = RecordSource([path], keep_indexes=False)
        header = json.loads(source[0])
        source.close()
        hashes = [bytes.fromhex(one) for one in header["hashes"]]
        rejected = [(position, reason) for position, reason in header["rejected"]]
        result = ChunkResult(header["kept"], hashes, rejected)
        if not len(result.kept) == len(hashes) == len(source) - 1:
            raise ValueError(f"{len(source) - 1} images, expected {len(result.kept)}")
    except (CorruptShardError, IndexError, KeyError, TypeError, ValueError) as error:
        what = error.what if isinstance(error, CorruptShardError) else str(error)
        raise CorruptShardError(
            f"decoded photos that an interrupted run left are damaged: {what}",
            where=path,
            hint="delete the file, and run the same command again: it decodes these photos anew",
        ) from error
    return result, source


class ChunkPool:
    """Writes the chunk files of a list of photos that are still missing, on as many processes as are wanted.

    Work starts at once; `wait` shows progress until it is done. Leaving the block early drops what has not begun.

    Args:
      photos: all of them, in order.
      folder: where the chunk files go, and where those of an interrupted run are found.
      image_size: of the canonical images.
      workers: processes; None for one a usable core.
      stream: where progress is shown.
    """

    def __init__(
        self, photos: Sequence[Photo], folder: Path, image_size: int, workers: int | None, stream: TextIO
    ) -> None:
        self.files = [folder / f"chunk-{start:09d}" for start in range(0, len(photos), CHUNK_PHOTOS)]
        self._photos, self._image_size, self._total = photos, image_size, len(photos)
        missing = [number for number, file in enumerate(self.files) if not file.exists()]
        self._count = min(workers or usable_cores(), max(len(missing), 1))
        # Spawned, not forked: a forked child inherits the locks that other threads of this process happened to hold.
        context = multiprocessing.get_context("spawn")
        self._pool = concurrent.futures.ProcessPoolExecutor(self._count, context, _watch_parent)
        self._done = self._total - sum(len(self._chunk(number)) for number in missing)
        self._missing = iter(missing)
        self._sizes: dict[concurrent.futures.Future[None], int] = {}
        # The first submission starts the workers.
        with _interrupts_ignored():
            self._submit()
        self._progress = Progress("prepare", self._total, "images", stream, done=self._done)

    def __enter__(self) -> "ChunkPool":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def wait(self) -> None:
        """Waits until every chunk file is there.

        Raises:
          UserError: a worker process died.
        """
        try:
            while self._sizes:
                done, _ = concurrent.futures.wait(self._sizes, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    future.result()
                    self._done += self._sizes.pop(future)
                self._submit()
                self._progress.update(self._done)
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                "a worker process died (out of memory?)",
                hint="run the same command again with fewer --workers: it goes on where it stopped",
            ) from error
        self._progress.finish(self._done)

    def _chunk(self, number: int) -> Sequence[Photo]:
        return self._photos[number * CHUNK_PHOTOS : (number + 1) * CHUNK_PHOTOS]

    def _submit(self) -> None:
        """Keeps the workers busy, without unpacking all photos at once."""
        for number in itertools.islice(self._missing, self._count * _CHUNKS_AHEAD - len(self._sizes)):
            paths = [photo.path for photo in self._chunk(number)]
            future = self._pool.submit(write_chunk, paths, self.files[number], self._image_size)
            self._sizes[future] = len(paths)


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started here ignore Ctrl-C from their first instruction: the main process tells them to stop."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _watch_parent() -> None:
    """Ends this worker when the main process is gone, however it went: an orphan would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch(sentinel: int) -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
