"""What this installation consists of, what it runs on, whether it works, and which of its numbers repeat bit for bit.

Every package is imported here, where its failure can be told: this module itself needs none.
"""

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from socialtag_jax import machine
from socialtag_jax.progress import format_bytes

_MODULES = {
    "jax": "jax",
    "jaxlib": "jaxlib",
    "flax": "flax.linen",
    "optax": "optax",
    "orbax-checkpoint": "orbax.checkpoint",
    "grain": "grain",
    "numpy": "numpy",
    "opencv-python-headless": "cv2",
    "google-crc32c": "google_crc32c",
    "pillow": "PIL.Image",
    "protobuf": "google.protobuf",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "shtab": "shtab",
    "tensorboardX": "tensorboardX",
    "tyro": "tyro",
    "tensorflow-datasets": "tensorflow_datasets",
    "filelock": "filelock",
    "flatbuffers": "flatbuffers",
}
"""What socialtag-jax needs: packages, and what is imported of them."""
_OPTIONAL = (
    "libtpu",
    "jax-cuda12-plugin",
    "jax-cuda12-pjrt",
    "jax-cuda13-plugin",
    "jax-cuda13-pjrt",
    "h5py",
    "onnx",
    "onnxruntime",
    "keras",
)
_VARIABLES = re.compile(r"(XLA|JAX|SOCIALTAG|TPU|LIBTPU|CUDA|NCCL|OMP)_\w+|XDG_CACHE_HOME")
_GPU_FLAG = "--xla_gpu_deterministic_ops=true"
_LOW_DISK = 2**30


@dataclass
class Report:
    """What was found; all of it is JSON.

    Attributes:
      versions: of Python and of packages; None for those that are not there.
      devices: by platform and kind: how many, and each one's memory in bytes, where it says.
      machine: system, processor, cores, and free memory in bytes.
      environment: variables that change what is computed, where, or how fast.
      disks: free bytes where things are written.
      caches: what is kept in the cache folder, in bytes.
      determinism: what repeats bit for bit here, and what does not.
      problems: something needed is broken.
      warnings: something costs time, or may surprise.
    """

    versions: dict[str, str | None] = field(default_factory=dict)
    devices: list[dict[str, Any]] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    disks: dict[str, int] = field(default_factory=dict)
    caches: dict[str, int] = field(default_factory=dict)
    determinism: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def examine(environment: Mapping[str, str] = os.environ) -> Report:
    """Looks at everything; takes some seconds, and computes a little on each device."""
    report = Report()
    report.environment = {name: environment[name] for name in sorted(environment) if _VARIABLES.fullmatch(name)}
    _versions(report)
    _machine(report)
    if _imports(report):
        _devices(report)
        _computes(report)
    _storage(report)
    platforms = {str(one["platform"]) for one in report.devices}
    report.determinism = determinism(platforms, environment.get("XLA_FLAGS", ""))
    return report


def as_json(report: Report) -> dict[str, Any]:
    """The report as one JSON object."""
    return asdict(report)


def as_text(report: Report) -> str:
    """The report for people."""
    host = report.machine
    sections = {
        "versions": [f"{name} {version}" for name, version in report.versions.items() if version],
        "not installed, and needed only for some extras of pyproject.toml": [
            name for name, version in report.versions.items() if not version
        ],
        "devices": [
            f"{one['count']} x {one['kind']} ({one['platform']})"
            + (f", {format_bytes(one['memory'])} each" if one["memory"] else "")
            for one in report.devices
        ],
        "machine": [
            f"{host['system']}, {host['processor']}",
            f"{host['cores']} of {host['all_cores']} cores, {format_bytes(host['memory'])} of memory free",
        ],
        "environment": [f"{name}={value}" for name, value in report.environment.items()],
        "free disk space": [f"{path}: {format_bytes(free)}" for path, free in report.disks.items()],
        "caches": [f"{path}: {format_bytes(size)}" for path, size in report.caches.items()],
        "what repeats bit for bit": report.determinism,
        "warnings": report.warnings,
        "problems": report.problems,
    }
    lines = []
    for title, content in sections.items():
        if content:
            lines += [f"{title}:", *(f"  {line}" for line in content)]
    lines.append("something needed is broken" if report.problems else "all that is needed is there")
    return "\n".join(lines)


