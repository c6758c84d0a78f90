"""The parallel part of `prepare`: chunks of photos -> files of canonical images, in worker processes.

A worker imports this module and little else, so that starting it costs a fraction of a second. A chunk's file is a
TFRecord file: first a JSON record of what was kept and what was rejected, then the kept images in order. It is written
whole or not at all, which makes a killed `prepare` resumable.
"""

import concurrent.futures
import contextlib
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
      stream: where progress is shown.
    """

    def __init__(
        self, paths: Sequence[Path], folder: Path, image_size: int, workers: int | None, stream: TextIO
    ) -> None:
        self.files = [folder / f"chunk-{start:09d}" for start in range(0, len(paths), CHUNK_PHOTOS)]
        self._total = len(paths)
        missing = [number for number, file in enumerate(self.files) if not file.exists()]
        count = min(workers or usable_cores(), max(len(missing), 1))
        # Spawned, not forked: a forked child inherits the locks that other threads of this process happened to hold.
        context = multiprocessing.get_context("spawn")
        self._pool = concurrent.futures.ProcessPoolExecutor(count, context, _watch_parent)
        self._sizes: dict[concurrent.futures.Future[None], int] = {}
        # The first submission starts the workers.
        with _interrupts_ignored():
            for number in missing:
                chunk = paths[number * CHUNK_PHOTOS : (number + 1) * CHUNK_PHOTOS]
                self._sizes[self._pool.submit(write_chunk, chunk, self.files[number], image_size)] = len(chunk)
        done = self._total - sum(self._sizes.values())
        self._progress = Progress("prepare", self._total, "images", stream, done=done)
        self._done = done

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
            for future in concurrent.futures.as_completed(self._sizes):
                future.result()
                self._done += self._sizes[future]
                self._progress.update(self._done)
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                "a worker process died (out of memory?)",
                hint="run the same command again with fewer --workers: it goes on where it stopped",
            ) from error
        self._progress.finish(self._done)


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
