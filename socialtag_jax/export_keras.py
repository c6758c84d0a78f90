"""The trained model as a `.keras` file, written by Keras 3 itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from socialtag_jax.keras_file import import_keras
from socialtag_jax.model import HEAD_LAYERS, MEAN_RGB, VGG16_LAYERS, TagPredictor

_PREPROCESS = "preprocess"
"""A frozen layer: a pixel's channels turned around, less ImageNet's mean. Multiplying by 1 and 0 rounds nothing."""


def write_model(model: TagPredictor, params: Mapping[str, Mapping[str, np.ndarray]], size: int, path: Path) -> None:
    """Writes the model with its parameters.

    RGB photos of 0..255 go in (float32 or uint8 [batch, size, size, 3]), probabilities come out (float32
    [batch, n_tags]). Preprocessing is inside; all layers are Keras's own, so that `keras.saving.load_model(path)` loads
    the file in its safe mode, without this package, whatever its backend.

    Args:
      model: sizes and dropout rate.
      params: by our layer names, which the Keras layers have as well.
      size: height and width of the input.
      path: ends in `.keras`.

    Raises:
      MissingPackageError: Keras cannot be imported.
    """
    build(import_keras(), model, params, size).save(path)


def build(keras: Any, model: TagPredictor, params: Mapping[str, Mapping[str, np.ndarray]], size: int) -> Any:
    """The `keras.Model`; arguments as for `write_model`."""
    layers = keras.layers
    # Said outright, since a user's Keras may be configured for other dtypes or another order of axes.
    common = {"dtype": "float32"}
    spatial = {**common, "data_format": "channels_last"}
    # The values are set below; Keras's usual initialisers get arguments, now and then, that earlier versions refuse.
    weighted = {"kernel_initializer": "zeros"}
    inputs = keras.Input((size, size, 3), dtype="float32", name="photos")
    # A layer, since operations such as `keras.ops.flip` are saved by names that other versions of Keras do not know.
    x = layers.Conv2D(3, 1, trainable=False, name=_PREPROCESS, **weighted, **spatial)(inputs)
    for layer in VGG16_LAYERS:
        options = {"name": layer.name, **spatial}
        if layer.kind == "convolution":
            x = layers.Conv2D(layer.features, 3, padding="same", activation="relu", **weighted, **options)(x)
        elif layer.kind == "pool":
            x = layers.MaxPooling2D(2, strides=2, **options)(x)
    hidden, logits = HEAD_LAYERS
    x = layers.GlobalAveragePooling2D(name="average", **spatial)(x)
    x = layers.Dense(model.hidden_units, activation="relu", name=hidden, **weighted, **common)(x)
    x = layers.Dropout(model.dropout_rate, name="dropout", **common)(x)
    outputs = layers.Dense(model.n_tags, activation="sigmoid", name=logits, **weighted, **common)(x)
    result = keras.Model(inputs, outputs, name="socialtag")
    to_bgr, mean_bgr = np.eye(3, dtype=np.float32)[::-1], np.array(MEAN_RGB[::-1], np.float32)
    result.get_layer(_PREPROCESS).set_weights([to_bgr[None, None], -mean_bgr])
    for name, leaves in params.items():
        result.get_layer(name).set_weights([leaves["kernel"], leaves["bias"]])
    return result
