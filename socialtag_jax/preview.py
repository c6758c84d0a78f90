"""A contact sheet of a data set: what the network gets to see, plain and augmented."""

from pathlib import Path

import cv2
import numpy as np

from socialtag_jax import augment, files
from socialtag_jax.config import Augmentation
from socialtag_jax.shards.dataset import Dataset
from socialtag_jax.shards.pixels import decode

_GAP = 4


def contact_sheet(
    dataset: Dataset, split: str, *, rows: int, columns: int, size: int, augmentation: Augmentation, seed: int
) -> np.ndarray:
    """Draws photos at random; the first column is the plain input, the others are augmented versions of it.

    With augmentation switched off, every cell is another photo.

    Args:
      dataset: to draw from.
      split: of the data set.
      rows: of the sheet.
      columns: of the sheet.
      size: of a cell, in pixels.
      augmentation: how to augment.
      seed: of the choice and of the augmentation.

    Returns:
      uint8 [rows * (size + gap) + gap, columns * (size + gap) + gap, 3], RGB, on white.
    """
    records = dataset.records(split)
    rng = np.random.default_rng(seed)
    sheet = np.full((rows * (size + _GAP) + _GAP, columns * (size + _GAP) + _GAP, 3), 255, np.uint8)
    photos = rng.permutation(len(records))
    shown = rows if augmentation.enabled else rows * columns
    cell = np.empty((size, size, 3), np.uint8)
    for position in range(rows * columns):
        row, column = divmod(position, columns)
        number = row if augmentation.enabled else position
        if number >= min(shown, len(records)):
            break
        image = decode(records[int(photos[number])].image, size)
        plain = column == 0 or not augmentation.enabled
        drawn = augment.Affine() if plain else augment.draw(augmentation, rng.random(augment.DRAWS))
        augment.warp(image, augment.matrix(drawn, size), cell)
        top, left = row * (size + _GAP) + _GAP, column * (size + _GAP) + _GAP
        sheet[top : top + size, left : left + size] = cell
    return sheet


def write_png(pixels: np.ndarray, path: Path) -> None:
    """Writes RGB pixels (uint8 [height, width, 3]) as a PNG file, atomically."""
    _, data = cv2.imencode(".png", pixels[..., ::-1])
    files.write_bytes(path, data.tobytes())
