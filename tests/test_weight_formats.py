"""Weight files of other libraries: each format against the library that writes it, or its documented layout."""

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any, cast

import h5py
import ml_dtypes
import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

from socialtag_jax.model import MEAN_RGB
from socialtag_jax.pretrained import LayerParams, load_weights
from tests.weight_writers import (
    assert_equal,
    flat,
    keras_onnx_tensors,
    kernels_of,
    random_params,
    refusal,
    save_keras_2,
    save_npz,
    save_onnx,
    torch_tensors,
)


@pytest.fixture(scope="module")
def params() -> LayerParams:
    return random_params()


# Keras


@pytest.fixture(scope="module")
def keras_models(params: LayerParams) -> dict[str, Any]:
    """The same VGG16 in the ways in which people build on it."""
    import jax

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), quiet():
        import keras

        layers = keras.layers
        bare = keras.applications.VGG16(include_top=False, weights=cast("str", None), input_shape=(32, 32, 3))
        for name, leaves in params.items():
            bare.get_layer(name).set_weights([leaves["kernel"], leaves["bias"]])
        classes = layers.Flatten(name="flatten")(bare.output)
        for name in ("fc1", "fc2", "predictions"):
            classes = layers.Dense(4, name=name)(classes)
        inputs = keras.Input((32, 32, 3))
        own_head = keras.Model(
            bare.input, layers.Dense(4)(layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(bare.output)))
        )
        own_head.compile("adam", "mse")
        own_head.optimizer.build(own_head.trainable_variables)
        return {
            "bare": bare,
            "with its classifier": keras.Model(bare.input, classes),
            "nested in Sequential": keras.Sequential(
                [bare, layers.GlobalAveragePooling2D(), layers.BatchNormalization(), layers.Dense(4, name="tags")]
            ),
            "nested in Functional": keras.Model(inputs, layers.Dense(4, name="tags")(layers.Flatten()(bare(inputs)))),
            "own head, compiled": own_head,
        }


def quiet() -> warnings.catch_warnings:
    """Keras's own deprecation warnings are no concern of this test."""
    return warnings.catch_warnings(action="ignore")


def save_keras(model: Any, path: Path) -> Path:
    with quiet():
        (model.save_weights if path.name.endswith(".weights.h5") else model.save)(path)
    return path


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5", ".keras"])
@pytest.mark.parametrize(
    "kind", ["bare", "with its classifier", "nested in Sequential", "nested in Functional", "own head, compiled"]
)
def test_keras_files(kind: str, suffix: str, keras_models: dict[str, Any], params: LayerParams, folder: Path) -> None:
    assert_equal(load_weights(save_keras(keras_models[kind], folder / f"vgg16{suffix}")), params)


def test_bfloat16_keras_file(params: LayerParams, folder: Path) -> None:
    path = folder / "vgg16.weights.h5"
    rounded = {
        layer: {leaf: a.astype(ml_dtypes.bfloat16) for leaf, a in leaves.items()} for layer, leaves in params.items()
    }
    with h5py.File(path, "w") as file:
        for number, (name, leaves) in enumerate(rounded.items()):
            group = file.create_group(f"layers/{keras_3_group(number)}/vars")
            group.attrs["name"] = name
            for index, leaf in enumerate(leaves.values()):
                # As `keras.saving` does: HDF5 has no such type.
                group.create_dataset(str(index), data=leaf.view("V2")).attrs["dtype"] = "bfloat16"
    expected = {layer: {leaf: a.astype(np.float32) for leaf, a in leaves.items()} for layer, leaves in rounded.items()}
    assert_equal(load_weights(path), expected)


def keras_3_group(number: int) -> str:
    return f"conv2d_{number}" if number else "conv2d"


def without_layer_names(file: h5py.File) -> None:
    """As the first releases of Keras 3 wrote it."""
    file.visititems(lambda _, item: item.attrs.pop("name", None) and None)


