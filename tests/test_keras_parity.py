"""The thesis's model in a real Keras against ours: the outputs, whatever file it comes from, and ten training steps."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from socialtag_jax import pretrained
from socialtag_jax.model import HEAD_LAYERS, TagPredictor, tag_logits
from socialtag_jax.pretrained import LayerParams
from tests import keras_peer

SIZE, N_TAGS = 48, 7

# Keras's variables do not take NumPy 2's copy keyword.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.usefixtures("peer_promotion"),
]


@pytest.fixture(scope="module")
def params() -> LayerParams:
    return keras_peer.he_params(N_TAGS)


def our_logits(params: LayerParams, images: np.ndarray) -> np.ndarray:
    model = TagPredictor(n_tags=N_TAGS)
    arrays = {layer: {leaf: jnp.asarray(array) for leaf, array in leaves.items()} for layer, leaves in params.items()}
    return np.asarray(tag_logits(model, arrays, jnp.asarray(images)))


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """Tolerance: 1e-5 of the largest logit; both sum some thousands of float32 products, in their own order."""
    assert expected.std() > 0.1
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("nested", [False, True], ids=["functional", "nested"])
@pytest.mark.parametrize("kind", keras_peer.FILE_KINDS)
def test_a_whole_model_from_each_kind_of_file(
    kind: keras_peer.FileKind, nested: bool, params: LayerParams, folder: Path
):
    """Keras's model -> its file -> our file: the very bits, and the same logits."""
    images = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
    model = keras_peer.thesis_model(params, SIZE, nested=nested, names=(None, None), activation=None)
    lines: list[str] = []
    source = keras_peer.save(model, folder / "thesis", kind)
    pretrained.convert(source, folder / "ours.safetensors", log=lines.append)
    assert lines == [f"{source}: 13 convolutions and a head: 512 hidden units and {N_TAGS} tags"]
    loaded = pretrained.load_weights(folder / "ours.safetensors")
    assert set(loaded) == set(params)
    for layer, leaves in params.items():
        for leaf, array in leaves.items():
            np.testing.assert_array_equal(loaded[layer][leaf], array, err_msg=f"{layer}/{leaf}", strict=True)
    expected = np.asarray(model(keras_peer.preprocessed(images), training=False))
    assert_close(our_logits(loaded, images), expected)


def test_a_trained_and_compiled_model(params: LayerParams, folder: Path):
    """Adam's moments, which have the weights' shapes, are in the file too, and are not taken for layers."""
    model = keras_peer.thesis_model(params, SIZE, names=("hidden", "tags"))
    for layer in model.layers[:19]:
        layer.trainable = False
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    model.train_on_batch(keras_peer.preprocessed(images), np.ones((2, N_TAGS), np.float32))
    for kind in ("model .keras", "model .h5"):
        loaded = pretrained.load_weights(keras_peer.save(model, folder / "trained", kind))
        for ours, theirs in zip(HEAD_LAYERS, ("hidden", "tags"), strict=True):
            kernel, bias = model.get_layer(theirs).get_weights()
            assert np.abs(kernel - params[ours]["kernel"]).max() > 1e-4
            np.testing.assert_array_equal(loaded[ours]["kernel"], kernel)
            np.testing.assert_array_equal(loaded[ours]["bias"], bias)


def test_logits_of_real_photos(params: LayerParams, shared_data: Path):
    photos = keras_peer.corel_photos(shared_data / "corel5k.zip", 3, 224)
    model = keras_peer.thesis_model(params, 224, activation=None)
    assert_close(our_logits(params, photos), np.asarray(model(keras_peer.preprocessed(photos), training=False)))


@pytest.mark.parametrize(("freeze_layers", "outliers"), [(19, 0.0), (16, 1e-4)])
def test_ten_steps_of_keras(freeze_layers: int, outliers: float):
    """Tolerance: 1/500 of the way that ten Adam steps of 1e-4 can go.

    Many gradients are as small as Adam's epsilon here, so that it matters where that is added; and of a few, block 5's
    inputs decide the sign, which Winograd's method rounds otherwise: 1/50 of the way for one parameter in 10,000.
    """
    result = keras_peer.random_steps(freeze_layers)
    ours, theirs = result.first_losses
    assert ours == pytest.approx(theirs, rel=1e-4)
    trained = {"block5_conv2", "block5_conv3", *HEAD_LAYERS} if freeze_layers == 16 else set(HEAD_LAYERS)
    for layer, leaves in result.start.items():
        for name, before in leaves.items():
            found, expected = result.ours[layer][name], result.keras[layer][name]
            if layer not in trained:
                assert found.tobytes() == before.tobytes() == expected.tobytes()
                continue
            assert np.abs(expected - before).max() > 0.1 * result.learning_rate
            away = np.abs(found - expected)
            assert away.max() < (2e-5 if outliers else 2e-6), f"{layer}/{name}"
            assert np.mean(away >= 2e-6) <= outliers, f"{layer}/{name}"
