"""The compiled steps on 1, 2 and 4 simulated devices: same losses, equal replicas, frozen layers frozen to the bit."""

import functools
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from socialtag_jax.config import Experiment, Input, Loss, Model, Optimizer, Schedule, Stage, Suggestion
from socialtag_jax.errors import UsageError
from socialtag_jax.losses import image_losses, multi_hot
from socialtag_jax.model import HEAD_LAYERS, TagPredictor, init_params, tag_logits, trainable_layers
from socialtag_jax.optimizer import count, make_optimizer
from socialtag_jax.parallel import Devices, on_one_device
from socialtag_jax.steps import TrainState, eval_step, make_train_step, stage_start

N_TAGS, ROWS, SIZE = 7, 8, 48
OPTIMIZER, LOSS = Optimizer(learning_rate=1e-3), Loss(10.0)


def moves(setup: "Setup") -> dict[str, dict[str, np.ndarray]]:
    """How far every parameter has moved since the start."""
    return jax.tree.map(lambda new, old: np.asarray(new) - old, setup.state.params, setup.params)


def make_batch(devices: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Eight rows, the last two of them padding, whatever the number of devices."""
    rng = np.random.default_rng(seed)
    tag_ids = np.full((ROWS, 3), -1, np.int32)
    for row in range(ROWS):
        chosen = np.sort(rng.choice(N_TAGS, rng.integers(0, 4), replace=False))
        tag_ids[row, : len(chosen)] = chosen
    weight = np.array([1.0] * 6 + [0.0] * 2, np.float32)
    images = rng.integers(0, 256, (ROWS, SIZE, SIZE, 3), np.uint8)
    batch = {"images": images, "tag_ids": tag_ids, "weight": weight}
    return {name: value.reshape(devices, ROWS // devices, *value.shape[1:]) for name, value in batch.items()}


class ShortModel(TagPredictor):
    """Four of the convolutions, one frozen even at 16 layers, for tests that compile many steps."""

    def _convolutions(self, x: jax.Array, first_layer: int, freeze_layers: int, features_only: bool) -> jax.Array:
        assert first_layer == 0
        assert not features_only
        x = x / 128
        for name in ("block1_conv1", "block5_conv1", "block5_conv2", "block5_conv3"):
            x = nn.relu(nn.Conv(8, (3, 3), strides=(2, 2), name=name)(x))
            if name not in trainable_layers(freeze_layers):
                x = jax.lax.stop_gradient(x)
        return jnp.mean(x, axis=(1, 2))


@functools.cache
def start_params(kind: type[TagPredictor]) -> dict[str, dict[str, Any]]:
    params = jax.tree.map(np.array, init_params(kind(n_tags=N_TAGS), jax.random.key(0), SIZE))
    # A negative zero in a frozen layer: adding a zero update would turn it into a positive one.
    params["block1_conv1"]["kernel"][0, 0, 0, 0] = -0.0
    return params


class Setup:
    """A compiled training step with its state on the first `n` devices."""

    def __init__(
        self,
        n: int,
        freeze_layers: int,
        dropout_rate: float = 0.5,
        *,
        kind: type[TagPredictor] = TagPredictor,
        config: Optimizer = OPTIMIZER,
        loss: Loss = LOSS,
        parts: int = 1,
    ) -> None:
        self.devices = Devices(jax.local_devices()[:n])
        self.model = kind(n_tags=N_TAGS, dropout_rate=dropout_rate)
        self.params = start_params(kind)
        params = jax.tree.map(jnp.array, self.params)
        experiment = Experiment(
            name="test",
            model=Model(input_size=SIZE),
            input=Input(accumulation_steps=parts),
            loss=loss,
            optimizer=config,
        )
        stage = Stage(freeze_layers=freeze_layers)
        optimizer = make_optimizer(experiment, stage, params, steps_per_epoch=4)
        step = make_train_step(experiment, stage, self.model, optimizer)
        self.traces = 0

        def counted(state: TrainState, batch: Mapping[str, jax.Array]):
            self.traces += 1
            return step(state, batch)

        start = stage_start(experiment, stage, optimizer, params, jnp.zeros((), jnp.int32))
        self.state = self.devices.replicate(start)
        self.step = self.devices.compile_train_step(counted, self.state, make_batch(n))

    def run(self, steps: int) -> list[float]:
        losses = []
        for number in range(steps):
            batch = self.devices.shard(make_batch(len(self.devices), seed=number))
            with jax.transfer_guard("disallow"):
                self.state, sums = self.step(self.state, batch)
            losses.append(float(sums["loss"]) / float(sums["images"]))
        return losses


@pytest.mark.parametrize("freeze_layers", [19, 16])
def test_same_losses_on_1_2_and_4_devices(freeze_layers: int):
    """Dropout included: what is dropped follows the row, not the device."""
    losses = {n: Setup(n, freeze_layers).run(3) for n in (1, 2, 4)}
    np.testing.assert_allclose(losses[2], losses[1], rtol=1e-4)
    np.testing.assert_allclose(losses[4], losses[1], rtol=1e-4)
    assert len(set(losses[1])) == 3


@pytest.mark.parametrize(
    ("freeze_layers", "trained"),
    [(19, set(HEAD_LAYERS)), (16, {"block5_conv2", "block5_conv3", *HEAD_LAYERS})],
)
def test_frozen_layers_keep_every_bit_and_replicas_stay_equal(freeze_layers: int, trained: set[str]):
    setup = Setup(4, freeze_layers)
    setup.run(2)
    for layer, leaves in setup.state.params.items():
        for name, leaf in leaves.items():
            copies = [np.asarray(shard.data).tobytes() for shard in leaf.addressable_shards]
            assert len(copies) == 4
            assert len(set(copies)) == 1, f"{layer}/{name} differs between devices"
            changed = copies[0] != setup.params[layer][name].tobytes()
            assert changed == (layer in trained), f"{layer}/{name}"
    assert int(setup.state.step) == 2
    assert setup.traces == 1


def test_frozen_layers_have_no_optimizer_state():
    setup = Setup(1, 19)
    total, trainable = count(setup.params, 19)
    assert total == 14_714_688 + 512 * 512 + 512 + 512 * N_TAGS + N_TAGS
    assert trainable == 512 * 512 + 512 + 512 * N_TAGS + N_TAGS
    sizes = [leaf.size for leaf in jax.tree.leaves(setup.state.opt_state)]
    assert sum(sizes) == 2 * trainable + 1  # two moments and one step count


@pytest.mark.usefixtures("peer_promotion")
def test_one_step_is_adam_on_the_whole_batch():
    """Against optax on one device, without masks, pmap or padding."""
    setup = Setup(4, 19, dropout_rate=0.0)
    (loss,) = setup.run(1)
    batch = {name: value.reshape(ROWS, *value.shape[2:])[:6] for name, value in make_batch(1).items()}
    head = {name: setup.params[name] for name in HEAD_LAYERS}

    def mean_loss(head: dict) -> jax.Array:
        logits = tag_logits(setup.model, {**setup.params, **head}, jnp.asarray(batch["images"]))
        return jnp.mean(image_losses(logits, multi_hot(jnp.asarray(batch["tag_ids"]), N_TAGS), 10.0))

    expected_loss, gradients = jax.value_and_grad(mean_loss)(head)
    # Keras adds epsilon to an uncorrected moment: in the first step, optax's counts for as much less.
    epsilon = OPTIMIZER.epsilon / (1 - OPTIMIZER.beta2) ** 0.5
    adam = optax.adam(OPTIMIZER.learning_rate, OPTIMIZER.beta1, OPTIMIZER.beta2, epsilon)
    updates, _ = adam.update(gradients, adam.init(head), head)
    expected: Any = optax.apply_updates(head, updates)
    assert loss == pytest.approx(float(expected_loss), rel=1e-5)
    for layer, leaves in expected.items():
        for name, leaf in leaves.items():
            # Adam's first step is learning rate x sign, whatever the gradient's size: where that is near zero,
            # rounding decides. All else agrees.
            difference = np.abs(np.asarray(setup.state.params[layer][name]) - leaf)
            assert np.mean(difference > 1e-6) < 1e-3


def test_donated_state_is_gone():
    setup = Setup(2, 19)
    setup.run(1)  # the first state shares its buffers with the arrays that it was made of
    before = setup.state
    setup.run(1)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((before.params, before.opt_state)))


def test_bfloat16_is_of_the_convolutions_alone():
    """Every convolution, forward and backward; parameters, optimizer state and loss stay float32."""
    losses = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        model = TagPredictor(n_tags=N_TAGS, compute_dtype=dtype)
        experiment, stage = Experiment(name="test", model=Model(input_size=SIZE)), Stage(freeze_layers=16)
        params = jax.tree.map(jnp.array, start_params(TagPredictor))
        optimizer = make_optimizer(experiment, stage, params, steps_per_epoch=4)
        state = stage_start(experiment, stage, optimizer, params, jnp.zeros((), jnp.int32))
        step = on_one_device(make_train_step(experiment, stage, model, optimizer))
        batch = jax.tree.map(lambda leaf: leaf[0], make_batch(1))
        convolutions = re.findall(r"(\w+)\[[^ ]*\] = conv_general_dilated", str(jax.make_jaxpr(step)(state, batch)))
        # Backward: kernels and inputs of block5_conv2 and block5_conv3; XLA drops the former's input, of no use.
        assert len(convolutions) == 13 + 2 + 2
        assert {name.rpartition(":")[2] for name in convolutions} == {"bf16" if dtype == jnp.bfloat16 else "f32"}
        state, sums = jax.jit(step)(state, batch)
        assert {leaf.dtype.name for leaf in jax.tree.leaves((state.params, sums))} == {"float32"}
        assert {leaf.dtype.name for leaf in jax.tree.leaves(state.opt_state)} <= {"float32", "int32"}
        losses[dtype] = float(sums["loss"])
    assert losses[jnp.bfloat16] != losses[jnp.float32]
    assert losses[jnp.bfloat16] == pytest.approx(losses[jnp.float32], rel=0.02)


def test_eval_step_rows_are_in_order():
    setup = Setup(4, 19)
    step = setup.devices.compile_eval_step(
        functools.partial(eval_step, model=setup.model, positive_weight=10.0, suggestion=Suggestion()),
        setup.params,
        make_batch(4),
    )
    outputs = step(setup.state.params, setup.devices.shard(make_batch(4)))
    assert outputs["loss"].shape == outputs["f1"].shape == (4, 2)
    batch = make_batch(1)
    logits = tag_logits(setup.model, setup.params, jnp.asarray(batch["images"][0]))
    expected = image_losses(logits, multi_hot(jnp.asarray(batch["tag_ids"][0]), N_TAGS), 10.0)
    np.testing.assert_allclose(outputs["loss"].reshape(ROWS), expected, rtol=1e-4)


EVERYTHING = Optimizer(
    learning_rate=1e-3,
    schedule=Schedule(kind="cosine", warmup_epochs=0.5),
    weight_decay=0.1,
    clip_norm=0.5,
    max_norm=0.9,
    ema_decay=0.9,
)
OPTIONS = {
    "sgd": (Optimizer(kind="sgd", learning_rate=1e-3), LOSS),
    "momentum": (Optimizer(kind="sgd", learning_rate=1e-3, momentum=0.9, nesterov=True, weight_decay=0.1), LOSS),
    "schedule": (Optimizer(learning_rate=1e-3, schedule=Schedule("linear", 0.1, 0.25)), LOSS),
    "weight decay": (Optimizer(learning_rate=1e-3, weight_decay=0.1), LOSS),
    "clip norm": (Optimizer(learning_rate=1e-3, clip_norm=1e-2), LOSS),
    "max norm": (Optimizer(learning_rate=1e-3, max_norm=0.5), LOSS),
    "average": (Optimizer(learning_rate=1e-3, ema_decay=0.9), LOSS),
    "penalties": (OPTIMIZER, Loss(10.0, l1=1e-3, l2=1e-3)),
    "everything": (EVERYTHING, Loss(10.0, l1=1e-3, l2=1e-3)),
}


def copies_of_parameters(config: Optimizer) -> int:
    """Adam keeps two moments, momentum one sum, averaging one average."""
    return 2 * (config.kind == "adam") + (config.momentum > 0) + (config.ema_decay is not None)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_leaves_frozen_layers_alone(option: str):
    """Every bit of them, in one compilation; all trainable layers move, and replicas stay equal."""
    config, loss = OPTIONS[option]
    setup = Setup(4, 16, kind=ShortModel, config=config, loss=loss)
    setup.run(3)
    trained = {*HEAD_LAYERS, "block5_conv2", "block5_conv3"}
    assert setup.traces == 1
    for layer, leaves in setup.state.params.items():
        for name, leaf in leaves.items():
            copies = {np.asarray(shard.data).tobytes() for shard in leaf.addressable_shards}
            assert len(copies) == 1, f"{layer}/{name} differs between devices"
            changed = copies != {setup.params[layer][name].tobytes()}
            assert changed == (layer in trained), f"{layer}/{name}"
    state = [leaf for leaf in jax.tree.leaves((setup.state.opt_state, setup.state.average)) if leaf.ndim]
    sizes = sum(leaf.size for layer in trained for leaf in setup.params[layer].values())
    assert sum(leaf.size for leaf in state) == sizes * copies_of_parameters(config)
    if config.ema_decay is not None:
        assert setup.state.average is not None
        assert set(setup.state.average.params) == trained
        scored = setup.state.scored_params
        assert scored["block5_conv1"]["kernel"] is setup.state.params["block5_conv1"]["kernel"]
        assert scored["tags_logits"]["kernel"] is setup.state.average.params["tags_logits"]["kernel"]


@pytest.mark.parametrize("devices", [1, 4])
def test_penalties_count_once_and_are_not_reported(devices: int):
    """One SGD step moves kernels by rate x (l1 sign(w) + 2 l2 w) more than without penalties, biases by no more."""
    rate, l1, l2 = 0.1, 0.01, 0.05
    config = Optimizer(kind="sgd", learning_rate=rate)
    without = Setup(devices, 19, kind=ShortModel, config=config)
    penalised = Setup(devices, 19, kind=ShortModel, config=config, loss=Loss(10.0, l1=l1, l2=l2))
    assert penalised.run(1) == without.run(1)
    for layer in HEAD_LAYERS:
        before = without.params[layer]["kernel"]
        more = np.asarray(without.state.params[layer]["kernel"] - penalised.state.params[layer]["kernel"])
        np.testing.assert_allclose(more, rate * (l1 * np.sign(before) + 2 * l2 * before), atol=1e-7)
        for state in (without.state, penalised.state):
            bias = np.asarray(state.params[layer]["bias"])
            np.testing.assert_array_equal(bias, np.asarray(without.state.params[layer]["bias"]))


@pytest.mark.parametrize("devices", [1, 4])
def test_clipping_measures_the_whole_batch_and_the_trainable_layers(devices: int):
    """One SGD step at rate 1 is the negative gradient: clipped, it has the limit's length and the same direction."""
    steps = {}
    for clip_norm in (None, 0.25):
        config = Optimizer(kind="sgd", learning_rate=1.0, clip_norm=clip_norm)
        setup = Setup(devices, 16, kind=ShortModel, config=config)
        setup.run(1)
        steps[clip_norm] = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(moves(setup))])
    free, clipped = steps[None], steps[0.25]
    length = np.linalg.norm(free)
    assert length > 0.5
    assert np.linalg.norm(clipped) == pytest.approx(0.25, rel=1e-4)
    np.testing.assert_allclose(clipped, free * (0.25 / length), atol=1e-6)


