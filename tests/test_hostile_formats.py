"""Bundles' `.onnx` and `.keras` files that strangers changed: refused before a runtime sees what it should not."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from socialtag_jax import keras_file, onnx_file
from socialtag_jax.errors import UserError
from socialtag_jax.tags import TagVocabulary
from tests import bundles, exported
from tests.bundles import SIZE, TAGS
from tests.conftest import Socialtag

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # Keras, with NumPy 2
    pytest.mark.usefixtures("peer_promotion"),
]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported.full_bundle(bundles.random_model(), tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.fixture
def onnx_model(original: Path, tmp_path: Path) -> Path:
    shutil.copy(original / "tagger.json", tmp_path)
    return Path(shutil.copy(original / "model.onnx", tmp_path))


@pytest.fixture
def keras_model(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(original / "model.keras", tmp_path))


def open_onnx(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    description = json.loads((path.parent / "tagger.json").read_text())
    return onnx_file.open_model(path, TagVocabulary(TAGS, tuple(tag.title() for tag in TAGS)), description)


def open_keras(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    return keras_file.open_model(path, len(TAGS), SIZE)


def test_untouched_they_open(onnx_model: Path, keras_model: Path):
    images = exported.pixels(2)
    np.testing.assert_allclose(open_onnx(onnx_model)(images), open_keras(keras_model)(images), atol=1e-5, rtol=0)


BYTES = [b"", b"\0" * 8, b"\xff" * 100, b"PK\x03\x04 and no more", b'{"class_name": "Functional"}']


@pytest.mark.parametrize("data", BYTES)
def test_other_bytes(original: Path, tmp_path: Path, data: bytes):
    shutil.copy(original / "tagger.json", tmp_path)
    for name, opened in (("model.onnx", open_onnx), ("model.keras", open_keras)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError) as refused:
            opened(tmp_path / name)
        assert refused.value.where == str(tmp_path / name)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_cut_off(onnx_model: Path, keras_model: Path, share: float):
    for path, opened in ((onnx_model, open_onnx), (keras_model, open_keras)):
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(UserError):
            opened(path)


def add_node(operation: str, **attributes: Any) -> Callable[[Any], None]:
    """A node between the last one and the output."""

    def edit(model: Any) -> None:
        model.graph.node[-1].output[0] = "inner"
        model.graph.node.append(helper.make_node(operation, ["inner"], ["probabilities"], **attributes))

    return edit


def with_branch(model: Any) -> None:
    """An `If`, whose branches are graphs that nothing above them sees."""
    node = helper.make_node("Identity", ["outer"], ["probabilities"])
    branch = helper.make_graph([node], "branch", [], [helper.make_tensor_value_info("probabilities", 1, None)])
    add_node("If", then_branch=branch, else_branch=branch)(model)


def with_function(model: Any) -> None:
    """The model's own definition of an operation."""
    node = helper.make_node("Relu", ["x"], ["y"])
    model.functions.append(helper.make_function("", "Sigmoid", ["x"], ["y"], [node], [helper.make_opsetid("", 17)]))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (add_node("PyOp", domain="com.microsoft", module="os", class_name="system"), r"'com\.microsoft\.PyOp'"),
        (add_node("Relu", domain="my.own.domain"), r"'my\.own\.domain\.Relu'"),
        (add_node("Tile"), "'Tile'"),
        (add_node("Loop"), "'Loop'"),
        (with_branch, "'If'"),
        (with_function, "'functions'"),
    ],
    ids=["python", "domain", "grows", "loop", "branch", "function"],
)
def test_a_graph_of_other_operations_is_refused(onnx_model: Path, edit: Callable[[Any], None], words: str):
    exported.change_onnx(onnx_model, edit)
    with pytest.raises(UserError, match=rf"model\.onnx: the graph holds {words}: it could do more .* refused"):
        open_onnx(onnx_model)


@pytest.mark.parametrize("location", ["elsewhere.bin", "/etc/passwd", "../elsewhere.bin"])
def test_weights_elsewhere_are_not_read(onnx_model: Path, location: str):
    (onnx_model.parent / "elsewhere.bin").write_bytes(b"\0" * 20)

    def edit(model: Any) -> None:
        (tensor,) = (one for one in model.graph.initializer if one.name == "tags_logits/bias")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    # `onnx.load` would look for them itself.
    model = onnx.load(onnx_model, load_external_data=False)
    edit(model)
    onnx_model.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=r"model\.onnx: its weights are not in the file"):
        open_onnx(onnx_model)


