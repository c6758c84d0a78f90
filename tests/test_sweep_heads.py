"""Heads trained together are those that `socialtag train`'s own step trains one by one."""

import dataclasses
import functools
import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from socialtag_jax.config import Checkpoints, Experiment, Input, Loss, Model, Optimizer, Schedule, Stage, Suggestion
from socialtag_jax.input_pipeline import train_order
from socialtag_jax.model import HEAD_LAYERS, init_params
from socialtag_jax.optimizer import make_optimizer
from socialtag_jax.parallel import Devices
from socialtag_jax.search_space import Configuration, configure
from socialtag_jax.steps import build_model, eval_step, make_train_step, stage_start
from socialtag_jax.sweep_heads import init_head
from socialtag_jax.sweep_training import Features, Sweep
from socialtag_jax.sweep_trials import EpochScores, Rung, Trial, make_trials

N_TAGS, RECORDS, BATCH, EPOCHS = 9, 26, 8, 3
BASE = Experiment(
    name="base",
    weights="random",
    model=Model(input_size=32, hidden_units=16, compute_dtype="float32"),
    input=Input(batch_size=BATCH, eval_batch_size=4),
    optimizer=Optimizer(learning_rate=1e-2),
    stages=(Stage(epochs=EPOCHS),),
)


def tags(rng: np.random.Generator, records: int) -> np.ndarray:
    """Up to three tags a record; the first record has none."""
    tag_ids = np.full((records, 3), -1, np.int32)
    for row in range(1, records):
        chosen = np.sort(rng.choice(N_TAGS, rng.integers(1, 4), replace=False))
        tag_ids[row, : len(chosen)] = chosen
    return tag_ids


def make_features(views: int = 1) -> Features:
    rng = np.random.default_rng(0)
    train = [rng.gamma(1.0, 1.0, (RECORDS, 512)).astype(np.float32) for _ in range(views)]
    validation = rng.gamma(1.0, 1.0, (7, 512)).astype(np.float32)
    return Features(train, tags(rng, RECORDS), validation, tags(rng, 7))


