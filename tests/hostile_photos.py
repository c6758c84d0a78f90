"""Photo files of every odd, broken and hostile kind that tests can make: a name, how to make it, what becomes of it."""

import io
import os
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, features

ORANGE = (250, 140, 20)
Maker = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """A file that is made.

    Attributes:
      name: of the file, in the folder of all of them.
      make: writes it.
      reason: part of the reason why it is rejected, as a regular expression; None where it is taken.
      colour: of every pixel, where it is taken.
    """

    name: str
    make: Maker
    reason: str | None = None
    colour: tuple[int, int, int] = ORANGE


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.new("RGB", size, ORANGE).convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(kind: str, **options: Any) -> bytes:
    """Something that does not compress, so that it can be cut."""
    pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    return encoded(Image.fromarray(pixels), kind, **options)


def saved(kind: str, image: Image.Image | None = None, **options: Any) -> Maker:
    return lambda path: path.write_bytes(encoded(picture() if image is None else image, kind, **options))


def written(data: bytes) -> Maker:
    return lambda path: path.write_bytes(data)


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def jpeg_of_scans(width: int, height: int, scans: int, between: bytes = b"") -> bytes:
    """A gray progressive JPEG that is whole, and says of all its pixels again and again that there is nothing new.

    Each scan is 65 bytes and a walk over the whole image. What is `between` comes after the first.
    """

    def segment(marker: int, content: bytes) -> bytes:
        return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content

    one_code = bytes([1] + [0] * 15)  # a table with one code, of one bit: 0
    head = segment(0xDB, b"\0" + bytes([1] * 64)) + segment(0xC2, struct.pack(">BHHB3B", 8, height, width, 1, 1, 17, 0))
    tables = segment(0xC4, b"\x00" + one_code + b"\x00") + segment(0xC4, b"\x10" + one_code + b"\xe0")
    blocks = -(-width // 8) * -(-height // 8)
    first = segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes(-(-blocks // 8))
    # The code, and 14 bits: so many blocks over 2^14 are empty.
    run = 0x2AAA
    bits = ("0" + format(run, "014b")) * -(-blocks // (2**14 + run))
    bits += "1" * (-len(bits) % 8)
    empty = bytes(int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)).replace(b"\xff", b"\xff\0")
    again = segment(0xDA, bytes([1, 1, 0, 1, 63, 0])) + empty
    return b"\xff\xd8" + head + tables + first + between + again * scans + b"\xff\xd9"


def png_of_size(width: int, height: int, *more: bytes) -> bytes:
    """A PNG that promises so many pixels and holds none."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + data + png_chunk(b"IEND", b"")


def jpeg_of_size(width: int, height: int) -> bytes:
    """A good JPEG, whose frame header is changed to promise so many pixels."""
    data = bytearray(encoded(picture(), "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def gif_of_size(width: int, height: int) -> bytes:
    data = bytearray(encoded(picture(), "GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def bmp_of_size(width: int, height: int) -> bytes:
    data = bytearray(encoded(picture(), "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def tiff_of_size(width: int, height: int) -> bytes:
    """ImageWidth and ImageLength, tags 256 and 257, as 32-bit numbers."""
    data = bytearray(encoded(picture(), "TIFF"))
    for tag, value in ((256, width), (257, height)):
        position = data.index(struct.pack("<HHI", tag, 4, 1)) if struct.pack("<HHI", tag, 4, 1) in data else -1
        if position < 0:
            position = data.index(struct.pack("<HHI", tag, 3, 1))
            data[position : position + 8] = struct.pack("<HHI", tag, 4, 1)
        data[position + 8 : position + 12] = struct.pack("<I", value)
    return bytes(data)


def flipped_middle(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


def frames(kind: str) -> Maker:
    others = [Image.new("RGB", (40, 30), colour) for colour in ("green", "blue")]
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    return saved(kind, save_all=True, append_images=others, **options)


def rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path.write_bytes(encoded(picture(), "JPEG", exif=exif))


def a_socket(path: Path) -> None:
    # The name of a socket may have about 100 characters only.
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(before)


def below_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_bytes(b"")


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**30 + 1)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo.jpg", encoded(picture(), "JPEG"))


def transparent_palette() -> Image.Image:
    image = Image.new("P", (40, 30), 1)
    image.putpalette([0, 0, 0, *ORANGE])
    return image


WHITE_UNDER_HALF = (252, 197, 137)  # 255 - (255 - channel) * 128 / 255
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GRAY = (159, 159, 159)  # 0.299 R + 0.587 G + 0.114 B of the orange

TAKEN = [
    Case("plain.jpg", saved("JPEG")),
    Case("plain.png", saved("PNG")),
    Case("plain.gif", saved("GIF")),
    Case("plain.webp", saved("WEBP", lossless=True)),
    Case("plain.bmp", saved("BMP")),
    Case("plain.tif", saved("TIFF")),
    Case("plain.ppm", saved("PPM")),
    Case("progressive.jpg", saved("JPEG", progressive=True)),
    Case("low-quality.jpg", saved("JPEG", optimize=True, quality=30, subsampling=2)),
    Case("gray.jpg", saved("JPEG", picture("L")), colour=GRAY),
    Case("cmyk.jpg", saved("JPEG", picture("CMYK"), quality=100)),
    Case("deep.png", saved("PNG", Image.fromarray(np.full((30, 40), 159 * 257, np.uint16))), colour=GRAY),
    Case("deep.tif", saved("TIFF", Image.fromarray(np.full((30, 40), 159 * 257, np.uint16))), colour=GRAY),
    Case("one-bit.png", saved("PNG", Image.new("1", (40, 30), 1)), colour=(255, 255, 255)),
    Case("palette.png", saved("PNG", transparent_palette())),
    Case("transparent.png", saved("PNG", transparent_palette(), transparency=1), colour=(255, 255, 255)),
    Case("half.png", saved("PNG", Image.new("RGBA", (40, 30), (*ORANGE, 128))), colour=WHITE_UNDER_HALF),
    Case("gray-alpha.png", saved("PNG", Image.new("LA", (40, 30), (161, 0))), colour=(255, 255, 255)),
    Case("animated.gif", frames("GIF")),
    Case("animated.webp", frames("WEBP")),
    Case("animated.png", frames("PNG")),
    Case("pages.tif", frames("TIFF")),
    Case("stereo.mpo", frames("MPO")),
    Case("lzw.tif", saved("TIFF", compression="tiff_lzw")),
    Case("deflate.tif", saved("TIFF", compression="tiff_deflate")),
    Case("png-called.jpg", saved("PNG")),
    Case("gif-called.jpeg", saved("GIF")),
    Case("no-suffix", saved("JPEG")),
    Case("text-suffix.txt", saved("JPEG")),
    Case("more-behind.jpg", written(encoded(picture(), "JPEG") + b"and a shopping list" * 100)),
    Case("zip-behind.png", written(encoded(picture(), "PNG") + b"PK\x03\x04" + bytes(100))),
    Case("comment.jpg", saved("JPEG", comment=b"#" * 60_000)),
    Case("broken-exif.jpg", saved("JPEG", exif=b"Exif\0\0" + b"\xff" * 500)),
    Case("broken-profile.jpg", saved("JPEG", icc_profile=b"no profile" * 50)),
    Case("cut-profile.jpg", saved("JPEG", icc_profile=PROFILE[: len(PROFILE) // 2])),
    Case("rotated.jpg", rotated),
    Case("one-pixel.png", saved("PNG", picture(size=(1, 1)))),
    Case("ribbon.png", saved("PNG", picture(size=(65_500, 1)))),
    Case("very large.png", saved("PNG", picture(size=(4000, 3000)))),
    Case("UPPER.JPG", saved("JPEG")),
    Case("upper.jpg", saved("JPEG", quality=91)),
    Case("😀 beach.jpg", saved("JPEG")),
    Case("شاطئ.jpg", saved("JPEG")),
    Case("e\u0301.jpg", saved("JPEG")),
    Case("\u00e9.jpg", saved("JPEG", quality=92)),
    Case("a, \"quoted\" 'name'; $(rm -rf x) `y` %00.jpg", saved("JPEG")),
    Case("two\nlines.jpg", saved("JPEG")),
    Case("\x1b[31mred\x07.jpg", saved("JPEG")),
    Case("-rf.jpg", saved("JPEG")),
    Case("n" * 250 + ".jpg", saved("JPEG")),
    Case("folder/.hidden.jpg", saved("JPEG")),
    Case("link-inside.jpg", lambda path: path.symlink_to("plain.jpg")),
]
if features.check("avif"):
    TAKEN.append(Case("plain.avif", saved("AVIF", quality=100)))
if features.check("jpg_2000"):
    TAKEN.append(Case("plain.jp2", saved("JPEG2000")))

BOMB = "decompression bomb"
OTHER = "not an image, or of another kind than JPEG"
REJECTED = [
    Case("missing.jpg", lambda path: None, "no such file"),
    Case("empty.jpg", written(b""), "the file is empty"),
    Case("text.jpg", written(b"not a photo"), OTHER),
    Case("page.jpg", written(b"<!DOCTYPE html><html><body>404</body></html>"), OTHER),
    Case("drawing.svg", written(b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'), OTHER),
    Case("document.pdf", saved("PDF"), OTHER),
    # Pillow itself would start Ghostscript on it.
    Case("program.jpg", saved("EPS"), OTHER),
    Case("zip.jpg", zipped, OTHER),
    Case("zeros.jpg", written(bytes(100_000)), OTHER),
    Case("random.jpg", written(np.random.default_rng(1).bytes(100_000)), OTHER),
    Case("icon.ico", saved("ICO"), OTHER),
    Case("targa.tga", saved("TGA"), OTHER),
    Case("utf16.jpg", written("a photo".encode("utf-16")), OTHER),
    Case("signature-only.jpg", written(b"\xff\xd8\xff"), f"damaged image|{OTHER}"),
    Case("signature-only.png", written(b"\x89PNG\r\n\x1a\n"), f"damaged image|{OTHER}"),
    Case("signature-only.gif", written(b"GIF89a"), f"damaged image|{OTHER}"),
    Case("cut.jpg", written(noise("JPEG")[:5000]), "damaged image: .*truncated"),
    Case("cut.png", written(noise("PNG")[:5000]), "damaged image: .*truncated"),
    Case("cut.gif", written(noise("GIF")[:5000]), "damaged image: .*truncated"),
    Case("cut.bmp", written(noise("BMP")[:5000]), "damaged image: .*truncated"),
    Case("cut.webp", written(noise("WEBP")[:2000]), f"damaged image|{OTHER}"),
    Case("cut.tif", written(noise("TIFF")[:5000]), f"damaged image|{OTHER}"),
    Case("cut.ppm", written(noise("PPM")[:5000]), "damaged image: .*truncated"),
    Case("flipped.png", written(flipped_middle(noise("PNG"))), "damaged image"),
    Case("headerless.jpg", written(encoded(picture(), "JPEG")[20:]), OTHER),
    Case("no-pixels.png", written(png_of_size(100, 100)), "damaged image"),
    Case("zero-size.png", written(png_of_size(0, 0)), f"damaged image|{OTHER}"),
    Case("bomb.png", written(png_of_size(30_000, 30_000)), BOMB),
    Case("bomb-just.png", written(png_of_size(13_378, 13_378)), BOMB),
    Case("bomb-wide.png", written(png_of_size(2**31 - 1, 1)), BOMB),
    Case("bomb.jpg", written(jpeg_of_size(65_535, 65_535)), BOMB),
    Case("bomb-of-scans.jpg", written(jpeg_of_scans(7000, 7000, 1000)), "more than 500 scans"),
    # FF 01 has no length: whoever reads one passes over the comment's head, and takes its text for the image's end.
    Case("bomb-of-hidden-scans.jpg", written(
        jpeg_of_scans(7000, 7000, 1000, b"\xff\x01" + b"\xff\xfe\xff\xff" + b"\xff\xd9" * 32_766 + b" ")
    ), "more than 500 scans"),
    Case("bomb.gif", written(gif_of_size(65_535, 65_535)), BOMB),
    Case("bomb.bmp", written(bmp_of_size(100_000, 100_000)), BOMB),
    Case("bomb.tif", written(tiff_of_size(100_000, 100_000)), BOMB),
    Case("bomb-in-text.png", written(
        png_of_size(40, 30, png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(100_000_000))))
    ), "damaged image: Decompressed data too large"),
    Case("ribbon-too-long.png", saved("PNG", picture(size=(70_000, 1))), "70000 x 1 pixels: no JPEG has sides over"),
    Case("float.tif", saved("TIFF", Image.new("F", (40, 30), 0.5)), "32-bit pixels"),
    Case("integer.tif", saved("TIFF", Image.new("I", (40, 30), 5)), "32-bit pixels"),
    Case("folder.jpg", lambda path: path.mkdir(), "is a folder, not an image file"),
    Case("pipe.jpg", lambda path: os.mkfifo(path), "Not a regular file"),
    Case("socket.jpg", a_socket, "cannot be read: "),
    Case("loop.jpg", lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    Case("dangling.jpg", lambda path: path.symlink_to("nowhere.jpg"), "no such file"),
    Case("below-a-file.jpg/photo.jpg", below_a_file, "cannot be read: Not a directory"),
    Case("m" * 300 + ".jpg", lambda path: None, "cannot be read: File name too long"),
    Case("gigabyte.jpg", sparse, "1,073,741,825 bytes, expected at most"),
]  # fmt: skip
CASES = [*TAKEN, *REJECTED]


def make(folder: Path, case: Case) -> Path:
    path = folder / case.name
    path.parent.mkdir(parents=True, exist_ok=True)
    case.make(path)
    return path
