"""Each of the files in `hostile_photos.py`: taken, with the right colour, or rejected with its reason."""

import csv
import io
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from socialtag_jax import Tagger
from socialtag_jax.errors import UserError
from socialtag_jax.photo_search import find_photos
from socialtag_jax.predict import predict
from socialtag_jax.presentation import Presentation, Presenter
from socialtag_jax.shards import pixels
from socialtag_jax.shards.dataset import open_dataset
from socialtag_jax.shards.images import LARGEST_PIXELS, ImageError, canonical_image, canonical_jpeg
from socialtag_jax.shards.pixels import decode
from socialtag_jax.sources import tags_csv
from tests.attempts import attempt
from tests.bundles import random_bundle
from tests.conftest import Socialtag
from tests.hostile_photos import (
    CASES,
    ORANGE,
    REJECTED,
    TAKEN,
    Case,
    encoded,
    gif_of_size,
    jpeg_of_size,
    make,
    picture,
    png_of_size,
)


def test_there_are_enough():
    assert len(TAKEN) >= 50
    assert len(REJECTED) >= 40
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case.name)[1:40])
def test_taken_or_rejected(case: Case, tmp_path: Path):
    make(tmp_path, Case("plain.jpg", TAKEN[0].make))  # that links lead to
    path = tmp_path / case.name if case.name == "plain.jpg" else make(tmp_path, case)
    if case.reason is not None:
        with pytest.raises(ImageError, match=case.reason) as caught:
            canonical_jpeg(path)
        assert "\n" not in str(caught.value)
        return
    image = canonical_image(path)
    assert image.mode == "RGB"
    assert min(image.size) <= 288
    found = np.asarray(image).astype(int)
    assert np.abs(found - np.array(case.colour)).max() <= 6
    assert decode(canonical_jpeg(path), 224).shape[2] == 3


def test_all_at_once(tmp_path: Path, socialtag: Socialtag):
    """Through the command line: photos in are photos written and rejected, and the list names every reason."""
    folder = tmp_path / "photos"
    for case in CASES:
        make(folder, case)
    splits = ["train"] * 8 + ["validation", "test"]
    with (folder / "tags.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "tags", "split"])
        # Spread, so that each split has photos that are taken.
        for number, case in enumerate(CASES):
            writer.writerow([f"./{case.name}", "odd", splits[number % 10]])
    command = ("prepare", "--source", "tags-csv", "--input", folder, "--output", tmp_path, "--name", "odd")
    result = socialtag(*command, "--allow-leaks", "--workers", "1")
    assert result.code == 0
    assert f"{len(CASES)} photos in = {len(TAKEN)} written + {len(REJECTED)} rejected" in result.err
    # What is in the names must not reach a terminal.
    assert "\x1b" not in result.err + result.out
    dataset = open_dataset(tmp_path / "odd" / "1.0.0")
    with (dataset.folder / "rejects.csv").open(newline="", encoding="utf-8") as file:
        reasons = {row["image_id"]: row["reason"] for row in csv.DictReader(file)}
    assert set(reasons) == {case.name for case in REJECTED}
    written = set()
    for split in dataset.splits:
        records = dataset.records(split)
        written |= {records[index].image_id for index in range(len(records))}
    assert written == {case.name for case in TAKEN}


@pytest.mark.parametrize("limit", [None, 1])
def test_bombs_are_refused_whatever_pillows_own_limit(limit: int | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ImageError, match="refused as a decompression bomb"):
        canonical_image(png_of_size(30_000, 30_000))


def test_a_bomb_costs_no_memory(tmp_path: Path):
    """In a process that may use a quarter of what the pixels would take."""
    for name, data in {"a.png": png_of_size(60_000, 60_000), "a.jpg": jpeg_of_size(65_535, 65_535)}.items():
        (tmp_path / name).write_bytes(data)
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from socialtag_jax.shards.images import ImageError, canonical_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try: canonical_image(Path(path)); sys.exit(1)\n"
        "    except ImageError as error: assert 'bomb' in error.what, error.what\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    paths = [str(path) for path in sorted(tmp_path.iterdir())]
    result = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 50_000  # kilobytes


@pytest.mark.parametrize(
    "data",
    [
        jpeg_of_size(65_500, 65_500),
        png_of_size(30_000, 30_000),
        gif_of_size(65_535, 65_535),
        encoded(picture(), "EPS"),
        b"",
        bytes(1000),
        b"\xff\xd8\xff\xc0\x00",
        b"\xff\xd8\xff\xc0" + bytes(20),
        b"\xff\xd8" + b"\xff\xe0\x00\x00" * 1000,
    ],
    ids=["JPEG bomb", "PNG bomb", "GIF bomb", "EPS", "empty", "zeros", "cut header", "no size", "empty segments"],
)
def test_what_a_shard_may_hold(data: bytes):
    """Stored images are bounded before OpenCV sees them, whoever wrote the shard."""
    with pytest.raises(ImageError, match=r"decompression bomb|does not decode"):
        decode(data, 224)


def test_a_stored_jpeg_that_is_cut_anywhere():
    """OpenCV would give gray pixels for the rest."""
    data = canonical_jpeg(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for length in range(0, len(data) - 1, 7):
        with pytest.raises(ImageError, match="does not decode"):
            decode(data[:length], 32)
    np.testing.assert_array_equal(decode(data, 32), decode(data + b"more", 32))
    assert pixels.jpeg_size(data) == (64, 64)


def test_the_largest_photo_is_still_read():
    """As many pixels as are allowed; a JPEG is shrunk while it is decoded."""
    side = int(LARGEST_PIXELS**0.5)
    assert canonical_image(encoded(Image.new("L", (side, side), 159), "JPEG")).size == (288, 288)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Root may read everything: the system's answer is put in."""
    path = make(tmp_path, TAKEN[0])

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ImageError, match="no permission to read the file"):
        canonical_image(path)


def test_names_that_no_file_has():
    for name in ("a\0b.jpg", "\ud800.jpg"):
        with pytest.raises(ImageError, match="cannot be read: "):
            canonical_image(Path(name))


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Tagger:
    return Tagger.load(random_bundle(tmp_path_factory.mktemp("bundles") / "bundle"))


def test_prediction_goes_on_without_what_it_cannot_read(tagger: Tagger, tmp_path: Path):
    for case in CASES:
        make(tmp_path, case)
    found = find_photos([tmp_path])
    lines: list[str] = []
    choose = Presenter(tagger.vocabulary, Presentation(tagger.threshold, tagger.max_tags)).choose
    predictions = predict(tagger, found.photos, choose=choose, log=lines.append, stream=io.StringIO())
    read = {one.path.relative_to(tmp_path).as_posix() for one in predictions if one.unreadable is None}
    expected = {case.name for case in TAKEN if (tmp_path / case.name) in set(found.photos)}
    assert read == expected
    assert len(read) > 40
    assert len(lines) == len(found.photos) - len(read)
    assert all(line.startswith("socialtag: error: ") for line in lines)


def test_suggest_names_the_photo(tagger: Tagger, tmp_path: Path):
    for case in REJECTED:
        path = make(tmp_path, case)
        with pytest.raises(ImageError) as caught:
            tagger.suggest(path)
        assert caught.value.where == str(path)


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make(tmp_path, TAKEN[0])
    real = os.scandir

    def refuse(path: object) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)  # pyright: ignore[reportArgumentType, reportCallIssue]

    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="closed: cannot be read: Permission denied"):
        find_photos([tmp_path])


