"""The warp against Keras's ImageDataGenerator and OpenCV's resize; the drawn parameters against their ranges."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from socialtag_jax.augment import DRAWS, IDENTITY, Affine, draw, matrix, warp
from socialtag_jax.config import Augmentation
from tests import keras_peer

SIZE = 96
LARGEST = 0.51
"""Grey levels between ours and Keras's: both interpolate in floating point, but ours are then whole numbers."""


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    return np.ascontiguousarray(cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC))


@pytest.mark.parametrize("seed", range(8))
def test_equals_keras(picture: np.ndarray, seed: int):
    """`apply_transform` of a real Keras, on the same parameters."""
    affine = draw(Augmentation(shear=20.0), np.random.default_rng(seed).random(DRAWS))
    assert keras_peer.warp_difference(picture, affine).max() <= LARGEST


@pytest.mark.parametrize("shear", [0.2, 20.0])
def test_equals_keras_on_real_photos(shared_data: Path, shear: float):
    """Six photos of Corel5K at the network's size, each with four drawn transformations."""
    rng = np.random.default_rng(0)
    differences = [
        keras_peer.warp_difference(photo, draw(Augmentation(shear=shear), rng.random(DRAWS)))
        for photo in keras_peer.corel_photos(shared_data / "corel5k.zip", 6, 224)
        for _ in range(4)
    ]
    assert np.max(differences) <= LARGEST


@pytest.mark.parametrize("size", [40, 96, 150])
def test_identity_is_opencv_resize(picture: np.ndarray, size: int):
    found = np.empty((size, size, 3), np.uint8)
    wide = np.ascontiguousarray(picture[:, :60])
    warp(wide, IDENTITY, found)
    expected = cv2.resize(wide, (size, size), interpolation=cv2.INTER_LINEAR)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_flip_alone_mirrors(picture: np.ndarray):
    found = np.empty_like(picture)
    warp(picture, matrix(Affine(flip_horizontal=True), SIZE), found)
    np.testing.assert_array_equal(found, picture[:, ::-1])


def test_a_shift_repeats_the_edge(picture: np.ndarray):
    found = np.empty_like(picture)
    warp(picture, matrix(Affine(tx=-0.25), SIZE), found)
    np.testing.assert_array_equal(found[:, SIZE // 4 :], picture[:, : -SIZE // 4])
    np.testing.assert_array_equal(found[:, : SIZE // 4], np.repeat(picture[:, :1], SIZE // 4, axis=1))


def test_drawn_parameters_fill_their_ranges():
    """Uniform on [a, b]: mean (a + b) / 2 and variance (b - a)^2 / 12, within 5 standard errors."""
    count = 4000
    augmentation = Augmentation(width_shift=0.1, height_shift=0.3)
    drawn = draw(augmentation, np.random.default_rng(0).random((count, DRAWS)))
    ranges = {
        "theta": (-30.0, 30.0),
        "tx": (-0.1, 0.1),
        "ty": (-0.3, 0.3),
        "shear": (-0.2, 0.2),
        "zx": (0.8, 1.2),
        "zy": (0.8, 1.2),
    }
    columns = {name: np.asarray(getattr(drawn, name)) for name in ranges}
    for name, (low, high) in ranges.items():
        values = columns[name]
        assert low <= values.min()
        assert values.max() <= high
        deviation = (high - low) / 12**0.5
        assert abs(values.mean() - (low + high) / 2) < 5 * deviation / count**0.5
        assert values.std() == pytest.approx(deviation, rel=0.05)
    assert abs(np.corrcoef(columns["zx"], columns["zy"])[0, 1]) < 5 / count**0.5
    assert np.mean(drawn.flip_horizontal) == pytest.approx(0.5, abs=5 * 0.5 / count**0.5)


def test_each_parameter_can_be_switched_off():
    nothing = Augmentation(
        rotation=0, width_shift=0, height_shift=0, shear=0, zoom_low=1, zoom_high=1, horizontal_flip=False
    )
    drawn = draw(nothing, np.random.default_rng(1).random(DRAWS))
    assert drawn == Affine()
    np.testing.assert_array_equal(matrix(drawn, SIZE), IDENTITY)


def test_many_transformations_at_once_are_those_of_each():
    unit = np.random.default_rng(2).random((9, DRAWS))
    together = matrix(draw(Augmentation(), unit), SIZE)
    assert together.shape == (9, 2, 3)
    for one, expected in zip(unit, together, strict=True):
        np.testing.assert_allclose(matrix(draw(Augmentation(), one), SIZE), expected, rtol=1e-12, atol=1e-12)
