"""The weighted loss against its definition in float64, and at its limits; penalties against Keras's."""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from socialtag_jax.losses import image_losses, multi_hot, weight_penalty, weighted_cross_entropy


@pytest.mark.parametrize("weight", [0.5, 1.0, 10.0])
def test_against_the_definition(weight: float):
    """q z (-log sigmoid(x)) + (1 - z) (-log(1 - sigmoid(x))), in float64 without any rearrangement."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 4, (5, 9))
    z = rng.integers(0, 2, (5, 9)).astype(np.float64)
    p = 1 / (1 + np.exp(-x))
    expected = -weight * z * np.log(p) - (1 - z) * np.log(1 - p)
    found = weighted_cross_entropy(jnp.asarray(x, jnp.float32), jnp.asarray(z, jnp.float32), weight)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


def test_extreme_logits_stay_finite():
    x = jnp.array([-1e4, 1e4, -1e4, 1e4], jnp.float32)
    z = jnp.array([0.0, 1.0, 1.0, 0.0], jnp.float32)
    np.testing.assert_array_equal(weighted_cross_entropy(x, z, 10.0), [0.0, 0.0, 1e5, 1e4])
    gradient = jax.grad(lambda x: jnp.sum(weighted_cross_entropy(x, z, 10.0)))(x)
    np.testing.assert_array_equal(gradient, [0.0, 0.0, -10.0, 1.0])


def test_gradient_at_zero_is_that_of_the_sigmoid():
    x = jnp.zeros(2, jnp.float32)
    z = jnp.array([0.0, 1.0], jnp.float32)
    gradient = jax.grad(lambda x: jnp.sum(weighted_cross_entropy(x, z, 10.0)))(x)
    # (1 - z) p - q z (1 - p) with p = 1/2
    np.testing.assert_allclose(gradient, [0.5, -5.0], rtol=1e-6)


def test_mean_over_tags():
    logits, targets = jnp.zeros((2, 4), jnp.float32), jnp.array([[0, 0, 0, 0], [1, 0, 0, 0]], jnp.float32)
    np.testing.assert_allclose(image_losses(logits, targets, 10.0), np.log(2) * np.array([1.0, 13 / 4]), rtol=1e-6)


def test_multi_hot_drops_padding():
    tag_ids = jnp.array([[0, 3, -1], [-1, -1, -1], [1, 2, 3]], jnp.int32)
    expected = [[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 1, 1]]
    np.testing.assert_array_equal(multi_hot(tag_ids, 4), expected)


@pytest.mark.usefixtures("peer_promotion")
@pytest.mark.parametrize(("l1", "l2"), [(0.01, 0.0), (0.0, 0.02), (0.01, 0.02)])
def test_penalties_are_those_of_keras(l1: float, l2: float):
    """Of kernels alone, and with the same gradient, at a weight of 0 too."""
    keras: Any = importlib.import_module("keras")
    rng = np.random.default_rng(0)
    shapes = {"block5_conv3": (3, 3, 2, 4), "tags_logits": (5, 3)}
    params = {
        layer: {"kernel": jnp.asarray(rng.normal(0, 1, shape), jnp.float32), "bias": jnp.ones(shape[-1])}
        for layer, shape in shapes.items()
    }
    params["tags_logits"]["kernel"] = params["tags_logits"]["kernel"].at[0, 0].set(0.0)
    regularizer = keras.regularizers.L1L2(l1, l2)
    kernels = {layer: leaves["kernel"] for layer, leaves in params.items()}
    expected, expected_gradients = jax.value_and_grad(
        lambda kernels: sum(regularizer(kernel) for kernel in kernels.values())
    )(kernels)
    found, gradients = jax.value_and_grad(weight_penalty)(params, l1, l2)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    for layer, leaves in gradients.items():
        np.testing.assert_allclose(leaves["kernel"], expected_gradients[layer], rtol=1e-6)
        np.testing.assert_array_equal(leaves["bias"], 0.0)


@pytest.mark.interop
def test_against_tensorflow():
    tf: Any = importlib.import_module("tensorflow")
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 5, 500), [-1e4, 1e4, 0.0, -80.0, 80.0]]).astype(np.float32)
    z = rng.integers(0, 2, x.shape).astype(np.float32)
    expected = tf.nn.weighted_cross_entropy_with_logits(labels=z, logits=x, pos_weight=10.0).numpy()
    found = weighted_cross_entropy(jnp.asarray(x), jnp.asarray(z), 10.0)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
