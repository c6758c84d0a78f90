"""Two processes with two simulated devices each, as two machines would run them: `socialtag train` and its devices."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from socialtag_jax import experiment_files, trained
from socialtag_jax.errors import UserError
from socialtag_jax.parallel import Devices
from socialtag_jax.processes import Group, together
from socialtag_jax.shards.dataset import Dataset, open_dataset
from socialtag_jax.train import Trainer
from tests.photos import colour_rows, photo_folder, prepared

# 28 training photos in batches of 8: the last batch has 4, all of them of process 0; 4 validation photos likewise.
EXPERIMENT = """
from socialtag_jax import Experiment
from socialtag_jax.config import Input, Model, Optimizer, Stage
experiment = Experiment(
    name="colours",
    weights="random",
    model=Model(input_size=32, hidden_units=32),
    optimizer=Optimizer(learning_rate=1e-3, ema_decay=0.9),
    input=Input(batch_size=8, eval_batch_size=8, threads=1),
    stages=(Stage(epochs=2, freeze_layers=19), Stage(epochs=1, freeze_layers=16, learning_rate=1e-4)),
)
"""
STEPS = 3 * 4


@dataclass(frozen=True)
class Setting:
    experiment: Path
    dataset: Dataset


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("together")
    (folder / "colours.py").write_text(EXPERIMENT)
    source = photo_folder(folder / "source", colour_rows(35))
    return Setting(folder / "colours.py", open_dataset(prepared(source, folder / "data").folder))


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    out: str
    err: str


class Pair:
    """Two processes with the same command; `caches` gives each one its own, as on its machine's disk."""

    def __init__(
        self, commands: list[list[str]], devices: tuple[int, int], caches: tuple[Path, Path] | None = None
    ) -> None:
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
        environment = {name: value for name, value in environment.items() if "proxy" not in name.lower()}
        own = [{}, {}] if caches is None else [{"SOCIALTAG_CACHE": str(folder)} for folder in caches]
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-W", "error", *command],
                env=environment | {"JAX_NUM_CPU_DEVICES": str(count)} | cache,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for command, count, cache in zip(commands, devices, own, strict=True)
        ]

    def end(self, seconds: float = 120) -> tuple[Ended, Ended]:
        """Waits for both."""
        deadline = time.monotonic() + seconds
        ended = [self.ended(number, deadline - time.monotonic()) for number in (0, 1)]
        return ended[0], ended[1]

    def ended(self, number: int, seconds: float) -> Ended:
        process = self.processes[number]
        out, err = process.communicate(timeout=seconds)
        # Gloo, which moves data between processes on CPUs, greets them.
        return Ended(process.returncode, re.sub(r"^\[Gloo\] .*\n", "", out, flags=re.MULTILINE), err)


@contextmanager
def pair(*commands: list[str], devices: tuple[int, int] = (2, 2), **options: Any) -> Iterator[Pair]:
    both = Pair(list(commands), devices, **options)
    try:
        yield both
    finally:
        for process in both.processes:
            process.kill()
            process.communicate()


@contextmanager
def training(setting: Setting, workdir: Path, *, others: list[str] | None = None, **options: Any) -> Iterator[Pair]:
    """`socialtag train` twice; process 1 names a folder of its own, as its machine's disk would be.

    Args:
      others: further flags of process 1 alone.
    """
    coordinator = f"127.0.0.1:{free_port()}"

    def command(number: int) -> list[str]:
        folder = workdir if number == 0 else workdir.with_name(f"{workdir.name}-other")
        parts = ["-m", "socialtag_jax.cli", "train", setting.experiment, "--dataset", setting.dataset.folder]
        parts += ["--workdir", folder, "--coordinator", coordinator, "--processes", 2, "--process", number]
        return [str(part) for part in parts] + (others or [] if number else [])

    with pair(command(0), command(1), **options) as both:
        yield both


