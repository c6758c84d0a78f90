"""The compiled steps on 1, 2 and 4 simulated devices: same losses, equal replicas, frozen layers frozen to the bit."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from socialtag_jax.config import Experiment, Loss, Model, Optimizer, Stage, Suggestion
from socialtag_jax.losses import image_losses, multi_hot
from socialtag_jax.model import HEAD_LAYERS, TagPredictor, init_params, tag_logits
from socialtag_jax.optimizer import count, make_optimizer
from socialtag_jax.parallel import Devices
from socialtag_jax.steps import TrainState, eval_step, train_step

N_TAGS, ROWS, SIZE = 7, 8, 48
EXPERIMENT = Experiment(
    name="test", model=Model(input_size=SIZE), loss=Loss(10.0), optimizer=Optimizer(learning_rate=1e-3)
)


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


class Setup:
    """A compiled training step with its state on the first `n` devices."""

    def __init__(self, n: int, freeze_layers: int, dropout_rate: float = 0.5) -> None:
        self.devices = Devices(jax.local_devices()[:n])
        self.model = TagPredictor(n_tags=N_TAGS, dropout_rate=dropout_rate)
        params = init_params(self.model, jax.random.key(0), SIZE)
        # A negative zero in a frozen layer: adding a zero update would turn it into a positive one.
        kernel = params["block1_conv1"]["kernel"].at[0, 0, 0, 0].set(-0.0)
        params["block1_conv1"] = {**params["block1_conv1"], "kernel": kernel}
        self.params = jax.tree.map(np.asarray, params)
        optimizer = make_optimizer(EXPERIMENT, Stage(freeze_layers=freeze_layers), params)
        self.traces = 0

        def counted(*arguments, **options):
            self.traces += 1
            return train_step(*arguments, **options)

        self.step = self.devices.compile_train_step(
            functools.partial(
                counted,
                model=self.model,
                optimizer=optimizer,
                freeze_layers=freeze_layers,
                positive_weight=10.0,
                dropout_key=jax.random.key(3),
            )
        )
        self.state = self.devices.replicate(TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params)))

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
    config = EXPERIMENT.optimizer
    # Keras adds epsilon to an uncorrected moment: in the first step, optax's counts for as much less.
    adam = optax.adam(config.learning_rate, config.beta1, config.beta2, config.epsilon / (1 - config.beta2) ** 0.5)
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


def test_eval_step_rows_are_in_order():
    setup = Setup(4, 19)
    step = setup.devices.compile_eval_step(
        functools.partial(eval_step, model=setup.model, positive_weight=10.0, suggestion=Suggestion())
    )
    outputs = step(setup.state.params, setup.devices.shard(make_batch(4)))
    assert outputs["loss"].shape == outputs["f1"].shape == (4, 2)
    batch = make_batch(1)
    logits = tag_logits(setup.model, setup.params, jnp.asarray(batch["images"][0]))
    expected = image_losses(logits, multi_hot(jnp.asarray(batch["tag_ids"][0]), N_TAGS), 10.0)
    np.testing.assert_allclose(outputs["loss"].reshape(ROWS), expected, rtol=1e-4)