def set_property(key: str, value: str) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        (found,) = (one for one in model.metadata_props if one.key == key)
        found.value = value

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (set_property("tags", json.dumps(["dog", "beach", *TAGS[2:]])), "its metadata's 'tags' is not the bundle's"),
        (set_property("displays", json.dumps(["Dog", "Beach"])), "its metadata's 'displays' is not"),
        (set_property("vocabulary_sha256", "0" * 64), "its metadata's 'vocabulary_sha256' is not"),
        (set_property("threshold", "0.9"), "its metadata's 'threshold' is not the bundle's"),
        (set_property("max_tags", "3"), "its metadata's 'max_tags' is not"),
        (set_property("input_size", "224"), "its metadata's 'input_size' is not"),
        (set_property("provenance", "{}"), "its metadata's 'provenance' is not"),
        (lambda model: model.ClearField("metadata_props"), "its metadata's 'name' is not"),
        (lambda model: model.graph.output.pop(), "has other outputs than one of FLOAT"),
        (lambda model: model.graph.output.append(model.graph.input[0]), "has other outputs than one of FLOAT"),
        (lambda model: model.graph.input[0].type.tensor_type.shape.dim.pop(), "has other inputs than one of UINT8"),
        (
            lambda model: model.graph.input[0].CopyFrom(helper.make_tensor_value_info("images", 1, ["b", 32, 32, 3])),
            "has other inputs than one of UINT8",
        ),
        (lambda model: model.graph.initializer.pop(), "onnxruntime cannot load it"),
        (lambda model: exported.change_bias(model, np.zeros(4, np.float32)), "onnxruntime cannot"),
        (lambda model: model.ClearField("graph"), "has other inputs"),
    ],
)
def test_a_graph_that_does_not_fit(onnx_model: Path, edit: Callable[[Any], None], words: str):
    exported.change_onnx(onnx_model, edit)
    with pytest.raises(UserError, match=words):
        open_onnx(onnx_model)(exported.pixels(1))


def change_keras(path: Path, edit: Callable[[Any], object]) -> None:
    """Edits a file's configuration."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    configuration = json.loads(members["config.json"])
    edit(configuration)
    members["config.json"] = json.dumps(configuration).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def layer(configuration: Any, name: str) -> Any:
    (found,) = (one for one in configuration["config"]["layers"] if one["name"] == name)
    return found


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda config: layer(config, "dropout").update(class_name="Lambda"), r"'keras\.layers\.Lambda'"),
        (lambda config: layer(config, "dropout").update(module="os", class_name="system"), r"'os\.system'"),
        (lambda config: layer(config, "dropout").update(class_name="TorchModuleWrapper"), "TorchModuleWrapper"),
        (lambda config: layer(config, "dropout").update(registered_name="package>Other"), "'package>Other'"),
        (lambda config: layer(config, "dropout").update(class_name=["Lambda"]), "Lambda"),
        (
            lambda config: layer(config, "tags_logits")["config"].update(
                activation={"module": "keras.src.utils.file_utils", "class_name": "function", "config": "get_file"}
            ),
            r"'keras\.src\.utils\.file_utils\.function'",
        ),
        (
            lambda config: config.update(compile_config={"loss": {"module": "builtins", "class_name": "exec"}}),
            r"'builtins\.exec'",
        ),
    ],
    ids=["lambda", "module", "pickle", "registered", "list", "function", "loss"],
)
def test_a_model_of_other_classes_is_refused(keras_model: Path, edit: Callable[[Any], object], words: str):
    change_keras(keras_model, edit)
    with pytest.raises(UserError, match=rf"model\.keras: the model holds .*{words}.*: it could do more .* refused"):
        open_keras(keras_model)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda config: layer(config, "tags_logits")["config"].update(units=4), "cannot load it|not the bundle's"),
        (lambda config: config["config"]["layers"].pop(), "cannot load it"),
        (lambda config: config.clear(), "cannot load it"),
        (lambda config: config.update({str(number): "x" * 1000 for number in range(1100)}), "has over 1,048,576 bytes"),
    ],
    ids=["tags", "layers", "empty", "large"],
)
def test_a_model_that_does_not_fit(keras_model: Path, edit: Callable[[Any], object], words: str):
    change_keras(keras_model, edit)
    with pytest.raises(UserError, match=words):
        open_keras(keras_model)


def test_an_archive_bomb_is_refused_before_it_is_unpacked(keras_model: Path):
    """A member that says it has 8 GiB."""
    buffer = io.BytesIO(keras_model.read_bytes())
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("assets/zeros", b"")
        archive.getinfo("assets/zeros").file_size = 2**33
        archive.getinfo("assets/zeros").compress_size = 1000
        archive._didModify = True  # pyright: ignore[reportAttributeAccessIssue]
    keras_model.write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match=r"would be 8,6.* bytes when unpacked"):
        open_keras(keras_model)


def test_the_command_says_what_it_refused(original: Path, tmp_path: Path, socialtag: Socialtag):
    """The other formats are checked all the same."""
    from tests import photos

    bundle = shutil.copytree(original, tmp_path / "bundle")
    change_keras(bundle / "model.keras", lambda config: layer(config, "dropout").update(class_name="Lambda"))
    exported.rehash(bundle, "model.keras")
    photos.draw(tmp_path / "photo.png", ["red"], 0)
    result = socialtag("verify-export", bundle, "--photos", tmp_path / "photo.png", "--json")
    found = {one["format"]: one for one in json.loads(result.out)["formats"]}
    assert result.code == 1
    assert {name: one["result"] for name, one in found.items()} == {
        "stablehlo": "passed",
        "keras": "failed",
        "onnx": "passed",
    }
    assert "the model holds 'keras.layers.Lambda'" in found["keras"]["why"]
