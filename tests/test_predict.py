"""From files and folders of photos to suggestions."""

import contextlib
import csv
import io
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from socialtag_jax import Tagger, photo_search, predict, prediction_files
from socialtag_jax.errors import UserError
from socialtag_jax.machine import usable_cores
from socialtag_jax.predict import Prediction
from socialtag_jax.presentation import Choice, Presentation, Presenter
from socialtag_jax.shards.images import LARGEST_PIXELS
from socialtag_jax.tagger import MAX_BATCH, Photo
from tests.bundles import constant_bundle, random_bundle
from tests.photos import COLOURS, draw


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_bundle(tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 photos of three colours: more than a batch."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(40):
        draw(folder / f"{number:02d}.png", [list(COLOURS)[number % 3]], number)
    return folder


def chooser(tagger: Tagger, threshold: float = 0.0, max_tags: int | None = None) -> Callable[[np.ndarray], Choice]:
    return Presenter(tagger.vocabulary, Presentation(threshold, max_tags or tagger.max_tags)).choose


def run(
    tagger: Tagger,
    paths: Sequence[Path],
    stream: io.StringIO | None = None,
    *,
    log: Callable[[str], None] = pytest.fail,
    **how: Any,
) -> list[Prediction]:
    choose = chooser(tagger, **how)
    return list(predict.predict(tagger, paths, choose=choose, log=log, stream=stream or io.StringIO()))


def test_finds_photos_and_counts_the_rest(tmp_path: Path):
    for name in ("b.JPG", "a.png", "sub/c.jfif", "sub/d.HEIC", "sub/e.heic", "notes.txt", "README", "f.jpg/g.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    named = tmp_path / "notes.txt"
    found = photo_search.find_photos([named, tmp_path])
    names = ["notes.txt", "a.png", "b.JPG", "f.jpg/g.webp", "sub/c.jfif"]
    assert [str(path.relative_to(tmp_path)) for path in found.photos] == names
    assert str(found.skipped) == "4 other files (2 .heic, 1 without suffix, 1 .txt)"


@pytest.mark.parametrize(
    ("skipped", "text"),
    [
        ({".heic": 1}, "1 other file (1 .heic)"),
        (
            {".a": 1, ".b": 3000, ".c": 2, ".d": 2, ".e": 2, ".f": 2},
            "3,009 other files (3,000 .b, 2 .c, 2 .d, 2 .e, 2 .f, …)",
        ),
    ],
)
def test_skipped_files_in_words(skipped: dict[str, int], text: str):
    assert photo_search.skipped_text(skipped) == text


def test_a_folder_without_photos(tmp_path: Path):
    with pytest.raises(UserError, match=r"no image files in the folder --"):
        photo_search.find_photos([tmp_path])
    (tmp_path / "a.heic").write_bytes(b"")
    with pytest.raises(UserError, match=r"no image files in the folder, but 1 other file \(1 \.heic\)"):
        photo_search.find_photos([tmp_path])


def test_predictions_are_those_of_suggest(bundle: Path, photos: Path):
    tagger = Tagger.load(bundle)
    paths = sorted(photos.iterdir())
    expected = tagger.suggest(paths, threshold=0.6, max_tags=3)
    assert len({tuple(tag.tag for tag in tags) for tags in expected}) > 1
    found = run(tagger, paths, threshold=0.6, max_tags=3)
    assert [one.path for one in found] == paths
    assert [list(one.tags) for one in found] == expected


def test_unreadable_photos_are_named_in_order(bundle: Path, photos: Path, tmp_path: Path):
    tagger = Tagger.load(bundle)
    paths = sorted(photos.iterdir())
    broken = [tmp_path / f"broken{number}.jpg" for number in range(3)]
    for path in broken:
        path.write_bytes(b"")
    mixed = [broken[0], *paths[:20], broken[1], *paths[20:], broken[2]]
    lines: list[str] = []
    found = run(tagger, mixed, log=lines.append)
    assert [one.path for one in found] == mixed
    reason = "the file is empty (0 bytes)"
    assert [one.unreadable for one in found] == [reason if one in broken else None for one in mixed]
    assert [[tag.tag for tag in one.tags] for one in found if one.path in paths] == [
        [tag.tag for tag in tags] for tags in tagger.suggest(paths, threshold=0.0)
    ]
    assert lines == [f"socialtag: error: {path}: the file is empty (0 bytes)" for path in broken]
    assert [one.unreadable for one in run(tagger, broken, log=lines.append)] == [reason] * 3


class Watched(Tagger):
    """Counts decoded photos, and lets a test hold the device."""

    decoded = 0
    lock = threading.Lock()
    wanted = 0
    reached = threading.Event()

    def pixels(self, photo: Photo, *, largest_pixels: int = LARGEST_PIXELS) -> np.ndarray:
        result = super().pixels(photo, largest_pixels=largest_pixels)
        with self.lock:
            self.decoded += 1
            if self.decoded == self.wanted:
                self.reached.set()
        return result

    def launch(self, images: np.ndarray) -> jax.Array:
        assert self.reached.wait(60), f"the device works, and only {self.decoded} photos are decoded"
        return super().launch(images)


def test_decoding_goes_on_while_the_device_works_but_not_for_ever(bundle: Path, photos: Path):
    """The first batch is held until further photos are decoded; of many photos, those decoded ahead are bounded."""
    tagger = Watched.load(bundle)
    assert isinstance(tagger, Watched)
    tagger.wanted = MAX_BATCH + 20
    many = sorted(photos.iterdir()) * 25
    choose = chooser(tagger)
    predictions = predict.predict(tagger, many, choose=choose, log=pytest.fail, stream=io.StringIO())
    with contextlib.closing(predictions):  # pyright: ignore[reportArgumentType]
        assert next(predictions).path == many[0]
    assert tagger.decoded >= tagger.wanted
    # Two batches are on the device, two wait.
    assert tagger.decoded <= 4 * MAX_BATCH + usable_cores()


def test_progress_for_many_photos_only(bundle: Path, photos: Path):
    tagger = Tagger.load(bundle)
    paths = sorted(photos.iterdir())
    stream = io.StringIO()
    run(tagger, paths[:MAX_BATCH], stream)
    assert stream.getvalue() == ""
    run(tagger, paths, stream)
    *_, line = stream.getvalue().splitlines()
    assert line.startswith("predict 40/40 (100%), ")
    assert "photos/s, in " in line


@pytest.fixture(scope="module")
def quiet_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Beach 0.881, sun 0.731, sea 0.5, dog 0.269, snow 0.047, whatever the photo."""
    return constant_bundle(tmp_path_factory.mktemp("bundles") / "bundle", np.array([2, -1, 0, -3, 1], np.float32))


def test_text(socialtag, quiet_bundle: Path, photos: Path):
    photo = photos / "00.png"
    result = socialtag("predict", quiet_bundle, photo, photo, "--threshold", 0.7)
    assert result.code == 0
    assert result.out == f"{photo}: Beach 0.88  Sun 0.73\n" * 2
    assert result.err == ""
    result = socialtag("predict", quiet_bundle, photo, "--threshold", 0.9)
    assert result.out == f"{photo}: (no tag over the threshold)\n"


def test_json(socialtag, quiet_bundle: Path, photos: Path):
    photo = photos / "00.png"
    result = socialtag("predict", quiet_bundle, photo, "--max-tags", 1, "--json")
    tags = [{"tag": "beach", "display": "Beach", "confidence": 0.880797}]
    assert json.loads(result.out) == [{"path": str(photo), "tags": tags, "abstained": False}]


def test_csv_has_every_photo(socialtag, quiet_bundle: Path, photos: Path, tmp_path: Path):
    output = tmp_path / "tags.csv"
    photo = photos / "00.png"
    assert socialtag("predict", quiet_bundle, photo, "--threshold", 0.7, "--csv", output).code == 0
    rows = list(csv.reader(output.read_text().splitlines()))
    header = ["path", "tag", "display", "confidence", "abstained"]
    assert rows == [header, [str(photo), "beach", "Beach", "0.880797", ""], [str(photo), "sun", "Sun", "0.731059", ""]]
    result = socialtag("predict", quiet_bundle, photo, "--threshold", 0.9, "--csv", output)
    assert list(csv.reader(output.read_text().splitlines())) == [header, [str(photo), "", "", "", ""]]
    assert result.out == ""
    assert f"written to {output}" in result.err


def test_a_csv_file_is_whole_or_as_it_was(tmp_path: Path):
    output = tmp_path / "tags.csv"
    output.write_text("before")

    def predictions():
        yield Prediction(Path("a.png"), [])
        raise UserError("the disk is gone")

    with pytest.raises(UserError, match="the disk is gone"):
        prediction_files.write_csv(predictions(), output)
    assert output.read_text() == "before"
    assert list(tmp_path.iterdir()) == [output]


def test_the_command_says_what_it_skips(socialtag, quiet_bundle: Path, tmp_path: Path):
    draw(tmp_path / "a.png", ["red"], 0)
    (tmp_path / "b.heic").write_bytes(b"x")
    (tmp_path / "c.png").write_bytes(b"")
    result = socialtag("predict", quiet_bundle, tmp_path)
    assert result.code == 1
    assert result.err.splitlines() == [
        "skipped: 1 other file (1 .heic)",
        f"socialtag: error: {tmp_path / 'c.png'}: the file is empty (0 bytes)",
        "1 of 2 photos could not be read",
    ]
    assert len(result.out.splitlines()) == 1
