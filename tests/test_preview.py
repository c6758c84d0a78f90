"""The contact sheet, cell by cell."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from socialtag_jax.config import Augmentation
from socialtag_jax.preview import contact_sheet, write_png
from socialtag_jax.shards.dataset import Dataset, open_dataset
from tests.photos import colour_rows, photo_folder, prepared


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = photo_folder(tmp_path_factory.mktemp("source"), colour_rows(20))
    return open_dataset(prepared(folder, tmp_path_factory.mktemp("data")).folder)


def cells(sheet: np.ndarray, rows: int, columns: int, size: int) -> list[np.ndarray]:
    step = size + 4
    return [
        sheet[row * step + 4 : (row + 1) * step, column * step + 4 : (column + 1) * step]
        for row in range(rows)
        for column in range(columns)
    ]


def test_augmented_rows_show_one_photo_each(dataset: Dataset, tmp_path: Path):
    options = {"rows": 3, "columns": 4, "size": 32, "seed": 1}
    sheet = contact_sheet(dataset, "train", augmentation=Augmentation(), **options)
    assert (sheet.shape, sheet.dtype) == ((3 * 36 + 4, 4 * 36 + 4, 3), np.uint8)
    found = cells(sheet, 3, 4, 32)
    assert len({cell.tobytes() for cell in found}) == 12
    # A photo and its augmented versions share their colour; the plain ones are those of a plain sheet.
    for row in range(3):
        means = np.array([cell.mean(axis=(0, 1)) for cell in found[row * 4 : row * 4 + 4]])
        assert np.ptp(means, axis=0).max() < 30
    plain = cells(
        contact_sheet(dataset, "train", augmentation=Augmentation(enabled=False), **{**options, "columns": 1}), 3, 1, 32
    )
    assert [cell.tobytes() for cell in plain] == [found[row * 4].tobytes() for row in range(3)]
    write_png(sheet, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        np.testing.assert_array_equal(np.asarray(image), sheet)


def test_a_small_split_leaves_cells_white(dataset: Dataset):
    sheet = contact_sheet(dataset, "test", rows=2, columns=3, size=32, augmentation=Augmentation(enabled=False), seed=0)
    assert [bool((cell == 255).all()) for cell in cells(sheet, 2, 3, 32)] == [False, False, True, True, True, True]
