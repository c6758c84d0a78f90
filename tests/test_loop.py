"""The real loop: every step function is traced and compiled once, and nothing is transferred that was not asked for."""

import dataclasses
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from socialtag_jax import stage_steps, steps
from socialtag_jax.config import Augmentation, Experiment, Input, Model, Stage
from socialtag_jax.parallel import Devices
from socialtag_jax.shards.dataset import Dataset, open_dataset
from socialtag_jax.train import Trainer
from tests.photos import colour_rows, photo_folder, prepared

# 24 photos in batches of 16: the second batch of every epoch is padded.
EXPERIMENT = Experiment(
    name="colours",
    weights="random",
    model=Model(input_size=48, hidden_units=32),
    augmentation=Augmentation(enabled=False),
    input=Input(batch_size=16, eval_batch_size=8),
    stages=(Stage(epochs=2, freeze_layers=19),),
)
COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    source = photo_folder(tmp_path_factory.mktemp("source"), colour_rows(30))
    return open_dataset(prepared(source, tmp_path_factory.mktemp("data")).folder)


class GuardedTrainer(Trainer):
    """Trains and validates with every implicit transfer forbidden."""

    compiled_in_epochs = 0

    def _train_epoch(self, steps: Any, data: Any, state: Any, position: Any, run: Any) -> Any:
        return self._guarded(super()._train_epoch, steps, data, state, position, run)

    def _validate(self, evaluate: Any, data: Any, params: Any) -> Any:
        return self._guarded(super()._validate, evaluate, data, params)

    def _guarded(self, run: Callable[..., Any], *arguments: Any) -> Any:
        compiled = Counter[str]()

        def count(event: str, duration_secs: float, **kwargs: str | int) -> None:
            compiled[event] += 1

        jax.monitoring.register_event_duration_secs_listener(count)
        try:
            with jax.transfer_guard("disallow"):
                return run(*arguments)
        finally:
            jax.monitoring.unregister_event_duration_listener(count)
            self.compiled_in_epochs += compiled[COMPILED]


def guarded(experiment: Experiment, dataset: Dataset, workdir: Path) -> GuardedTrainer:
    return GuardedTrainer(experiment, dataset, workdir, devices=Devices(), log=lambda _: None, stream=io.StringIO())


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each step function was traced."""
    counts = Counter[str]()

    def counted(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return step(*arguments, **options)

        return wrapper

    monkeypatch.setattr(steps, "train_step", counted("train", steps.train_step))
    monkeypatch.setattr(stage_steps, "eval_step", counted("eval", stage_steps.eval_step))
    return counts


def test_one_compilation_of_each_step(dataset: Dataset, tmp_path: Path, traces: Counter[str]):
    """Two epochs, their padded last batches, and a run that goes on: nothing is compiled once an epoch has begun, and
    nothing is transferred but what is put and fetched. The training step is traced a second time, to count operations.
    """
    trainer = guarded(EXPERIMENT, dataset, tmp_path / "run")
    assert trainer.run().position.step == 4
    assert traces == {"train": 2, "eval": 1}
    assert trainer.compiled_in_epochs == 0
    longer = dataclasses.replace(EXPERIMENT, stages=(Stage(epochs=3, freeze_layers=19),))
    resumed = guarded(longer, dataset, tmp_path / "run")
    assert resumed.run().position.step == 6
    assert traces == {"train": 4, "eval": 2}
    assert resumed.compiled_in_epochs == 0


def test_the_guard_is_on():
    """What the loop must not do is refused, on CPUs too: a host's array handed to a compiled step."""
    devices = Devices()
    step = devices.compile_eval_step(lambda scale, batch: scale * batch, jnp.float32(2), np.ones((4, 2), np.float32))
    scale = devices.replicate(jnp.float32(2))
    with jax.transfer_guard("disallow"):
        step(scale, devices.shard(np.ones((4, 2), np.float32)))
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            step(scale, np.ones((4, 2), np.float32))
