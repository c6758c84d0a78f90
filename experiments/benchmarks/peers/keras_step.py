"""Keras: images a second of `train_on_batch`."""

import os
import time
from typing import Any

import numpy as np

from experiments.benchmarks.peers import keras_vgg16
from experiments.benchmarks.peers.serve import Measure, serve


def build(settings: dict[str, Any]) -> Measure:
    """Steps on one batch, which lies ready and preprocessed."""
    batch = settings["batch"]
    rng = np.random.default_rng(0)
    images = keras_vgg16.preprocessed(rng.integers(0, 256, (batch, *[settings["size"]] * 2, 3), np.uint8))
    targets = (rng.random((batch, settings["tags"])) < 0.01).astype(np.float32)
    models = {freeze: keras_vgg16.model(settings, freeze) for freeze in settings["freeze_layers"]}
    if os.environ["KERAS_BACKEND"] == "jax":
        import jax

        # As a data loader that feeds the device ahead would leave it.
        images, targets = jax.device_put(images), jax.device_put(targets)
    for model in models.values():
        model.train_on_batch(images, targets)

    def measure(freeze_layers: int, count: int) -> dict[str, float]:
        start = time.perf_counter()
        for _ in range(count):
            loss = models[freeze_layers].train_on_batch(images, targets)
        return {"images_per_second": batch * count / (time.perf_counter() - start), "loss": float(loss)}

    return measure


if __name__ == "__main__":
    serve(build, keras_vgg16.packages())