def one_by_one(experiment: Experiment, features: Features) -> list[EpochScores]:
    """`Trainer`'s loop over batches of features: its steps, compiled as it compiles them, on one device."""
    devices = Devices(jax.local_devices()[:1])
    model = build_model(experiment, N_TAGS)
    params = init_head(model, jax.random.key(experiment.seed))
    (stage,) = experiment.stages
    batch_size = experiment.input.batch_size
    steps = -(-RECORDS // batch_size)
    optimizer = make_optimizer(experiment, stage, params, steps_per_epoch=steps)
    state = devices.replicate(stage_start(experiment, stage, optimizer, params, jnp.zeros((), jnp.int32)))

    def batch(view: np.ndarray, tag_ids: np.ndarray, rows: list[int], size: int) -> Any:
        found = {
            "features": np.zeros((size, 512), np.float32),
            "tag_ids": np.full((size, 3), -1, np.int32),
            "weight": np.zeros(size, np.float32),
        }
        for place, row in enumerate(rows):
            found["features"][place], found["tag_ids"][place], found["weight"][place] = view[row], tag_ids[row], 1.0
        return devices.shard(jax.tree.map(lambda leaf: leaf[None], found))

    score = jax.jit(
        functools.partial(
            eval_step,
            model=model,
            positive_weight=experiment.loss.positive_weight,
            suggestion=experiment.suggestion,
            first_layer=19,
        )
    )
    step = make_train_step(experiment, stage, model, optimizer, first_layer=19)
    train = devices.compile_train_step(step, state, batch(features.train[0], features.train_tags, [], batch_size))
    curve = []
    for epoch in range(stage.epochs):
        order = [int(row) for row in train_order(RECORDS, experiment.seed, epoch)]
        view, total = features.train[epoch % len(features.train)], 0.0
        for first in range(0, RECORDS, batch_size):
            rows = order[first : first + batch_size]
            state, sums = train(state, batch(view, features.train_tags, rows, batch_size))
            total += float(sums["loss"])
        scores = score(
            state.scored_params,
            {"features": jnp.asarray(features.validation), "tag_ids": jnp.asarray(features.validation_tags)},
        )
        f1 = np.asarray(scores["f1"])[features.validation_tags[:, 0] >= 0]
        curve.append(EpochScores(total / RECORDS, float(np.mean(scores["loss"])), float(np.mean(f1))))
    return curve


def sweep(
    experiment: Experiment,
    configurations: list[Configuration],
    features: Features,
    *,
    devices: int = 1,
    heads_at_once: int = 2,
    rungs: tuple[Rung, ...] = (),
) -> list[list[EpochScores]]:
    trials = make_trials(experiment, configurations)
    Sweep(
        trials,
        features,
        N_TAGS,
        devices=Devices(jax.local_devices()[:devices]),
        head_of=lambda _: None,
        heads_at_once=heads_at_once,
        log=lambda _: None,
        stream=io.StringIO(),
    ).run(rungs or [Rung(len(trials), EPOCHS)])
    return [trial.curve for trial in trials]


def assert_same(found: list[EpochScores], expected: list[EpochScores]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        # The same arithmetic in another order of summation.
        np.testing.assert_allclose(dataclasses.astuple(one), dataclasses.astuple(other), rtol=2e-5)


CASES: dict[str, tuple[Experiment, list[Configuration]]] = {
    "numbers": (BASE, [{"optimizer.learning_rate": 1e-3, "model.dropout_rate": 0.2, "loss.positive_weight": 1,
                        "loss.l1": 0.0, "loss.l2": 1e-3, "optimizer.weight_decay": 0.1, "optimizer.clip_norm": 0.05,
                        "optimizer.max_norm": 0.9},
                       {"optimizer.learning_rate": 3e-2, "model.dropout_rate": 0.0, "loss.positive_weight": 3.0,
                        "loss.l1": 1e-3, "loss.l2": 0.0, "optimizer.weight_decay": 0.0, "optimizer.clip_norm": 5.0,
                        "optimizer.max_norm": 0.5}]),
    "seeds": (BASE, [{"seed": seed} for seed in (0, 2**32 - 1)]),
    "structure": (BASE, [{"model.hidden_units": 16, "input.batch_size": 8, "optimizer.ema_decay": None,
                          "optimizer.clip_norm": None},
                         {"model.hidden_units": 24, "input.batch_size": 32, "optimizer.ema_decay": 0.9,
                          "optimizer.clip_norm": 0.1}]),
    "schedule": (
        dataclasses.replace(
            BASE,
            stages=(Stage(epochs=EPOCHS, learning_rate=1e-3),),
            optimizer=Optimizer(schedule=Schedule("cosine", 0.1, 0.5)),
            loss=Loss(3.0, l2=1e-3),
        ),
        [{"stages.0.learning_rate": 1e-3, "optimizer.schedule.final_share": 0.5},
         {"stages.0.learning_rate": 1e-2, "optimizer.schedule.final_share": 0.0}],
    ),
    "no schedule": (
        BASE,
        [{"optimizer.schedule.final_share": 0.0, "optimizer.learning_rate": 1e-2},
         {"optimizer.schedule.final_share": 0.0, "optimizer.learning_rate": 1e-3}],
    ),
    "sgd": (
        dataclasses.replace(BASE, optimizer=Optimizer(kind="sgd", momentum=0.9)),
        [{"optimizer.learning_rate": 1e-1}, {"optimizer.learning_rate": 1e-2}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_as_train_steps(case: str):
    experiment, configurations = CASES[case]
    features = make_features(views=2)
    found = sweep(experiment, configurations, features)
    for curve, configuration in zip(found, configurations, strict=True):
        assert_same(curve, one_by_one(configure(experiment, configuration), features))
    assert len({scores[-1] for scores in found}) == len(configurations)


def test_divided_among_devices():
    """Four devices, and room that no head fills."""
    configurations: list[Configuration] = [{"optimizer.learning_rate": rate, "seed": seed} for rate, seed in
                                           ((1e-3, 0), (1e-2, 0), (1e-2, 1), (3e-2, 2), (5e-2, 0))]  # fmt: skip
    features = make_features()
    on_one = sweep(BASE, configurations, features, heads_at_once=5)
    for one, other in zip(sweep(BASE, configurations, features, devices=4), on_one, strict=True):
        assert_same(one, other)


def test_rungs_go_on_where_the_last_one_ended():
    """The best heads of each rung train on to what they become without rungs; the others stop."""
    rates = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    configurations: list[Configuration] = [{"optimizer.learning_rate": rate} for rate in rates]
    features = make_features()
    whole = sweep(BASE, configurations, features, heads_at_once=1)
    rungs = (Rung(5, 1), Rung(2, 2), Rung(1, 3))
    halved = sweep(BASE, configurations, features, heads_at_once=1, rungs=rungs)
    first = sorted(range(5), key=lambda index: whole[index][0].loss)[:2]
    second = min(first, key=lambda index: min(scores.loss for scores in whole[index][:2]))
    for index, curve in enumerate(halved):
        assert_same(curve, whole[index][: 3 if index == second else 2 if index in first else 1])


def test_equal_heads_go_on_in_the_order_of_the_search():
    """With nothing over the threshold, every F1 is 0; two hidden sizes, which are trained one after the other."""
    blind = dataclasses.replace(BASE, suggestion=Suggestion(threshold=0.999), checkpoints=Checkpoints(monitor="f1"))
    configurations: list[Configuration] = [{"model.hidden_units": units} for units in (16, 24, 16, 24)]
    curves = sweep(blind, configurations, make_features(), heads_at_once=1, rungs=(Rung(4, 1), Rung(2, 2)))
    assert [len(curve) for curve in curves] == [2, 2, 1, 1]


def test_a_head_that_was_left_out_does_not_come_back(monkeypatch: pytest.MonkeyPatch):
    """Both heads of the second rung diverge in it: nobody is left for the third."""
    append = Sweep._append

    def diverge(self: Sweep, trials: list[Trial], *arguments: Any) -> None:
        append(self, trials, *arguments)
        for trial in trials:
            if len(trial.curve) == 2:
                trial.curve[-1] = EpochScores(float("nan"), float("nan"), 0.0)

    monkeypatch.setattr(Sweep, "_append", diverge)
    configurations: list[Configuration] = [{"optimizer.learning_rate": rate} for rate in (1e-3, 3e-3, 1e-2)]
    rungs = (Rung(3, 1), Rung(2, 2), Rung(1, 3))
    curves = sweep(BASE, configurations, make_features(), heads_at_once=1, rungs=rungs)
    assert sorted(len(curve) for curve in curves) == [1, 2, 2]


def test_the_head_is_drawn_as_with_the_convolutions():
    model = build_model(BASE, N_TAGS)
    whole = init_params(model, jax.random.key(7), 32)
    for layer, leaves in init_head(model, jax.random.key(7)).items():
        assert layer in HEAD_LAYERS
        for name, leaf in leaves.items():
            np.testing.assert_array_equal(leaf, whole[layer][name])
