"""Small folders of photos that tests make for themselves."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from socialtag_jax.shards.prepare import PrepareOptions, PrepareResult, prepare
from socialtag_jax.sources import tags_csv

COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 210)}


def draw(path: Path, tags: Sequence[str], seed: int, size: tuple[int, int] = (80, 60)) -> None:
    """A noisy photo in the colour of its first tag."""
    rng = np.random.default_rng(seed)
    colour = np.array(COLOURS.get(tags[0] if tags else "", (128, 128, 128)))
    pixels = np.clip(colour + rng.normal(0, 25, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels[..., ::-1])


def photo_folder(folder: Path, rows: Mapping[str, tuple[Sequence[str], str | None]]) -> Path:
    """A folder with a photo a row and its tags.csv; rows: path -> (tags, split or None)."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = any(split for _, split in rows.values())
    with (folder / "tags.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "tags", "split"] if splits else ["path", "tags"])
        for number, (name, (tags, split)) in enumerate(rows.items()):
            draw(folder / name, tags, number)
            writer.writerow([name, " ".join(tags), split] if splits else [name, " ".join(tags)])
    return folder


def colour_rows(count: int) -> dict[str, tuple[list[str], str]]:
    """`count` photos, a third of each colour, eight of ten in train."""
    names = list(COLOURS)
    splits = ["train"] * 8 + ["validation", "test"]
    rows = {}
    for number in range(count):
        tags = [names[number % 3]] + (["even"] if number % 2 == 0 else [])
        rows[f"photos/{number:03d}.png"] = (tags, splits[number % 10])
    return rows


def library(folder: Path, count: int, broken: Sequence[int] = ()) -> Path:
    """Photos in sub-folders, some of which cannot be read."""
    for number in range(count):
        path = folder / f"{number % 3}" / f"{number:03d}.png"
        draw(path, [list(COLOURS)[number % 3]], number, (40, 30))
        if number in broken:
            path.write_bytes(path.read_bytes()[:100])
    return folder


def prepared(
    source: Path, output: Path, *, log: Callable[[str], None] = lambda _: None, **options: object
) -> PrepareResult:
    """Prepares a photo folder, without a word unless `log` takes it."""
    import io

    photos = tags_csv.read(source, warn=lambda _: None)
    chosen = PrepareOptions(**{"name": "demo", "workers": 1, **options})  # pyright: ignore[reportArgumentType]
    return prepare(photos, output, chosen, log=log, stream=io.StringIO())
