"""Experiments: what their fields allow, and what `resolve` and `debug` make of them."""

import dataclasses
from collections.abc import Callable

import pytest

from socialtag_jax import config, experiment_files
from socialtag_jax.config import Experiment, Loss, Model, Optimizer, Schedule, Stage
from socialtag_jax.errors import UsageError

EXPERIMENT = Experiment(name="one", stages=(Stage(epochs=3), Stage(freeze_layers=16, learning_rate=1e-5)))


def test_values_out_of_range():
    with pytest.raises(UsageError, match=r"model\.input_size: 16: expected at least 32 pixels"):
        Model(input_size=16)
    with pytest.raises(UsageError, match=r"stage\.freeze_layers: 20: expected 0 to 19"):
        experiment_files.override(EXPERIMENT, ["--stages.0.freeze-layers", "20"], prog="train")


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Loss(l1=-1.0), r"loss\.l1: -1\.0: expected 0 or more"),
        (lambda: Loss(l2=-1.0), r"loss\.l2: -1\.0: expected 0 or more"),
        (lambda: Optimizer(kind="sgd", momentum=1.0), r"optimizer\.momentum: 1\.0: expected 0 to below 1"),
        (lambda: Optimizer(weight_decay=-0.1), r"optimizer\.weight_decay: -0\.1: expected 0 or more"),
        (lambda: Optimizer(clip_norm=0.0), r"optimizer\.clip_norm: 0\.0: expected more than 0, or none"),
        (lambda: Optimizer(max_norm=-2.0), r"optimizer\.max_norm: -2\.0: expected more than 0, or none"),
        (lambda: Optimizer(ema_decay=1.0), r"optimizer\.ema_decay: 1\.0: expected between 0 and 1, or none"),
        (lambda: Schedule("cosine", 1.5), r"optimizer\.schedule\.final_share: 1\.5: expected 0 to 1"),
        (lambda: Schedule(warmup_epochs=-1), r"optimizer\.schedule\.warmup_epochs: -1: expected 0 or more"),
        # What would do nothing.
        (lambda: Optimizer(momentum=0.9), r"optimizer\.momentum: 0\.9: expected 0\.0, as it does nothing with adam"),
        (lambda: Optimizer(nesterov=True), r"optimizer\.nesterov: True: expected False, as it does nothing with adam"),
        (lambda: Optimizer(kind="sgd", nesterov=True), r"optimizer\.nesterov: True: .* does nothing without momentum"),
        (lambda: Optimizer(kind="sgd", beta1=0.8), r"optimizer\.beta1: 0\.8: expected 0\.9, .* nothing with sgd"),
        (lambda: Optimizer(kind="sgd", beta2=0.8), r"optimizer\.beta2: 0\.8: expected 0\.999, .* nothing with sgd"),
        (lambda: Optimizer(kind="sgd", epsilon=0.1), r"optimizer\.epsilon: 0\.1: expected 1e-07, .* nothing with sgd"),
        (lambda: Schedule(final_share=0.1), r"optimizer\.schedule\.final_share: 0\.1: .* without linear or cosine"),
    ],
)
def test_settings_that_are_out_of_range_or_do_nothing(build: Callable[[], object], words: str):
    with pytest.raises(UsageError, match=words):
        build()


def test_warm_up_is_shorter_than_every_stage():
    warm = Optimizer(schedule=Schedule(warmup_epochs=3))
    assert dataclasses.replace(EXPERIMENT, optimizer=warm, stages=(Stage(4), Stage(5))).optimizer == warm
    words = r"optimizer\.schedule\.warmup_epochs: 3: expected fewer than the 3 epochs of the shortest stage"
    with pytest.raises(UsageError, match=words):
        dataclasses.replace(EXPERIMENT, optimizer=warm)


def test_debug_keeps_a_warm_up_within_its_epochs():
    schedule = Schedule("cosine", 0.1, warmup_epochs=2.5)
    small = config.debug(dataclasses.replace(EXPERIMENT, optimizer=Optimizer(schedule=schedule)))
    assert small.optimizer.schedule == Schedule("cosine", 0.1, warmup_epochs=0.5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_debug_keeps_the_kinds_of_stage(count: int):
    stages = tuple(Stage(epochs=10, freeze_layers=19 - 3 * number) for number in range(count))
    small = config.debug(dataclasses.replace(EXPERIMENT, stages=stages))
    assert sum(stage.epochs for stage in small.stages) == 2
    assert [stage.freeze_layers for stage in small.stages] == [19, 16][:count]
    assert small.model.input_size == 48
    assert small.debug_batches == 4


def test_auto_dtype_is_resolved_by_platform():
    assert config.resolve(EXPERIMENT, "cpu").model.compute_dtype == "float32"
    assert config.resolve(EXPERIMENT, "tpu").model.compute_dtype == "bfloat16"
    explicit = dataclasses.replace(EXPERIMENT, model=Model(compute_dtype="float32"))
    assert config.resolve(explicit, "gpu") == explicit
