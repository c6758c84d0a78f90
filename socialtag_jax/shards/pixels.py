"""The JPEG that a shard holds -> pixels, with OpenCV: the one fast decoder of training, evaluation and the tagger."""

import cv2
import numpy as np

from socialtag_jax.shards.images import ImageError


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) from a JPEG's frame header; None where the data is not a JPEG with a frame header."""
    position = 2
    if data[:2] != b"\xff\xd8":
        return None
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            return int.from_bytes(data[position + 7 : position + 9]), int.from_bytes(data[position + 5 : position + 7])
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return None


def decode(data: bytes, input_size: int) -> np.ndarray:
    """Decodes a stored image for a network input of `input_size` pixels.

    A JPEG whose sides are all at least 2, 4 or 8 times `input_size` is shrunk by that factor while it is decoded: that
    is faster, and along the shorter side the warp that follows never shrinks by 2 or more, where it would skip pixels.

    Returns:
      uint8 [height, width, 3], RGB.

    Raises:
      ImageError: the data does not decode.
    """
    size = jpeg_size(data)
    factor = 1
    while size is not None and factor < 8 and min(size) >= 2 * factor * input_size:
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
