"""A run of 2,000 steps takes no more memory, and no more open files, at its end than when it has got going."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.photos import colour_rows, photo_folder, prepared

STEPS, EPOCHS, BATCH = 2000, 10, 2
PROGRAM = f"""
from socialtag_jax.config import Augmentation, Cache, Checkpoints, Experiment, Input, Model, Stage

experiment = Experiment(
    name="long",
    weights="random",
    model=Model(input_size=48, hidden_units=16),
    augmentation=Augmentation(enabled=%(augmented)s),
    input=Input(batch_size={BATCH}, eval_batch_size={BATCH}),
    cache=Cache(views=%(views)s),
    stages=(Stage(epochs={EPOCHS}),),
    checkpoints=Checkpoints(keep_latest=1, every_minutes=0.01),
)
"""


@dataclass(frozen=True)
class Sample:
    """What a process has at one time: training steps written to the metrics, resident bytes, open files, threads."""

    step: int
    resident: int
    files: int
    threads: int


def samples_of(command: list[str], workdir: Path, environment: dict[str, str]) -> list[Sample]:
    """Of a training process, ten times a second, from outside."""
    found: list[Sample] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        status, metrics = Path(f"/proc/{process.pid}"), workdir / "metrics.jsonl"
        while process.poll() is None:
            time.sleep(0.1)
            try:
                pages = int((status / "statm").read_text().split()[1])
                files, threads = len(list((status / "fd").iterdir())), len(list((status / "task").iterdir()))
            except (FileNotFoundError, ProcessLookupError, PermissionError):  # it is ending
                break
            lines = metrics.read_text().splitlines()[-2:] if metrics.exists() else []
            steps = [json.loads(line)["step"] for line in lines if line.endswith("}")]
            found.append(Sample(max(steps, default=0), pages * os.sysconf("SC_PAGE_SIZE"), files, threads))
        said, _ = process.communicate()
    assert process.returncode == 0, said
    return found


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc, which Linux has")
@pytest.mark.parametrize("source", ["features", pytest.param("photos", marks=pytest.mark.slow)])
def test_2000_steps(folder: Path, source: str):
    """Ten epochs with validations and some tens of checkpoints, from cached features or from augmented photos."""
    rows = {
        name: (tags, "train" if n % 9 else "validation") for n, (name, (tags, _)) in enumerate(colour_rows(450).items())
    }
    photos = STEPS // EPOCHS * BATCH
    assert sum(split == "train" for _, split in rows.values()) == photos
    dataset = prepared(photo_folder(folder / "photos", rows), folder / "data").folder
    experiment = folder / "long.py"
    cached = source == "features"
    experiment.write_text(PROGRAM % {"augmented": not cached, "views": int(cached)})
    workdir = folder / "run"
    command = [sys.executable, "-m", "socialtag_jax.cli", "train", str(experiment), "--dataset", str(dataset)]
    command += ["--workdir", str(workdir)]
    # With an arena a thread, glibc keeps what some tens of threads once freed: no leak, but no flat line either.
    environment = {**os.environ, "SOCIALTAG_CACHE": str(folder / "cache"), "MALLOC_ARENA_MAX": "1"}
    samples = samples_of(command, workdir, environment)
    # Once all kinds of work were done: features, an epoch, a validation, a checkpoint.
    early = [sample for sample in samples if STEPS / 5 <= sample.step < STEPS / 2]
    late = [sample for sample in samples if sample.step >= STEPS * 4 / 5]
    assert early
    assert late
    assert late[-1].step == STEPS
    assert max(sample.resident for sample in late) < max(sample.resident for sample in early) + 32e6
    assert max(sample.files for sample in late) <= max(sample.files for sample in early) + 8
    assert max(sample.threads for sample in late) <= max(sample.threads for sample in early) + 8
