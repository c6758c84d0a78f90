"""A demo data set that needs no download: tagged picture postcards, drawn by code.

Sea, beach, mountains, lake, city, forest, meadow, desert and close-ups, by day, at sunset and at night, in all weathers
and three seasons, in colour, black-and-white and sepia. The content tags are true of the picture, though the uploader
forgets one in ten; the social tags (`SOCIAL_RATES`) are drawn at random, so that no model can learn them.
"""

import csv
import io
import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from socialtag_jax.errors import UserError
from socialtag_jax.machine import usable_cores
from socialtag_jax.sources.postcard_art.painting import paint
from socialtag_jax.sources.postcard_art.plan import SOCIAL_RATES, plan_postcard, random_streams

__all__ = ["SOCIAL_RATES", "draw_postcard", "plan_postcard", "render"]

_EDITION = 1  # Raise it when a change of the drawings makes old and new postcards unfit for one data set.
_JPEG_QUALITY = 90
_CHUNK = 16


def draw_postcard(index: int, seed: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Draws one postcard, which depends on the two numbers alone.

    Args:
      index: which postcard of the data set, from 0.
      seed: which data set, from 0.

    Returns:
      The picture, uint8 [H, W, 3], RGB: 240 x 320, sometimes 320 x 240 or 240 x 240. And what its uploader wrote under
      it: content tags, then social tags. `plan_postcard` gives the tags, and more, without drawing.
    """
    plan = plan_postcard(index, seed)
    _, _, painter = random_streams(index, seed)
    return paint(plan, painter), plan.tags


def render(folder: Path, *, count: int = 1200, seed: int = 0, workers: int | None = None) -> Path:
    """Draws the data set into `folder`: `images/0000.jpg` and so on, and `tags.csv`, which is written last.

    A folder that was begun with the same count and seed is continued, a finished one is left alone: rendering twice
    costs nothing. Nothing is ever deleted or overwritten.

    Args:
      folder: a folder that does not exist, is empty, or holds this very data set, whole or in part.
      count: how many postcards.
      seed: which data set; the same number draws the same postcards.
      workers: how many processes draw; as many as there are cores unless given. The result does not depend on it.

    Returns:
      The path of `tags.csv`: columns `path` (relative to `folder`) and `tags` (separated by spaces).

    Raises:
      UserError: `folder` holds something else, or cannot be written.
    """
    for name, value, least in (("count", count, 1), ("seed", seed, 0), ("workers", workers or 1, 1)):
        if value < least:
            raise UserError(f"{name} is {value}, expected {least} or more", where=folder)
    folder, tags_csv = Path(folder), Path(folder) / "tags.csv"
    try:
        _claim(folder, {"edition": _EDITION, "count": count, "seed": seed})
        if not tags_csv.exists():
            _draw_missing(folder, count, seed, workers or usable_cores())
            _write(tags_csv, _tags_table(count, seed).encode())
    except OSError as error:
        raise UserError(f"cannot write the postcards: {error.strerror}", where=error.filename or folder) from error
    return tags_csv


def _claim(folder: Path, identity: dict[str, int]) -> None:
    """Makes `folder` this data set's, by a note of its identity; refuses to if it is anybody else's."""
    note = folder / "postcards.json"
    if folder.exists() and not folder.is_dir():
        raise UserError("is a file, expected a folder", where=folder, hint="name a new folder for the postcards")
    if not note.exists():
        if folder.exists() and any(folder.iterdir()):
            raise UserError(
                "is not empty, and not a folder of postcards", where=folder, hint="name a new folder, or empty this one"
            )
        (folder / "images").mkdir(parents=True)
        _write(note, json.dumps(identity).encode())
        return
    try:
        found = json.loads(note.read_text())
    except ValueError:
        found = note.name + " that cannot be read"
    if found != identity:
        raise UserError(
            f"holds other postcards: found {found}, expected {identity}", where=folder, hint="name a new folder"
        )


def _draw_missing(folder: Path, count: int, seed: int, workers: int) -> None:
    (folder / "images").mkdir(exist_ok=True)
    missing = [index for index in range(count) if not _image_path(folder, index).exists()]
    chunks = [missing[first : first + _CHUNK] for first in range(0, len(missing), _CHUNK)]
    draw = partial(_draw_files, folder, seed)
    if workers == 1 or len(chunks) < 2:
        for chunk in chunks:
            draw(chunk)
        return
    # Processes, because half of the time goes into Python code that holds the interpreter lock; spawned, because
    # the caller may have started JAX's threads, which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(chunks)), context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        for _ in pool.map(draw, chunks):
            pass  # the results are files; iterating raises what a worker raised


def _draw_files(folder: Path, seed: int, indices: Sequence[int]) -> None:
    for index in indices:
        picture, _ = draw_postcard(index, seed)
        jpeg = io.BytesIO()
        Image.fromarray(picture).save(jpeg, "JPEG", quality=_JPEG_QUALITY)
        _write(_image_path(folder, index), jpeg.getvalue())


def _image_path(folder: Path, index: int) -> Path:
    return folder / "images" / f"{index:04d}.jpg"


def _tags_table(count: int, seed: int) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("path", "tags"))
    for index in range(count):
        path = _image_path(Path(), index).as_posix()
        writer.writerow((path, " ".join(plan_postcard(index, seed).tags)))
    return table.getvalue()


def _write(path: Path, content: bytes) -> None:
    """Writes a file so that it is there in full or not at all, whenever the program is stopped."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)