def determinism(platforms: Iterable[str], xla_flags: str) -> list[str]:
    """What repeats bit for bit on these platforms ("cpu", "gpu", "tpu"), and what does not."""
    lines = [
        "shards: the same photos, options and seed give the same bytes, whatever the number of workers",
        "batches: the same seed gives the same rows on any number of threads, devices and processes",
    ]
    if "cpu" in platforms:
        lines.append(
            "training on CPUs: the same bits run after run, and after an interruption, on the same kind of processor, "
            "with the same versions and the same number of devices and processes; with another number, sums are taken "
            "in another order, and last digits differ"
        )
    if "gpu" in platforms:
        line = (
            "training on GPUs: not the same bits. Some kernels add in whatever order threads arrive (atomics), and "
            "XLA picks kernels by how fast each was when it was tried (autotuning)"
        )
        if _GPU_FLAG in xla_flags.split():
            line += f"; XLA_FLAGS has {_GPU_FLAG}, which rules both out, and costs speed"
        else:
            line += f"; XLA_FLAGS={_GPU_FLAG} rules both out, and costs speed"
        lines.append(f"{line} (as XLA documents it; not tested here)")
    if "tpu" in platforms:
        lines.append(
            "training on TPUs: XLA's programs have a fixed order of operations, so that the same program on the same "
            "kind and number of chips should repeat; not tested here"
        )
    return lines


def _versions(report: Report) -> None:
    report.versions["python"] = platform.python_version()
    for name in ("socialtag-jax", *_MODULES, *_OPTIONAL):
        report.versions[name] = _version(name)
    # A package that is not installed itself (a checkout on PYTHONPATH) states no needs.
    needs = importlib.metadata.requires("socialtag-jax") if report.versions["socialtag-jax"] else None
    for need in needs or []:
        match = re.fullmatch(r"([\w.-]+)>=([\d.]+)", need)
        if match is None:  # of an extra
            continue
        name, least = match.groups()
        found = _version(name)
        if found is None:
            report.problems.append(f"{name} is not installed: pip install '{need}'")
        elif _numbers(found) < _numbers(least):
            report.problems.append(f"{name} {found} is older than {least}: pip install '{need}'")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def _machine(report: Report) -> None:
    report.machine = {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": machine.usable_cores(),
        "all_cores": os.cpu_count(),
        "memory": machine.available_memory(),
    }


def _processor(info: Path = Path("/proc/cpuinfo")) -> str:
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _imports(report: Report) -> bool:
    """Whether all that is needed can be imported."""
    good = True
    for name, module in _MODULES.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # a broken package raises anything
            good = False
            report.problems.append(f"{name} cannot be imported: {type(error).__name__}: {_line(error)}")
    return good


def _devices(report: Report) -> None:
    import jax
    import numpy as np

    try:
        devices = jax.local_devices()
    except RuntimeError as error:
        report.problems.append(f"jax finds no devices: {_line(error)}")
        return
    for device in devices:
        known = {"platform": device.platform, "kind": device.device_kind}
        memory = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
        for one in report.devices:
            if known.items() <= one.items():
                one["count"] += 1
                break
        else:
            report.devices.append({**known, "count": 1, "memory": memory})
        # The products of 0 to 9 with each other: exact in any precision, their sum is 45 squared.
        column = jax.device_put(np.arange(10, dtype=np.float32)[:, None], device)
        found = float((column @ column.T).sum())
        if found != 45.0**2:
            report.problems.append(f"{device} computes {found} where 2025 is right")
    platforms = {one["platform"] for one in report.devices}
    for start, kind in (("libtpu", "tpu"), ("jax-cuda", "gpu")):
        plugin = next((name for name, version in report.versions.items() if name.startswith(start) and version), None)
        if plugin and kind not in platforms:
            report.warnings.append(f"{plugin} is installed, but jax found no {kind.upper()}")


def _computes(report: Report) -> None:
    """Checks the two libraries whose failure would be silent."""
    import cv2
    import google_crc32c
    import numpy as np

    # The check value of CRC-32C in the catalogue of parametrised CRC algorithms.
    if google_crc32c.value(b"123456789") != 0xE3069283:
        report.problems.append("google-crc32c computes wrong checksums")
    if google_crc32c.implementation != "c":
        report.problems.append(
            f"google-crc32c runs its {google_crc32c.implementation} implementation, which is far too slow to check "
            "every record: pip install --force-reinstall --only-binary :all: google-crc32c"
        )
    grey = np.full((16, 16, 3), 128, np.uint8)
    encoded = cv2.imencode(".jpg", grey)[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    if decoded is None or not np.array_equal(decoded, grey):
        report.problems.append("OpenCV does not decode the JPEG image that it has encoded")


def _storage(report: Report) -> None:
    cache = machine.cache_folder()
    for path in (cache, Path.cwd(), Path(tempfile.gettempdir())):
        existing = next(one for one in (path, *path.absolute().parents) if one.exists())
        report.disks[str(path)] = shutil.disk_usage(existing).free
        if report.disks[str(path)] < _LOW_DISK:
            report.warnings.append(f"{path}: only {format_bytes(report.disks[str(path)])} are free")
        if not os.access(existing, os.W_OK):
            report.warnings.append(f"{path}: cannot be written")
    if cache.is_dir():
        for folder in sorted(cache.iterdir()):
            files = [folder] if folder.is_file() else [path for path in folder.rglob("*") if path.is_file()]
            report.caches[str(folder)] = sum(path.stat().st_size for path in files)


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
