"""Random affine augmentation as in Keras's ImageDataGenerator, done in one warp from the stored image.

Keras first resizes an image and then transforms the result; here both are one matrix, so pixels are interpolated once.
All coordinates are (x, y), in pixels of the square network input, with pixel centres at whole numbers.
Source: `keras.src.legacy.preprocessing.image.apply_affine_transform` and `ImageDataGenerator.get_random_transform`.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from socialtag_jax.config import Augmentation


@dataclass(frozen=True, slots=True)
class Affine:
    """One drawn transformation, with the names and units of Keras's transform parameters.

    Attributes:
      theta: rotation in degrees.
      tx: shift along x, as a share of the size (Keras: in pixels).
      ty: shift along y, likewise.
      shear: shear angle in degrees.
      zx: zoom along x; below 1 enlarges.
      zy: zoom along y.
      flip_horizontal: mirrored after all else.
    """

    theta: float = 0.0
    tx: float = 0.0
    ty: float = 0.0
    shear: float = 0.0
    zx: float = 1.0
    zy: float = 1.0
    flip_horizontal: bool = False


IDENTITY = Affine()


def draw(augmentation: Augmentation, rng: np.random.Generator) -> Affine:
    """Draws a transformation: every parameter uniform in its range, independent of the others.

    (Keras 3 moves an image along x by what it draws from the height range, since it builds its matrix before it swaps
    the axes. Here the names mean what they say; with equal ranges, as in the reference system, nothing differs.)
    """
    low, high = augmentation.zoom_low, augmentation.zoom_high
    unit = rng.random(7)
    signed = 2.0 * unit[:4] - 1.0
    return Affine(
        theta=augmentation.rotation * signed[0],
        tx=augmentation.width_shift * signed[1],
        ty=augmentation.height_shift * signed[2],
        shear=augmentation.shear * signed[3],
        zx=low + (high - low) * unit[4],
        zy=low + (high - low) * unit[5],
        flip_horizontal=augmentation.horizontal_flip and bool(unit[6] < 0.5),
    )


def matrix(affine: Affine, size: int) -> np.ndarray:
    """float64 [3, 3]: from a pixel of the augmented image to its place in the resized image, both `size` squared."""
    theta, shear = math.radians(affine.theta), math.radians(affine.shear)
    cos, sin = math.cos(theta), math.sin(theta)
    # Rotation @ shift @ shear @ zoom, multiplied out.
    tx, ty = affine.tx * size, affine.ty * size
    linear = np.array(
        [
            [cos * affine.zx, (-cos * math.sin(shear) - sin * math.cos(shear)) * affine.zy],
            [sin * affine.zx, (-sin * math.sin(shear) + cos * math.cos(shear)) * affine.zy],
        ]
    )
    shift = np.array([cos * tx - sin * ty, sin * tx + cos * ty])
    # About the image's centre.
    centre = np.full(2, size / 2 - 0.5)
    result = np.eye(3)
    result[:2, :2] = linear
    result[:2, 2] = shift + centre - linear @ centre
    if affine.flip_horizontal:
        result = result @ np.array([[-1.0, 0.0, size - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    return result


def warp(image: np.ndarray, affine: Affine, out: np.ndarray) -> None:
    """Resizes and transforms an image in one bilinear warp; outside pixels repeat the nearest edge pixel.

    Args:
      image: uint8 [height, width, 3].
      affine: `IDENTITY` only resizes, without regard to the aspect ratio, as Keras's `target_size` does.
      out: uint8 [size, size, 3], written in place.
    """
    size = out.shape[0]
    height, width = image.shape[:2]
    # From the resized plane to the stored image: pixel areas, not pixel centres, fill the same square.
    scale_x, scale_y = width / size, height / size
    resize = np.array([[scale_x, 0.0, scale_x / 2 - 0.5], [0.0, scale_y, scale_y / 2 - 0.5], [0.0, 0.0, 1.0]])
    inverse = resize @ matrix(affine, size)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cv2.warpAffine(image, inverse[:2], (size, size), dst=out, flags=flags, borderMode=cv2.BORDER_REPLICATE)
