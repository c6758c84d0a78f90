"""The tag head in weight files: which layers are one, which are not, and what training makes of it."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from socialtag_jax import pretrained
from socialtag_jax.config import Experiment, Model
from socialtag_jax.model import CONVOLUTIONS, HEAD_LAYERS, TagPredictor
from socialtag_jax.pretrained import LayerParams, load_weights
from socialtag_jax.run_start import initial_params
from socialtag_jax.tags import TagVocabulary
from tests.weight_writers import Tensors, assert_equal, flat, random_params, refusal, save_keras_2, save_npz

HIDDEN, TAGS = 24, 7
SEASIDE, MOUNTAINS = (
    TagVocabulary(tags, tags)
    for tags in (
        ("beach", "boat", "gull", "pier", "sand", "sea", "sun"),
        ("alp", "cow", "hut", "lake", "rock", "snow", "sun"),
    )
)
REORDERED = TagVocabulary(SEASIDE.tags[::-1], SEASIDE.tags[::-1])


@pytest.fixture(scope="module")
def params() -> LayerParams:
    return random_params()


def dense(inputs: int, outputs: int, seed: int = 1) -> Tensors:
    rng = np.random.default_rng((seed, inputs, outputs))
    return {
        "kernel": rng.standard_normal((inputs, outputs), np.float32),
        "bias": rng.standard_normal(outputs, np.float32),
    }


def assert_head(loaded: LayerParams, hidden: Tensors, logits: Tensors) -> None:
    assert list(loaded) == [*CONVOLUTIONS, *HEAD_LAYERS]
    for layer, expected in zip(HEAD_LAYERS, (hidden, logits), strict=True):
        assert list(loaded[layer]) == ["kernel", "bias"]
        for leaf, array in expected.items():
            np.testing.assert_array_equal(loaded[layer][leaf], array, strict=True)


@pytest.mark.parametrize("names", [("tags_hidden", "tags_logits"), ("dense", "dense_1"), ("a", "b"), ("z", "y")])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".h5"])
def test_a_head_of_any_name(suffix: str, names: tuple[str, str], params: LayerParams, folder: Path) -> None:
    hidden, logits = dense(512, HIDDEN), dense(HIDDEN, TAGS)
    path = folder / f"thesis{suffix}"
    whole = params | dict(zip(names, (hidden, logits), strict=True))
    if suffix == ".h5":
        save_keras_2(path, whole)
    elif suffix == ".npz":
        save_npz(path, flat(whole))
    else:
        save_file(flat(whole), path)
    loaded = load_weights(path)
    assert_head(loaded, hidden, logits)
    assert_equal({layer: loaded[layer] for layer in CONVOLUTIONS}, params)


def test_sizes_that_fit_either_way_go_by_the_files_order(params: LayerParams, folder: Path) -> None:
    first, second = dense(512, 512, seed=1), dense(512, 512, seed=2)
    assert_head(load_weights(save_keras_2(folder / "a.h5", params | {"zebra": first, "ant": second})), first, second)


def test_a_head_around_the_vgg16_in_the_old_layout(params: LayerParams, folder: Path) -> None:
    """As Keras 2 saves `Sequential([vgg16, GlobalAveragePooling2D(), Dense, Dropout, Dense])`."""
    hidden, logits = dense(512, HIDDEN), dense(HIDDEN, TAGS)
    with h5py.File(folder / "nested.h5", "w") as file:
        weights = file.create_group("model_weights")
        layers = {"vgg16": params, "global_average_pooling2d_1": {}, "dense_1": {"dense_1": hidden}}
        layers |= {"dropout_1": {}, "dense_2": {"dense_2": logits}}
        weights.attrs["layer_names"] = [name.encode() for name in layers]
        for name, members in layers.items():
            group = weights.create_group(name)
            arrays = {f"{layer}/{leaf}:0": array for layer, own in members.items() for leaf, array in own.items()}
            group.attrs["weight_names"] = [key.encode() for key in arrays]
            for key, array in arrays.items():
                group[key] = array
    assert_head(load_weights(folder / "nested.h5"), hidden, logits)


@pytest.mark.parametrize(
    ("others", "ignored"),
    [
        (
            # VGG16's own, at a size that a test can afford; its fc1 really is 25088 x 4096.
            {"fc1": dense(2048, 64), "fc2": dense(64, 64), "predictions": dense(64, 10)},
            "fc1 (2048, 64), fc2 (64, 64), predictions (64, 10)",
        ),
        ({"dense": dense(2048, 64), "dense_1": dense(64, TAGS)}, "dense (2048, 64), dense_1 (64, 7)"),
        ({"dense": dense(512, 64), "dense_1": dense(65, TAGS)}, "dense (512, 64), dense_1 (65, 7)"),
        ({"dense": dense(512, TAGS)}, "dense (512, 7)"),
        (
            {"dense": dense(512, 64), "dense_1": dense(64, 64), "dense_2": dense(64, TAGS)},
            "dense (512, 64), dense_1 (64, 64), dense_2 (64, 7)",
        ),
        ({"dense": {"kernel": dense(512, 64)["kernel"]}, "dense_1": dense(64, TAGS)}, "dense (512, 64), dense_1 (64"),
    ],
    ids=["fc1, fc2, predictions", "flattened", "broken chain", "one layer", "three layers", "no bias"],
)
def test_other_classifiers_are_ignored_and_named(
    others: dict[str, Tensors], ignored: str, params: LayerParams, folder: Path
) -> None:
    path = save_keras_2(folder / "vgg16.h5", params | others)
    assert_equal(load_weights(path), params)
    lines: list[str] = []
    pretrained.load_starting_weights(
        path, hidden_units=HIDDEN, n_tags=TAGS, vocabulary_sha256=SEASIDE.sha256, log=lines.append
    )
    (line,) = lines
    assert f"{path}: convolutions; the head starts fresh: the file has no two dense layers from 512" in line
    assert f"(ignored: {ignored}" in line


def test_a_third_layer_of_an_unknown_name_is_refused(params: LayerParams, folder: Path) -> None:
    others = {"a": dense(512, HIDDEN), "b": dense(HIDDEN, TAGS), "scale": {"gamma": np.ones(TAGS, np.float32)}}
    refusal(
        save_npz(folder / "other.npz", flat(params | others)), "layer not in VGG16: found a/kernel of shape (512, 24)"
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [(np.full(TAGS, np.nan, np.float32), "has 7 of 7 values that are not finite"), (np.ones(TAGS, np.int64), "int64")],
)
def test_values_of_a_head_are_checked(value: np.ndarray, words: str, params: LayerParams, folder: Path) -> None:
    whole = params | {"dense": dense(512, HIDDEN), "dense_1": {**dense(HIDDEN, TAGS), "bias": value}}
    refusal(save_npz(folder / "thesis.npz", flat(whole)), "layer tags_logits: bias (dense_1/bias in the file)", words)


def test_the_fingerprint_is_of_the_convolutions(params: LayerParams, folder: Path) -> None:
    whole = params | dict(zip(HEAD_LAYERS, (dense(512, HIDDEN), dense(HIDDEN, TAGS)), strict=True))
    assert pretrained.fingerprint(whole) == pretrained.fingerprint(params)
    pretrained.save_weights(whole, folder / "whole.safetensors")
    with safe_open(folder / "whole.safetensors", framework="numpy") as file:
        assert file.metadata()["fingerprint"] == pretrained.fingerprint(params)


def test_a_head_in_other_float_types_becomes_float32(params: LayerParams, folder: Path) -> None:
    hidden, logits = dense(512, HIDDEN), dense(HIDDEN, TAGS)
    half = {
        name: {leaf: array.astype(np.float16) for leaf, array in leaves.items()}
        for name, leaves in {"a": hidden, "b": logits}.items()
    }
    loaded = load_weights(save_npz(folder / "half.npz", flat(params | half)))
    assert_head(loaded, *({k: v.astype(np.float32) for k, v in half[name].items()} for name in ("a", "b")))


# What training starts from


@pytest.mark.parametrize(
    ("hidden_units", "n_tags", "words"),
    [
        (HIDDEN, TAGS, "its 7 tags are taken to be in the data set's order: the file does not name them"),
        (HIDDEN, TAGS + 1, "the file's has 24 hidden units and 7 tags, the model 24 hidden units and 8 tags"),
        (HIDDEN * 2, TAGS, "the file's has 24 hidden units and 7 tags, the model 48 hidden units and 7 tags"),
    ],
    ids=["fits", "other tags", "other hidden units"],
)
def test_a_model_starts_from_a_head_that_fits(
    hidden_units: int, n_tags: int, words: str, params: LayerParams, folder: Path
) -> None:
    path = folder / "thesis.safetensors"
    head = dict(zip(HEAD_LAYERS, (dense(512, HIDDEN), dense(HIDDEN, TAGS)), strict=True))
    pretrained.save_weights(params | head, path)
    lines: list[str] = []
    loaded = pretrained.load_starting_weights(
        path, hidden_units=hidden_units, n_tags=n_tags, vocabulary_sha256=SEASIDE.sha256, log=lines.append
    )
    if (hidden_units, n_tags) == (HIDDEN, TAGS):
        assert lines == [f"weights: {path}: convolutions and head; {words}"]
        assert_head(loaded, *head.values())
    else:
        assert lines == [f"weights: {path}: convolutions; the head starts fresh: {words}"]
        assert_equal(loaded, params)


@pytest.mark.parametrize("converted", [False, True], ids=["as written", "converted"])
@pytest.mark.parametrize("of_the_data_set", [SEASIDE, MOUNTAINS, REORDERED], ids=["same", "other tags", "other order"])
def test_a_head_of_another_vocabulary_is_not_taken(
    of_the_data_set: TagVocabulary, converted: bool, params: LayerParams, folder: Path
) -> None:
    """Whatever its sizes: our own files say what a head's outputs mean."""
    path, lines = folder / "bundle.safetensors", list[str]()
    head = dict(zip(HEAD_LAYERS, (dense(512, HIDDEN), dense(HIDDEN, TAGS)), strict=True))
    pretrained.save_weights(params | head, path, vocabulary_sha256=SEASIDE.sha256)
    if converted:
        source, path = path, folder / "converted.safetensors"
        pretrained.convert(source, path, log=lambda _: None)
    loaded = pretrained.load_starting_weights(
        path, hidden_units=HIDDEN, n_tags=TAGS, vocabulary_sha256=of_the_data_set.sha256, log=lines.append
    )
    (line,) = lines
    if of_the_data_set is SEASIDE:
        assert line == f"weights: {path}: convolutions and head; its 7 tags are the data set's"
        assert_head(loaded, *head.values())
    else:
        why = "it was trained for 7 other tags than the data set's, or for the same in another order"
        assert line == f"weights: {path}: convolutions; the head starts fresh: {why}"
        assert_equal(loaded, params)


