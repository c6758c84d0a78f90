"""HARRISON's lists: the real ones against the thesis's Table 1, small ones for everything that can be wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from socialtag_jax import cli
from socialtag_jax.errors import UserError
from socialtag_jax.shards.dataset import open_dataset
from socialtag_jax.sources import harrison
from tests.photos import draw

TABLE_1 = {
    "love": (5892, "10.27%"),
    "friend": (3646, "6.35%"),
    "beach": (3025, "5.27%"),
    "family": (2966, "5.17%"),
    "yellow": (2667, "4.65%"),
    "girl": (2614, "4.56%"),
    "fashion": (2371, "4.13%"),
    "nike": (2253, "3.93%"),
    "snow": (2212, "3.85%"),
    "happy": (2143, "3.73%"),
}
"""The thesis's ten most frequent tags: images, and share of the 57,383 images."""


@pytest.fixture
def real(shared_data: Path) -> Path:
    folder = shared_data / "harrison"
    if not folder.is_dir():
        pytest.skip(f"no HARRISON lists in {shared_data}")
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code, out, err


def test_table_1_of_the_thesis(real: Path, capsys: pytest.CaptureFixture[str]):
    code, out, err = run(capsys, "stats", real, "--source", "harrison", "--json")
    assert (code, err.split(" in ")[0]) == (0, "57,383 photos")
    whole = json.loads(out)["splits"]["whole"]
    assert (whole["images"], whole["unique_tags"], whole["images_without_tags"]) == (57_383, 997, 0)
    assert (round(whole["mean_tags"], 2), whole["median_tags"], whole["max_tags"]) == (4.54, 4, 10)
    found = {entry["tag"]: (entry["images"], f"{entry['share']:.2%}") for entry in whole["most_frequent"]}
    assert list(found.items()) == list(TABLE_1.items())


def test_photos_are_known_by_their_relative_path(real: Path):
    photos = harrison.read(real, need_images=False, warn=pytest.fail)
    assert len({photo.image_id for photo in photos}) == 57_383
    assert len({Path(photo.image_id).name for photo in photos}) == 6_473


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve photos, of which three names recur, with their lists."""
    root = tmp_path / "harrison"
    paths = [f"instagram_dataset/{place}/image_{number}.jpg" for place in ("sea", "city") for number in range(6)]
    for number, path in enumerate(paths):
        draw(root / path, ["red"], number)
    (root / "data_list.txt").write_text("".join(f"{path}\n" for path in paths))
    (root / "tag_list.txt").write_text("".join(f"{path.split('/')[1]} love \n" for path in paths))
    (root / "vocab_index.txt").write_text("love                  0\nsea                   1\ncity                  2\n")
    return root


def test_prepare(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """With one photo replaced by a fixed one."""
    target = "instagram_dataset/sea/image_3.jpg"
    shutil.copy(folder / target, tmp_path / "good.jpg")
    (folder / target).write_bytes(b"broken")
    fixed = tmp_path / "fixed" / target
    fixed.parent.mkdir(parents=True)
    shutil.copy(tmp_path / "good.jpg", fixed)
    command = ("prepare", "--source", "harrison", "--input", folder, "--output", tmp_path / "data")
    code, out, err = run(capsys, *command, "--overlay", tmp_path / "fixed")
    assert code == 0
    assert "12 photos in = 12 written + 0 rejected" in err
    dataset = open_dataset(Path(out.strip()))
    assert dataset.name == "harrison/1.0.0"
    assert set(dataset.vocabulary.tags) == {"love", "sea", "city"}


def test_missing_images_and_foreign_tags_are_reported(folder: Path):
    (folder / "instagram_dataset/city/image_0.jpg").unlink()
    tags = folder / "tag_list.txt"
    tags.write_text(tags.read_text().replace("sea love", "sea nikon", 2))
    (folder / "vocab_index.txt").write_text("love 0\nsea 1\ncity 2\nghost 3\n")
    lines: list[str] = []
    photos = harrison.read(folder, warn=lines.append)
    assert photos[0].tags == ("sea", "nikon")
    assert len(photos) == 12
    text = "\n".join(lines)
    assert "1 tags are not in vocab_index.txt, and kept: 'nikon' (line 1)" in text
    assert "1 tags occur on no photo: ghost" in text
    assert "1 images are missing, and will be listed in rejects.csv: instagram_dataset/city/image_0.jpg" in text


def cut_last_line(path: Path) -> None:
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:-1]))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: cut_last_line(folder / "tag_list.txt"), r"data_list\.txt has 12 lines, tag_list\.txt has 11"),
        (lambda folder: (folder / "vocab_index.txt").unlink(), r"vocab_index\.txt: cannot be read"),
        (
            lambda folder: (folder / "vocab_index.txt").write_text("love\n"),
            r"vocab_index\.txt, line 1: 'love': expected",
        ),
        (lambda folder: (folder / "tag_list.txt").write_bytes(b"\xff\n"), r"not UTF-8 text at byte offset 0"),
        (
            lambda folder: (folder / "data_list.txt").write_text("a.jpg\n" * 12),
            r"line 2: 'a\.jpg' stands in line 1 too",
        ),
        (lambda folder: (folder / "data_list.txt").write_text("../a.jpg\n" * 12), r"'\.\./a\.jpg' lies outside"),
        (lambda folder: shutil.rmtree(folder / "instagram_dataset"), r"none of the 12 images is there"),
    ],
)
def test_broken_lists(folder: Path, spoil: Callable[[Path], object], words: str):
    spoil(folder)
    with pytest.raises(UserError, match=words):
        harrison.read(folder, warn=lambda _: None)


def test_overlay_belongs_to_harrison(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command = ("prepare", "--source", "tags-csv", "--input", folder, "--output", tmp_path, "--overlay", tmp_path)
    code, _, err = run(capsys, *command)
    assert code == 2
    assert "--overlay: the source tags-csv has no overlay" in err


def test_what_the_overlay_and_the_lists_hold_besides_is_reported(folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        harrison.read(folder, overlay=tmp_path / "nowhere", warn=pytest.fail)
    overlay = tmp_path / "fixed"
    draw(overlay / "instagram_dataset/sea/image_3.jpg", ["blue"], 1)
    draw(overlay / "image_3.jpg", ["blue"], 1)
    (folder / "vocab_index.txt").write_text("love 0\nsea 1\ncity 2\nlove 7\n")
    tags = folder / "tag_list.txt"
    tags.write_text(tags.read_text().replace("sea love \n", "\n", 1))
    lines: list[str] = []
    harrison.read(folder, overlay=overlay, warn=lines.append)
    text = "\n".join(lines)
    assert "1 images replace others, 1 files have the path of none: image_3.jpg" in text
    assert "1 lines repeat a tag: 'love' (line 4)" in text
    assert "1 photos have no tags" in text
