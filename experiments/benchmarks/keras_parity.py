"""How far are this project's results from those of a real Keras 3, on its JAX backend, in the same process?

Photos are spread over Corel5K and resized to the network's input size first, so that both sides see the same pixels.
The exit code is 1 if any difference is beyond its tolerance.

Command:  python -m experiments.benchmarks.keras_parity --photos CORPUS/corel5k.zip [--output FILE]
          (in the project's folder, with its test extra; 2 to 4 minutes on 2 CPU cores)
"""

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import numpy as np

from socialtag_jax import export_keras, pretrained
from socialtag_jax.augment import DRAWS, draw
from socialtag_jax.config import Augmentation
from socialtag_jax.errors import UserError
from socialtag_jax.losses import weighted_cross_entropy
from socialtag_jax.machine import usable_cores
from socialtag_jax.model import CONVOLUTIONS, HEAD_LAYERS, TagPredictor, preprocess, tag_logits, trainable_layers
from socialtag_jax.pretrained import LayerParams
from tests import keras_peer
from tests.keras_peer import keras

SIZE, N_TAGS = 224, 371
PHOTOS, WARPED_PHOTOS, WARPS = 8, 200, 5
PACKAGES = ("keras", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "opencv-python-headless", "h5py")


@dataclass(frozen=True)
class Row:
    """One line of the table: `difference` in the words of `measure`, and the most that it may be."""

    compared: str
    on: str
    measure: str
    difference: float
    tolerance: float

    @property
    def within(self) -> bool:
        """Whether it is no more."""
        return self.difference <= self.tolerance


def our_logits(params: LayerParams, photos: np.ndarray) -> np.ndarray:
    arrays = jax.tree.map(jnp.asarray, params)
    return np.asarray(jax.jit(lambda images: tag_logits(TagPredictor(n_tags=N_TAGS), arrays, images))(photos))


def preprocessing(photos: np.ndarray) -> Iterator[Row]:
    difference = np.abs(np.asarray(preprocess(jnp.asarray(photos))) - keras_peer.preprocessed(photos))
    yield Row("preprocess_input", f"{len(photos)} photos", "grey levels, largest", float(difference.max()), 1e-5)


def logits(params: LayerParams, photos: np.ndarray, weights: str) -> Iterator[Row]:
    model = keras_peer.thesis_model(params, SIZE, activation=None)
    expected = model.predict(keras_peer.preprocessed(photos), verbose=0)
    difference = np.abs(our_logits(params, photos) - expected).max() / np.abs(expected).max()
    on = f"{len(photos)} photos, {SIZE} px, {N_TAGS} tags"
    yield Row(f"logits, {weights}", on, "share of the largest logit, largest", float(difference), 1e-5)


