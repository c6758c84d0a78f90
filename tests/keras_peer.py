"""A real Keras beside this project: the thesis's model in it, its files, its augmentation, its training.

For tests, and for `experiments/benchmarks/keras_parity.py`. Keras wants JAX's usual promotion of types and ranks.
"""

import csv
import functools
import importlib
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import h5py
import jax
import jax.numpy as jnp
import numpy as np

from socialtag_jax import augment
from socialtag_jax.augment import Affine
from socialtag_jax.config import Experiment, Loss, Model, Optimizer, Stage
from socialtag_jax.model import CONVOLUTIONS, HEAD_LAYERS
from socialtag_jax.optimizer import make_optimizer
from socialtag_jax.parallel import Devices
from socialtag_jax.pretrained import LayerParams
from socialtag_jax.steps import batch_shapes, build_model, make_train_step, stage_start

keras: Any = importlib.import_module("keras")

POSITIVE_WEIGHT = 10.0
FileKind = Literal["model .keras", "model .h5", "weights .weights.h5", "weights .h5"]
FILE_KINDS: tuple[FileKind, ...] = ("model .keras", "model .h5", "weights .weights.h5", "weights .h5")


def he_params(n_tags: int, hidden_units: int = 512) -> LayerParams:
    """Random parameters of the whole model, after He: activations keep the size that those of trained weights have.

    The last layer's are smaller, so that photos' probabilities are spread between 0 and 1.
    """
    rng = np.random.default_rng(0)
    shapes = {name: layer.kernel_shape for name, layer in CONVOLUTIONS.items()}
    shapes |= dict(zip(HEAD_LAYERS, [(512, hidden_units), (hidden_units, n_tags)], strict=True))
    gains = dict.fromkeys(shapes, 1.0) | {HEAD_LAYERS[1]: 1 / 50}
    return {
        name: {
            "kernel": rng.normal(0, gains[name] * np.sqrt(2 / np.prod(shape[:-1])), shape).astype(np.float32),
            "bias": rng.normal(0, 0.1, shape[-1]).astype(np.float32),
        }
        for name, shape in shapes.items()
    }


def thesis_model(
    params: LayerParams,
    size: int,
    *,
    nested: bool = False,
    names: tuple[str | None, str | None] = HEAD_LAYERS,
    dropout: float = 0.5,
    activation: str | None = "sigmoid",
) -> Any:
    """VGG16 without its top -> GlobalAveragePooling2D -> Dense, relu -> Dropout -> Dense, as the thesis builds it.

    Args:
      params: of all layers.
      size: of the input, in pixels.
      nested: VGG16 as a model inside a `Sequential`, else its layers in the one functional model.
      names: of the dense layers; None for what Keras calls them.
      dropout: its rate.
      activation: of the outputs; None for logits.
    """
    base = keras.applications.VGG16(include_top=False, weights=None, input_shape=(size, size, 3))
    hidden, logits = (params[name] for name in HEAD_LAYERS)
    head = [
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(hidden["bias"].size, activation="relu", name=names[0]),
        keras.layers.Dropout(dropout),
        keras.layers.Dense(logits["bias"].size, activation=activation, name=names[1]),
    ]
    if nested:
        model = keras.Sequential([base, *head])
    else:
        model = keras.Model(base.input, functools.reduce(lambda x, layer: layer(x), head, base.output))
    for layer, name in [(base.get_layer(name), name) for name in CONVOLUTIONS] + [
        (head[1], HEAD_LAYERS[0]),
        (head[3], HEAD_LAYERS[1]),
    ]:
        layer.set_weights([params[name]["kernel"], params[name]["bias"]])
    return model


def save(model: Any, path: Path, kind: FileKind) -> Path:
    """Writes a model or its weights with Keras, in one of the formats that it has had; `path` gets the suffix."""
    what, suffix = kind.split(" ")
    path = path.with_name(path.name + suffix)
    with warnings.catch_warnings(action="ignore"):  # of Keras's, that some are old
        if what == "model":
            model.save(path)
        elif suffix == ".weights.h5":
            model.save_weights(path)
        else:
            # Keras 2's `save_weights`; Keras 3 still writes this layout, but inside `model.save` alone.
            legacy = importlib.import_module("keras.src.legacy.saving.legacy_h5_format")
            with h5py.File(path, "w") as file:
                legacy.save_weights_to_hdf5_group(file, model)
    return path


def preprocessed(images: np.ndarray) -> np.ndarray:
    """Keras's `preprocess_input`: uint8 RGB [batch, height, width, 3] -> float32 BGR less the mean colour."""
    return np.asarray(keras.applications.vgg16.preprocess_input(images.astype(np.float32)))


def weighted_loss(targets: Any, logits: Any) -> Any:
    """The thesis's loss by its definition, mean over tags."""
    positive = targets * POSITIVE_WEIGHT * keras.ops.softplus(-logits)
    return keras.ops.mean(positive + (1.0 - targets) * keras.ops.softplus(logits), axis=-1)


