"""Photos that look the same: saved again they are found, others are not."""

import csv
import io
import itertools
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from socialtag_jax.shards.images import canonical_image
from socialtag_jax.shards.near_duplicates import (
    HASH_BYTES,
    MAX_DISTANCE,
    NearDuplicate,
    count_by_split,
    find_near_duplicates,
    perceptual_hash,
)
from tests.photos import prepared


def jpeg(image: Image.Image, quality: int = 85) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def bits(*jpegs: bytes) -> np.ndarray:
    return np.array([np.frombuffer(perceptual_hash(canonical_image(data)), np.uint8) for data in jpegs])


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "quality 50": lambda image: jpeg(image, 50),
    "half the size": lambda image: jpeg(image.resize((image.width // 2, image.height // 2))),
    "brighter": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(1.15)),
}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_of_real_photos_are_found(shared_data: Path, copy: str):
    """Of 100 photos of Corel5K and their copies among 1,000 photos: at least 97 right ones, and no wrong one."""
    with zipfile.ZipFile(shared_data / "corel5k.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith((".jpg", ".jpeg")))[::5]
        originals = [archive.read(name) for name in names]
    copies = []
    for data in originals[:100]:
        with Image.open(io.BytesIO(data)) as image:
            copies.append(COPIES[copy](image.convert("RGB")))
    found = find_near_duplicates(bits(*originals, *copies), ["train"] * len(originals) + ["test"] * 100)
    assert len(found) >= 97
    assert all(one.photo - len(originals) == one.other for one in found)


def test_the_search_is_that_of_all_pairs():
    """Against every pair: what differs in at most 3 of the first 64 bits shares one quarter of them for certain."""
    rng = np.random.default_rng(0)
    originals = rng.integers(0, 256, (300, HASH_BYTES), np.uint8)
    changed = np.unpackbits(originals[:200], axis=1)
    for number, row in enumerate(changed):
        row[rng.choice(64, number % 4, replace=False)] ^= 1
        row[64 + rng.choice(80, number % 20, replace=False)] ^= 1
    hashes = np.concatenate([originals, np.packbits(changed, axis=1)])
    splits = rng.choice(["train", "validation", "test"], len(hashes)).tolist()
    expected = []
    for photo, split in enumerate(splits):
        distances = np.bitwise_count(hashes[photo] ^ hashes).sum(axis=1)
        near = [
            (splits[other] != "train", int(distances[other]), other)
            for other in range(len(hashes))
            if distances[other] <= MAX_DISTANCE and splits[other] != split
        ]
        if split != "train" and near:
            _, distance, other = min(near)
            expected.append(NearDuplicate(photo, other, distance))
    assert len(expected) > 50
    assert find_near_duplicates(hashes, splits) == expected


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    hashes = np.repeat(np.random.default_rng(0).integers(0, 256, (10, HASH_BYTES), np.uint8), 6, axis=0)
    splits = ["train", "validation", "test"] * 20
    whole = find_near_duplicates(hashes, splits)
    monkeypatch.setattr("socialtag_jax.shards.near_duplicates._CANDIDATES", 3)
    assert find_near_duplicates(hashes, splits) == whole
    # Each of the 40 photos held out has copies in training, at distance 0, and the first of them counts.
    assert len(whole) == 40
    assert count_by_split(whole, splits) == {("validation", "train"): 20, ("test", "train"): 20}


def test_none():
    assert find_near_duplicates(np.zeros((0, HASH_BYTES), np.uint8), []) == []
    assert find_near_duplicates(np.zeros((3, HASH_BYTES), np.uint8), ["train"] * 3) == []


def test_prepare_reports_them(tmp_path: Path):
    """Ten drawn photos in training, two of them saved again for the test split, one for validation."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "in"
    folder.mkdir()
    rows = []
    for number in range(14):
        pixels = rng.integers(0, 256, (24, 32, 3), np.uint8)
        image = Image.fromarray(pixels).resize((320, 240), Image.Resampling.BICUBIC)
        image.save(folder / f"{number}.png")
        rows.append((f"{number}.png", "a", "train" if number < 10 else "validation" if number < 12 else "test"))
    for name, original, split in (("x", 3, "test"), ("y", 7, "test"), ("z", 4, "validation")):
        with Image.open(folder / f"{original}.png") as image:
            image.save(folder / f"{name}.jpg", quality=60)
        rows.append((f"{name}.jpg", "a", split))
    with (folder / "tags.csv").open("w", newline="") as file:
        csv.writer(file).writerows(itertools.chain([("path", "tags", "split")], rows))
    lines: list[str] = []
    result = prepared(folder, tmp_path / "out", log=lines.append)
    with (result.folder / "near_duplicates.csv").open(newline="") as file:
        columns = ("image_id", "split", "near_duplicate", "its_split")
        found = {tuple(row[column] for column in columns) for row in csv.DictReader(file)}
    assert found == {
        ("x.jpg", "test", "3.png", "train"),
        ("y.jpg", "test", "7.png", "train"),
        ("z.jpg", "validation", "4.png", "train"),
    }
    warnings = [line for line in lines if "look like" in line]
    assert len(warnings) == 2
    assert any(line.startswith("warning: 2 test photos look like one of train (perceptual hash)") for line in warnings)