def loss() -> Iterator[Row]:
    rng = np.random.default_rng(0)
    extremes = np.array([0.0, 1e-4, 1.0, 80.0, 100.0, 1e4], np.float32)
    x = np.concatenate([rng.normal(0, 5, 10_000).astype(np.float32), extremes, -extremes])
    for name, z in {"without the tag": np.zeros_like(x), "with the tag": np.ones_like(x)}.items():
        on = f"{x.size:,} logits to ±1e4, {name}"
        # `weighted_loss` means over the last axis; here it has one tag.
        expected = np.asarray(keras_peer.weighted_loss(z[:, None], x[:, None]))
        found = np.asarray(weighted_cross_entropy(jnp.asarray(x), jnp.asarray(z), keras_peer.POSITIVE_WEIGHT))
        assert np.isfinite(expected).all()
        yield Row(
            "weighted loss, Keras's softplus", on, "relative (to 1 below 1), largest", relative(found, expected), 1e-6
        )
        exact = (1 - z) * np.logaddexp(0, x.astype(np.float64)) + keras_peer.POSITIVE_WEIGHT * z * np.logaddexp(
            0, -x.astype(np.float64)
        )
        yield Row(
            "weighted loss, float64 definition", on, "relative (to 1 below 1), largest", relative(found, exact), 1e-6
        )


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference in relation to the expected loss, or to 1 where that is smaller."""
    return float((np.abs(found - expected) / np.maximum(np.abs(expected), 1.0)).max())


def warps(archive: Path) -> Iterator[Row]:
    photos = keras_peer.corel_photos(archive, WARPED_PHOTOS, SIZE)
    differences = np.stack(
        [
            keras_peer.warp_difference(photo, draw(Augmentation(), np.random.default_rng((number, turn)).random(DRAWS)))
            for number, photo in enumerate(photos)
            for turn in range(WARPS)
        ]
    )
    on = f"{WARPED_PHOTOS} photos, {SIZE} px, {WARPS} draws each"
    compared = "augmentation, ImageDataGenerator"
    yield Row(compared, on, "grey levels, largest", float(differences.max()), 0.51)
    yield Row(compared, on, "grey levels, 99.9th percentile", float(np.percentile(differences, 99.9)), 0.51)


def weight_files(params: LayerParams) -> Iterator[Row]:
    for nested in (False, True):
        model = keras_peer.thesis_model(params, SIZE, nested=nested, names=(None, None))
        for kind in keras_peer.FILE_KINDS:
            with tempfile.TemporaryDirectory() as folder:
                source = keras_peer.save(model, Path(folder) / "thesis", kind)
                converted = Path(folder) / "ours.safetensors"
                pretrained.convert(source, converted, log=lambda _: None)
                loaded = pretrained.load_weights(converted)
            different = sum(
                int(np.count_nonzero(loaded[layer][leaf].view(np.uint32) != array.view(np.uint32)))
                for layer, leaves in params.items()
                for leaf, array in leaves.items()
            )
            how = "VGG16 as a model inside" if nested else "one functional model"
            total = sum(array.size for leaves in params.values() for array in leaves.values())
            yield Row(f"weights convert, {kind}", how, f"values of {total:,} that differ", different, 0)


def export(params: LayerParams, photos: np.ndarray, weights: str) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        export_keras.write_model(TagPredictor(n_tags=N_TAGS), params, SIZE, path)
        found = keras.saving.load_model(path).predict(photos, verbose=0)
    expected = np.asarray(jax.nn.sigmoid(our_logits(params, photos)))
    assert np.mean((expected > 0.01) & (expected < 0.99)) > 0.5  # else any two models would agree
    on = f"{len(photos)} photos, {SIZE} px, {weights}"
    yield Row("export --formats keras", on, "probability, largest", float(np.abs(found - expected).max()), 1e-5)


def training() -> Iterator[Row]:
    for freeze_layers in (19, 16):
        result = keras_peer.random_steps(freeze_layers)
        differences = {
            layer: np.concatenate(
                [np.abs(result.ours[layer][leaf] - result.keras[layer][leaf]).ravel() for leaf in leaves]
            )
            for layer, leaves in result.start.items()
        }
        trained = trainable_layers(freeze_layers)
        moved = np.concatenate([differences[layer] for layer in trained])
        compared, on = f"10 Adam steps, {freeze_layers} frozen layers", f"{moved.size:,} trained parameters"
        way = 10 * result.learning_rate
        yield Row(compared, on, "share of the way of 10 steps, largest", float(moved.max() / way), 2e-3)
        share = float(np.mean(moved > 0.01 * way))
        yield Row(compared, on, "parameters beyond a hundredth of it", share, 0)
        frozen = sum(int(np.count_nonzero(differences[layer])) for layer in CONVOLUTIONS if layer not in trained)
        yield Row(compared, "frozen parameters", "values that differ", frozen, 0)


def rows(archive: Path) -> Iterator[Row]:
    photos = keras_peer.corel_photos(archive, PHOTOS, SIZE)
    params, weights = keras_peer.he_params(N_TAGS), "random weights"
    yield from preprocessing(photos)
    yield from logits(params, photos, weights)
    try:
        imagenet = pretrained.load_weights(pretrained.imagenet_weights())
    except UserError as error:
        print(f"without the ImageNet weights: {error}", file=sys.stderr)
    else:
        params, weights = {**imagenet, **{layer: params[layer] for layer in HEAD_LAYERS}}, "ImageNet weights"
        yield from logits(params, photos, weights)
    yield from loss()
    yield from warps(archive)
    yield from weight_files(params)
    yield from export(params, photos, weights)
    yield from training()


def cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    logging.getLogger("absl").setLevel(logging.ERROR)  # Keras calls its older formats legacy
    table = []
    for row in rows(options.photos):
        table.append(row)
        line = f"{row.compared:36} {row.on:44} {row.measure:36} {row.difference:9.3g}  (at most {row.tolerance:g})"
        print(line if row.within else f"{line}  BEYOND", flush=True)
    if options.output:
        content = {
            "rows": [asdict(row) for row in table],
            "python": platform.python_version(),
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
            "backend": keras.backend.backend(),
            "machine": f"{usable_cores()} cores, {cpu()}",
        }
        options.output.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if all(row.within for row in table) else 1


if __name__ == "__main__":
    sys.exit(main())
