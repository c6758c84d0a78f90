"""Experiments: what their fields allow, and what `resolve` and `debug` make of them."""

import dataclasses

import pytest

from socialtag_jax import config, experiment_files
from socialtag_jax.config import Experiment, Model, Stage
from socialtag_jax.errors import UsageError

EXPERIMENT = Experiment(name="one", stages=(Stage(epochs=3), Stage(freeze_layers=16, learning_rate=1e-5)))


def test_values_out_of_range():
    with pytest.raises(UsageError, match=r"model\.input_size: 16: expected at least 32 pixels"):
        Model(input_size=16)
    with pytest.raises(UsageError, match=r"stage\.freeze_layers: 20: expected 0 to 19"):
        experiment_files.override(EXPERIMENT, ["--stages.0.freeze-layers", "20"], prog="train")


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