def metrics_of(workdir: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def arrays_of(workdir: Path) -> dict[str, np.ndarray]:
    """The averaged parameters of the last checkpoint."""
    model = trained.load(workdir, str(STEPS), Devices(), log=lambda _: None)
    return {f"{layer}/{name}": np.asarray(leaf) for layer, one in model.params.items() for name, leaf in one.items()}


@pytest.fixture(scope="module")
def whole(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended, Ended]:
    """A run of two processes, from beginning to end."""
    workdir = tmp_path_factory.mktemp("runs") / "two"
    with training(setting, workdir) as both:
        first, second = both.end()
    assert (first.code, second.code) == (0, 0), (first.err, second.err)
    return workdir, first, second


def test_same_losses_as_one_process(setting: Setting, whole: tuple[Path, Ended, Ended], tmp_path: Path):
    """Four devices either way: the same rows, dropout and augmentation; sums differ in their last digits."""
    experiment = experiment_files.load_experiment(setting.experiment)
    devices = Devices()
    assert len(devices) == 4
    one = Trainer(
        experiment, setting.dataset, tmp_path / "one", devices=devices, log=lambda _: None, stream=io.StringIO()
    )
    assert one.run().position.step == STEPS
    for kind, names in (("epoch", ("step", "epoch", "loss")), ("validation", ("step", "epoch", "loss", "f1"))):
        alone, together = (metrics_of(folder, kind) for folder in (tmp_path / "one", whole[0]))
        assert len(alone) == len(together) == 3
        for before, after in zip(alone, together, strict=True):
            assert [after[name] for name in names] == pytest.approx([before[name] for name in names], rel=1e-5)
    alone, together = arrays_of(tmp_path / "one"), arrays_of(whole[0])
    for name, value in alone.items():
        np.testing.assert_allclose(together[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_process_0_alone_speaks_and_writes(whole: tuple[Path, Ended, Ended]):
    workdir, first, second = whole
    assert "devices: 4 x cpu (cpu) in 2 processes" in first.err
    assert f"done: 3 epochs, {STEPS} steps" in first.err
    assert (second.out, second.err) == ("", "")
    assert {"config.json", "metrics.jsonl", "checkpoints", "tensorboard"} <= {path.name for path in workdir.iterdir()}
    assert json.loads((workdir / "config.json").read_text())["device"]["count"] == 4
    assert not workdir.with_name("two-other").exists()


def test_one_process_goes_on_with_what_two_have_saved(setting: Setting, whole: tuple[Path, Ended, Ended]):
    lines: list[str] = []
    experiment = experiment_files.load_experiment(setting.experiment)
    again = Trainer(experiment, setting.dataset, whole[0], devices=Devices(), log=lines.append, stream=io.StringIO())
    assert again.run().summary == {}
    assert f"continuing after epoch 3, step {STEPS}" in lines


def assert_same(one: Path, other: Path) -> None:
    """To the bit."""
    arrays, expected = arrays_of(one), arrays_of(other)
    assert {name: value.tobytes() for name, value in arrays.items()} == {
        name: value.tobytes() for name, value in expected.items()
    }
    assert metrics_of(one, "validation") == metrics_of(other, "validation")


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("victim", [0, 1])
def test_one_that_dies_ends_the_other_and_both_resume(
    setting: Setting, whole: tuple[Path, Ended, Ended], tmp_path: Path, victim: int
):
    """To the same bits as a run that was never interrupted."""
    with training(setting, tmp_path / "run") as both:
        wait_for(tmp_path / "run" / "checkpoints" / "4")
        both.processes[victim].send_signal(signal.SIGKILL)
        start = time.monotonic()
        survivor = both.ended(1 - victim, 60)
        assert time.monotonic() - start < 60
    assert survivor.code == 1
    assert f"process {1 - victim} of 2: another process of this training has ended" in survivor.err
    assert "start all with the same command to go on from the last checkpoint" in survivor.err
    with training(setting, tmp_path / "run") as both:
        first, second = both.end()
    assert (first.code, second.code) == (0, 0), (first.err, second.err)
    assert re.search(r"continuing after epoch [12], step", first.err)
    assert_same(tmp_path / "run", whole[0])


def test_one_that_is_asked_to_stop_stops_all(setting: Setting, whole: tuple[Path, Ended, Ended], tmp_path: Path):
    """In good order, after a step or while validating; and they go on to the same bits."""
    with training(setting, tmp_path / "run") as both:
        wait_for(tmp_path / "run" / "checkpoints" / "4")
        both.processes[1].send_signal(signal.SIGTERM)
        for ended in both.end():
            assert ended.code == 0
            assert "socialtag: stopped by SIGTERM; run the same command again to go on" in ended.err
    with training(setting, tmp_path / "run") as both:
        first, second = both.end()
    assert (first.code, second.code) == (0, 0), (first.err, second.err)
    assert "continuing " in first.err
    assert_same(tmp_path / "run", whole[0])


@pytest.mark.slow
def test_one_that_hangs_ends_the_other(setting: Setting, tmp_path: Path):
    """Nothing breaks off here: it is its heartbeat that is missed."""
    with training(setting, tmp_path / "run") as both:
        wait_for(tmp_path / "run" / "checkpoints" / "4")
        watching = both.processes[1].pid
        (trains,) = Path(f"/proc/{watching}/task/{watching}/children").read_text().split()
        os.kill(int(trains), signal.SIGSTOP)
        survivor = both.ended(0, 60)
    assert survivor.code == 1
    assert "process 0 of 2: another process of this training has ended, or cannot be reached" in survivor.err


def test_processes_that_do_not_agree_all_end_at_the_start(setting: Setting, tmp_path: Path):
    """In their experiments, and in their data sets, of which one has a step less an epoch."""
    source = photo_folder(tmp_path / "source", colour_rows(25))
    other = prepared(source, tmp_path / "data").folder
    others = ["--dataset", str(other), "--optimizer.learning-rate", "5e-4"]
    with training(setting, tmp_path / "run", others=others) as both:
        for ended in both.end():
            assert ended.code == 1
            assert re.search(
                r"process 0 has dataset\.fingerprint = '\w+', process 1 has '\w+' \(and they differ", ended.err
            )
            assert re.search(r"they differ in .*experiment\.optimizer\.learning_rate, .*steps", ended.err)
            assert "start all processes with the same command, data set and versions" in ended.err
    assert not (tmp_path / "run").exists()


def test_all_need_as_many_devices(setting: Setting, tmp_path: Path):
    with training(setting, tmp_path / "run", devices=(2, 1)) as both:
        for ended in both.end():
            assert ended.code == 1
            words = "all processes need the same number of devices -- process 0 has 2, process 1 has 1"
            assert words in ended.err


def test_an_error_of_one_ends_the_other(setting: Setting, tmp_path: Path):
    """Here process 0 alone looks at the folder."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").write_text("hello")
    with training(setting, tmp_path / "run") as both:
        first, second = both.end(60)
    assert (first.code, second.code) == (1, 1)
    assert "the folder is not empty and holds no run" in first.err
    assert "process 1 of 2: another process of this training has ended" in second.err


DEVICES = """
import sys
import jax, jax.numpy as jnp, numpy as np
from socialtag_jax import parallel, processes
with processes.together(processes.Group(sys.argv[1], 2, int(sys.argv[2]))):
    devices = parallel.Devices()
    assert (len(devices), len(devices.local), devices.processes) == (4, 2, 2)
    assert [device.process_index for device in devices.devices] == [0, 0, 1, 1]
    main = devices.is_main
    assert main == (sys.argv[2] == "0")
    # More than a chunk, and no multiple of 4 bytes.
    data = np.random.default_rng(0).bytes(2**24 + 3)
    assert devices.broadcast(data if main else b"what the others say") == data
    assert devices.broadcast(b"") == b""
    # Bits that a sum of floats would change: -0.0, a NaN with a payload, the smallest subnormal.
    bits = np.array([0x80000000, 0x7FC12345, 1], np.uint32).view(np.float32)
    like = {"a": jax.ShapeDtypeStruct((3,), np.float32), "b": jax.ShapeDtypeStruct((), jnp.bfloat16)}
    tree = devices.broadcast_tree({"a": bits, "b": jnp.bfloat16(1.5)} if main else like)
    for device in devices.local:
        (shard,) = [shard for shard in tree["a"].addressable_shards if shard.device == device]
        assert np.asarray(shard.data).tobytes() == bits.tobytes()
    assert float(tree["b"]) == 1.5
    # Rows 10 and 11 are process 1's.
    batch = devices.shard({"rows": np.arange(2.0, dtype=np.float32)[:, None] + 10 * (not main)})
    np.testing.assert_array_equal(jax.device_get(devices.gather(batch))["rows"][:, 0], [0, 1, 10, 11])
    def step(state, batch):
        index = parallel.device_index().astype(np.float32)
        return state + parallel.sum_over_devices(batch["rows"][0] * index), {"index": index}
    state = devices.replicate(jnp.float32(1))
    shapes = {"rows": jax.ShapeDtypeStruct((4, 1), np.float32)}
    state, sums = devices.compile_train_step(step, state, shapes)(state, batch)
    assert float(jax.device_get(state)) == 1 + 0 * 0 + 1 * 1 + 2 * 10 + 3 * 11
"""


def test_devices_of_two_processes():
    coordinator = f"127.0.0.1:{free_port()}"
    with pair(*(["-c", DEVICES, coordinator, str(number)] for number in (0, 1))) as both:
        for ended in both.end():
            assert ended == Ended(0, "", "")


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("", 0)) as listening:
        port = listening.getsockname()[1]
        group = Group(f"127.0.0.1:{port}", 2, 0)
        with pytest.raises(UserError, match=rf"--coordinator: process 0 cannot listen on port {port}"), together(group):
            raise AssertionError


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--coordinator", "host:1"], "--processes, --process: missing"),
        (["--processes", "2", "--process", "0"], "--coordinator: missing"),
        (["--coordinator", "host", "--processes", "2", "--process", "0"], "--coordinator: 'host' is not HOST:PORT"),
        (
            ["--coordinator", "host:1", "--processes", "2", "--process", "2"],
            "--process: 2: the 2 processes are numbered",
        ),
        (["--distributed", "--input-only"], "--input-only: measures one process"),
    ],
)
def test_wrong_calls(socialtag: Callable[..., Any], setting: Setting, flags: list[str], words: str):
    result = socialtag("train", setting.experiment, "--dataset", setting.dataset.folder, "--workdir", "x", *flags)
    assert result.code == 2
    assert words in result.err


@pytest.mark.parametrize("command", ["sweep", "evaluate", "export"])
def test_other_commands_are_for_one_process(socialtag: Callable[..., Any], command: str):
    arguments = {"sweep": ["x.py", "--dataset", "d"], "evaluate": ["run", "--dataset", "d"], "export": ["run"]}[command]
    result = socialtag(command, *arguments, "--output", "o", "--distributed")
    assert result.code == 2
    assert "--distributed: is for `socialtag train` alone" in result.err


def test_several_processes_compute_features_together(setting: Setting, tmp_path: Path):
    """Those of one process, bit for bit, in each one's cache; here only process 1 has none yet."""
    experiment = experiment_files.override(
        experiment_files.load_experiment(setting.experiment),
        ["--cache.views", "1", "--cache.folder", str(tmp_path / "alone" / "features")],
        prog="test",
    )
    one = Trainer(
        experiment, setting.dataset, tmp_path / "one", devices=Devices(), log=lambda _: None, stream=io.StringIO()
    )
    one.run()
    features = {path.relative_to(tmp_path / "alone"): path for path in (tmp_path / "alone").rglob("*.bin")}
    assert features
    expected = {path: full.read_bytes() for path, full in features.items()}
    caches = tmp_path / "cache0", tmp_path / "cache1"
    shutil.copytree(tmp_path / "alone", caches[0])
    setting.experiment.with_name("cached.py").write_text(
        setting.experiment.read_text()
        .replace("input=", "cache=Cache(views=1), input=")
        .replace("Input,", "Cache, Input,")
    )
    cached = Setting(setting.experiment.with_name("cached.py"), setting.dataset)
    with training(cached, tmp_path / "two", caches=caches) as both:
        first, second = both.end()
    assert (first.code, second.code) == (0, 0), (first.err, second.err)
    for cache in caches:
        assert {path.relative_to(cache): path.read_bytes() for path in cache.rglob("*.bin")} == expected
    for kind in ("epoch", "validation"):
        alone, together = (metrics_of(folder, kind) for folder in (tmp_path / "one", tmp_path / "two"))
        assert [line["loss"] for line in together] == pytest.approx([line["loss"] for line in alone], rel=1e-5)


def test_one_process_is_a_group_that_names_nobody():
    Group().check()
    Group("10.0.0.1:8476", 2, 1).check()
