"""Small pictures of photos, as addresses that hold the picture itself."""

import base64
import io

from PIL import Image

LONGEST_SIDE = 360
"""Pixels: sharp at the width that the page gives a photo, on most screens."""

MOST_BYTES = 30_000
"""Of a picture's file; a third more as an address."""

_QUALITIES = (78, 66, 54, 42)


def thumbnail(data: bytes) -> str:
    """A photo as a small JPEG in a `data:` address, at most 4/3 of `MOST_BYTES` long, and 30 more.

    Args:
      data: the stored image, which evaluation has decoded before.
    """
    with Image.open(io.BytesIO(data)) as stored:
        stored.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))
        image = stored.convert("RGB")
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    while True:
        for quality in _QUALITIES:
            encoded = io.BytesIO()
            image.save(encoded, "JPEG", quality=quality, optimize=True)
            if encoded.tell() <= MOST_BYTES:
                return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"
        # Of noise, even the lowest quality is too large.
        image = image.resize((max(1, image.width * 3 // 4), max(1, image.height * 3 // 4)), Image.Resampling.LANCZOS)
