"""Suggestions for files and folders of photos."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from socialtag_jax import files
from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.shards.images import ImageError
from socialtag_jax.tagger import Tagger

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".jp2"})
"""Of the files that count as photos when a folder is searched; a file that is named is read whatever its suffix."""

_BATCH = 32


def find_photos(paths: Iterable[Path]) -> list[Path]:
    """The files among `paths`, and all photos below the folders among them, sorted within each folder.

    Raises:
      UsageError: a path that does not exist.
      UserError: a folder without photos.
    """
    photos: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
            if not found:
                raise UserError("no image files in the folder", where=path)
            photos.extend(found)
        elif path.exists():
            photos.append(path)
        else:
            raise UsageError("no such photo or folder", where=path)
    return photos


def predict(
    tagger: Tagger,
    photos: Sequence[Path],
    *,
    threshold: float | None,
    max_tags: int | None,
    log: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Suggests tags for every photo that can be read; the others are logged and left out.

    Returns:
      one dict a photo: "path", and "tags" with "tag", "display" and "confidence", most confident first.
    """
    results = []
    for start in range(0, len(photos), _BATCH):
        readable, images = [], []
        for photo in photos[start : start + _BATCH]:
            try:
                images.append(tagger.pixels(photo))
                readable.append(photo)
            except ImageError as error:
                log(f"socialtag: error: {error}")
        if not readable:
            continue
        for photo, row in zip(readable, tagger.probabilities(np.stack(images)), strict=True):
            tags = [
                {"tag": one.tag, "display": one.display, "confidence": round(one.confidence, 6)}
                for one in tagger.choose(row, threshold, max_tags)
            ]
            results.append({"path": str(photo), "tags": tags})
    return results


def write_csv(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes one row a suggestion: path, tag, display, confidence; atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "tag", "display", "confidence"))
    for result in results:
        for one in result["tags"]:
            writer.writerow((result["path"], one["tag"], one["display"], one["confidence"]))
    files.write_text(path, text.getvalue())
