"""3 x 3 convolutions: XLA's own and, on CPUs, Winograd's method, which needs a quarter of the multiplications.

XLA's convolutions on CPUs run at three quarters of the rate of its matrix products or less, the larger the batch.
Winograd's F(4 x 4, 3 x 3) is matrix products throughout: an image is cut into tiles of 4 x 4 outputs, each made from
6 x 6 inputs; kernels and tiles are transformed to 36 numbers a feature, multiplied, and transformed back.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015, section 4.
"""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

_INPUT_1D = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_KERNEL_1D = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_OUTPUT_1D = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
# In both directions at once: rows and columns are each flattened to one axis.
_INPUT, _KERNEL, _OUTPUT = (
    np.kron(matrix, matrix).astype(np.float32) for matrix in (_INPUT_1D, _KERNEL_1D, _OUTPUT_1D)
)

_LEAST_FEATURES = 64 * 128
"""Input times output features from which the products outweigh the transformations."""
_LEAST_TILES = 16
"""Tiles of an image from which they outweigh reading the transformed kernel."""


@jax.custom_vjp
def convolution(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """3 x 3 convolution with stride 1, padded with zeros to the same size.

    On CPUs and in float32, large ones are computed by Winograd's method: they differ from the sum of products by up to
    2e-5 of the largest output. Gradients are those of XLA's convolution everywhere.

    Args:
      images: [batch, height, width, features in].
      kernel: [3, 3, features in, features], of the same dtype.

    Returns:
      [batch, height, width, features].
    """
    _, height, width, features_in = images.shape
    if (
        images.dtype != jnp.float32
        or features_in * kernel.shape[-1] < _LEAST_FEATURES
        or _tiles(height) * _tiles(width) < _LEAST_TILES
    ):
        return direct(images, kernel)
    return cast(jax.Array, jax.lax.platform_dependent(images, kernel, cpu=winograd, default=direct))


def direct(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """`convolution` by XLA."""
    return jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _forward(images: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolution(images, kernel), (images, kernel)


def _backward(inputs: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[Any, ...]:
    images, kernel = inputs
    (to_images,) = jax.linear_transpose(lambda images: direct(images, kernel), images)(gradient)
    (to_kernel,) = jax.linear_transpose(lambda kernel: direct(images, kernel), kernel)(gradient)
    return to_images, to_kernel


convolution.defvjp(_forward, _backward)


def winograd(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """`convolution` by Winograd's method, in float32.

    An image at a time: so its tiles stay in the processor's cache, and what is computed of it depends neither on the
    batch's size nor on the other images.
    """
    batch, height, width, features_in = images.shape
    features = kernel.shape[-1]
    high, wide = _tiles(height), _tiles(width)
    # XLA makes whatever depends on no activation before the first layer runs, and keeps it until its turn: a gigabyte
    # in all. So the kernel's transformation, and the room for the outputs, seem to depend on the images.
    some = images[0, 0, 0, 0]
    kernel += 0.0 * some
    transformed = jnp.matmul(_KERNEL, kernel.reshape(9, -1)).reshape(36, features_in, features)
    padded = jnp.pad(images, ((0, 0), (1, 4 * high + 1 - height), (1, 4 * wide + 1 - width), (0, 0)))
    # int [6, 1, tiles, 1] and [1, 6, 1, tiles]: where the tiles' inputs lie, which overlap by two.
    rows = (np.arange(6)[:, None] + 4 * np.arange(high))[:, None, :, None]
    columns = (np.arange(6)[:, None] + 4 * np.arange(wide))[None, :, None, :]

    def convolve(index: jax.Array, outputs: jax.Array) -> jax.Array:
        tiles = padded[index][rows, columns].reshape(36, -1)
        tiles = jnp.matmul(_INPUT, tiles).reshape(36, high * wide, features_in)
        products = jax.lax.dot_general(tiles, transformed, (((2,), (1,)), ((0,), (0,))))
        output = jnp.matmul(_OUTPUT, products.reshape(36, -1)).reshape(4, 4, high, wide, features)
        output = output.transpose(2, 0, 3, 1, 4).reshape(4 * high, 4 * wide, features)
        return outputs.at[index].set(output[:height, :width])

    return jax.lax.fori_loop(0, batch, convolve, jnp.full((batch, height, width, features), some))


def _tiles(side: int) -> int:
    return -(-side // 4)
