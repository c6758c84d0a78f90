"""Ten training steps against a real Keras: the thesis's model, frozen at 19 and at 16 layers, without dropout."""

import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from socialtag_jax.config import Experiment, Model, Optimizer, Stage
from socialtag_jax.model import CONVOLUTIONS, HEAD_LAYERS, TagPredictor
from socialtag_jax.optimizer import make_optimizer
from socialtag_jax.parallel import Devices
from socialtag_jax.steps import TrainState, train_step

keras: Any = importlib.import_module("keras")

SIZE, N_TAGS, ROWS, STEPS, RATE, WEIGHT = 48, 7, 8, 10, 1e-4, 10.0


def keras_model(freeze_layers: int) -> Any:
    """The thesis's model, as its program builds it, with logits out."""
    keras.utils.set_random_seed(0)
    base = keras.applications.VGG16(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3))
    rng = np.random.default_rng(0)
    for name, layer in CONVOLUTIONS.items():
        # He's initialisation: activations keep the size that those of trained weights have. With tiny ones, gradients
        # come near Adam's epsilon, which Keras and optax add at two different places.
        deviation = np.sqrt(2 / np.prod(layer.kernel_shape[:3]))
        kernel = rng.normal(0, deviation, layer.kernel_shape).astype(np.float32)
        base.get_layer(name).set_weights([kernel, np.zeros(layer.features, np.float32)])
    for layer in base.layers[:freeze_layers]:
        layer.trainable = False
    x = keras.layers.GlobalAveragePooling2D()(base.output)
    x = keras.layers.Dense(512, activation="relu", name=HEAD_LAYERS[0])(x)
    model = keras.Model(base.input, keras.layers.Dense(N_TAGS, name=HEAD_LAYERS[1])(x))

    def weighted_loss(targets: Any, logits: Any) -> Any:
        positive = targets * WEIGHT * keras.ops.softplus(-logits)
        return keras.ops.mean(positive + (1.0 - targets) * keras.ops.softplus(logits), axis=-1)

    model.compile(optimizer=keras.optimizers.Adam(RATE), loss=weighted_loss)
    return model


def params_of(model: Any) -> dict[str, dict[str, np.ndarray]]:
    return {
        name: dict(zip(("kernel", "bias"), model.get_layer(name).get_weights(), strict=True))
        for name in (*CONVOLUTIONS, *HEAD_LAYERS)
    }


# Keras's variables do not take NumPy 2's copy keyword.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.usefixtures("peer_promotion")
@pytest.mark.parametrize("freeze_layers", [19, 16])
def test_ten_steps_of_keras(freeze_layers: int):
    """Tolerance: a hundredth of the way that ten Adam steps of 1e-4 can go, for all but one parameter in 200.

    (Adam divides each gradient by its own size: where one is near zero, rounding and epsilon decide where it goes.)
    Half of all parameters agree to 1e-7.
    """
    model = keras_model(freeze_layers)
    start = params_of(model)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (STEPS, ROWS, SIZE, SIZE, 3), np.uint8)
    targets = (rng.random((STEPS, ROWS, N_TAGS)) < 0.3).astype(np.float32)

    experiment = Experiment(name="parity", model=Model(input_size=SIZE), optimizer=Optimizer(learning_rate=RATE))
    devices = Devices(jax.local_devices()[:1])
    optimizer = make_optimizer(experiment, Stage(freeze_layers=freeze_layers), start, steps_per_epoch=STEPS)
    step = devices.compile_train_step(
        functools.partial(
            train_step,
            model=TagPredictor(n_tags=N_TAGS, dropout_rate=0.0),
            optimizer=optimizer,
            freeze_layers=freeze_layers,
            positive_weight=WEIGHT,
            dropout_key=jax.random.key(0),
        )
    )
    params = jax.tree.map(jnp.array, start)
    state = devices.replicate(TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params)))
    for number in range(STEPS):
        prepared = keras.applications.vgg16.preprocess_input(images[number].astype(np.float32))
        expected_loss = model.train_on_batch(prepared, targets[number])
        tag_ids = np.full((1, ROWS, N_TAGS), -1, np.int32)
        for row, tags in enumerate(targets[number]):
            tag_ids[0, row, : int(tags.sum())] = np.flatnonzero(tags)
        batch = {"images": images[number][None], "tag_ids": tag_ids, "weight": np.ones((1, ROWS), np.float32)}
        state, sums = step(state, devices.shard(batch))
        if number == 0:
            assert float(sums["loss"]) / ROWS == pytest.approx(float(expected_loss), rel=1e-4)

    end = params_of(model)
    trained = {"block5_conv2", "block5_conv3", *HEAD_LAYERS} if freeze_layers == 16 else set(HEAD_LAYERS)
    for layer, leaves in start.items():
        for name, before in leaves.items():
            found = np.asarray(state.params[layer][name])
            if layer not in trained:
                assert found.tobytes() == before.tobytes() == end[layer][name].tobytes()
                continue
            assert np.abs(end[layer][name] - before).max() > RATE
            difference = np.abs(found - end[layer][name])
            assert np.mean(difference > 0.01 * STEPS * RATE) < 5e-3, f"{layer}/{name}"
            assert np.median(difference) < 1e-7, f"{layer}/{name}"