def test_a_photo_that_is_changed_by_one_bit_is_read_or_rejected(tmp_path: Path):
    """A thousand flips in the small files of each kind: pixels of the right shape, or a reason."""
    rng = np.random.default_rng(0)
    small = picture(size=(12, 8))
    kinds = {kind: encoded(small, kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")}
    rejected = 0
    for data in kinds.values():
        for position, bit in zip(rng.integers(0, len(data), 150), rng.integers(0, 8, 150), strict=True):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            image, error = attempt(lambda changed=changed: canonical_image(bytes(changed)))
            rejected += error is not None
            assert error is not None or (image.mode == "RGB" and image.width * image.height <= LARGEST_PIXELS)
    assert 100 < rejected < 1000


@pytest.mark.parametrize("name", ["pipe.jpg", "socket.jpg", "folder.jpg"])
def test_splits_of_what_is_no_file(name: str, tmp_path: Path):
    """Identical photos are looked for by content: nothing waits for a pipe there."""
    from socialtag_jax.sources.splits import content_groups

    path = make(tmp_path, next(case for case in CASES if case.name == name))
    assert content_groups([path, path]) == [0, 1]


def test_open_files_stay_few(tmp_path: Path):
    """Of rejected files too."""
    paths = [make(tmp_path, case) for case in REJECTED]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 20, before[1]))
    try:
        for path in paths * 3:
            with pytest.raises(ImageError):
                canonical_image(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_links_that_lead_out_are_refused_by_the_reader(tmp_path: Path):
    outside = make(tmp_path / "outside", TAKEN[0])
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "link.jpg").symlink_to(outside)
    (folder / "tags.csv").write_text("link.jpg,sea\n")
    with pytest.raises(
        UserError, match=r"row 1: the path 'link\.jpg' leads out of .* through a symbolic link, to .*plain"
    ):
        tags_csv.read(folder, warn=pytest.fail)
    (photo,) = tags_csv.read(folder, allow_outside=True, warn=pytest.fail)
    assert np.abs(np.asarray(canonical_image(photo.path)).astype(int) - ORANGE).max() <= 6
