"""Keras on TensorFlow: one epoch of transfer learning at each call, fed by tf.data, then validation."""

import os
import time
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from experiments.benchmarks.peers import keras_vgg16
from experiments.benchmarks.peers.labels import multi_hot
from experiments.benchmarks.peers.serve import Measure, serve


class Clock(keras.callbacks.Callback):
    """When validation began."""

    validation_start = 0.0

    def on_test_begin(self, logs: Any = None) -> None:
        """Keras calls it."""
        self.validation_start = time.perf_counter()


def photos(settings: dict[str, Any], split: str) -> Any:
    """Batches of (preprocessed photos, targets), in a new order every epoch where it is the train split."""
    folder, size = Path(settings["folder"]), settings["size"]
    paths = sorted(str(path) for path in (folder / split).glob("*.jpg"))
    targets = multi_hot(folder / f"{split}.json", settings["tags"])

    def load(path: Any, target: Any) -> tuple[Any, Any]:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        return keras.applications.vgg16.preprocess_input(tf.image.resize(image, (size, size))), target

    dataset = tf.data.Dataset.from_tensor_slices((paths, targets))
    if split == "train":
        dataset = dataset.shuffle(len(paths))
    return dataset.map(load, tf.data.AUTOTUNE).batch(settings["batch"]).prefetch(tf.data.AUTOTUNE)


def build(settings: dict[str, Any]) -> Measure:
    """The model and its data; the first call compiles."""
    keras.utils.set_random_seed(0)
    model = keras_vgg16.model(settings, freeze_layers=19)
    train, validation = photos(settings, "train"), photos(settings, "validation")

    def measure() -> dict[str, float]:
        clock, start = Clock(), time.perf_counter()
        history = model.fit(train, validation_data=validation, epochs=1, callbacks=[clock], verbose=0).history
        return {
            "train_seconds": clock.validation_start - start,
            "validation_seconds": time.perf_counter() - clock.validation_start,
            "loss": float(history["loss"][-1]),
            "validation_loss": float(history["val_loss"][-1]),
        }

    return measure


if __name__ == "__main__":
    assert os.environ["KERAS_BACKEND"] == "tensorflow"
    serve(build, keras_vgg16.packages())
