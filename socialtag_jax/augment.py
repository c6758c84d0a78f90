"""Random affine augmentation as in Keras's ImageDataGenerator, done in one warp from the stored image.

Keras first resizes an image and then transforms the result; here both are one matrix, so pixels are interpolated once.
All coordinates are (x, y), in pixels of the square network input, with pixel centres at whole numbers.
Source: `keras.src.legacy.preprocessing.image.apply_affine_transform` and `ImageDataGenerator.get_random_transform`.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from socialtag_jax.config import Augmentation

DRAWS = 7
"""Random numbers that a transformation takes."""

IDENTITY = np.eye(2, 3)
"""The matrix of no transformation."""
IDENTITY.setflags(write=False)


@dataclass(frozen=True, slots=True)
class Affine:
    """Drawn transformations, with the names and units of Keras's transform parameters.

    Every attribute is one number, or an array [images] with one number for each of as many transformations.

    Attributes:
      theta: rotation in degrees.
      tx: shift along x, as a share of the size (Keras: in pixels).
      ty: shift along y, likewise.
      shear: shear angle in degrees.
      zx: zoom along x; below 1 enlarges.
      zy: zoom along y.
      flip_horizontal: mirrored after all else.
    """

    theta: float | np.ndarray = 0.0
    tx: float | np.ndarray = 0.0
    ty: float | np.ndarray = 0.0
    shear: float | np.ndarray = 0.0
    zx: float | np.ndarray = 1.0
    zy: float | np.ndarray = 1.0
    flip_horizontal: bool | np.ndarray = False


def draw(augmentation: Augmentation, unit: np.ndarray) -> Affine:
    """Draws transformations: every parameter uniform in its range, independent of the others.

    (Keras 3 moves an image along x by what it draws from the height range, since it builds its matrix before it swaps
    the axes. Here the names mean what they say; with equal ranges, as in the reference system, nothing differs.)

    Args:
      augmentation: the ranges.
      unit: float64 [DRAWS], or [images, DRAWS] for as many transformations: random numbers in [0, 1).
    """
    low, high = augmentation.zoom_low, augmentation.zoom_high
    signed, zoom = 2.0 * unit - 1.0, low + (high - low) * unit
    return Affine(
        theta=augmentation.rotation * signed[..., 0],
        tx=augmentation.width_shift * signed[..., 1],
        ty=augmentation.height_shift * signed[..., 2],
        shear=augmentation.shear * signed[..., 3],
        zx=zoom[..., 4],
        zy=zoom[..., 5],
        flip_horizontal=(unit[..., 6] < 0.5) & augmentation.horizontal_flip,
    )


def matrix(affine: Affine, size: int) -> np.ndarray:
    """From a pixel of the augmented image to its place in the resized image, both `size` squared.

    Returns:
      float64 [2, 3], or [images, 2, 3]: the columns take x, y and 1.
    """
    theta, shear = np.radians(affine.theta), np.radians(affine.shear)
    cos, sin = np.cos(theta), np.sin(theta)
    # Rotation @ shift @ shear @ zoom, multiplied out.
    tx, ty = affine.tx * size, affine.ty * size
    result = np.empty((*np.shape(theta), 2, 3))
    result[..., 0, 0], result[..., 0, 1] = cos * affine.zx, -np.sin(theta + shear) * affine.zy
    result[..., 1, 0], result[..., 1, 1] = sin * affine.zx, np.cos(theta + shear) * affine.zy
    # About the image's centre.
    centre = size / 2 - 0.5
    result[..., 0, 2] = cos * tx - sin * ty + centre
    result[..., 1, 2] = sin * tx + cos * ty + centre
    result[..., 2] -= centre * (result[..., 0] + result[..., 1])
    # A mirrored pixel x is pixel size - 1 - x.
    mirrored = np.where(affine.flip_horizontal, 1.0, 0.0)[..., None]
    result[..., 2] += mirrored * (size - 1) * result[..., 0]
    result[..., 0] *= 1.0 - 2.0 * mirrored
    return result


def warp(image: np.ndarray, transformation: np.ndarray, out: np.ndarray) -> None:
    """Resizes and transforms an image in one bilinear warp; outside pixels repeat the nearest edge pixel.

    Args:
      image: uint8 [height, width, 3].
      transformation: float64 [2, 3], of `matrix`; `IDENTITY` only resizes, without regard to the aspect ratio, as
        Keras's `target_size` does.
      out: uint8 [size, size, 3], written in place.
    """
    size = out.shape[0]
    height, width = image.shape[:2]
    # From the resized plane to the stored image: pixel areas, not pixel centres, fill the same square.
    scale_x, scale_y = width / size, height / size
    (xx, xy, x), (yx, yy, y) = transformation.tolist()
    inverse = np.array(
        (
            (scale_x * xx, scale_x * xy, scale_x * (x + 0.5) - 0.5),
            (scale_y * yx, scale_y * yy, scale_y * (y + 0.5) - 0.5),
        )
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cv2.warpAffine(image, inverse, (size, size), dst=out, flags=flags, borderMode=cv2.BORDER_REPLICATE)
