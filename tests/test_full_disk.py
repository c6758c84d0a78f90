"""A disk that fills up: one readable line, nothing lost that was whole, and with more room the same result.

The disk is a small file system of its own, in a mount namespace that ends with the command.
"""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.photos import colour_rows, photo_folder, prepared
from tests.runs import arrays_of, outcome

_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
SOCIALTAG = f"{shlex.quote(sys.executable)} -m socialtag_jax.cli"


class Disk:
    """Runs shell scripts in which `$DISK` is a folder on a file system of so many MB."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def run(self, megabytes: float, script: str) -> subprocess.CompletedProcess[str]:
        """`grow MB` in the script makes it larger."""
        size = int(megabytes * 1024)
        setup = f"""
            export DISK={shlex.quote(str(self.folder))}
            mount -t tmpfs -o size={size}k none "$DISK" || exit 99
            grow() {{ mount -o remount,size="$1m" "$DISK"; }}
        """
        return subprocess.run([*_NAMESPACE, "bash", "-c", setup + script], capture_output=True, text=True)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare, to mount a small disk")
    disk = Disk(tmp_path / "disk")
    tried = disk.run(1, "true")
    if tried.returncode:
        pytest.skip(f"no small disk can be mounted here: {tried.stderr.strip()}")
    return disk


def one_line(said: str) -> str:
    """The error, which is the last line and the only one."""
    assert "Traceback" not in said, said
    (error,) = [line for line in said.splitlines() if line.startswith("socialtag: error: ")]
    assert said.splitlines()[-1] == error
    return error


def test_prepare(disk: Disk, tmp_path: Path):
    source = photo_folder(tmp_path / "photos", colour_rows(150))
    whole = prepared(source, tmp_path / "whole").folder
    prepare = f"{SOCIALTAG} prepare --source tags-csv --input {source} --name demo --workers 1 --output $DISK"
    result = disk.run(
        0.3,
        f"""
        {prepare}; echo "status $?"
        [ ! -e $DISK/demo/1.0.0 ] && echo "nothing there"
        grow 50
        {prepare} 2>&1; echo "status $?"
        cp -r $DISK/demo/1.0.0 {tmp_path}/copied; ls -A $DISK/demo
        """,
    )
    assert "No space left on device" in one_line(result.stderr)
    lines = result.stdout.splitlines()
    assert lines[:2] == ["status 1", "nothing there"], result.stdout
    assert lines[-2:] == ["status 0", "1.0.0"], result.stdout
    found = {path.name: path.read_bytes() for path in (tmp_path / "copied").iterdir()}
    assert found == {path.name: path.read_bytes() for path in whole.iterdir()}


EXPERIMENT = """
from socialtag_jax.config import Cache, Checkpoints, Experiment, Input, Model, Stage

experiment = Experiment(
    name="full",
    weights="random",
    model=Model(input_size=32, hidden_units=8),
    input=Input(batch_size=8, eval_batch_size=8),
    stages=(Stage(epochs=4, freeze_layers=19),),
    checkpoints=Checkpoints(keep_latest=3),
)
"""


def test_train_and_export(disk: Disk, tmp_path: Path):
    """Room for one checkpoint and a half, of 59 MB: the first stays whole, and more room lets the run go on from it."""
    dataset = prepared(photo_folder(tmp_path / "photos", colour_rows(30)), tmp_path / "data").folder
    (tmp_path / "full.py").write_text(EXPERIMENT)
    train = f"{SOCIALTAG} train {tmp_path}/full.py --dataset {dataset} --workdir"
    result = disk.run(
        90,
        f"""
        {train} $DISK/run 2>$DISK/said; echo "status $?"
        cat $DISK/said >&2
        {SOCIALTAG} evaluate $DISK/run --dataset {dataset} --output {tmp_path}/scores >/dev/null 2>&1; echo "status $?"
        {SOCIALTAG} export $DISK/run --output $DISK/bundle >/dev/null 2>{tmp_path}/said; echo "status $?"
        ls -A $DISK
        grow 500
        {train} $DISK/run 2>&1; echo "status $?"
        {SOCIALTAG} export $DISK/run --checkpoint latest --output {tmp_path}/bundle >/dev/null 2>&1; echo "status $?"
        """,
    )
    assert "No space left on device" in one_line(result.stderr)
    assert "No space left on device" in one_line((tmp_path / "said").read_text())
    lines = result.stdout.splitlines()
    assert lines[:5] == ["status 1", "status 0", "status 1", "run", "said"], result.stdout
    assert "continuing after epoch 1, step 3" in lines, result.stdout
    assert lines[-2:] == ["status 0", "status 0"], result.stdout
    expected = f"{SOCIALTAG} export {tmp_path}/whole --checkpoint latest --output {tmp_path}/expected"
    subprocess.run(f"{train} {tmp_path}/whole && {expected}", shell=True, check=True, capture_output=True)
    for name in ("params.safetensors", "model.stablehlo", "tags.txt"):
        assert (tmp_path / "bundle" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()


def test_a_checkpoint_that_cannot_be_written(tmp_path: Path):
    """Files may have 20 MB at most, as under a quota that nobody can see before: TensorStore's own writing fails."""
    dataset = prepared(photo_folder(tmp_path / "photos", colour_rows(30)), tmp_path / "data").folder
    (tmp_path / "full.py").write_text(EXPERIMENT)
    train = f"{SOCIALTAG} train {tmp_path}/full.py --dataset {dataset} --workdir"

    def run(command: str) -> tuple[int, str]:
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        return done.returncode, done.stderr

    assert run(f"{train} {tmp_path}/run --stages.0.epochs 1")[0] == 0
    before = arrays_of(tmp_path / "run", 3)
    code, said = run(f"ulimit -f 20000; {train} {tmp_path}/run")
    last = said.splitlines()[-1]
    assert code == 1, said
    assert last.startswith(f"socialtag: error: {tmp_path}/run/checkpoints: the checkpoints cannot be reached"), last
    assert last.endswith("run the same command again: it goes on from the newest that is complete")
    assert arrays_of(tmp_path / "run", 3) == before
    code, said = run(f"{train} {tmp_path}/run")
    assert code == 0, said
    assert "continuing after epoch 1, step 3" in said
    assert run(f"{train} {tmp_path}/whole")[0] == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
