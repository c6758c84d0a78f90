"""What goes wrong in real folders, through the command line; `pytest -s` shows each message as its user sees it."""

import csv
import io
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from socialtag_jax import cli
from socialtag_jax.shards.tfrecord import RecordSource
from tests.photos import colour_rows, draw, photo_folder


def show(capsys: pytest.CaptureFixture[str], line: str) -> None:
    """Prints a line under `pytest -s`, and only there."""
    if capsys.request.config.getoption("capture") == "no":
        with capsys.disabled():
            print(f"\n  {line}")


def socialtag(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """(exit code, the error's line) of a command; shows the line under `pytest -s`."""
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(argument) for argument in arguments])
    err = capsys.readouterr().err
    assert "Traceback" not in err
    line = next((line for line in err.splitlines() if "error: " in line), "")
    if line:
        show(capsys, f"exit {stopped.value.code}: {line}")
    assert isinstance(stopped.value.code, int)
    return stopped.value.code, line


def png_header(side: int) -> bytes:
    """A PNG file that promises side x side pixels and holds none."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    size = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture
def odd_photos(tmp_path: Path) -> Path:
    """Good photos, and one of every odd or broken kind."""
    rows = colour_rows(20)
    odd = ("missing.jpg", "truncated.jpg", "png.jpg", "cmyk.jpg", "animated.gif", "empty.jpg", "bomb.png", "text.jpg")
    folder = photo_folder(tmp_path / "photos", {**rows, **{name: (["odd"], "train") for name in odd}})
    for name in odd:
        (folder / name).unlink()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, "JPEG")
    (folder / "truncated.jpg").write_bytes(buffer.getvalue()[:20_000])
    noise.save(folder / "png.jpg", "PNG")
    noise.convert("CMYK").save(folder / "cmyk.jpg", "JPEG")
    noise.save(folder / "animated.gif", save_all=True, append_images=[noise.rotate(90), noise.rotate(180)])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "bomb.png").write_bytes(png_header(30_000))
    (folder / "text.jpg").write_text("not a photo")
    return folder


def test_odd_photos(odd_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Odd kinds are read; broken ones are listed with their reasons; nothing is lost."""
    code, _ = socialtag(
        capsys, "prepare", "--source", "tags-csv", "--input", odd_photos, "--output", tmp_path, "--name", "odd"
    )
    assert code == 0
    folder = tmp_path / "odd" / "1.0.0"
    with (folder / "rejects.csv").open(newline="") as file:
        reasons = {row["image_id"]: row["reason"] for row in csv.DictReader(file)}
    for name, reason in reasons.items():
        show(capsys, f"{name}: {reason}")
    assert set(reasons) == {"missing.jpg", "truncated.jpg", "empty.jpg", "bomb.png", "text.jpg"}
    assert reasons["missing.jpg"] == "no such file"
    assert "truncated" in reasons["truncated.jpg"]
    assert "0 bytes" in reasons["empty.jpg"]
    assert "decompression bomb" in reasons["bomb.png"]
    assert "not an image" in reasons["text.jpg"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = photo_folder(tmp_path_factory.mktemp("source"), colour_rows(20))
    output = tmp_path_factory.mktemp("data")
    with pytest.raises(SystemExit):
        cli.main(["prepare", "--source", "tags-csv", "--input", str(source), "--output", str(output), "--name", "demo"])
    return output / "demo" / "1.0.0"


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("experiments") / "tiny.py"
    path.write_text("from socialtag_jax import Experiment\nexperiment = Experiment(name='tiny', weights='random')\n")
    return path


def test_csv_without_path_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "tags.csv").write_text("title,tags\nsea.jpg,sea sun\n")
    code, line = socialtag(capsys, "prepare", "--source", "tags-csv", "--input", tmp_path, "--output", tmp_path / "out")
    assert code == 1
    assert "tags.csv" in line
    assert "no path column" in line or "path" in line


def test_unknown_flag(dataset: Path, capsys: pytest.CaptureFixture[str]):
    code, line = socialtag(capsys, "stats", dataset, "--sorted")
    assert code == 2
    assert "unknown arguments: --sorted" in line


def test_unknown_allowed_tag(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = photo_folder(tmp_path / "photos", colour_rows(20))
    command = ("prepare", "--source", "tags-csv", "--input", source, "--output", tmp_path, "--pruning", "allow=gren")
    code, line = socialtag(capsys, *command)
    assert code == 2
    assert "'gren'" in line
    assert "green" in line


def test_no_manifest(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    (copy / "manifest.json").unlink()
    code, line = socialtag(capsys, "stats", copy)
    assert code == 1
    assert "incomplete data set: manifest.json is missing" in line


@pytest.mark.parametrize("field", ["length", "length checksum", "data", "data checksum"])
def test_one_flipped_byte(
    dataset: Path, experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], field: str
):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    shard = next(copy.glob("demo-train.tfrecord-*-of-?????"))
    data = bytearray(shard.read_bytes())
    end = RecordSource([shard]).frame_size(0)
    data[{"length": 0, "length checksum": 8, "data": 40, "data checksum": end - 1}[field]] ^= 1
    shard.write_bytes(data)
    code, line = socialtag(capsys, "train", experiment, "--dataset", copy, "--workdir", tmp_path / "run", "--debug")
    assert code == 1
    assert f"{shard}: record 0 at offset 0: the checksum of the record's {field.split()[0]}" in line


@pytest.mark.parametrize(
    "arguments",
    [
        ("prepare", "--source", "tags-csv", "--input", "FILE", "--output", "FILE"),
        ("prepare", "--source", "tags-csv", "--input", "FOLDER", "--output", "FILE", "--name", "x"),
        ("prepare", "--source", "tags-csv", "--input", "FOLDER", "--output", "NEW", "--seed", "-1"),
        ("stats", "FILE"),
        ("train", "FILE", "--dataset", "DATASET", "--workdir", "NEW"),
        ("train", "EXPERIMENT", "--dataset", "DATASET", "--workdir", "FILE"),
        ("train", "EXPERIMENT", "--dataset", "FILE", "--workdir", "NEW"),
        ("train", "EXPERIMENT", "--dataset", "DATASET", "--workdir", "NEW", "--weights", "FILE"),
        ("evaluate", "FILE", "--dataset", "DATASET"),
        ("export", "FILE", "--output", "NEW"),
        ("predict", "FILE", "FILE"),
        ("weights", "convert", "FILE", "--output", "NEW/out.safetensors"),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_files_and_folders_in_wrong_places(
    dataset: Path, experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
):
    (tmp_path / "file.txt").write_text("hello")
    draw(tmp_path / "folder" / "a.png", ["red"], 0)
    (tmp_path / "folder" / "tags.csv").write_text("path,tags\na.png,red\nb.png,red\nc.png,red\n")
    places = {
        "FILE": tmp_path / "file.txt",
        "FOLDER": tmp_path / "folder",
        "NEW": tmp_path / "new",
        "DATASET": dataset,
        "EXPERIMENT": experiment,
    }
    words = [str(places[word]) if word in places else word.replace("NEW/", f"{tmp_path}/new/") for word in arguments]
    code, line = socialtag(capsys, *words)
    assert code in (1, 2)
    assert len(line) > 40
