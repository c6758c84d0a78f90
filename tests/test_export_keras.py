"""The `.keras` file of a bundle: loaded by a Keras of its own, it says what the bundle says."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from socialtag_jax import cli
from socialtag_jax.config import Experiment, Model
from socialtag_jax.errors import UserError
from socialtag_jax.export import export_bundle
from socialtag_jax.model import CONVOLUTIONS, HEAD_LAYERS
from socialtag_jax.run_folder import RunConfig
from socialtag_jax.steps import build_model
from socialtag_jax.tagger import Tagger
from socialtag_jax.tags import TagVocabulary
from socialtag_jax.trained import TrainedModel
from tests import keras_peer

# Keras's variables do not take NumPy 2's copy keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE, HIDDEN = 48, 32
TAG_NAMES = ("beach", "dog", "sea", "snow", "sun")


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    """As loaded from a run folder; random parameters."""
    model = Model(input_size=SIZE, hidden_units=HIDDEN, dropout_rate=0.25, compute_dtype="float32")
    experiment = Experiment(name="holiday", model=model)
    vocabulary = TagVocabulary(TAG_NAMES, TAG_NAMES)
    dataset = {"fingerprint": "", "vocabulary_sha256": vocabulary.sha256, "image_size": 64, "name": "", "path": ""}
    params = keras_peer.he_params(len(TAG_NAMES), HIDDEN)
    return TrainedModel(
        config=RunConfig(experiment, dataset, versions={}, device={}),
        step=1,
        vocabulary=vocabulary,
        model=build_model(experiment, len(TAG_NAMES)),
        params={layer: {leaf: jnp.asarray(array) for leaf, array in own.items()} for layer, own in params.items()},
    )


@pytest.fixture
def bundle(trained: TrainedModel, tmp_path: Path, peer_promotion: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """By the command line."""
    monkeypatch.setattr("socialtag_jax.trained.load", lambda *_, **__: trained)
    bundle = tmp_path / "bundle"
    with pytest.raises(SystemExit) as stopped:
        cli.main(["export", str(tmp_path), "--output", str(bundle), "--formats", "stablehlo", "keras"])
    assert stopped.value.code == 0
    return bundle


IN_A_FRESH_PROCESS = """
import sys, json, numpy as np, keras
bundle, images, outputs = sys.argv[1:]
model = keras.saving.load_model(bundle + "/model.keras")
pixels = np.load(images)
assert pixels.dtype == np.uint8
np.save(outputs, [model.predict(pixels.astype(dtype), verbose=0) for dtype in ("uint8", "float32")])
print(json.dumps([[layer.name, type(layer).__module__.partition(".")[0]] for layer in model.layers]))
print("socialtag_jax" in sys.modules, model.get_layer("dropout").rate)
"""


@pytest.mark.parametrize("backend", ["jax", pytest.param("tensorflow", marks=pytest.mark.interop)])
def test_a_fresh_keras_says_what_the_bundle_says(bundle: Path, trained: TrainedModel, tmp_path: Path, backend: str):
    """Tolerance: 1e-5 of a probability, float32 sums in another order. uint8 and float pixels are the same to it."""
    images = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    expected = Tagger.load(bundle).probabilities(images)
    assert np.mean((expected > 0.01) & (expected < 0.99)) > 0.5
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", IN_A_FRESH_PROCESS, bundle, tmp_path / "images.npy", tmp_path / "outputs.npy"]
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    outputs = np.load(tmp_path / "outputs.npy")
    np.testing.assert_allclose(outputs, np.stack([expected, expected]), atol=1e-5, rtol=0)
    layers, others = result.stdout.splitlines()
    names = [name for name, _ in json.loads(layers)]
    assert [name for name in names if name in {**CONVOLUTIONS, **dict.fromkeys(HEAD_LAYERS)}] == list(trained.params)
    assert {module for _, module in json.loads(layers)} == {"keras"}
    assert others == "False 0.25"


def test_all_that_it_names_is_public(bundle: Path):
    """Private places of Keras move between its versions; so do the options of all but the plainest initialisers."""
    with zipfile.ZipFile(bundle / "model.keras") as archive:
        text = archive.read("config.json").decode()
    model = json.loads(text)
    assert (model["module"], model["class_name"]) == ("keras.src.models.functional", "Functional")  # Keras's own word
    assert set(re.findall(r'"module": "(.+?)"', text)) == {
        "keras.src.models.functional",
        "keras.layers",
        "keras.initializers",
        "keras",
    }
    assert set(re.findall(r'"keras.initializers", "class_name": "(.+?)"', text)) == {"Zeros"}


def test_preprocessing_rounds_nothing_and_does_not_train(bundle: Path):
    """To the bit what `keras.applications.vgg16.preprocess_input` makes of a photo."""
    keras = keras_peer.keras
    model = keras.saving.load_model(bundle / "model.keras")
    images = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    found = keras.Model(model.input, model.get_layer("preprocess").output).predict_on_batch(images)
    expected = keras.applications.vgg16.preprocess_input(images.astype(np.float32))
    np.testing.assert_array_equal(found, expected)
    assert [one.path for one in model.non_trainable_weights] == ["preprocess/kernel", "preprocess/bias"]


def test_it_drops_out_when_it_is_trained_further(bundle: Path):
    keras = keras_peer.keras
    model = keras.saving.load_model(bundle / "model.keras")
    images = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), np.uint8)
    first, second = (np.asarray(model(images, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3
    first, second = (np.asarray(model(images, training=False)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_it_is_listed_and_guarded_like_the_others(bundle: Path):
    assert "model.keras" in json.loads((bundle / "tagger.json").read_text())["files"]
    assert Tagger.load(bundle).vocabulary.tags == TAG_NAMES
    with (bundle / "model.keras").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match=r"model\.keras: the file was changed"):
        Tagger.load(bundle)
    (bundle / "model.keras").unlink()
    with pytest.raises(UserError, match=r"model\.keras: the bundle's file is missing"):
        Tagger.load(bundle)


def test_it_is_not_written_unasked(trained: TrainedModel, tmp_path: Path):
    export_bundle(trained, tmp_path / "bundle")
    assert not (tmp_path / "bundle" / "model.keras").exists()
    assert "model.keras" not in json.loads((tmp_path / "bundle" / "tagger.json").read_text())["files"]


def test_a_missing_keras_leaves_nothing_behind(trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(UserError, match=r"needs the package keras.* -- pip install 'socialtag-jax\[keras\]'"):
        export_bundle(trained, tmp_path / "bundle", formats=["keras"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("environment", "code", "printed"),
    [
        ({}, "print(import_keras().backend.backend())", "jax"),
        ({"KERAS_BACKEND": "numpy"}, "print(import_keras().backend.backend())", "numpy"),
        (
            {"KERAS_BACKEND": "nonsense"},
            "from socialtag_jax.errors import UserError\ntry: import_keras()\nexcept UserError as error: print(error)",
            "Keras cannot be imported with KERAS_BACKEND=nonsense",
        ),
    ],
    ids=["unset", "chosen", "impossible"],
)
def test_the_backend(environment: dict[str, str], code: str, printed: str):
    others = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    command = [sys.executable, "-c", f"from socialtag_jax.keras_file import import_keras\n{code}"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env={**others, **environment})
    assert result.stdout.startswith(printed)


def test_export_imports_no_keras():
    code = "import sys, socialtag_jax.export; print('keras' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
