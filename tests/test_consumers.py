"""The programs in docs/consumers.md, each run as it stands there; that of a browser is in test_onnx_web.py."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from socialtag_jax import Tagger, cli, onnx_file
from socialtag_jax.tags import TagVocabulary
from tests import bundles, exported
from tests.bundles import TAGS
from tests.consumers_page import BLOCKS, PAGE, block

PYTHON = {title: blocks["python"] for title, blocks in BLOCKS.items() if "python" in blocks}

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras, with NumPy 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the page's bundle and its photo, which has the network's size: no program's way to resize matters."""
    folder = tmp_path_factory.mktemp("consumer")
    exported.full_bundle(bundles.random_model(), folder / "holiday.tagger")
    Image.fromarray(exported.pixels(1)[0]).save(folder / "photo.png")
    return folder


def test_the_page_has_a_program_for_each_consumer():
    assert list(PYTHON) == [
        "Python, with the tagger",
        "Python, with nothing but JAX",
        "Python, with onnxruntime",
        "Keras 3",
        "Anything else, with safetensors",
    ]


@pytest.mark.parametrize("title", PYTHON)
def test_it_says_what_the_tagger_says(folder: Path, title: str):
    """As printed, to four decimals."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PYTHON[title]]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder, env=environment)
    found = ast.literal_eval(result.stdout)
    tagger = Tagger.load(folder / "holiday.tagger")
    photo = folder / "photo.png"
    # The tagger reads a file as training did, by way of a JPEG; the others take its very pixels.
    (tags,) = tagger.suggest(str(photo) if "tagger" in title else np.asarray(Image.open(photo)))
    assert 0 < len(tags) < len(TAGS), "the threshold leaves one out"
    assert [display for display, _ in found] == [one.display for one in tags]
    np.testing.assert_allclose([score for _, score in found], [one.confidence for one in tags], atol=1e-4, rtol=0)


@pytest.mark.parametrize("title", PYTHON)
def test_a_photo_that_was_taken_upright(folder: Path, tmp_path: Path, title: str):
    """A phone stores it lying, with a mark in its EXIF block: to turn it is worth more than any way to resize.

    Tolerance: a third of what the lying photo differs by, for each program's own way to resize.
    """
    (tmp_path / "holiday.tagger").symlink_to(folder / "holiday.tagger")
    upright = np.zeros((96, 64, 3), np.uint8)
    upright[:48, :, 0], upright[48:, :, 2] = 255, 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    lying = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
    lying.save(tmp_path / "photo.png", exif=exif)
    command = [sys.executable, "-c", PYTHON[title]]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    found = dict(ast.literal_eval(result.stdout))
    tagger = Tagger.load(folder / "holiday.tagger")
    (expected,), (wrong,) = (
        [{one.display: one.confidence for one in tags} for tags in tagger.suggest(photo)]
        for photo in (str(tmp_path / "photo.png"), np.asarray(lying))
    )
    assert found.keys() == expected.keys()
    difference, largest = (
        max(abs(other[display] - score) for display, score in expected.items()) for other in (found, wrong)
    )
    assert difference < largest / 3


def test_only_the_tagger_needs_this_package():
    for title, program in PYTHON.items():
        assert ("socialtag_jax" in program) == (title == "Python, with the tagger")


def test_the_commands_exist():
    """Every `socialtag` line is one that the command line takes."""
    parser, _ = cli._parser()
    lines = [line for blocks in BLOCKS.values() for line in blocks.get("sh", "").splitlines()]
    commands = [line for line in lines if line.startswith("socialtag ")]
    assert len(commands) == 2
    for line in commands:
        parser.parse_args(shlex.split(line)[1:])


def test_the_tables_are_right(folder: Path):
    """Every file of the bundle and every key of the ONNX metadata is named, and no other."""
    text = PAGE.read_text(encoding="utf-8")
    named = {name for line in re.findall(r"^\| (`.+?) \|", text, re.MULTILINE) for name in re.findall(r"`(.+?)`", line)}
    files = {path.name for path in (folder / "holiday.tagger").iterdir()}
    description = json.loads((folder / "holiday.tagger" / "tagger.json").read_text())
    keys = set(onnx_file.metadata(description, TagVocabulary(TAGS, TAGS), ""))
    assert named == files | keys


def test_the_block_that_a_browser_runs_is_there():
    assert "onnxruntime-web" in block("A web page, with onnxruntime-web", "html")
