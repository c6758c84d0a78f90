"""`socialtag doctor`: what it finds here, and that it tells what is broken."""

import importlib.metadata
import json
import platform
import re
import tomllib
from pathlib import Path
from typing import Any

import google_crc32c
import jax
import pytest

from socialtag_jax import doctor


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOCIALTAG_CACHE", str(tmp_path))
    return tmp_path


def test_the_report_is_one_json_document(socialtag, cache: Path, monkeypatch: pytest.MonkeyPatch):
    (cache / "features" / "view").mkdir(parents=True)
    (cache / "features" / "view" / "rows.bin").write_bytes(bytes(1000))
    (cache / "features" / "key.json").write_bytes(bytes(24))
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_use_thunk_runtime=true")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not to be shown")
    result = socialtag("doctor", "--json")
    assert result.code == 0, result
    report = json.loads(result.out)
    assert report["problems"] == []
    assert report["versions"]["python"] == platform.python_version()
    for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "opencv-python-headless"):
        assert report["versions"][name] == importlib.metadata.version(name)
    assert report["devices"] == [{"platform": "cpu", "kind": "cpu", "count": 4, "memory": None}]
    assert report["machine"]["cores"] >= 1
    assert report["environment"]["XLA_FLAGS"] == "--xla_cpu_use_thunk_runtime=true"
    assert report["environment"]["SOCIALTAG_CACHE"] == str(cache)
    assert "not to be shown" not in result.out
    assert report["caches"] == {str(cache / "features"): 1024}
    assert report["disks"][str(cache)] > 0
    assert any("training on CPUs: the same bits" in line for line in report["determinism"])


def test_text(socialtag):
    result = socialtag("doctor")
    assert result.code == 0
    assert f"  jax {jax.__version__}\n" in result.out
    assert "devices:\n  4 x cpu (cpu)\n" in result.out
    assert result.out.endswith("all that is needed is there\n")


def test_slow_checksums_are_a_problem(socialtag, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(google_crc32c, "implementation", "python")
    result = socialtag("doctor")
    assert result.code == 1
    assert "problems:\n  google-crc32c runs its python implementation" in result.out
    assert result.out.endswith("something needed is broken\n")


def test_wrong_checksums_are_a_problem(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(google_crc32c, "value", lambda data: 0)
    assert doctor.examine().problems == ["google-crc32c computes wrong checksums"]


def test_a_package_that_does_not_load_is_a_problem(monkeypatch: pytest.MonkeyPatch):
    """As OpenCV on a machine that lacks a library; the rest of the report is there all the same."""
    load = doctor.importlib.import_module

    def broken(name: str):
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file\nmore")
        return load(name)

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    report = doctor.examine()
    assert report.problems == [
        "opencv-python-headless cannot be imported: ImportError: libGL.so.1: cannot open shared object file"
    ]
    assert report.versions["jax"] == jax.__version__
    assert report.disks


@pytest.mark.parametrize(
    ("installed", "words"),
    [("1.26.4", r"numpy 1\.26\.4 is older than 2\.0: pip install 'numpy>=2\.0'"), (None, "numpy is not installed")],
)
def test_an_old_or_missing_package_is_a_problem(monkeypatch: pytest.MonkeyPatch, installed: str | None, words: str):
    version = importlib.metadata.version

    def other(name: str) -> str:
        if name == "socialtag-jax":
            return "0.1.0"
        if name != "numpy":
            return version(name)
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(importlib.metadata, "version", other)
    monkeypatch.setattr(
        importlib.metadata, "requires", lambda _: ["numpy>=2.0", "jax>=0.8", 'keras>=99; extra == "keras"']
    )
    (problem,) = doctor.examine().problems
    assert re.search(words, problem)


def test_no_devices_are_a_problem(monkeypatch: pytest.MonkeyPatch):
    def none() -> list[Any]:
        raise RuntimeError("Unable to initialize backend 'tpu': no TPU here")

    monkeypatch.setattr(jax, "local_devices", none)
    assert doctor.examine().problems == ["jax finds no devices: Unable to initialize backend 'tpu': no TPU here"]


def test_a_full_disk_is_a_warning(socialtag, monkeypatch: pytest.MonkeyPatch):
    usage = doctor.shutil.disk_usage
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(path)._replace(free=5_000_000))
    result = socialtag("doctor")
    assert result.code == 0
    assert "only 5.0 MB are free" in result.out


def test_gpus_need_a_flag_to_repeat():
    advice = "XLA_FLAGS=--xla_gpu_deterministic_ops=true rules both out"
    assert advice in doctor.determinism(["gpu"], "--xla_gpu_autotune_level=4")[-1]
    assert (
        "XLA_FLAGS has --xla_gpu_deterministic_ops=true"
        in doctor.determinism(["gpu"], "--xla_gpu_deterministic_ops=true")[-1]
    )


def test_every_requirement_is_looked_at():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert {need.partition(">=")[0] for need in project["dependencies"]} | {"jaxlib"} == set(doctor._MODULES)