def test_early_keras_3_files_are_read_in_the_models_order(
    keras_models: dict[str, Any], params: LayerParams, folder: Path
) -> None:
    path = save_keras(keras_models["nested in Functional"], folder / "vgg16.weights.h5")
    with h5py.File(path, "r+") as file:
        without_layer_names(file)
    assert_equal(load_weights(path), params)


def test_early_keras_archives_take_names_from_their_config(keras_models: dict[str, Any], folder: Path) -> None:
    path = save_keras(keras_models["nested in Functional"], folder / "vgg16.keras")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    weights = io.BytesIO(members["model.weights.h5"])
    with h5py.File(weights, "r+") as file:
        without_layer_names(file)
    members["model.weights.h5"] = weights.getvalue()
    # A layer of the right shape in the right place, which is another model's.
    members["config.json"] = members["config.json"].replace(b"block3_conv2", b"my_layer")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    refusal(
        path, "layer block3_conv2: kernel is missing", "(3, 3, 256, 256)", "my_layer/kernel of shape (3, 3, 256, 256)"
    )


@pytest.mark.parametrize(
    "names", ["{layer}/{leaf}:0", "{layer}_1/{leaf}:0", "{layer}_{letter}_1:0", "{layer}_{letter}"]
)
def test_keras_1_and_2_names(names: str, params: LayerParams, folder: Path) -> None:
    head = {"fc1": {"kernel": np.zeros((8, 4)), "bias": np.zeros(4)}}
    assert_equal(load_weights(save_keras_2(folder / "vgg16.h5", params | head, names)), params)


def test_keras_splits_long_lists_of_names(params: LayerParams, folder: Path) -> None:
    path = save_keras_2(folder / "vgg16.h5", params)
    with h5py.File(path, "r+") as file:
        names = list(params)
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:7], names[7:]
    assert_equal(load_weights(path), params)


def test_theano_ordered_kernels_are_named_as_such(params: LayerParams, folder: Path) -> None:
    theano = {
        layer: {"kernel": leaves["kernel"][::-1, ::-1].transpose(3, 2, 0, 1), "bias": leaves["bias"]}
        for layer, leaves in params.items()
    }
    refusal(
        save_keras_2(folder / "vgg16.h5", theano, "{layer}_{letter}"),
        "layer block1_conv1: kernel has shape (64, 3, 3, 3), expected (3, 3, 3, 64) (height, width, input, output)",
        "looks like a Theano-ordered kernel",
        "tf_dim_ordering_tf_kernels",
    )


def test_rotated_imagenet_kernels_are_refused(params: LayerParams, folder: Path) -> None:
    kernel = params["block1_conv1"]["kernel"].copy()
    kernel[2, 2, :, 0] = [0.42947057, 0.55037946, 0.4800154]  # published; at [0, 0] in the right file
    path = save_npz(folder / "vgg16.npz", flat(params) | {"block1_conv1/kernel": kernel})
    refusal(path, "layer block1_conv1: kernel has shape (3, 3, 3, 64)", "rotated by 180 degrees", "Theano")
    assert_equal(
        load_weights(save_npz(path, flat(params) | {"block1_conv1/kernel": kernel[::-1, ::-1]})),
        params,
        but="block1_conv1",
    )


def test_two_vgg16s_in_one_file(folder: Path) -> None:
    path = folder / "two.weights.h5"
    with h5py.File(path, "w") as file:
        for model in ("functional", "functional_1"):
            file[f"layers/{model}/layers/conv2d/vars/0"] = np.zeros((3, 3, 3, 64))
    refusal(path, "several models", "layers/functional/layers/, layers/functional_1/layers/", "get_layer('vgg16')")


def test_hdf5_without_keras_layers(folder: Path) -> None:
    path = folder / "data.h5"
    with h5py.File(path, "w") as file:
        file["table"] = np.zeros(3)
    refusal(path, "no layers as Keras writes them", "it holds table")


