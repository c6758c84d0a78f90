"""Strictness for every test: four simulated devices, no silent dtype promotion, no silent rank promotion."""

import contextlib
import ctypes
import gc
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

# Before Keras is imported, which reads it once.
os.environ["KERAS_BACKEND"] = "jax"
# Many tests compile the same steps, in processes of their own as well. Before jax is imported, which reads it once.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="socialtag-compiled-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax
import pytest

from socialtag_jax import cli, gcs, storage
from tests import gcs_emulator

if TYPE_CHECKING:
    from playwright.sync_api import Browser

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_unconfigure() -> None:
    """Leaves no compiled programs behind."""
    shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def memory_given_back() -> Iterator[None]:
    """One process runs many modules: what each has compiled, and freed, would stay with it, gigabytes at the end."""
    yield
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get("SOCIALTAG_TEST_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real test data at {folder}; set SOCIALTAG_TEST_DATA to the folder that has corel5k.zip")
    return folder


@pytest.fixture
def folder() -> Iterator[Path]:
    """Emptied at once: pytest keeps its own temporary folders, and with weight files they would be gigabytes."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@pytest.fixture
def peer_promotion() -> Iterator[None]:
    """Lets a peer library (Keras, optax) promote as it is used to."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        yield


@dataclass(frozen=True)
class Result:
    """The exit code of a command, and what it printed."""

    code: int
    out: str
    err: str


Socialtag = Callable[..., Result]


@pytest.fixture
def socialtag(capsys: pytest.CaptureFixture[str]) -> Socialtag:
    """Runs `socialtag ARGUMENTS`; a traceback fails the test."""

    def run(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        code = stopped.value.code
        assert isinstance(code, int)
        assert "Traceback" not in err
        return Result(code, out, err)

    return run


@pytest.fixture(scope="session")
def emulator() -> Iterator[gcs_emulator.Emulator]:
    """One for all tests: TensorStore reads its address once in a process."""
    with gcs_emulator.running() as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Chromium; the test is skipped where this computer has none."""
    from tests.servers import headless_browser

    with headless_browser() as running:
        yield running


@dataclass(frozen=True)
class Bucket:
    """A bucket of a test's own, and the emulator that it is in."""

    root: gcs.RemotePath
    emulator: gcs_emulator.Emulator

    def upload(self, folder: Path, name: str) -> gcs.RemotePath:
        """Uploads a local folder's files."""
        storage.upload([path for path in folder.rglob("*") if path.is_file()], folder, self.root / name)
        return self.root / name

    def count(self, method: str, part: str) -> int:
        """Requests so far with this piece in their address."""
        return sum(one["method"] == method and part in one["target"] for one in self.emulator.requests)


@pytest.fixture
def bucket(emulator: gcs_emulator.Emulator, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Bucket]:
    """An empty bucket, an empty cache, no faults, and no long waits between tries."""
    monkeypatch.setenv(gcs.EMULATOR, emulator.url)
    monkeypatch.setenv("SOCIALTAG_CACHE", str(folder / "cache"))
    # For tests that use gcsfs themselves: it would ask in gRPC, which no emulator answers.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    monkeypatch.setattr(gcs, "_FIRST_DELAY", 0.01)
    gcs._retry.cache_clear()
    emulator.reset()
    name = f"test-{uuid.uuid4().hex}"
    emulator.make_bucket(name)
    yield Bucket(gcs.RemotePath(name, ""), emulator)
    gcs._retry.cache_clear()
