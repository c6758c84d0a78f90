"""The optimizers against Keras's; schedules, clipping, norm limits and averages against closed forms."""

import dataclasses
import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from socialtag_jax.config import Experiment, Optimizer, Schedule, Stage
from socialtag_jax.optimizer import Average, learning_rate, limit_norms, make_optimizer

keras: Any = importlib.import_module("keras")

STEPS = 6
Tree = dict[str, dict[str, Any]]


def draw(rng: np.random.Generator, scale: float = 1.0) -> Tree:
    """Two trainable layers and a frozen one, of no model's sizes."""
    shapes = {"block1_conv1": (3, 3, 2, 4), "tags_hidden": (4, 5), "tags_logits": (5, 3)}
    return {
        layer: {
            "kernel": rng.normal(0, scale, shape).astype(np.float32),
            "bias": rng.normal(0, scale, shape[-1:]).astype(np.float32),
        }
        for layer, shape in shapes.items()
    }


def optimizer_for(config: Optimizer, stage: Stage | None = None, steps_per_epoch: int = 10) -> Any:
    experiment = Experiment(name="test", optimizer=config, stages=(stage or Stage(),))
    params = draw(np.random.default_rng(0))
    return make_optimizer(experiment, experiment.stages[0], params, steps_per_epoch=steps_per_epoch)


def ours(config: Optimizer, params: Tree, gradients: list[Tree]) -> Tree:
    optimizer = optimizer_for(config)
    state = optimizer.init(params)
    for one in gradients:
        updates, state = optimizer.update(one, state, params)
        params = optax.apply_updates(params, updates)  # type: ignore[assignment]
    return jax.tree.map(np.asarray, params)


def peers(optimizer: Any, params: Tree, gradients: list[Tree]) -> Tree:
    """Keras, on the trainable layers; the same gradients, wherever it stands."""
    names = [(layer, name) for layer in ("tags_hidden", "tags_logits") for name in ("kernel", "bias")]
    variables = [keras.Variable(params[layer][name], name=name) for layer, name in names]
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    for one in gradients:
        optimizer.apply([jnp.asarray(one[layer][name]) for layer, name in names], variables)
    found: Tree = {"block1_conv1": params["block1_conv1"], "tags_hidden": {}, "tags_logits": {}}
    for (layer, name), variable in zip(names, variables, strict=True):
        found[layer][name] = np.asarray(variable.value)
    return found


@pytest.mark.usefixtures("peer_promotion")
@pytest.mark.parametrize(
    ("config", "peer"),
    [
        (Optimizer(kind="sgd"), lambda: keras.optimizers.SGD(0.1)),
        (Optimizer(kind="sgd", momentum=0.9), lambda: keras.optimizers.SGD(0.1, momentum=0.9)),
        (
            Optimizer(kind="sgd", momentum=0.9, nesterov=True),
            lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        ),
        (Optimizer(kind="sgd", weight_decay=0.2), lambda: keras.optimizers.SGD(0.1, weight_decay=0.2)),
        (
            Optimizer(kind="sgd", momentum=0.8, weight_decay=0.2),
            lambda: keras.optimizers.SGD(0.1, momentum=0.8, weight_decay=0.2),
        ),
        (Optimizer(), lambda: keras.optimizers.Adam(0.1)),
        (Optimizer(weight_decay=0.2), lambda: keras.optimizers.AdamW(0.1, weight_decay=0.2)),
        (
            Optimizer(beta1=0.8, beta2=0.95, weight_decay=0.2),
            lambda: keras.optimizers.AdamW(0.1, weight_decay=0.2, beta_1=0.8, beta_2=0.95),
        ),
    ],
    ids=["sgd", "momentum", "nesterov", "sgd decay", "momentum decay", "adam", "adamw", "adamw betas"],
)
def test_against_keras(config: Optimizer, peer: Any):
    """Adam's gradients are so small that it matters where epsilon is added: by a hundred times the tolerance."""
    rng = np.random.default_rng(1)
    scale = 100 * config.epsilon if config.kind == "adam" else 1.0
    start, gradients = draw(rng), [draw(rng, scale) for _ in range(STEPS)]
    found = ours(dataclasses.replace(config, learning_rate=0.1), start, gradients)
    expected = peers(peer(), start, gradients)
    for layer, leaves in start.items():
        for name, before in leaves.items():
            if layer == "block1_conv1":
                assert found[layer][name].tobytes() == before.tobytes()
                continue
            assert np.abs(expected[layer][name] - before).max() > 0.05
            np.testing.assert_allclose(found[layer][name], expected[layer][name], atol=3e-5, err_msg=f"{layer}/{name}")


