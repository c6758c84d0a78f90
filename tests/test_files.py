"""Files are written whole, or not at all, whatever their names."""

import os
from pathlib import Path

import pytest

from socialtag_jax import files

LONGEST = 255
"""Bytes of a file's name on Linux (NAME_MAX)."""


@pytest.mark.parametrize("name", [b"a" * LONGEST, "é".encode() * 127 + b"a", b"\xff" * LONGEST])
def test_names_as_long_as_they_can_be(tmp_path: Path, name: bytes):
    """In one byte a letter, in two, of which the last may be cut, and in bytes that are no text."""
    path = tmp_path / os.fsdecode(name)
    files.write_text(path, "old")
    files.write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path: Path):
    path = tmp_path / "tags.csv"
    files.write_text(path, "old")

    def write_half() -> None:
        with files.atomic_path(path) as temporary:
            temporary.write_text("ne")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
