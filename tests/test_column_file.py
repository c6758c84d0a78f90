"""The matrix on disk: what was written by rows comes back by columns, and a full disk is said before it matters."""

import errno
import os
import shutil
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from socialtag_jax.column_file import ColumnFile
from socialtag_jax.errors import UserError


@pytest.mark.parametrize("block_bytes", [1, 4 * 10 * 3, 4 * 10 * 7, 2**20])
def test_rows_in_columns_out(tmp_path: Path, block_bytes: int):
    """Blocks of one column, of three (the last one shorter), of exactly all, and of more than all."""
    values = np.random.default_rng(0).random((10, 7), np.float32)
    with ColumnFile(tmp_path, 10, 7, block_bytes=block_bytes, hint="") as file:
        for start, end in ((0, 4), (4, 9), (9, 10)):
            file.write(start, values[start:end])
        assert list(tmp_path.iterdir()) == []  # without a name, nothing can be left behind
        found = [column.copy() for column in file.columns()]
    np.testing.assert_array_equal(found, values.T)


def test_writes_that_the_system_cuts_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    values = np.random.default_rng(0).random((6, 5), np.float32)
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: whole(file, data[:7], offset))
    with ColumnFile(tmp_path, 6, 5, block_bytes=48, hint="") as file:
        file.write(0, values)
        np.testing.assert_array_equal([column.copy() for column in file.columns()], values.T)


def test_memory_is_that_of_a_block(tmp_path: Path):
    rows, columns, block_bytes = 1000, 2000, 2**18
    row = np.arange(columns, dtype=np.float32)[None]
    tracemalloc.start()
    try:
        with ColumnFile(tmp_path, rows, columns, block_bytes=block_bytes, hint="") as file:
            for number in range(rows):
                file.write(number, row)
            total = sum(float(column[-1]) for column in file.columns())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == columns * (columns - 1) / 2
    assert peak < 2 * block_bytes < 4 * rows * columns / 10


def test_too_little_space_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2_000_000_000))
    message = (
        r"91,001 x 12,234 probabilities need 4\.45 GB for a while: 2\.00 GB are free "
        "-- free some space, or name an --output on another disk"
    )
    with pytest.raises(UserError, match=message):
        ColumnFile(tmp_path, 91_001, 12_234, hint="name an --output on another disk")


def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with ColumnFile(tmp_path, 2, 2, hint="") as file:
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(UserError, match=r"need 0\.00 GB for a while: No space left on device"):
            file.write(0, np.zeros((2, 2), np.float32))
