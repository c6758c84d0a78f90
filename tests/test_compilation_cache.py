"""What one process has compiled, the next one loads."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from socialtag_jax import compilation_cache
from tests.bundles import random_bundle
from tests.photos import draw

A_RUN = """
import collections, json, sys, jax, jax.numpy as jnp, numpy as np
from pathlib import Path
jax.config.update("jax_num_cpu_devices", 2)
events = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: events.update([name.rpartition("/")[2]]))

from socialtag_jax import compilation_cache
from socialtag_jax.config import Experiment, Model, Stage
from socialtag_jax.model import param_shapes
from socialtag_jax.optimizer import make_optimizer
from socialtag_jax.parallel import Devices
from socialtag_jax.steps import build_model, make_train_step, stage_start
from socialtag_jax.tagger import Tagger

bundle, photo, learning_rate = sys.argv[1:]
compilation_cache.enable(sys.exit)

experiment = Experiment(name="x", model=Model(input_size=32, hidden_units=8, compute_dtype="float32"))
stage = Stage(learning_rate=float(learning_rate))
model, devices = build_model(experiment, 3), Devices()
params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), param_shapes(model, 32))
optimizer = make_optimizer(experiment, stage, params, steps_per_epoch=1)
state = devices.replicate(stage_start(experiment, stage, optimizer, params, jnp.zeros((), jnp.int32)))
batch = {
    "images": np.zeros((2, 2, 32, 32, 3), np.uint8),
    "tag_ids": np.zeros((2, 2, 1), np.int32),
    "weight": np.ones((2, 2), np.float32),
}
train = devices.compile_train_step(make_train_step(experiment, stage, model, optimizer), state, batch)
state, sums = train(state, devices.shard(batch))
tags = Tagger.load(bundle).suggest([photo] * 3, threshold=0.0)
# What the compiler says of a program is kept with it.
numbers = [train.flops, train.memory.temporaries, float(sums["loss"]), *[one.confidence for one in tags[0]]]
names = ("compile_requests_use_cache", "cache_hits", "cache_misses")
print(json.dumps([*[events[name] for name in names], numbers]))
"""


def run(cache: Path, *arguments: object) -> tuple[int, int, int, list[float]]:
    """Programs that were asked for, found in the cache, and compiled and kept; and what they computed."""
    command = [sys.executable, "-W", "error", "-c", A_RUN, *map(str, arguments)]
    # Without what the tests themselves have set.
    inherited = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    environment = {**inherited, "SOCIALTAG_CACHE": str(cache), "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    requests, hits, misses, numbers = json.loads(result.stdout)
    return requests, hits, misses, numbers


def test_a_second_process_compiles_nothing_anew(tmp_path: Path):
    """A pmap-compiled training step on two devices, and an exported model; then the step with another learning rate."""
    bundle, photo, cache = random_bundle(tmp_path / "bundle"), tmp_path / "photo.png", tmp_path / "cache"
    draw(photo, ["red"], 0)
    requests, hits, misses, numbers = run(cache, bundle, photo, 1e-3)
    assert requests == misses > 2
    assert min(numbers[:2]) > 0
    assert hits == 0
    kept = sorted(path.name for path in (cache / "compiled").glob("*-cache"))
    assert len(kept) == misses
    assert run(cache, bundle, photo, 1e-3) == (requests, requests, 0, numbers)
    assert sorted(path.name for path in (cache / "compiled").glob("*-cache")) == kept
    # Another program is found out, and alone compiled.
    assert run(cache, bundle, photo, 1e-2)[:3] == (requests, requests - 1, 1)


@pytest.fixture
def settings() -> Iterator[None]:
    """Puts jax's settings back."""
    names = (
        "jax_enable_compilation_cache",
        "jax_compilation_cache_dir",
        "jax_compilation_cache_max_size",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: jax.config.values[name] for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_cache_is_bounded(settings: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOCIALTAG_CACHE", str(tmp_path))
    compilation_cache.enable(pytest.fail)
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "compiled")
    assert jax.config.values["jax_compilation_cache_max_size"] == 2**30


def test_a_cache_of_the_users_own_stays(settings: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOCIALTAG_CACHE", str(tmp_path / "ours"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    compilation_cache.enable(pytest.fail)
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "theirs")
    assert jax.config.values["jax_compilation_cache_max_size"] == -1
    assert not (tmp_path / "ours").exists()


def test_caching_that_is_switched_off_stays_off(settings: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOCIALTAG_CACHE", str(tmp_path / "ours"))
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.enable(pytest.fail)
    assert jax.config.values["jax_compilation_cache_dir"] is None


def test_a_folder_that_cannot_be_written_costs_one_line(
    settings: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SOCIALTAG_CACHE", str(tmp_path / "file"))
    lines: list[str] = []
    compilation_cache.enable(lines.append)
    assert lines == [f"warning: compiled programs are not kept: {tmp_path / 'file' / 'compiled'}: Not a directory"]
    assert jax.config.values["jax_compilation_cache_dir"] is None
