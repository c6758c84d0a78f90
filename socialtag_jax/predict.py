"""Suggestions for many photos: decoded by threads while the device scores the photos before them."""

import collections
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import cv2
import jax
import numpy as np

from socialtag_jax.dispatch import one_ahead
from socialtag_jax.machine import usable_cores
from socialtag_jax.presentation import Choice
from socialtag_jax.progress import Progress, format_duration
from socialtag_jax.shards.images import ImageError
from socialtag_jax.tagger import MAX_BATCH, SuggestedTag, Tagger

_DECODED_AHEAD = 2 * MAX_BATCH
"""Photos that wait decoded, at most: 10 MB of pixels at 224 px."""

_ESTIMATED_FROM = 64 * MAX_BATCH
"""Photos, at least, for whose time an estimate is worth what it costs: two batches."""
_SAMPLE = 8


@dataclass(frozen=True, slots=True)
class Prediction:
    """What became of a photo.

    Attributes:
      path: of the photo.
      tags: its suggestions, most confident first.
      abstained: whether it has none because the best was too weak.
      unreadable: why it could not be read; None where it could.
      sidecar_left: why its sidecar was left alone; None where it was not.
    """

    path: Path
    tags: Sequence[SuggestedTag]
    abstained: bool = False
    unreadable: str | None = None
    sidecar_left: str | None = None


def predict(
    tagger: Tagger,
    photos: Sequence[Path],
    *,
    choose: Callable[[np.ndarray], Choice],
    log: Callable[[str], None],
    stream: TextIO,
    done: int = 0,
) -> Iterator[Prediction]:
    """Suggests tags for photos, in order; those that cannot be read are logged too.

    One thread a core decodes; what waits decoded is bounded. With more photos than fit into a batch, progress is shown,
    which is off the terminal whenever a prediction is handed out. A batch is the next `MAX_BATCH` photos of the list,
    readable or not: whoever goes on with the list from a whole batch gets the same scores, to the last bit.

    Args:
      tagger: the model.
      photos: to read.
      choose: one photo's probabilities (float32 [n_tags]) -> its tags.
      log: takes one line of text at a time.
      stream: where progress is shown.
      done: photos that an earlier run has done, for the progress alone.
    """
    progress = None
    # The threads below use the cores; OpenCV's would only contend with them.
    cv2.setNumThreads(1)
    pool = ThreadPoolExecutor(usable_cores())
    try:
        if len(photos) >= _ESTIMATED_FROM:
            seconds = estimated_seconds(tagger, photos, pool)
            log(f"{len(photos):,} photos: about {format_duration(seconds)}, from a sample")
        if len(photos) > MAX_BATCH:
            progress = Progress("predict", done + len(photos), "photos", stream, done=done)
        for batch, scores in one_ahead(
            _batches(_decode_ahead(pool, tagger, photos)), functools.partial(_launch, tagger)
        ):
            if progress is not None:
                progress.clear()
            rows = iter(scores)
            for photo, pixels in batch:
                if isinstance(pixels, ImageError):
                    log(f"socialtag: error: {pixels}")
                    yield Prediction(photo, (), unreadable=pixels.what)
                else:
                    choice = choose(next(rows))
                    yield Prediction(photo, choice.tags, choice.abstained)
            done += len(batch)
            if progress is not None:
                progress.update(done)
    finally:
        pool.shutdown(cancel_futures=True)
    if progress is not None:
        progress.finish(done)


def estimated_seconds(
    tagger: Tagger, photos: Sequence[Path], pool: ThreadPoolExecutor, clock: Callable[[], float] = time.perf_counter
) -> float:
    """How long these photos will take: a few from all over the list are decoded, and a batch is scored.

    Args:
      tagger: the model.
      photos: at least one.
      pool: of the threads that will decode.
      clock: seconds.
    """
    sample = [photos[round(position)] for position in np.linspace(0, len(photos) - 1, _SAMPLE)]
    start = clock()
    list(pool.map(functools.partial(_decoded, tagger), sample))
    decoding = (clock() - start) / len(sample)
    images = np.zeros((MAX_BATCH, tagger.input_size, tagger.input_size, 3), np.uint8)
    tagger.probabilities(images)  # compiles
    start = clock()
    tagger.probabilities(images)
    scoring = (clock() - start) / MAX_BATCH
    return len(photos) * seconds_a_photo(decoding, scoring, shares_cores=jax.default_backend() == "cpu")


def seconds_a_photo(decoding: float, scoring: float, *, shares_cores: bool) -> float:
    """The time of a photo from that of its parts: both must have the cores, or the slower part sets the pace."""
    return decoding + scoring if shares_cores else max(decoding, scoring)


_Decoded = tuple[Path, np.ndarray | ImageError]


def _launch(tagger: Tagger, batch: Sequence[_Decoded]) -> Callable[[], np.ndarray]:
    """Starts to score what of a batch could be read."""
    images = [pixels for _, pixels in batch if not isinstance(pixels, ImageError)]
    if not images:
        return lambda: np.empty((0, len(tagger.vocabulary)), np.float32)
    return functools.partial(np.asarray, tagger.launch(np.stack(images)))


def _decode_ahead(pool: ThreadPoolExecutor, tagger: Tagger, photos: Iterable[Path]) -> Iterator[_Decoded]:
    """Each photo's pixels, or why it has none, in order."""
    waiting: collections.deque[tuple[Path, Future[np.ndarray | ImageError]]] = collections.deque()
    for photo in itertools.chain(photos, itertools.repeat(None)):
        if photo is not None:
            waiting.append((photo, pool.submit(_decoded, tagger, photo)))
            if len(waiting) < _DECODED_AHEAD:
                continue
        if not waiting:
            return
        first, pixels = waiting.popleft()
        yield first, pixels.result()


def _decoded(tagger: Tagger, photo: Path) -> np.ndarray | ImageError:
    try:
        return tagger.pixels(photo)
    except ImageError as error:
        return error


def _batches(items: Iterator[_Decoded]) -> Iterator[Sequence[_Decoded]]:
    while batch := list(itertools.islice(items, MAX_BATCH)):
        yield batch
