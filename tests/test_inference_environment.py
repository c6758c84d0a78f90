"""A bundle in a Python that has only what docs/requirements-inference.txt names: none of the packages of training."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

from socialtag_jax import Tagger
from tests import bundles, photos
from tests.consumers_page import block

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "docs" / "requirements-inference.txt"
TRAINING = ("flax", "grain", "optax", "orbax", "google.protobuf", "tensorboardX", "tensorflow_datasets", "tyro")
"""Modules of the dependencies that the file does not name."""


def required() -> list[str]:
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def name_of(requirement: str) -> str:
    return re.split(r"[<>=\[; ]", requirement)[0].lower()


def test_versions_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(required()) < set(project["dependencies"])
    others = {name_of(one) for one in project["dependencies"]} - {name_of(one) for one in required()}
    assert others == {
        "flax",
        "grain",
        "optax",
        "orbax-checkpoint",
        "protobuf",
        "scipy",
        "shtab",
        "tensorboardx",
        "tensorflow-datasets",
        "tyro",
    }


def test_loading_imports_nothing_of_training():
    """Quick, and wherever the next test has no package index."""
    code = f"""
import sys
for name in {TRAINING}:
    sys.modules[name] = None
import socialtag_jax.predict, socialtag_jax.serve.app, socialtag_jax.tagger, socialtag_jax.verify_export
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a virtual environment, made as docs/consumers.md says."""
    folder = tmp_path_factory.mktemp("inference")
    python = folder / "venv" / "bin" / "python"
    venv.create(folder / "venv")
    # Where the smallest of the packages cannot be got, no package can; any other failure is one.
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    smallest = [*pip, "download", "--no-deps", "--dest", str(folder / "wheels"), "filelock"]
    reached = subprocess.run(smallest, capture_output=True, text=True)
    if reached.returncode:
        pytest.skip(f"no package index: {reached.stderr.strip().splitlines()[-1:]}")
    # A copy, since pip builds where the source is.
    source = folder / "source"
    shutil.copytree(ROOT / "socialtag_jax", source / "socialtag_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (source / "docs").mkdir()
    shutil.copy(REQUIREMENTS, source / "docs")
    lines = block("Python, with the tagger", "sh").splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["pip", "pip"]
    for line in lines:
        command = [*pip, "--python", str(python), *line.split()[1:]]
        subprocess.run(command, check=True, cwd=source, env=_clean())
    return folder / "venv"


def _clean() -> dict[str, str]:
    """The environment's variables, without those by which this checkout could be found."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def run(environment: Path, program: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(environment / "bin" / program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**_clean(), "JAX_PLATFORMS": "cpu"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a bundle and a photo."""
    folder = tmp_path_factory.mktemp("bundle")
    bundles.random_bundle(folder / "holiday.tagger")
    photos.draw(folder / "photo.png", ["red"], 0)
    return folder


def test_a_bundle_loads_and_suggests(environment: Path, folder: Path):
    """The program of docs/consumers.md, and `socialtag predict`; they say what the tagger says here."""
    result = run(environment, "python", "-c", block("Python, with the tagger", "python"), cwd=folder)
    assert result.returncode == 0, result.stderr
    (tags,) = Tagger.load(folder / "holiday.tagger").suggest(folder / "photo.png")
    assert result.stdout.strip() == str([(one.display, round(one.confidence, 4)) for one in tags])
    result = run(environment, "socialtag", "predict", "holiday.tagger", "photo.png", "--json", cwd=folder)
    assert result.returncode == 0, result.stderr
    (found,) = json.loads(result.stdout)
    assert [one["tag"] for one in found["tags"]] == [one.tag for one in tags]


def test_the_environment_has_nothing_of_training(environment: Path, folder: Path):
    code = """
import importlib.metadata, importlib.util, socialtag_jax
print(*sorted(one.name.lower() for one in importlib.metadata.distributions()))
print(socialtag_jax.__file__)
"""
    names, file = run(environment, "python", "-c", code, cwd=folder).stdout.splitlines()
    assert {name_of(one) for one in required()} < set(names.split())
    assert not {"flax", "grain", "optax", "orbax-checkpoint", "protobuf", "tensorflow-datasets"} & set(names.split())
    assert file.startswith(str(environment))


def test_a_bundle_is_verified(environment: Path, folder: Path):
    result = run(environment, "socialtag", "verify-export", "holiday.tagger", "--photos", "photo.png", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].endswith("passed")


@pytest.mark.parametrize(
    "command",
    [
        ("stats", "holiday.tagger"),
        ("evaluate", "holiday.tagger", "--dataset", "data"),
        ("export", "run", "--output", "other.tagger"),
    ],
    ids=["stats", "evaluate", "export"],
)
def test_what_needs_more_says_so(environment: Path, folder: Path, command: tuple[str, ...]):
    result = run(environment, "socialtag", *command, cwd=folder)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(r"socialtag: error: \w+ is not installed -- pip install socialtag-jax\n", result.stderr)
