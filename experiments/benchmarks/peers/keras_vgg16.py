"""The model in Keras: VGG16 from a safetensors file, the tag head, the weighted loss, Adam."""

import os
from typing import Any

import keras
import numpy as np
from safetensors.numpy import load_file

POSITIVE_WEIGHT = 10.0


def weighted_loss(targets: Any, logits: Any) -> Any:
    """Binary cross-entropy from logits with a weight on the positive term, mean over tags."""
    positive = targets * POSITIVE_WEIGHT * keras.ops.softplus(-logits)
    return keras.ops.mean(positive + (1.0 - targets) * keras.ops.softplus(logits), axis=-1)


def model(settings: dict[str, Any], freeze_layers: int) -> Any:
    """Compiled with Adam, its first layers frozen; takes what `preprocessed` returns.

    Args:
      settings: "size", "tags", "weights" (a file of all layers), "learning_rate" and "dtype" ("float32" or
        "mixed_bfloat16").
      freeze_layers: of VGG16's 19.
    """
    keras.config.set_dtype_policy(settings["dtype"])
    base = keras.applications.VGG16(include_top=False, weights=None, input_shape=(*[settings["size"]] * 2, 3))
    x = keras.layers.GlobalAveragePooling2D()(base.output)
    x = keras.layers.Dense(512, activation="relu", name="tags_hidden")(x)
    x = keras.layers.Dropout(0.5)(x)
    result = keras.Model(base.input, keras.layers.Dense(settings["tags"], name="tags_logits", dtype="float32")(x))
    arrays = load_file(settings["weights"])
    for layer in result.layers:
        if layer.weights:
            layer.set_weights([arrays[f"{layer.name}/{leaf}"] for leaf in ("kernel", "bias")])
    for layer in result.layers[:freeze_layers]:
        layer.trainable = False
    result.compile(optimizer=keras.optimizers.Adam(settings["learning_rate"]), loss=weighted_loss)
    return result


def preprocessed(images: np.ndarray) -> np.ndarray:
    """uint8 RGB [batch, height, width, 3] -> float32 BGR less ImageNet's mean."""
    return np.asarray(keras.applications.vgg16.preprocess_input(images.astype(np.float32)))


def packages() -> tuple[str, str]:
    """Keras and its backend."""
    return "keras", {"jax": "jax", "tensorflow": "tensorflow-cpu"}[os.environ["KERAS_BACKEND"]]
