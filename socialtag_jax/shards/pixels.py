"""The JPEG that a shard holds -> pixels, with OpenCV: the one fast decoder of training, evaluation and the tagger."""

import io
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from socialtag_jax.shards.images import FORMATS, ImageError, check_pixels

_END_OF_JPEG = b"\xff\xd9"


class _Frame(NamedTuple):
    """A JPEG's frame header: what it says of the size in pixels, and where it stands in the data."""

    width: int
    height: int
    position: int


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) from a JPEG's frame header; None where the data is not a JPEG with a frame header."""
    frame = _jpeg_frame(data)
    return None if frame is None else (frame.width, frame.height)


def _jpeg_frame(data: bytes) -> _Frame | None:
    position = 2
    if data[:2] != b"\xff\xd8":
        return None
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            height, width = (int.from_bytes(data[start : start + 2]) for start in (position + 5, position + 7))
            return _Frame(width, height, position)
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return None


def decode(data: bytes, input_size: int) -> np.ndarray:
    """Decodes a stored image for a network input of `input_size` pixels.

    A JPEG whose sides are all at least 2, 4 or 8 times `input_size` is shrunk by that factor while it is decoded: that
    is faster, and along the shorter side the warp that follows never shrinks by 2 or more, where it would skip pixels.

    Returns:
      uint8 [height, width, 3], RGB.

    Raises:
      ImageError: the data does not decode, is a JPEG that was cut off, or has too many pixels.
    """
    frame = _jpeg_frame(data)
    factor = 1
    if frame is None:
        check_pixels(*_other_size(data))
    else:
        check_pixels(frame.width, frame.height)
        # OpenCV would fill up with gray what is missing.
        if data.rfind(_END_OF_JPEG, frame.position) < 0:
            raise ImageError("the stored image does not decode: the JPEG is cut off")
        while factor < 8 and min(frame.width, frame.height) >= 2 * factor * input_size:
            factor *= 2
    # OpenCV's flags 16, 32 and 64 are IMREAD_REDUCED_*_2, _4 and _8 less their colour bits.
    reduced = 0 if factor == 1 else 8 * factor
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | reduced
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f"the stored image does not decode: {error}") from error
    if image is None:
        raise ImageError("the stored image does not decode")
    return image


def _other_size(data: bytes) -> tuple[int, int]:
    """(width, height) of what is no JPEG: TFDS may have written other kinds."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.size
    except Exception as error:  # on damaged files Pillow raises nearly anything
        raise ImageError("the stored image does not decode") from error
