"""Data sets as found on disk -> photos."""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from socialtag_jax.errors import UsageError
from socialtag_jax.sources.photo import Photo

LABELLED_SOURCES = ("tags-csv", "harrison", "mirflickr")
"""What `socialtag stats --source` reads."""

SOURCES = (*LABELLED_SOURCES, "postcards")
"""What `socialtag prepare --source` reads."""


_LOG_SECONDS = 10
_CLOCK_PHOTOS = 1000


@dataclass(frozen=True)
class SourceOptions:
    """Where a source lies, and how it is to be read.

    Attributes:
      source: one of `SOURCES`.
      path: a CSV file or its folder (tags-csv), the folder of the lists (harrison), of MIRFLICKR, or where to draw
        (postcards).
      tag_separator: between the tags of a cell (tags-csv).
      overlay: a folder of images that replace others by the same relative path (harrison).
      allow_outside: takes photos that lie outside the CSV file's folder (tags-csv).
      need_images: False where only the labels are wanted.
      seed: of the drawings (postcards).
      workers: processes that draw; None for one a core (postcards).
    """

    source: str
    path: Path
    tag_separator: str = " "
    overlay: Path | None = None
    allow_outside: bool = False
    need_images: bool = True
    seed: int = 0
    workers: int | None = None


def read(options: SourceOptions, log: Callable[[str], None]) -> Iterator[Photo]:
    """The photos of a source, one by one; logs how far it has come where that takes long.

    Raises:
      UsageError: an option that the source does not have.
      UserError: as the source's own `read`.
    """
    if options.overlay is not None and options.source != "harrison":
        raise UsageError(f"the source {options.source} has no overlay", where="--overlay")
    if options.allow_outside and options.source != "tags-csv":
        raise UsageError(f"the source {options.source} lists no paths in a CSV file", where="--allow-outside")
    last = time.monotonic()
    count = 0
    for photo in _photos(options, log):
        yield photo
        count += 1
        if count % _CLOCK_PHOTOS == 0 and time.monotonic() - last >= _LOG_SECONDS:
            last = time.monotonic()
            log(f"read the labels of {count:,} photos")
    log(f"{count:,} photos in {options.path}")


def _photos(options: SourceOptions, log: Callable[[str], None]) -> Iterable[Photo]:
    def warn(text: str) -> None:
        log(f"warning: {text}")

    if options.source == "harrison":
        from socialtag_jax.sources import harrison

        return harrison.read(options.path, overlay=options.overlay, need_images=options.need_images, warn=warn)
    if options.source == "mirflickr":
        from socialtag_jax.sources import mirflickr

        return mirflickr.read(options.path, need_images=options.need_images, warn=warn)
    from socialtag_jax.sources import tags_csv

    path = options.path
    if options.source == "postcards":
        from socialtag_jax.sources import postcards

        log(f"drawing postcards in {path}")
        path = postcards.render(path, seed=options.seed, workers=options.workers)
    return tags_csv.read(path, tag_separator=options.tag_separator, allow_outside=options.allow_outside, warn=warn)


def dataset_name(source: str, path: Path) -> str:
    """A TFDS name for a data set that was given none: the source's own, or from the CSV file's folder."""
    if source != "tags-csv":
        return source
    folder = path.parent if path.is_file() else path
    name = re.sub(r"[^a-z0-9]+", "_", folder.resolve().name.lower()).strip("_")
    return name if name[:1].isalpha() else f"photos_{name}".rstrip("_")
