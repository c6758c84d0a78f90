"""The loop with every regulariser and optimizer option: resumes to the bit, logs its rates, uses its averages."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from socialtag_jax import run_folder, trained
from socialtag_jax.checkpoints import like
from socialtag_jax.config import Checkpoints, Loss, Optimizer, Schedule, Stage, resolve
from socialtag_jax.errors import UserError
from socialtag_jax.input_pipeline import BatchShape, eval_batches
from socialtag_jax.losses import image_losses, multi_hot
from socialtag_jax.model import param_shapes, tag_logits
from socialtag_jax.parallel import Devices
from socialtag_jax.shards.dataset import Dataset, open_dataset
from socialtag_jax.steps import build_model
from socialtag_jax.train import Trainer
from tests.photos import colour_rows, photo_folder, prepared
from tests.runs import metrics_of, untimed_metrics_of
from tests.test_checkpoints import quiet
from tests.test_train import EXPERIMENT, InterruptedRunError, train

EVERYTHING = dataclasses.replace(
    EXPERIMENT,
    loss=Loss(l1=1e-5, l2=1e-4),
    optimizer=Optimizer(
        learning_rate=1e-3,
        schedule=Schedule("cosine", final_share=0.1, warmup_epochs=2 / 3),
        weight_decay=0.1,
        clip_norm=0.5,
        max_norm=2.0,
        ema_decay=0.8,
    ),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    source = photo_folder(tmp_path_factory.mktemp("source"), colour_rows(30))
    return open_dataset(prepared(source, tmp_path_factory.mktemp("data")).folder)


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A finished run with every option, and what it said."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    lines: list[str] = []
    train(EVERYTHING, dataset, workdir, lines.append)
    return workdir, lines


def saved_bits(workdir: Path, dataset: Dataset, step: int) -> list[bytes]:
    """Every array of a checkpoint: parameters, optimizer state and average."""
    trainer = Trainer(EVERYTHING, dataset, workdir, devices=Devices(), log=lambda _: None, stream=io.StringIO())
    with quiet(workdir / "checkpoints", read_only=True) as saved:
        position, state = trainer._begin.found(saved)
    assert position.step == step
    assert state.average is not None
    assert int(state.average.steps) == 3
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def test_every_option_goes_on_to_the_same_bits(run: tuple[Path, list[str]], dataset: Dataset, tmp_path: Path):
    """Stopped inside a stage and its schedule, and between two; the raw parameters are compared as well."""
    for epoch in (1, 2):

        def interrupt(line: str, epoch: int = epoch) -> None:
            if line.startswith(f"epoch {epoch}:"):
                raise InterruptedRunError

        with pytest.raises(InterruptedRunError):
            train(EVERYTHING, dataset, tmp_path / "again", interrupt)
    train(EVERYTHING, dataset, tmp_path / "again")
    assert saved_bits(tmp_path / "again", dataset, 9) == saved_bits(run[0], dataset, 9)
    whole, again = (untimed_metrics_of(folder) for folder in (run[0], tmp_path / "again"))
    assert whole == again


def test_learning_rates_are_said_and_logged(run: tuple[Path, list[str]]):
    """Two epochs of 3 steps, 2 of the 6 for the warm-up; then one epoch of 3, with its own rate."""
    text = "\n".join(run[1])
    assert "learning rate 0.001 (cosine to 0.0001, 0.666667 epochs of warm-up)" in text
    assert "learning rate 0.0001 (cosine to 1e-05, 0.666667 epochs of warm-up)" in text
    found = [line["learning_rate"] for line in metrics_of(run[0]) if line["kind"] == "epoch"]
    last = 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * 3 / 4))
    np.testing.assert_allclose(found, [1e-3, 1e-3 * last, 1e-4], rtol=1e-5)


def test_plain_sgd_goes_on(dataset: Dataset, tmp_path: Path):
    """Its state is a count of steps, and nothing else."""
    short = dataclasses.replace(EXPERIMENT, optimizer=Optimizer(kind="sgd"), debug_batches=1)
    for epochs in (1, 2):
        experiment = dataclasses.replace(short, stages=(Stage(epochs=epochs),))
        assert train(experiment, dataset, tmp_path / "run").position.step == epochs


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_falling_schedule_is_not_stretched(dataset: Dataset, tmp_path: Path, kind: Any):
    """Steps taken would not be those of the longer stage; a further stage is another matter."""

    def start(stages: tuple[Stage, ...], *, has_checkpoint: bool) -> None:
        experiment = dataclasses.replace(EXPERIMENT, optimizer=Optimizer(schedule=Schedule(kind)), stages=stages)
        current = run_folder.describe(experiment, dataset, {})
        run_folder.record_start(tmp_path, current, has_checkpoint=has_checkpoint)

    start((Stage(epochs=5),), has_checkpoint=False)
    with pytest.raises(UserError, match=r"(?s)stages\.0\.epochs = 5, now it is 6.*to train longer, add a stage"):
        start((Stage(epochs=6),), has_checkpoint=True)
    start((Stage(epochs=5), Stage(epochs=1)), has_checkpoint=True)


def test_averaged_parameters_are_validated_evaluated_and_exported(dataset: Dataset, tmp_path: Path):
    """Of the raw parameters of every step, as the checkpoints hold them: geometric weights, each stage on its own."""
    experiment = dataclasses.replace(
        EXPERIMENT,
        optimizer=Optimizer(learning_rate=1e-2, ema_decay=0.7),
        stages=(Stage(epochs=3), Stage(epochs=2, freeze_layers=16, learning_rate=1e-3)),
        checkpoints=Checkpoints(keep_latest=9),
        debug_batches=1,
    )
    train(experiment, dataset, tmp_path / "run")
    devices = Devices()
    shapes = like(param_shapes(build_model(resolve(experiment, "cpu"), 4), 48), devices.replicated)
    with quiet(tmp_path / "run" / "checkpoints", read_only=True) as saved:
        assert saved.steps == [1, 2, 3, 4, 5]
        raw = {step: saved.restore_params(step, shapes) for step in saved.steps}
    head = {"tags_hidden", "tags_logits"}
    for step, averaged, layers in [(3, [1, 2, 3], head), (5, [4, 5], head | {"block5_conv2", "block5_conv3"})]:
        model = trained.load(tmp_path / "run", str(step), devices, log=lambda _: None)
        weights = [0.7 ** (averaged[-1] - one) for one in averaged]
        for layer, leaves in model.params.items():
            for name, leaf in leaves.items():
                last = np.asarray(raw[step][layer][name])
                if layer not in layers:
                    assert np.asarray(leaf).tobytes() == last.tobytes()
                    continue
                past = [
                    weight * np.asarray(raw[one][layer][name]) for weight, one in zip(weights, averaged, strict=True)
                ]
                np.testing.assert_allclose(leaf, np.sum(past, axis=0) / sum(weights), atol=1e-6)
                assert np.abs(np.asarray(leaf) - last).max() > 1e-5
        (line,) = [one for one in metrics_of(tmp_path / "run") if (one["kind"], one["step"]) == ("validation", step)]
        (batch,) = eval_batches(dataset.records("validation"), BatchShape(1, 8, 48, dataset.max_tags), threads=1)
        logits = tag_logits(model.model, model.params, jnp.asarray(batch["images"][0]))
        losses = image_losses(logits, multi_hot(jnp.asarray(batch["tag_ids"][0]), model.model.n_tags), 10.0)
        assert line["loss"] == pytest.approx(float(np.average(losses, weights=batch["weight"][0])), rel=1e-5)