@pytest.mark.parametrize("kind", ["link", "external storage"])
def test_hdf5_must_not_reach_into_other_files(kind: str, params: LayerParams, folder: Path) -> None:
    other = save_keras_2(folder / "other.h5", params)
    path = save_keras_2(folder / "vgg16.h5", params)
    with h5py.File(path, "r+") as file:
        group = file["block1_conv1"]
        assert isinstance(group, h5py.Group)
        del group["block1_conv1/bias:0"]
        if kind == "link":
            group["block1_conv1/bias:0"] = h5py.ExternalLink(str(other), "block1_conv1/block1_conv1/bias:0")
        else:
            group.create_dataset("block1_conv1/bias:0", (64,), "f4", external=[(str(other), 0, 256)])
    refusal(path, "in another file, which is refused")


# PyTorch


def convolve(images: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A plain 3 x 3 convolution with zero padding in float64: [H, W, I], H, W, I, O kernel -> [H, W, O]."""
    padded = np.pad(images.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
    return np.einsum("yxihw,hwio->yxo", windows, kernel.astype(np.float64)) + bias


@pytest.mark.parametrize(
    ("blank_classifier", "mean", "std"),
    [
        (False, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (True, (0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)),
    ],
    ids=["IMAGENET1K_V1", "IMAGENET1K_FEATURES"],
)
def test_torch_input_normalisation_is_folded_into_the_first_convolution(
    blank_classifier: bool,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    params: LayerParams,
    folder: Path,
) -> None:
    tensors = torch_tensors(params)
    tensors["classifier.6.bias"] = np.full(1000, np.nan if blank_classifier else 0.0, np.float32)
    save_file(tensors, folder / "vgg16.safetensors")
    loaded = load_weights(folder / "vgg16.safetensors")
    assert_equal(loaded, params, but="block1_conv1")

    rgb = np.random.default_rng(1).integers(0, 256, (12, 10, 3)).astype(np.float64)
    torch_first, first = params["block1_conv1"], loaded["block1_conv1"]
    expected = convolve((rgb / 255 - mean) / std, torch_first["kernel"], torch_first["bias"])
    difference = np.abs(convolve(rgb[..., ::-1] - MEAN_RGB[::-1], first["kernel"], first["bias"]) - expected)
    rounding = 1e-4 * np.abs(expected).max()

    assert difference[1:-1, 1:-1].max() < rounding
    # At the edge, padding is our mean colour there, and PyTorch's here: less than a grey level apart.
    apart = np.abs(np.subtract(MEAN_RGB, np.multiply(255, mean)))[::-1]
    assert apart.max() < (1.0 if blank_classifier else 0.5)
    bound = np.einsum("hwio,i->hwo", np.abs(first["kernel"].astype(np.float64)), apart)
    corner_bound = bound.sum(axis=(0, 1)) - bound[1:, 1:].sum(axis=(0, 1))
    assert (difference[0, 0] <= corner_bound + rounding).all()
    assert (difference[0, 1:-1] <= bound[0].sum(axis=0) + rounding).all()
    assert (difference[1:-1, -1] <= bound[:, 2].sum(axis=0) + rounding).all()


@pytest.mark.parametrize("head", ["classifier.0.weight", "classifier.6.bias", "pre_logits.fc1.weight", "head.fc.bias"])
def test_torch_classifiers_are_ignored(head: str, params: LayerParams, folder: Path) -> None:
    save_file(torch_tensors(params) | {head: np.zeros(5, np.float16)}, folder / "model.safetensors")
    assert_equal(load_weights(folder / "model.safetensors"), params, but="block1_conv1")


def test_vgg16_with_batch_normalisation(params: LayerParams, folder: Path) -> None:
    path = folder / "vgg16_bn.safetensors"
    save_file(torch_tensors(params) | {"features.1.running_mean": np.zeros(64, np.float32)}, path)
    refusal(path, "layer features.1 is a batch normalisation", "vgg16_bn", "use the weights of plain vgg16")


def test_torch_vgg19(params: LayerParams, folder: Path) -> None:
    path = folder / "vgg19.safetensors"
    tensors = torch_tensors(params)
    tensors["features.16.weight"] = tensors.pop("features.17.weight")
    save_file(tensors, path)
    refusal(
        path,
        "layer block4_conv1: kernel (features.17.weight in the file) is missing: found none, "
        "expected shape (512, 256, 3, 3)",
        "unknown in the file: features.16.weight of shape (512, 256, 3, 3)",
        "other VGGs and other networks do not fit",
    )


def test_torch_names_with_keras_kernels(params: LayerParams, folder: Path) -> None:
    path = folder / "odd.safetensors"
    save_file(torch_tensors(params) | {"features.0.weight": params["block1_conv1"]["kernel"]}, path)
    refusal(path, "layer block1_conv1: kernel (features.0.weight in the file) has shape (3, 3, 3, 64)", "Keras-ordered")


# ONNX


def test_onnx_from_keras(params: LayerParams, folder: Path) -> None:
    tensors = keras_onnx_tensors(params)
    assert_equal(load_weights(save_onnx(folder / "vgg16.onnx", tensors, kernels_of(tensors))), params)


def test_onnx_from_torch_equals_the_same_tensors_in_safetensors(params: LayerParams, folder: Path) -> None:
    tensors = torch_tensors(params)
    save_file(tensors, folder / "vgg16.safetensors")
    constant = {"val_3": np.zeros(2, np.int64), "classifier.0.weight": np.zeros((4, 8), np.float32)}
    path = save_onnx(folder / "vgg16.onnx", tensors | constant, kernels_of(tensors))
    assert_equal(load_weights(path), load_weights(folder / "vgg16.safetensors"))


def test_onnx_with_values_in_a_file_beside_it(params: LayerParams, folder: Path) -> None:
    tensors = keras_onnx_tensors(params)
    path = save_onnx(folder / "vgg16.onnx", tensors, kernels_of(tensors))
    model = onnx.load(path)
    # As PyTorch's exporter does.
    onnx.save(model, path, save_as_external_data=True, location="vgg16.onnx.data", size_threshold=0)
    assert_equal(load_weights(path), params)
    (folder / "vgg16.onnx.data").rename(folder / "elsewhere.data")
    refusal(path, "cannot be read as ONNX", "vgg16.onnx.data")


def test_onnx_must_not_reach_outside_its_folder(params: LayerParams, folder: Path) -> None:
    tensors = keras_onnx_tensors(params)
    (folder / "model").mkdir()
    path = save_onnx(folder / "model" / "vgg16.onnx", tensors, kernels_of(tensors))
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="vgg16.onnx.data", size_threshold=0)
    (folder / "model" / "vgg16.onnx.data").rename(folder / "vgg16.onnx.data")
    path.write_bytes(path.read_bytes().replace(b"\x0fvgg16.onnx.data", b"\x0f../16.onnx.data"))
    (folder / "vgg16.onnx.data").rename(folder / "16.onnx.data")
    refusal(path, "cannot be read as ONNX", "'../16.onnx.data' points outside the directory")


def test_onnx_with_a_foreign_convolution(params: LayerParams, folder: Path) -> None:
    tensors = keras_onnx_tensors(params) | {"stem/kernel": np.zeros((8, 3, 3, 3), np.float32)}
    path = save_onnx(folder / "vgg16.onnx", tensors, kernels_of(tensors))
    refusal(path, "layer not in VGG16: found stem/kernel of shape (8, 3, 3, 3), expected none")


def test_onnx_with_a_layer_twice(params: LayerParams, folder: Path) -> None:
    tensors = keras_onnx_tensors(params) | {"second/block1_conv1/kernel": np.zeros((64, 3, 3, 3), np.float32)}
    path = save_onnx(folder / "vgg16.onnx", tensors, kernels_of(tensors))
    refusal(path, "layer block1_conv1 has two tensors", "second/block1_conv1/kernel of shape (64, 3, 3, 3)")
