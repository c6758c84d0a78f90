"""Any photo file -> the canonical JPEG that shards hold.

Training, evaluation and the exported tagger all go through this step and `pixels.decode`, so that one photo means the
same pixels everywhere.
"""

import errno
import io
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from socialtag_jax import files
from socialtag_jax.errors import UserError

IMAGE_SIZE = 288
"""Default length of a canonical image's shorter side, in pixels: 224 with room for augmentation."""

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Kinds of file that are read. Pillow knows more: for some of them it starts other programs (Ghostscript, for EPS)."""

LARGEST_PIXELS = 178_956_970
"""Of a photo, width times height: 512 MiB as RGB. What says that it has more is never decoded."""

_LARGEST_FILE = 2**30
_MOST_SCANS = 500
"""Of a JPEG. Encoders write about ten; each costs a walk over the whole image, however few bytes it has."""
_JPEG_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
"""One that a segment follows, or the image's end: not FF 01, nor what stands within a scan's data: stuffed bytes,
restarts, fill."""
_LONGEST_JPEG_SIDE = 65_500
_JPEG_QUALITY = 95
_OWN_ERRORS = frozenset(
    {
        errno.ENOENT,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.EACCES,
        errno.EPERM,
        errno.EINVAL,
        errno.EFBIG,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EILSEQ,
        errno.ENXIO,
        errno.ENODEV,
    }
)
"""What reading a file fails with for as long as the file is as it is."""
_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")


class ImageError(UserError):
    """A file that cannot be decoded to a photo, with the reason in words."""


class OtherKindError(ImageError):
    """No image, or of a kind that is not read."""


class TooManyPixelsError(ImageError):
    """An image that says it has more pixels than are decoded."""


class ResourceError(UserError):
    """A photo of which nothing is known, since the computer failed: its disk, its memory, its limit of open files."""

    def __init__(self, what: str, *, where: object = None) -> None:
        super().__init__(what, where=where, hint="run the same command again to go on, or leave the photo out")


def canonical_jpeg(
    photo: Path | bytes | np.ndarray, image_size: int = IMAGE_SIZE, *, largest_pixels: int = LARGEST_PIXELS
) -> bytes:
    """`canonical_image`, encoded as baseline JPEG."""
    return encode_jpeg(canonical_image(photo, image_size, largest_pixels=largest_pixels))


def encode_jpeg(image: Image.Image) -> bytes:
    """A canonical image's bytes, as shards hold them."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def canonical_image(
    photo: Path | bytes | np.ndarray, image_size: int = IMAGE_SIZE, *, largest_pixels: int = LARGEST_PIXELS
) -> Image.Image:
    """Decodes a photo whole, to RGB.

    First frame, EXIF orientation applied, colour profile converted to sRGB, alpha laid over white, CMYK and grayscale
    converted to RGB, 16-bit grayscale cut to 8 bits; the shorter side shrunk to `image_size` pixels where it is longer.
    Nothing of the photo's metadata is kept.

    Args:
      photo: a file, its bytes, or decoded RGB pixels (uint8 [height, width, 3]).
      image_size: in pixels.
      largest_pixels: width times height that a file may have, at most `LARGEST_PIXELS`.

    Raises:
      ImageError: with the reason, and as `OtherKindError` or `TooManyPixelsError` where it is one; `where` is left to
        the caller, who knows what the photo is called.
      ResourceError: the photo may well be good.
    """
    where = photo if isinstance(photo, Path) else None
    data = _content(photo) if isinstance(photo, Path) else photo
    try:
        with warnings.catch_warnings():
            # Pillow warns of half its limit, of odd EXIF blocks and of palettes with transparency: none changes pixels.
            warnings.simplefilter("ignore")
            return _canonical_image(data, image_size, largest_pixels)
    except ImageError:
        raise
    except MemoryError:
        raise ResourceError("there is not enough memory to decode it", where=where) from None
    except UnidentifiedImageError:
        raise OtherKindError(f"not an image, or of another kind than {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError as error:
        # Pillow's own limit, which it holds against ours; its message has the size and the limit.
        raise TooManyPixelsError(f"refused as a decompression bomb: {str(error).split(',')[0]}") from None
    except Exception as error:
        # On damaged files Pillow's decoders raise nearly anything, and no photo may end a run over a million of them.
        reason = str(error) or type(error).__name__
        raise ImageError(f"damaged image: {reason}".rstrip(". ")) from error


def _content(photo: Path) -> bytes:
    try:
        return files.read_bytes(photo, most=_LARGEST_FILE)
    except FileNotFoundError:
        raise ImageError("no such file") from None
    except IsADirectoryError:
        raise ImageError("is a folder, not an image file") from None
    except PermissionError:
        raise ImageError("no permission to read the file") from None
    except ValueError as error:  # a name that no file can have
        raise ImageError(f"cannot be read: {error}") from None
    except MemoryError:
        raise ResourceError("there is not enough memory to read it", where=photo) from None
    except OSError as error:
        if error.errno not in _OWN_ERRORS:
            raise ResourceError(f"cannot be read: {error.strerror or error}", where=photo) from None
        raise ImageError(f"cannot be read: {error.strerror}") from None


def _canonical_image(photo: bytes | np.ndarray, image_size: int, largest_pixels: int) -> Image.Image:
    if isinstance(photo, np.ndarray):
        image = Image.fromarray(_checked_pixels(photo))
    else:
        if not photo:
            raise ImageError("the file is empty (0 bytes)")
        image = _decode(photo, image_size, largest_pixels)
    if min(image.size) > image_size:
        image = image.resize(_shrunk_size(image.size, image_size), Image.Resampling.BICUBIC, reducing_gap=2.0)
    if max(image.size) > _LONGEST_JPEG_SIDE:
        raise ImageError(f"{image.width} x {image.height} pixels: no JPEG has sides over {_LONGEST_JPEG_SIDE:,}")
    return image


def check_pixels(width: int, height: int, largest_pixels: int = LARGEST_PIXELS) -> None:
    """Refuses an image that says it is too large, before it is decoded.

    Raises:
      TooManyPixelsError: so it is.
    """
    if width * height > largest_pixels:
        what = f"{width} x {height} is more than {largest_pixels:,} pixels"
        raise TooManyPixelsError(f"refused as a decompression bomb: {what}")


def _check_scans(jpeg: bytes) -> None:
    """Refuses a JPEG that would be decoded for minutes: up to its first image's end, it has too many scans."""
    start_of_scan, end_of_image = 0xDA, 0xD9
    scans, place = 0, 2
    while (marker := _JPEG_MARKER.search(jpeg, place)) is not None and marker[0][1] != end_of_image:
        # The segment, whose length counts itself.
        place = marker.end() + max(2, int.from_bytes(jpeg[marker.end() : marker.end() + 2]))
        scans += marker[0][1] == start_of_scan
        if scans > _MOST_SCANS:
            raise ImageError(f"more than {_MOST_SCANS} scans: made to be decoded for minutes, or damaged")


def _checked_pixels(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ImageError(
            f"expected RGB pixels as uint8 [height, width, 3] in 0..255, found {pixels.dtype} {list(pixels.shape)}"
        )
    return pixels


def _decode(data: bytes, image_size: int, largest_pixels: int) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        check_pixels(*image.size, largest_pixels)
        if isinstance(image, JpegImageFile):
            _check_scans(data)
        profile = image.info.get("icc_profile")
        # JPEG only: lets the decoder shrink by 2, 4 or 8 on the way, to no less than twice the wanted size.
        shrunk = _shrunk_size(image.size, 2 * image_size)
        if shrunk[0] < image.width:
            image.draft(image.mode, shrunk)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _to_srgb(image, profile)


def _shrunk_size(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    scale = min(1.0, shorter / min(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if image.mode in _SIXTEEN_BIT_MODES:
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ImageError(f"32-bit pixels (Pillow mode {image.mode}) have no defined brightness range; save it as 8-bit")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")
    elif image.mode in ("P", "1", "HSV", "YCbCr", "La", "RGBX"):
        image = image.convert("RGB")
    if profile and image.mode in ("RGB", "L", "CMYK", "LAB"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            return converted if converted is not None else image.convert("RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            # A profile that is broken, or made for another kind of pixels, says nothing: the pixels are taken as sRGB.
            pass
    return image if image.mode == "RGB" else image.convert("RGB")
