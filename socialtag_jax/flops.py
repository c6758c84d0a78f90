"""How much arithmetic a run takes, and how fast this machine does it: the estimate before the first step."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from socialtag_jax.model import VGG16_LAYERS


def layer_flops(n_tags: int, hidden_units: int, input_size: int) -> list[int]:
    """Operations of one image's forward pass, a multiply-add counting as two.

    Returns:
      one count a layer: VGG16's 19 layers, then the head's two dense layers.
    """
    side = input_size
    flops = []
    for layer in VGG16_LAYERS:
        if layer.kind == "pool":
            side //= 2
        flops.append(2 * side * side * 9 * layer.features_in * layer.features if layer.kind == "convolution" else 0)
    return [*flops, 2 * VGG16_LAYERS[-1].features * hidden_units, 2 * hidden_units * n_tags]


def training_flops(flops: list[int], freeze_layers: int) -> int:
    """Operations of one image's training step.

    The forward pass, and twice that again for each trainable layer: gradients to its kernel and to its input.
    """
    return sum(flops) + 2 * sum(flops[freeze_layers:])


def measured_matmul_flops(device: Any, dtype: Any, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Operations per second of a square matrix product on a `jax.Device`: the best of a few runs."""
    # On an accelerator a small product would measure how long a launch takes.
    size = 1024 if device.platform == "cpu" else 8192
    matrix = jax.device_put(jnp.ones((size, size), dtype), device)
    product = jax.jit(lambda a: a @ a)
    product(matrix).block_until_ready()
    best = float("inf")
    for _ in range(5):
        start = clock()
        product(matrix).block_until_ready()
        best = min(best, clock() - start)
    return 2.0 * size**3 / best