@pytest.mark.usefixtures("peer_promotion")
def test_weight_decay_leaves_biases_alone():
    """With no gradient, a kernel shrinks by 1 - rate x decay at every step, and nothing else moves."""
    start = draw(np.random.default_rng(2))
    still = jax.tree.map(np.zeros_like, start)
    for kind in ("adam", "sgd"):
        found = ours(Optimizer(kind=kind, learning_rate=0.1, weight_decay=0.5), start, [still] * 3)
        for layer in ("tags_hidden", "tags_logits"):
            np.testing.assert_allclose(found[layer]["kernel"], 0.95**3 * start[layer]["kernel"], rtol=1e-6)
            np.testing.assert_array_equal(found[layer]["bias"], start[layer]["bias"])
        np.testing.assert_array_equal(found["block1_conv1"]["kernel"], start["block1_conv1"]["kernel"])


@pytest.mark.parametrize("limit", [0.5, 1e3])
def test_clipping_ignores_frozen_gradients(limit: float):
    """At rate 1, SGD's step is the negative gradient, scaled down to the limit where it is longer."""
    gradient = draw(np.random.default_rng(3))
    gradient["block1_conv1"]["kernel"] *= 1e6
    trainable = [gradient[layer][name] for layer in ("tags_hidden", "tags_logits") for name in ("kernel", "bias")]
    length = np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in trainable))
    assert 0.5 < length < 1e3
    start = jax.tree.map(np.zeros_like, gradient)
    found = ours(Optimizer(kind="sgd", learning_rate=1.0, clip_norm=limit), start, [gradient])
    for layer in ("tags_hidden", "tags_logits"):
        for name, leaf in gradient[layer].items():
            np.testing.assert_allclose(found[layer][name], -leaf * min(1.0, limit / length), rtol=1e-5)
    np.testing.assert_array_equal(found["block1_conv1"]["kernel"], 0.0)


@pytest.mark.usefixtures("peer_promotion")
def test_limited_norms_are_those_of_keras():
    params = draw(np.random.default_rng(4))
    found = limit_norms(params, 1.5)
    for layer, leaves in params.items():
        kernel = leaves["kernel"]
        axes = list(range(kernel.ndim - 1))
        expected = keras.constraints.MaxNorm(1.5, axis=axes)(kernel)
        # Keras adds 1e-7 to the norm that it divides by.
        np.testing.assert_allclose(found[layer]["kernel"], expected, rtol=1e-6)
        before = np.sqrt(np.sum(np.square(kernel), axis=tuple(axes)))
        after = np.sqrt(np.sum(np.square(found[layer]["kernel"]), axis=tuple(axes)))
        np.testing.assert_allclose(after, np.minimum(before, 1.5), rtol=1e-6)
        assert found[layer]["bias"] is leaves["bias"]


@pytest.mark.parametrize("limit", [0.9, 1.3, 100.0])
def test_units_within_the_limit_keep_every_bit(limit: float):
    """At 0.9 and 1.3 the square of the limit is rounded; a unit without weights is no division by zero."""
    kernel = np.random.default_rng(5).normal(0, 0.1, (6, 4)).astype(np.float32)
    kernel[:, 1] = 0.0
    limited = jax.jit(lambda params: limit_norms(params, limit))({"tags_hidden": {"kernel": kernel}})
    assert np.asarray(limited["tags_hidden"]["kernel"]).tobytes() == kernel.tobytes()


