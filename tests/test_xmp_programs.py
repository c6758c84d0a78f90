"""What other programs read in our sidecars, and what is left of ours after they wrote them: exiftool, and exiv2.

exiv2 is the library through which darktable and digiKam read and write; it has Adobe's own XMP toolkit inside.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from socialtag_jax import xmp
from tests.sidecar_files import PROGRAMS
from tests.test_xmp import made, with_tags

TAGS = ("Sea", "a & <b>", "Ærø", "\U0001f3d6")


@pytest.fixture
def exiftool() -> str:
    found = shutil.which("exiftool")
    if found is None:
        pytest.skip("no exiftool (Debian: libimage-exiftool-perl)")
    return found


def exiftool_json(exiftool: str, path: Path) -> dict[str, Any]:
    command = [exiftool, "-json", "-struct", "-G1", "-validate", "-warning", "-all", str(path)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[0]


@pytest.mark.parametrize("program", [None, *PROGRAMS])
def test_exiftool_reads_all_tags(exiftool: str, tmp_path: Path, program: str | None):
    theirs = PROGRAMS[program].encode() if program else None
    path = tmp_path / "a.jpg.xmp"
    path.write_bytes(with_tags(theirs, made(*TAGS)))
    found = exiftool_json(exiftool, path)
    assert found["XMP-dc:Subject"] == [*(["Italy", "golden hour"] if program else []), *TAGS]
    if theirs is not None:
        path.write_bytes(theirs)
    # exiftool has its own opinion of Microsoft's namespace, as digiKam writes it.
    said = exiftool_json(exiftool, path).get("ExifTool:Warning")
    assert found.get("ExifTool:Warning") == said
    assert (said is None) == (program != "digiKam")


def test_after_exiftool(exiftool: str, tmp_path: Path):
    path = tmp_path / "a.jpg.xmp"
    path.write_bytes(with_tags(None, made(*TAGS)))
    subprocess.run([exiftool, "-overwrite_original", "-XMP-dc:Subject+=mine", "-XMP-xmp:Rating=3", path], check=True)
    assert xmp.record(path.read_bytes()) == made(*TAGS)
    left = xmp.untagged(path.read_bytes())
    assert left is not None
    assert b"socialtag" not in left
    path.write_bytes(left)
    found = exiftool_json(exiftool, path)
    assert (found["XMP-dc:Subject"], found["XMP-xmp:Rating"]) == (["mine"], 3)
    assert {name for name in found if name.startswith("XMP-")} == {
        "XMP-dc:Subject",
        "XMP-xmp:Rating",
        "XMP-x:XMPToolkit",
    }


def test_after_exiftool_of_a_file_that_is_all_ours(exiftool: str, tmp_path: Path):
    path = tmp_path / "a.jpg.xmp"
    path.write_bytes(with_tags(None, made(*TAGS)))
    subprocess.run([exiftool, "-overwrite_original", "-XMP-xmp:Rating=3", path], check=True)
    subprocess.run([exiftool, "-overwrite_original", "-XMP-xmp:Rating=", path], check=True)
    assert xmp.untagged(path.read_bytes()) is None


def exiv2_image(path: Path) -> Any:
    exiv2 = pytest.importorskip("exiv2", reason="no exiv2 (pip install exiv2)")
    image = exiv2.ImageFactory.open(str(path))
    image.readMetadata()
    return image


def values(image: Any) -> dict[str, str]:
    return {value.key(): value.toString() for value in image.xmpData()}


@pytest.mark.parametrize("program", [None, *PROGRAMS])
def test_exiv2_reads_all_tags(tmp_path: Path, program: str | None):
    theirs = PROGRAMS[program].encode() if program else None
    path = tmp_path / "a.jpg.xmp"
    path.write_bytes(with_tags(theirs, made(*TAGS)))
    expected = [*(["Italy", "golden hour"] if program else []), *TAGS]
    assert values(exiv2_image(path))["Xmp.dc.subject"] == ", ".join(expected)


@pytest.mark.parametrize("program", PROGRAMS)
def test_after_exiv2(tmp_path: Path, program: str):
    """What exiv2 reads in the file is the same as if our tags had never been there."""
    path = tmp_path / "a.jpg.xmp"
    path.write_text(PROGRAMS[program], encoding="utf-8")
    before = values(exiv2_image(path))
    path.write_bytes(with_tags(path.read_bytes(), made(*TAGS)))
    exiv2_image(path).writeMetadata()
    assert xmp.record(path.read_bytes()) == made(*TAGS)
    left = xmp.untagged(path.read_bytes())
    assert left is not None
    path.write_bytes(left)
    assert values(exiv2_image(path)) == before


def test_after_exiv2_of_a_file_that_is_all_ours(tmp_path: Path):
    path = tmp_path / "a.jpg.xmp"
    path.write_bytes(with_tags(None, made(*TAGS)))
    exiv2_image(path).writeMetadata()
    assert xmp.untagged(path.read_bytes()) is None