def test_everything_on_1_2_and_4_devices():
    config, loss = OPTIONS["everything"]
    setups = [Setup(n, 16, kind=ShortModel, config=config, loss=loss) for n in (1, 2, 4)]
    losses = [setup.run(5) for setup in setups]
    for setup, found in zip(setups[1:], losses[1:], strict=True):
        np.testing.assert_allclose(found, losses[0], rtol=1e-4)
        compared = jax.tree.map(
            lambda one, other: np.mean(np.abs(np.asarray(one) - np.asarray(other)) > 1e-5),
            setup.state.scored_params,
            setups[0].state.scored_params,
        )
        assert max(jax.tree.leaves(compared)) < 0.02  # Adam where a gradient is near zero


@pytest.mark.parametrize(("devices", "parts"), [(1, 8), (4, 2)])
def test_accumulated_gradients_are_those_of_the_whole_batch(devices: int, parts: int):
    """One SGD step at rate 1 is the negative gradient. Dropout and penalties included; in eight parts, two of them have
    nothing but padding."""
    config, loss = Optimizer(kind="sgd", learning_rate=1.0), Loss(10.0, l1=1e-3, l2=1e-3)
    whole = Setup(devices, 16, kind=ShortModel, config=config, loss=loss)
    split = Setup(devices, 16, kind=ShortModel, config=config, loss=loss, parts=parts)
    np.testing.assert_allclose(split.run(1), whole.run(1), rtol=1e-6)
    found, expected = moves(split), moves(whole)
    for layer in trainable_layers(16):
        for name, move in expected[layer].items():
            assert np.any(move)
            np.testing.assert_allclose(found[layer][name], move, atol=1e-5 * np.abs(move).max(), err_msg=layer)


def test_accumulation_drops_the_same_activations():
    """Without the rows' own keys, losses would differ by far more than rounding."""
    losses = [Setup(1, 19, 0.9, kind=ShortModel, parts=parts).run(3) for parts in (1, 4)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    other = Setup(1, 19, 0.0, kind=ShortModel).run(3)
    assert abs(other[0] / losses[0][0] - 1) > 1e-3


def test_local_rows():
    devices = Devices(jax.local_devices()[:4])
    assert devices.local_rows(24, "--input.batch-size", parts=3) == 6
    with pytest.raises(
        UsageError, match=r"--input\.batch-size: 20 images do not divide among 4 devices x 2 accumu.*of 8"
    ):
        devices.local_rows(20, "--input.batch-size", parts=2)
