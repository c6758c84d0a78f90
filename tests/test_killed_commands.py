"""Commands killed before some of their changes to files: run again, they end as if never killed.

Of training, these are the instants at which it saves. test_resume.py has random ones.
"""

import io
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from socialtag_jax.config import Experiment, Input, Model, Stage
from socialtag_jax.parallel import Devices
from socialtag_jax.shards.dataset import open_dataset
from socialtag_jax.train import Trainer
from tests.photos import colour_rows, photo_folder, prepared
from tests.runs import outcome


@dataclass(frozen=True)
class Killed:
    """A command that writes a folder below another.

    Attributes:
      arguments: of `socialtag`, for that folder.
      output: what it makes there, whole or not at all; None for a run folder.
    """

    arguments: Callable[[Path], list[str]]
    output: str | None

    def run(self, folder: Path, change: int) -> tuple[int, str]:
        """The exit code, and what was said; killed before that change, unless it is 0."""
        folder.mkdir(exist_ok=True)
        line = [sys.executable, "-m", "tests.killed_at", str(change), str(folder), *self.arguments(folder)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        process = subprocess.run(line, capture_output=True, text=True, env=environment)
        return process.returncode, process.stderr

    def content(self, folder: Path) -> dict[str, Any]:
        """All that is in the folder at the end, lock files and hidden work folders too; or what counts of a run."""
        if self.output is None:
            return outcome(folder / "run")
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def check(self, folder: Path, kills: int) -> None:
        """Kills it again and again until it comes through, and starts anew until there were so many kills."""
        code, said = self.run(folder / "whole", 0)
        assert code == 0, said
        expected, changes = self.content(folder / "whole"), int(said.splitlines()[-1])
        rng, killed, number = random.Random(0), 0, 0
        while killed < kills:
            number += 1
            while True:
                code, said = self.run(folder / f"run{number}", rng.randint(1, 2 * changes))
                if code == 0:
                    break
                assert code == -signal.SIGKILL, said
                killed += 1
                # Whatever is there under its name is whole.
                if self.output and (folder / f"run{number}" / self.output).exists():
                    assert self.content(folder / f"run{number}" / self.output) == self.content(
                        folder / "whole" / self.output
                    )
            assert self.content(folder / f"run{number}") == expected, f"run {number}, after {killed} kills"


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_prepare(tmp_path: Path, kills: int):
    source = photo_folder(tmp_path / "photos", colour_rows(150))
    (source / "photos/007.png").write_bytes(b"no photo")

    def arguments(folder: Path) -> list[str]:
        options = ["--source", "tags-csv", "--input", str(source), "--name", "demo", "--workers", "1"]
        return ["prepare", *options, "--output", str(folder)]

    Killed(arguments, "demo/1.0.0").check(tmp_path, kills)


@pytest.mark.parametrize("kills", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_export(tmp_path: Path, kills: int):
    dataset = open_dataset(prepared(photo_folder(tmp_path / "photos", colour_rows(30)), tmp_path / "data").folder)
    experiment = Experiment(
        name="colours",
        weights="random",
        model=Model(input_size=32, hidden_units=8),
        input=Input(batch_size=8, eval_batch_size=8),
        stages=(Stage(epochs=1, freeze_layers=19),),
    )
    run = tmp_path / "run"
    Trainer(experiment, dataset, run, devices=Devices(), log=lambda _: None, stream=io.StringIO()).run()
    exported = tmp_path / "exported"
    exported.mkdir()
    Killed(lambda folder: ["export", str(run), "--output", str(folder / "bundle")], "bundle").check(exported, kills)


EXPERIMENT = """
from socialtag_jax.config import Cache, Checkpoints, Experiment, Input, Model, Stage

experiment = Experiment(
    name="killed",
    weights="random",
    model=Model(input_size=32, hidden_units=8),
    input=Input(batch_size=8, eval_batch_size=8),
    cache=Cache(views=1),
    stages=(Stage(epochs=2, freeze_layers=19),),
    checkpoints=Checkpoints(every_minutes=1e-6),
)
"""


@pytest.mark.parametrize("kills", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_train(tmp_path: Path, kills: int):
    """Its features, metrics and checkpoints; a third of its changes are orbax's."""
    dataset = prepared(photo_folder(tmp_path / "photos", colour_rows(30)), tmp_path / "data").folder
    (tmp_path / "killed.py").write_text(EXPERIMENT)

    def arguments(folder: Path) -> list[str]:
        options = ["--dataset", str(dataset), "--workdir", str(folder / "run")]
        return ["train", str(tmp_path / "killed.py"), *options, "--cache.folder", str(folder / "features")]

    runs = tmp_path / "runs"
    runs.mkdir()
    Killed(arguments, None).check(runs, kills)