def rates(schedule: Schedule, stage: Stage, steps: list[int]) -> list[float]:
    experiment = Experiment(name="test", optimizer=Optimizer(learning_rate=0.5, schedule=schedule), stages=(stage,))
    function = learning_rate(experiment, stage, 10)
    return [float(np.asarray(function(step))) for step in steps]


@pytest.mark.parametrize(
    ("schedule", "steps", "expected"),
    [
        (Schedule(), [0, 39], [0.5, 0.5]),
        # Rises over half an epoch, 5 of 40 steps.
        (Schedule(warmup_epochs=0.5), [0, 1, 4, 5, 39], [0.0, 0.1, 0.4, 0.5, 0.5]),
        (Schedule("linear"), [0, 10, 20, 39, 40], [0.5, 0.375, 0.25, 0.0125, 0.0]),
        (Schedule("linear", 0.2), [0, 10, 20, 40], [0.5, 0.4, 0.3, 0.1]),
        # cos(0), cos(pi/3), cos(pi/2), cos(2 pi/3) over the 30 steps that a warm-up of one epoch leaves.
        (
            Schedule("cosine", 0.2, 1.0),
            [0, 5, 10, 20, 25, 30, 40],
            [0.0, 0.25, 0.5, 0.1 + 0.4 * 0.75, 0.1 + 0.4 * 0.5, 0.1 + 0.4 * 0.25, 0.1],
        ),
    ],
)
def test_schedules(schedule: Schedule, steps: list[int], expected: list[float]):
    np.testing.assert_allclose(rates(schedule, Stage(epochs=4), steps), expected, rtol=1e-5, atol=1e-7)


def test_a_stage_has_its_own_rate_and_length():
    stage = Stage(epochs=2, learning_rate=0.1)
    np.testing.assert_allclose(rates(Schedule("linear"), stage, [0, 10, 20]), [0.1, 0.05, 0.0], rtol=1e-6)


@pytest.mark.usefixtures("peer_promotion")
@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_steps_follow_the_schedule(kind: Any):
    """Under a constant gradient, each step of SGD, and of Adam but for its epsilon, is as long as the rate."""
    start = jax.tree.map(np.zeros_like, draw(np.random.default_rng(0)))
    ones = jax.tree.map(np.ones_like, start)
    config = Optimizer(kind=kind, learning_rate=0.5, schedule=Schedule("cosine", 0.2, 1.0))
    optimizer = optimizer_for(config, Stage(epochs=4), steps_per_epoch=2)
    state, found = optimizer.init(start), []
    for _ in range(8):
        updates, state = optimizer.update(ones, state, start)
        found.append(-float(updates["tags_hidden"]["bias"][0]))
    falling = [0.1 + 0.4 * 0.5 * (1 + np.cos(np.pi * step / 6)) for step in range(6)]
    np.testing.assert_allclose(found, [0.0, 0.25, *falling], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.9999])
def test_the_average_is_a_normalised_geometric_sum(decay: float):
    """Of the parameters after each step; what they were before the first has no weight."""
    rng = np.random.default_rng(6)
    start, history = draw(rng), [draw(rng) for _ in range(12)]
    average = Average.start(start, 19, decay)
    np.testing.assert_array_equal(average.params["tags_hidden"]["kernel"], start["tags_hidden"]["kernel"])
    step = jax.jit(Average.with_step)
    for number, params in enumerate(history, start=1):
        average = step(average, jax.tree.map(jnp.asarray, params))
        weights = [decay ** (number - 1 - index) for index in range(number)]
        for layer in ("tags_hidden", "tags_logits"):
            past = [weight * one[layer]["kernel"] for weight, one in zip(weights, history[:number], strict=True)]
            expected = np.sum(np.stack(past), axis=0, dtype=np.float64) / sum(weights)
            np.testing.assert_allclose(average.params[layer]["kernel"], expected, atol=2e-6)
    assert set(average.params) == {"tags_hidden", "tags_logits"}
    assert int(average.steps) == 12
