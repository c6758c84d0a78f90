"""Suggestions for files and folders of photos: decoded by threads while the device scores the photos before them."""

import collections
import csv
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np

from socialtag_jax import files
from socialtag_jax.dispatch import one_ahead
from socialtag_jax.errors import UsageError, UserError, printable
from socialtag_jax.machine import usable_cores
from socialtag_jax.progress import Progress
from socialtag_jax.shards.images import ImageError
from socialtag_jax.tagger import MAX_BATCH, SuggestedTag, Tagger

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".jp2"}
)
"""Of the files that count as photos when a folder is searched; a file that is named is read whatever its suffix."""

_SHOWN_SUFFIXES = 5
_DECODED_AHEAD = 2 * MAX_BATCH
"""Photos that wait decoded, at most: 10 MB of pixels at 224 px."""


@dataclass(frozen=True)
class FoundPhotos:
    """What a search found.

    Attributes:
      photos: to read, in order.
      skipped: files in the folders that do not count as photos: suffix in lower case -> how many.
    """

    photos: Sequence[Path]
    skipped: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Prediction:
    """A photo's suggestions, most confident first."""

    path: Path
    tags: Sequence[SuggestedTag]


def find_photos(paths: Iterable[Path]) -> FoundPhotos:
    """The files among `paths`, and all photos below the folders among them, sorted within each folder.

    Raises:
      UsageError: a path that does not exist.
      UserError: a folder without photos, which says what else it has; a folder that cannot be read.
    """
    photos: list[Path] = []
    skipped: collections.Counter[str] = collections.Counter()
    for path in paths:
        if path.is_dir():
            found, others = [], collections.Counter[str]()
            for folder, _, names in os.walk(path, onerror=_refuse):
                for file in (Path(folder, name) for name in names):
                    if file.suffix.lower() in SUFFIXES:
                        found.append(file)
                    else:
                        others[file.suffix.lower()] += 1
            if not found:
                what = f", but {skipped_text(others)}" if others else ""
                raise UserError(f"no image files in the folder{what}", where=path)
            photos.extend(sorted(found))
            skipped += others
        elif path.exists():
            photos.append(path)
        else:
            raise UsageError("no such photo or folder", where=path)
    return FoundPhotos(photos, skipped)


def _refuse(error: OSError) -> None:
    """Photos in a folder that cannot be read must not be left out without a word."""
    raise UserError(f"cannot be read: {error.strerror}", where=error.filename) from error


def skipped_text(skipped: Mapping[str, int]) -> str:
    """`12 other files (8 .heic, 4 without suffix)`, the most frequent suffixes first."""
    ordered = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{number:,} {suffix or 'without suffix'}" for suffix, number in ordered[:_SHOWN_SUFFIXES]]
    shown += ["…"] if len(ordered) > _SHOWN_SUFFIXES else []
    number = sum(skipped.values())
    return f"{number:,} other file{'' if number == 1 else 's'} ({', '.join(shown)})"


def predict(
    tagger: Tagger,
    photos: Sequence[Path],
    *,
    threshold: float | None,
    max_tags: int | None,
    log: Callable[[str], None],
    stream: TextIO,
) -> Iterator[Prediction]:
    """Suggests tags for every photo that can be read, in order; the others are logged and left out.

    A photo's tags are those of `Tagger.suggest`. One thread a core decodes; what waits decoded is bounded. With more
    photos than fit into a batch, progress is shown, which is off the terminal whenever a prediction is handed out.

    Args:
      tagger: the model.
      photos: to read.
      threshold: only tags with a confidence over it; None for the bundle's.
      max_tags: at most so many; None for the bundle's.
      log: takes one line of text at a time.
      stream: where progress is shown.
    """
    progress = Progress("predict", len(photos), "photos", stream) if len(photos) > MAX_BATCH else None
    # The threads below use the cores; OpenCV's would only contend with them.
    cv2.setNumThreads(1)
    unreadable = 0

    def readable(decoded: Iterable[tuple[Path, np.ndarray | ImageError]]) -> Iterator[tuple[Path, np.ndarray]]:
        nonlocal unreadable
        for photo, pixels in decoded:
            if isinstance(pixels, ImageError):
                unreadable += 1
                if progress is not None:
                    progress.clear()
                log(f"socialtag: error: {pixels}")
            else:
                yield photo, pixels

    def launch(batch: Sequence[tuple[Path, np.ndarray]]) -> Callable[[], np.ndarray]:
        return functools.partial(np.asarray, tagger.launch(np.stack([pixels for _, pixels in batch])))

    done = 0
    pool = ThreadPoolExecutor(usable_cores())
    try:
        for batch, scores in one_ahead(_batches(readable(_decode_ahead(pool, tagger, photos))), launch):
            if progress is not None:
                progress.clear()
            for (photo, _), row in zip(batch, scores[: len(batch)], strict=True):
                yield Prediction(photo, tagger.choose(row, threshold, max_tags))
            done += len(batch)
            if progress is not None:
                progress.update(done + unreadable)
    finally:
        pool.shutdown(cancel_futures=True)
    if progress is not None:
        progress.finish(len(photos))


def _decode_ahead(
    pool: ThreadPoolExecutor, tagger: Tagger, photos: Iterable[Path]
) -> Iterator[tuple[Path, np.ndarray | ImageError]]:
    """Each photo's pixels, or why it has none, in order."""

    def decode(photo: Path) -> np.ndarray | ImageError:
        try:
            return tagger.pixels(photo)
        except ImageError as error:
            return error

    waiting: collections.deque[tuple[Path, Future[np.ndarray | ImageError]]] = collections.deque()
    for photo in itertools.chain(photos, itertools.repeat(None)):
        if photo is not None:
            waiting.append((photo, pool.submit(decode, photo)))
            if len(waiting) < _DECODED_AHEAD:
                continue
        if not waiting:
            return
        first, pixels = waiting.popleft()
        yield first, pixels.result()


def _batches(items: Iterator[tuple[Path, np.ndarray]]) -> Iterator[Sequence[tuple[Path, np.ndarray]]]:
    while batch := list(itertools.islice(items, MAX_BATCH)):
        yield batch


def as_json(prediction: Prediction) -> dict[str, Any]:
    """A dict of "path", and "tags" with "tag", "display" and "confidence"."""
    tags = [{"tag": one.tag, "display": one.display, "confidence": _rounded(one)} for one in prediction.tags]
    return {"path": str(prediction.path), "tags": tags}


def as_text(prediction: Prediction) -> str:
    """`photo.jpg: Beach 0.93  sunset 0.41`."""
    tags = "  ".join(f"{one.display} {one.confidence:.2f}" for one in prediction.tags)
    path = str(prediction.path).replace("\n", "\\n")
    return printable(f"{path}: {tags or '(no tag over the threshold)'}")


def write_csv(predictions: Iterable[Prediction], path: Path) -> int:
    """Writes one row a suggestion as they come: path, tag, display, confidence; all of them, or no file.

    A photo without suggestions has one row, with nothing but its path.

    Returns:
      the number of predictions.
    """
    count = 0
    with (
        files.atomic_path(path) as temporary,
        # As `files.write_text`: file names that are not UTF-8 come back as the bytes that they are.
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "tag", "display", "confidence"))
        for count, prediction in enumerate(predictions, start=1):  # noqa: B007
            for one in prediction.tags:
                writer.writerow((prediction.path, one.tag, one.display, _rounded(one)))
            if not prediction.tags:
                writer.writerow((prediction.path, "", "", ""))
    return count


def _rounded(one: SuggestedTag) -> float:
    return round(one.confidence, 6)
