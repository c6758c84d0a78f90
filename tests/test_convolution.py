"""Winograd's convolution and the pooling, against float64 sums of products and XLA's own."""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import export

from socialtag_jax.convolution import convolution, direct, winograd
from socialtag_jax.model import max_pool


def drawn(height: int, width: int, features_in: int, features: int, batch: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = np.maximum(rng.normal(size=(batch, height, width, features_in)), 0.0)
    return images.astype(np.float32), (0.05 * rng.normal(size=(3, 3, features_in, features))).astype(np.float32)


def sum_of_products(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """float64, written down as the convolution is defined."""
    _, height, width, _ = images.shape
    padded = np.pad(images.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    result = np.zeros((*images.shape[:3], kernel.shape[-1]))
    for i, j in itertools.product(range(3), repeat=2):
        result += padded[:, i : i + height, j : j + width] @ kernel[i, j].astype(np.float64)
    return result


@pytest.mark.parametrize(("height", "width"), [(16, 16), (13, 18), (4, 7), (1, 1)])
def test_winograd_is_the_sum_of_products(height: int, width: int):
    images, kernel = drawn(height, width, 64, 128)
    expected = sum_of_products(images, kernel)
    found = np.asarray(jax.jit(winograd)(images, kernel))
    assert found.shape == expected.shape
    assert np.max(np.abs(found - expected)) < 2e-5 * np.max(np.abs(expected))


def test_an_image_s_outputs_do_not_depend_on_its_batch():
    images, kernel = drawn(28, 28, 128, 64, batch=12)
    convolve = jax.jit(convolution)
    together = np.asarray(convolve(images, kernel))
    for size in (1, 3, 5):
        np.testing.assert_array_equal(convolve(images[:size], kernel), together[:size])


def operations(images: jax.ShapeDtypeStruct, features: int, platform: str) -> str:
    kernel = jax.ShapeDtypeStruct((3, 3, images.shape[-1], features), images.dtype)
    return jax.jit(convolution).trace(images, kernel).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(
    ("shape", "features", "dtype", "platform", "by_winograd"),
    [
        ((2, 16, 16, 128), 128, jnp.float32, "cpu", True),
        ((2, 16, 16, 128), 128, jnp.float32, "cuda", False),
        ((2, 16, 16, 128), 128, jnp.float32, "tpu", False),
        ((2, 16, 16, 128), 128, jnp.bfloat16, "cpu", False),
        ((2, 12, 12, 128), 128, jnp.float32, "cpu", False),  # few tiles
        ((2, 16, 16, 64), 64, jnp.float32, "cpu", False),  # few features
    ],
)
def test_only_large_float32_convolutions_on_cpus_go_by_winograd(
    shape: tuple[int, ...], features: int, dtype: jax.typing.DTypeLike, platform: str, by_winograd: bool
):
    text = operations(jax.ShapeDtypeStruct(shape, dtype), features, platform)
    assert ("stablehlo.convolution" not in text) == by_winograd


def test_gradients_are_those_of_xla():
    images, kernel = drawn(16, 16, 64, 128)
    weights = np.random.default_rng(3).normal(size=(2, 16, 16, 128)).astype(np.float32)

    def gradients(convolve: Callable[[jax.Array, jax.Array], jax.Array]) -> tuple[jax.Array, jax.Array]:
        return jax.jit(jax.grad(lambda *inputs: jnp.sum(weights * convolve(*inputs)), argnums=(0, 1)))(images, kernel)

    for ours, theirs in zip(gradients(convolution), gradients(direct), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("height", "width"), [(6, 8), (7, 5)])
def test_pooling_is_that_of_flax(height: int, width: int):
    x = np.random.default_rng(4).normal(size=(2, height, width, 3)).astype(np.float32)
    np.testing.assert_array_equal(max_pool(jnp.asarray(x)), nn.max_pool(jnp.asarray(x), (2, 2), strides=(2, 2)))
    weights = np.random.default_rng(5).normal(size=(2, height // 2, width // 2, 3)).astype(np.float32)
    ours = jax.grad(lambda x: jnp.sum(weights * max_pool(x)))(x)
    theirs = jax.grad(lambda x: jnp.sum(weights * nn.max_pool(x, (2, 2), strides=(2, 2))))(jnp.asarray(x))
    np.testing.assert_array_equal(ours, theirs)


def test_an_exported_pooling_has_slices():
    """With a symbolic batch, as in bundles, strided indexing becomes gathers, which take a tenth of a batch's time."""
    (batch,) = export.symbolic_shape("batch")
    exported = export.export(jax.jit(max_pool))(jax.ShapeDtypeStruct((batch, 8, 8, 3), jnp.float32))
    assert "gather" not in exported.mlir_module()


def test_equal_maxima_share_the_gradient():
    gradient = jax.grad(lambda x: jnp.sum(max_pool(x)))(jnp.full((1, 2, 2, 1), 3.0))
    np.testing.assert_array_equal(gradient, np.full((1, 2, 2, 1), 0.25))