def test_a_foreign_heads_vocabulary_stays_unknown(params: LayerParams, folder: Path) -> None:
    whole = params | {"dense": dense(512, HIDDEN), "dense_1": dense(HIDDEN, TAGS)}
    pretrained.convert(save_npz(folder / "thesis.npz", flat(whole)), folder / "ours.safetensors", log=lambda _: None)
    with safe_open(folder / "ours.safetensors", framework="numpy") as file:
        assert "vocabulary_sha256" not in file.metadata()


def test_the_licence_of_the_convolutions_is_not_the_heads(
    params: LayerParams, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "IMAGENET_FINGERPRINT", pretrained.fingerprint(params))
    head = dict(zip(HEAD_LAYERS, (dense(512, HIDDEN), dense(HIDDEN, TAGS)), strict=True))
    owner = "Visual Geometry Group, University of Oxford, CC BY 4.0"
    for whole, licence in ((params, owner), (params | head, f"convolutions: {owner}; head: that of the source")):
        pretrained.save_weights(whole, folder / "file.safetensors")
        with safe_open(folder / "file.safetensors", framework="numpy") as file:
            assert file.metadata()["licence"] == licence


def test_training_puts_both_in_place_of_fresh_parameters(params: LayerParams, folder: Path) -> None:
    path = folder / "thesis.safetensors"
    whole = params | dict(zip(HEAD_LAYERS, (dense(512, HIDDEN), dense(HIDDEN, TAGS)), strict=True))
    pretrained.save_weights(whole, path)
    experiment = Experiment(name="start", weights=str(path), model=Model(input_size=32, hidden_units=HIDDEN))
    model = TagPredictor(n_tags=TAGS, hidden_units=HIDDEN)
    start = initial_params(model, experiment, SEASIDE.sha256, lambda _: None)
    assert set(start) == set(whole)
    for layer, leaves in whole.items():
        for leaf, array in leaves.items():
            np.testing.assert_array_equal(start[layer][leaf], array, err_msg=f"{layer}/{leaf}")
