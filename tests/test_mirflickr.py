"""Both layouts of MIRFLICKR, on small folders with everything that can be wrong."""

import os
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from socialtag_jax.errors import UserError
from socialtag_jax.sources import mirflickr
from socialtag_jax.sources.photo import Photo


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def content(photos: list[Photo]) -> list[tuple[str, tuple[str, ...]]]:
    return [(photo.image_id, photo.tags) for photo in photos]


@pytest.fixture
def million(tmp_path: Path) -> Path:
    """Photos of three of the 100 folders."""
    numbers = (0, 9, 10, 30_000, 31_234, 990_000, 999_999)
    files = {f"images/{number // 10_000}/{number}.jpg": b"jpeg" for number in numbers}
    files |= {f"tags/{number // 10_000}/{number}.txt": f"sea\nnew york\nn{number}\n".encode() for number in numbers}
    files |= {f"exif/{number // 10_000}/{number}.txt": b"-Make\nNIKON\n" for number in numbers}
    return write(tmp_path / "1m", files)


@pytest.fixture(params=["meta/", ""])
def twenty_five_thousand(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Photos 1, 2, ..., 12 with their tag files on either level."""
    files = {f"im{number}.jpg": b"jpeg" for number in range(1, 13)}
    files |= {f"{request.param}tags/tags{number}.txt": f"sky\nn{number}\n".encode() for number in range(1, 13)}
    files |= {f"{request.param}exif/exif{number}.txt": b"-Make\nNIKON\n" for number in range(1, 13)}
    return write(tmp_path / "25k", {**files, "doc/README.txt": b"read me"})


@pytest.mark.parametrize("need_images", [True, False])
def test_the_million(million: Path, need_images: bool):
    if not need_images:
        shutil.rmtree(million / "images")
    photos = list(mirflickr.read(million, need_images=need_images, warn=pytest.fail))
    assert content(photos) == [
        (f"images/{number // 10_000}/{number}.jpg", ("sea", "new york", f"n{number}"))
        for number in (0, 9, 10, 30_000, 31_234, 990_000, 999_999)
    ]
    assert photos[4].path == million / "images/3/31234.jpg"
    assert photos[4].where == str(million / "tags/3/31234.txt")
    assert {photo.split for photo in photos} == {None}


@pytest.mark.parametrize("need_images", [True, False])
def test_the_twenty_five_thousand(twenty_five_thousand: Path, need_images: bool):
    if not need_images:
        for image in twenty_five_thousand.glob("im*.jpg"):
            image.unlink()
    photos = list(mirflickr.read(twenty_five_thousand, need_images=need_images, warn=pytest.fail))
    assert content(photos) == [(f"im{number}.jpg", ("sky", f"n{number}")) for number in range(1, 13)]
    assert photos[1].path == twenty_five_thousand / "im2.jpg"
    assert Path(photos[1].where).read_text() == "sky\nn2\n"


def test_folders_are_read_one_after_the_other(million: Path):
    photos = mirflickr.read(million, warn=pytest.fail)
    first = list(islice(photos, 3))
    shutil.rmtree(million / "tags/99")
    shutil.rmtree(million / "images/99")
    write(million, {"images/3/30001.jpg": b"jpeg", "tags/3/30001.txt": b"late\n"})
    assert [photo.image_id for photo in [*first, *photos]] == [
        *("images/0/0.jpg", "images/0/9.jpg", "images/0/10.jpg"),
        *("images/3/30000.jpg", "images/3/30001.jpg", "images/3/31234.jpg"),
    ]


TAG_FILES = {
    # file content -> tags, and the words of the report
    "empty": (b"", (), "1 tag files are empty"),
    "only blanks": (b" \n\n", (), "1 tag files are empty"),
    "blank lines": (b"sea\n\n  \nsky\n", ("sea", "sky"), "2 blank lines between tags are ignored"),
    "no last line end": (b"sea\nsky", ("sea", "sky"), None),
    "blanks around": (b" sea \nsky\t\n", ("sea", "sky"), None),
    "carriage returns": (b"sea\r\nsky\r\n", ("sea", "sky"), "1 tag files have carriage returns"),
    "old line ends": (b"sea\rsky\r", ("sea", "sky"), "1 tag files have carriage returns"),
    "UTF-8": ("café\n日本\n".encode(), ("café", "日本"), None),
    "byte order mark": (b"\xef\xbb\xbfsea\n", ("sea",), None),
    "Latin-1": (
        "café\n日本\n".encode() + "über\n".encode("latin-1"),
        ("café", "日本", "über"),
        "1 tag files are not UTF",
    ),
    "Windows-1252": (b"10\x80\n", ("10€",), "1 tag files are not UTF-8"),
    "undefined there": (b"a\x81b\n", ("a\x81b",), "1 tag files are not UTF-8"),
    "duplicates": (b"sea\nsky\nsea\nsea\n", ("sea", "sky"), "2 tags stand twice in one file"),
    "longest": (b"sea\n" + b"x" * 1000 + b"\n", ("sea", "x" * 1000), None),
    "too long": (b"sea\n" + b"x" * 1001 + b"\nsky\n", ("sea", "sky"), "1 tags are longer than 1000 characters"),
    "only too long": (b"x" * 1001, (), "1 tags are longer than 1000 characters"),
}


@pytest.mark.parametrize(("data", "tags", "words"), TAG_FILES.values(), ids=TAG_FILES)
@pytest.mark.parametrize("layout", ["images/0/7.jpg tags/0/7.txt", "im7.jpg meta/tags/tags7.txt"])
def test_tag_files(tmp_path: Path, layout: str, data: bytes, tags: tuple[str, ...], words: str | None):
    image, tag_file = layout.split()
    lines: list[str] = []
    photos = list(mirflickr.read(write(tmp_path, {image: b"jpeg", tag_file: data}), warn=lines.append))
    assert content(photos) == [(image, tags)]
    if words is None:
        assert lines == []
    else:
        assert len(lines) == 1
        assert words in lines[0]
        assert lines[0].startswith(f"{tmp_path}: ")
        assert lines[0].endswith(f": {tag_file}")


def test_images_and_tag_files_that_lack_the_other(million: Path):
    (million / "images/3/31234.jpg").unlink()
    for number in (0, 9, 10, 30_000):
        (million / f"tags/{number // 10_000}/{number}.txt").unlink()
    lines: list[str] = []
    photos = {photo.image_id: photo for photo in mirflickr.read(million, warn=lines.append)}
    assert len(photos) == 7
    assert not photos["images/3/31234.jpg"].path.exists()
    assert photos["images/0/0.jpg"].tags == ()
    assert photos["images/0/0.jpg"].where == str(million / "tags/0/0.txt")
    assert lines == [
        f"{million}: 1 photos have tags but no image, and will be listed in rejects.csv: images/3/31234.jpg",
        (
            f"{million}: 4 photos have no tag file, and count as photos without tags: "
            "images/0/0.jpg, images/0/9.jpg, images/0/10.jpg"
        ),
    ]
    labelled = [photo.image_id for photo in mirflickr.read(million, need_images=False, warn=pytest.fail)]
    assert labelled == ["images/3/31234.jpg", "images/99/990000.jpg", "images/99/999999.jpg"]


def test_a_whole_folder_without_tags(million: Path):
    shutil.rmtree(million / "tags/3")
    photos = list(mirflickr.read(million, warn=lambda _: None))
    assert [photo.image_id for photo in photos if not photo.tags] == ["images/3/30000.jpg", "images/3/31234.jpg"]


def test_stray_files(million: Path):
    strays = {"images/0/Thumbs.db", "images/0/0017.jpg", "images/more/5.jpg", "images/0/5.png", "tags/0/._9.txt"}
    write(million, {**dict.fromkeys(strays, b""), "readme.html": b""})
    (million / "tags/0/12.txt").mkdir()
    lines: list[str] = []
    photos = list(mirflickr.read(million, warn=lines.append))
    assert len(photos) == 7
    assert len(lines) == 1
    assert "6 files and folders are neither a numbered photo nor its tags, and are ignored: " in lines[0]
    assert set(lines[0].rpartition(": ")[2].split(", ")) < strays | {"images/more", "tags/0/12.txt"}


def test_stray_files_of_the_flat_layout(twenty_five_thousand: Path):
    write(twenty_five_thousand, {"im0001.jpg": b"", "index.html": b""})
    lines: list[str] = []
    assert len(list(mirflickr.read(twenty_five_thousand, warn=lines.append))) == 12
    assert len(lines) == 1
    assert "2 files and folders are neither" in lines[0]


def test_suffixes_in_capitals(million: Path):
    (million / "images/0/9.jpg").rename(million / "images/0/9.JPG")
    (million / "tags/0/9.txt").rename(million / "tags/0/9.TXT")
    write(million, {"images/0/10.JPG": b"another"})
    lines: list[str] = []
    photos = list(mirflickr.read(million, warn=lines.append))
    assert [photo.image_id for photo in photos[:3]] == ["images/0/0.jpg", "images/0/9.JPG", "images/0/10.jpg"]
    assert photos[1].tags == ("sea", "new york", "n9")
    assert lines == [f"{million}: 1 files have the number of another one, and are ignored: images/0/10.JPG"]


def both_layouts(root: Path) -> None:
    write(root, {"meta/tags/tags1.txt": b"sea\n", "im1.jpg": b"jpeg"})


def nothing_numbered(root: Path) -> None:
    shutil.rmtree(root)
    write(root, {"tags/a.txt": b"sea\n", "tags.csv": b"path,tags\n"})


def no_tag_files(root: Path) -> None:
    for number in (0, 3, 99):
        shutil.rmtree(root / f"images/{number}")
        shutil.rmtree(root / f"tags/{number}")
        (root / f"images/{number}").mkdir()
        (root / f"tags/{number}").mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, "no such folder"),
        (nothing_numbered, r"expected tags/0/0\.txt .*\(1M\) or meta/tags/tags1\.txt .*found tags\.csv, tags/"),
        (lambda root: shutil.rmtree(root / "tags"), r"no MIRFLICKR tags: .*found exif/, images/"),
        (lambda root: shutil.rmtree(root / "images"), r"no images, expected images/0/0\.jpg"),
        (both_layouts, "holds tag files of two layouts"),
        (no_tag_files, "no photos, expected"),
    ],
)
def test_no_such_layout(million: Path, spoil: Callable[[Path], object], words: str):
    spoil(million)
    with pytest.raises(UserError, match=words):
        list(mirflickr.read(million, warn=lambda _: None))


def test_the_layout_is_checked_before_the_first_photo(tmp_path: Path):
    with pytest.raises(UserError, match="found an empty folder"):
        mirflickr.read(tmp_path, warn=pytest.fail)


def test_an_unreadable_tag_file(million: Path):
    path = million / "tags/0/9.txt"
    path.unlink()
    path.symlink_to("nowhere.txt")
    with pytest.raises(UserError, match=r"9\.txt: cannot be read: No such file"):
        list(mirflickr.read(million, warn=pytest.fail))


def test_pipes_are_never_opened(million: Path):
    """Neither as a tag file, nor through a link, nor as an image."""
    path = million / "tags/0/9.txt"
    path.unlink()
    os.mkfifo(path)
    (million / "tags/0/8888.txt").symlink_to("9.txt")
    warnings: list[str] = []
    list(mirflickr.read(million, warn=warnings.append))
    assert any("2 files and folders are neither a numbered photo nor its tags" in line for line in warnings)
