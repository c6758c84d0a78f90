"""Canonical images: every kind of photo file, against pixel values known beforehand."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from socialtag_jax.shards.images import ImageError, canonical_jpeg
from socialtag_jax.shards.pixels import decode, jpeg_size

ORANGE = (250, 140, 20)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "JPEG"
        assert image.mode == "RGB"
        assert "progressive" not in image.info
        return np.asarray(image).astype(int)


def assert_colour(data: bytes, colour: tuple[int, int, int], tolerance: int = 3) -> None:
    assert np.abs(pixels(data) - np.array(colour)).max() <= tolerance


PLAIN = Image.new("RGB", (40, 30), ORANGE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_kinds_of_file(kind: str):
    data = encoded(PLAIN, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert_colour(canonical_jpeg(data), ORANGE)


def test_png_named_jpg_is_read_by_content(tmp_path: Path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(PLAIN, "PNG"))
    assert_colour(canonical_jpeg(path), ORANGE)


def test_alpha_lies_over_white():
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert_colour(canonical_jpeg(encoded(half, "PNG")), (127, 127, 127))


def test_palette_with_transparency_lies_over_white():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 250, 140, 20])
    assert_colour(canonical_jpeg(encoded(image, "PNG", transparency=1)), (255, 255, 255))


def test_grayscale_and_sixteen_bit():
    assert_colour(canonical_jpeg(encoded(Image.new("L", (8, 8), 77), "PNG")), (77, 77, 77))
    deep = Image.fromarray(np.full((8, 8), 77 * 256 + 9, np.uint16))
    assert_colour(canonical_jpeg(encoded(deep, "PNG")), (77, 77, 77))


def test_cmyk_jpeg():
    # Pure red is no cyan, full magenta, full yellow, no black.
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert_colour(canonical_jpeg(encoded(image, "JPEG", quality=95)), (255, 0, 0), tolerance=6)


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert_colour(canonical_jpeg(data), (255, 0, 0))


def test_exif_orientation_is_applied():
    image = Image.new("RGB", (64, 32), "blue")
    image.paste((255, 0, 0), (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show: the left half comes to the top
    found = pixels(canonical_jpeg(encoded(image, "JPEG", exif=exif, quality=95)))
    assert found.shape == (64, 32, 3)
    assert found[8, 16, 0] > 240
    assert found[56, 16, 2] > 240


def test_colour_profile_is_converted_to_srgb():
    """With the profile of a linear colour space, the middle of the range is much brighter than in sRGB."""
    linear = ImageCms.createProfile("XYZ")
    # XYZ is no RGB profile: such a mismatch says nothing, and pixels stay as they are.
    data = encoded(PLAIN, "PNG", icc_profile=ImageCms.ImageCmsProfile(linear).tobytes())
    assert_colour(canonical_jpeg(data), ORANGE)
    lab = Image.new("RGB", (8, 8), ORANGE).convert("RGB")
    same = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert_colour(canonical_jpeg(encoded(lab, "PNG", icc_profile=same)), ORANGE)
    assert_colour(canonical_jpeg(encoded(lab, "PNG", icc_profile=b"no profile at all")), ORANGE)


@pytest.mark.parametrize(
    ("size", "expected"), [((800, 600), (384, 288)), ((3000, 2000), (432, 288)), ((40, 30), (40, 30))]
)
def test_shorter_side_is_shrunk_and_never_enlarged(size: tuple[int, int], expected: tuple[int, int]):
    assert jpeg_size(canonical_jpeg(encoded(Image.new("RGB", size), "JPEG"))) == expected


def test_metadata_is_dropped():
    exif = Image.Exif()
    exif[0x010F] = "SecretCamera"
    assert b"SecretCamera" not in canonical_jpeg(encoded(PLAIN, "JPEG", exif=exif))


def test_arrays_are_photos():
    assert_colour(canonical_jpeg(np.full((9, 7, 3), ORANGE, np.uint8)), ORANGE)
    with pytest.raises(ImageError, match=r"expected RGB pixels as uint8 .* found float64 \[9, 7, 3\]"):
        canonical_jpeg(np.zeros((9, 7, 3)))


def bomb(side: int) -> bytes:
    """A PNG header that promises side x side pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty"),
        (b"hello, I am text", "not an image"),
        (encoded(Image.effect_noise((300, 300), 50).convert("RGB"), "JPEG")[:9000], "truncated"),
        (encoded(PLAIN, "PNG")[:60], "damaged image|not an image"),
        (bomb(30_000), "decompression bomb"),
        (bomb(1000), "damaged image"),
    ],
)
def test_reasons(data: bytes, words: str):
    with pytest.raises(ImageError, match=words):
        canonical_jpeg(data)


def test_missing_file_and_folder(tmp_path: Path):
    with pytest.raises(ImageError, match="no such file"):
        canonical_jpeg(tmp_path / "nothing.jpg")
    with pytest.raises(ImageError, match="is a folder"):
        canonical_jpeg(tmp_path)


@pytest.mark.parametrize(("input_size", "height"), [(224, 288), (145, 288), (144, 144), (72, 72), (37, 72), (36, 36)])
def test_decode_shrinks_by_powers_of_two_but_never_below_the_input(input_size: int, height: int):
    """Against Pillow's box filter over the fully decoded image."""
    rng = np.random.default_rng(0)
    gray = np.kron(rng.integers(0, 256, (36, 48, 1), np.uint8), np.ones((8, 8, 1), np.uint8))
    noise = np.repeat(gray, 3, axis=2)
    data = canonical_jpeg(noise)
    found = decode(data, input_size)
    assert found.shape[0] == height
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.resize((found.shape[1], height), Image.Resampling.BOX)).astype(int)
    assert np.abs(found - expected).mean() < 1


def test_decode_refuses_other_bytes():
    with pytest.raises(ImageError, match="does not decode"):
        decode(b"not an image", 224)
