"""The model against a real Keras, and the rules of freezing."""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from socialtag_jax import flops
from socialtag_jax.model import (
    CONVOLUTIONS,
    HEAD_LAYERS,
    VGG16_LAYERS,
    Params,
    TagPredictor,
    dropout,
    init_params,
    param_shapes,
    preprocess,
    tag_logits,
    trainable_layers,
)

SIZE = 48
keras: Any = importlib.import_module("keras")


@pytest.fixture(scope="module")
def keras_vgg16() -> Any:
    keras.utils.set_random_seed(0)
    return keras.applications.VGG16(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3))


@pytest.fixture(scope="module")
def params() -> Params:
    return init_params(TagPredictor(n_tags=11), jax.random.key(0), SIZE)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)


def test_layer_table_is_that_of_keras(keras_vgg16):
    names = [layer.name for layer in keras_vgg16.layers]
    assert [layer.name for layer in VGG16_LAYERS[1:]] == names[1:]  # Keras calls the input input_layer
    assert len(VGG16_LAYERS) == len(names) == 19
    for name, layer in CONVOLUTIONS.items():
        assert keras_vgg16.get_layer(name).kernel.shape == layer.kernel_shape


def test_preprocess_is_that_of_keras(images: np.ndarray):
    expected = keras.applications.vgg16.preprocess_input(images.astype(np.float32))
    np.testing.assert_allclose(preprocess(jnp.asarray(images)), np.asarray(expected), atol=1e-5)


@pytest.mark.usefixtures("peer_promotion")
def test_logits_are_those_of_keras(keras_vgg16, params: Params, images: np.ndarray):
    """The thesis's model in Keras, with our parameters."""
    x = keras.layers.GlobalAveragePooling2D()(keras_vgg16.output)
    x = keras.layers.Dense(512, activation="relu", name=HEAD_LAYERS[0])(x)
    x = keras.layers.Dense(11, name=HEAD_LAYERS[1])(x)
    reference = keras.Model(keras_vgg16.input, x)
    for name, leaves in params.items():
        reference.get_layer(name).set_weights([np.asarray(leaves["kernel"]), np.asarray(leaves["bias"])])
    prepared = keras.applications.vgg16.preprocess_input(images.astype(np.float32))
    expected = np.asarray(reference(prepared, training=False))
    found = tag_logits(TagPredictor(n_tags=11), params, jnp.asarray(images))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_param_shapes_without_computing(params: Params):
    shapes = param_shapes(TagPredictor(n_tags=11), SIZE)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), shapes
    )
    assert sum(leaf.size for name in CONVOLUTIONS for leaf in params[name].values()) == 14_714_688


@pytest.mark.parametrize(
    ("freeze_layers", "expected"),
    [
        (19, set()),
        (18, set()),  # block5_pool has no parameters
        (17, {"block5_conv3"}),
        (16, {"block5_conv2", "block5_conv3"}),
        (15, {"block5_conv1", "block5_conv2", "block5_conv3"}),
        (0, set(CONVOLUTIONS)),
    ],
)
def test_freeze_boundary(params: Params, images: np.ndarray, freeze_layers: int, expected: set[str]):
    """The gradient is zero in frozen layers, and only there."""
    assert trainable_layers(freeze_layers) == expected | set(HEAD_LAYERS)

    def loss(params: Params) -> jax.Array:
        logits = tag_logits(TagPredictor(n_tags=11), params, jnp.asarray(images), freeze_layers=freeze_layers)
        return jnp.sum(jnp.square(logits))

    gradients = jax.grad(loss)(params)
    moved = {name for name, leaves in gradients.items() if np.any(leaves["kernel"])}
    assert moved == expected | set(HEAD_LAYERS)


def test_freezing_drops_the_backward_pass(params: Params, images: np.ndarray):
    """With 19 frozen layers the step does about one forward pass's work, not three."""

    def cost(freeze_layers: int) -> float:
        def loss(params: Params) -> jax.Array:
            logits = tag_logits(TagPredictor(n_tags=11), params, jnp.asarray(images), freeze_layers=freeze_layers)
            return jnp.sum(jnp.square(logits))

        # As for a TPU: on a CPU, Winograd's method leaves the forward pass fewer operations than this counts.
        analysis = jax.jit(jax.grad(loss)).trace(params).lower(lowering_platforms=("tpu",)).cost_analysis()
        assert analysis is not None
        return analysis["flops"]

    forward = 3 * sum(flops.layer_flops(11, 512, SIZE))
    assert cost(19) < 1.2 * forward
    assert cost(0) > 2.5 * forward


def test_dropout_depends_on_each_rows_key_alone():
    keys = jax.random.split(jax.random.key(0), 6)
    x = jnp.ones((6, 1000), jnp.float32)
    whole = dropout(x, keys, 0.25)
    np.testing.assert_array_equal(whole[2:4], dropout(x[2:4], keys[2:4], 0.25))
    assert set(np.unique(whole)) == {0.0, np.float32(1 / 0.75)}
    assert float(jnp.mean(whole)) == pytest.approx(1.0, abs=0.03)


def test_flops_by_hand():
    """VGG16's convolutions at 224 px are 15.35 G multiply-adds (its authors' published figure is 15.3)."""
    per_layer = flops.layer_flops(n_tags=1000, hidden_units=512, input_size=224)
    assert sum(per_layer[:19]) / 2 == pytest.approx(15.35e9, rel=0.001)
    assert per_layer[1] == 2 * 224 * 224 * 9 * 3 * 64
    assert flops.training_flops(per_layer, 0) == 3 * sum(per_layer)
    assert flops.training_flops(per_layer, 19) == sum(per_layer) + 2 * (per_layer[19] + per_layer[20])
