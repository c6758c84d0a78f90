"""tf.data: images a second of augmented uint8 batches, from TFRecord shards."""

import math
import time
from typing import Any

import numpy as np
import tensorflow as tf

from experiments.benchmarks.peers.serve import Measure, serve


def transformation(height: Any, width: Any, size: int) -> Any:
    """float32 [1, 8]: a random transformation of the resized image and the resize, as one projective matrix."""
    uniform = tf.random.uniform([7])
    signed = 2.0 * uniform - 1.0
    theta, shear = math.radians(30.0) * signed[0], math.radians(0.2) * signed[1]
    tx, ty = 0.2 * size * signed[2], 0.2 * size * signed[3]
    zx, zy = 0.8 + 0.4 * uniform[4], 0.8 + 0.4 * uniform[5]
    cos, sin = tf.cos(theta), tf.sin(theta)
    flip = tf.where(uniform[6] < 0.5, -1.0, 1.0)
    a, b = cos * zx * flip, -(cos * tf.sin(shear) + sin * tf.cos(shear)) * zy
    c, d = sin * zx * flip, (cos * tf.cos(shear) - sin * tf.sin(shear)) * zy
    centre = size / 2 - 0.5
    x = cos * tx - sin * ty + centre - (a + b) * centre
    y = sin * tx + cos * ty + centre - (c + d) * centre
    scale_x, scale_y = tf.cast(width, tf.float32) / size, tf.cast(height, tf.float32) / size
    row_x = scale_x * a, scale_x * b, scale_x * (x + 0.5) - 0.5
    row_y = scale_y * c, scale_y * d, scale_y * (y + 0.5) - 0.5
    return tf.stack([*row_x, *row_y, 0.0, 0.0])[None]


def build(settings: dict[str, Any]) -> Measure:
    """Batches without end, so that AUTOTUNE has settled when the first turn begins."""
    size = settings["size"]
    feature = {"image": tf.io.FixedLenFeature([], tf.string)}

    def augmented(serialized: Any) -> Any:
        image = tf.io.decode_jpeg(tf.io.parse_single_example(serialized, feature)["image"], channels=3)
        shape = tf.shape(image)
        images = tf.raw_ops.ImageProjectiveTransformV3(
            images=image[None],
            transforms=transformation(shape[0], shape[1], size),
            output_shape=[size, size],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="NEAREST",
        )
        return tf.ensure_shape(images[0], [size, size, 3])

    dataset = tf.data.TFRecordDataset(settings["shards"]).shuffle(1024).repeat()
    dataset = dataset.map(augmented, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(settings["batch"], num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    batches = iter(dataset.as_numpy_iterator())

    def measure() -> dict[str, float]:
        start, count = time.perf_counter(), 0
        for _ in range(settings["batches"]):
            batch: np.ndarray = next(batches)
            count += len(batch)
        return {"images_per_second": count / (time.perf_counter() - start)}

    measure()
    return measure


if __name__ == "__main__":
    serve(build, ("tensorflow-cpu",))