def warp_difference(image: np.ndarray, affine: Affine) -> np.ndarray:
    """Grey levels between our warp and Keras's `apply_transform` of a square photo: float [size, size, 3]."""
    image_module = importlib.import_module("keras.src.legacy.preprocessing.image")
    size = image.shape[0]
    parameters = {
        "theta": affine.theta,
        "tx": affine.tx * size,
        "ty": affine.ty * size,
        "shear": affine.shear,
        "zx": affine.zx,
        "zy": affine.zy,
        "flip_horizontal": affine.flip_horizontal,
    }
    with warnings.catch_warnings(action="ignore"):  # of Keras's use of SciPy
        expected = image_module.ImageDataGenerator().apply_transform(image.astype(np.float32), parameters)
    found = np.empty_like(image)
    augment.warp(image, augment.matrix(affine, size), found)
    return np.abs(found - expected)


def corel_photos(archive: Path, count: int, size: int) -> np.ndarray:
    """Photos spread over Corel5K, resized: uint8 RGB [count, size, size, 3]."""
    images = np.empty((count, size, size, 3), np.uint8)
    with zipfile.ZipFile(archive) as corel:
        rows = list(csv.DictReader(corel.read("corel5k/tags.csv").decode().splitlines()))
        for number, row in enumerate(rows[:: len(rows) // count][:count]):
            data = np.frombuffer(corel.read(f"corel5k/{row['path']}"), np.uint8)
            photo = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
            assert photo is not None
            images[number] = cv2.resize(photo, (size, size), interpolation=cv2.INTER_LINEAR)
    return images


@dataclass(frozen=True)
class Steps:
    """Where some Adam steps from the same start lead, here and in Keras.

    Attributes:
      first_losses: ours and Keras's, of the first step.
      learning_rate: of each step.
      start: the parameters at the start.
      ours: at the end.
      keras: at the end, Keras's.
    """

    first_losses: tuple[float, float]
    learning_rate: float
    start: LayerParams
    ours: LayerParams
    keras: LayerParams


def random_steps(freeze_layers: int, *, steps: int = 10, size: int = 48, n_tags: int = 7, rows: int = 8) -> Steps:
    """`adam_steps` from random parameters on random images."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (steps, rows, size, size, 3), np.uint8)
    targets = (rng.random((steps, rows, n_tags)) < 0.3).astype(np.float32)
    return adam_steps(he_params(n_tags), images, targets, freeze_layers)


def adam_steps(start: LayerParams, images: np.ndarray, targets: np.ndarray, freeze_layers: int) -> Steps:
    """Trains the thesis's model without dropout, here and in Keras, its first layers frozen.

    Args:
      start: parameters at the start.
      images: uint8 [steps, rows, size, size, 3].
      targets: float32 [steps, rows, n_tags], 0 or 1.
      freeze_layers: of VGG16's 19.
    """
    rate = 1e-4
    steps, rows, n_tags = targets.shape
    size = images.shape[2]
    model = thesis_model(start, size, dropout=0.0, activation=None)
    for layer in model.layers[:freeze_layers]:
        layer.trainable = False
    model.compile(optimizer=keras.optimizers.Adam(rate), loss=weighted_loss)

    experiment = Experiment(
        name="parity",
        model=Model(input_size=size, dropout_rate=0.0, compute_dtype="float32"),
        optimizer=Optimizer(learning_rate=rate),
        loss=Loss(POSITIVE_WEIGHT),
    )
    stage = Stage(freeze_layers=freeze_layers)
    devices = Devices(jax.local_devices()[:1])
    optimizer = make_optimizer(experiment, stage, start, steps_per_epoch=steps)
    params = jax.tree.map(jnp.array, start)
    state = devices.replicate(stage_start(experiment, stage, optimizer, params, jnp.zeros((), jnp.int32)))
    step = devices.compile_train_step(
        make_train_step(experiment, stage, build_model(experiment, n_tags), optimizer),
        state,
        batch_shapes(jax.ShapeDtypeStruct((size, size, 3), jnp.uint8), devices=1, rows=rows, max_tags=n_tags),
    )
    inputs = preprocessed(images.reshape(-1, size, size, 3))
    first_keras_loss = float(model.test_on_batch(inputs[:rows], targets[0]))
    model.fit(inputs, targets.reshape(-1, n_tags), batch_size=rows, epochs=1, shuffle=False, verbose=0)
    losses = []
    for number in range(steps):
        tag_ids = np.full((1, rows, n_tags), -1, np.int32)
        for row, tags in enumerate(targets[number]):
            tag_ids[0, row, : int(tags.sum())] = np.flatnonzero(tags)
        batch = {"images": images[number][None], "tag_ids": tag_ids, "weight": np.ones((1, rows), np.float32)}
        state, sums = step(state, devices.shard(batch))
        losses.append(float(sums["loss"]) / rows)
    ends: LayerParams = {
        name: {"kernel": np.asarray(layer.kernel), "bias": np.asarray(layer.bias)}
        for name, layer in ((name, model.get_layer(name)) for name in start)
    }
    return Steps((losses[0], first_keras_loss), rate, start, jax.tree.map(np.asarray, state.params), ends)
