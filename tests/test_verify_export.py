"""`socialtag verify-export`: every format against the weights, on photos; what differs or did not run is no pass."""

import importlib.metadata
import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import onnxruntime
import pytest

from socialtag_jax import export_onnx, keras_file, plain_forward
from socialtag_jax.verify_export import top_agreement
from tests import bundles, exported, keras_peer, photos
from tests.bundles import TAGS
from tests.conftest import Bucket, Socialtag

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # Keras, with NumPy 2
    pytest.mark.usefixtures("peer_promotion"),
]

LOGITS = np.array([2, -1, 0, -3, 1], np.float32)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers depend on the photo. Not to be changed."""
    return exported.full_bundle(bundles.random_model(), tmp_path_factory.mktemp("random") / "bundle")


@pytest.fixture(scope="module")
def constant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whatever the photo, the sigmoid of `LOGITS`. Not to be changed."""
    changes = {"tags_logits": {"kernel": np.zeros((16, len(TAGS)), np.float32), "bias": LOGITS}}
    return exported.full_bundle(bundles.trained_model(changes), tmp_path_factory.mktemp("constant") / "bundle")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos, a file that is none, and one of another kind."""
    folder = tmp_path_factory.mktemp("photos")
    for number, colour in enumerate(photos.COLOURS):
        photos.draw(folder / f"{colour}.png", [colour], number)
    (folder / "broken.jpg").write_bytes(b"no photo")
    (folder / "notes.txt").write_text("no photo")
    return folder


def test_the_reference_and_onnx_say_what_keras_says(tmp_path: Path):
    """The thesis's model, with Keras's own VGG16 and its preprocessing; 47 pixels, so that pooling drops some."""
    size, params = 47, keras_peer.he_params(len(TAGS), 32)
    images = exported.pixels(2, size)
    batch = keras_peer.keras.applications.vgg16.preprocess_input(images.astype(np.float32))
    expected = keras_peer.thesis_model(params, size).predict_on_batch(batch)
    found = jax.jit(plain_forward.probabilities)(params, images)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    export_onnx.write_model(params, size, {}, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"images": images})
    assert isinstance(scores, np.ndarray)
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)


def test_all_formats_pass(original: Path, folder: Path, socialtag: Socialtag):
    result = socialtag("verify-export", original, "--photos", folder)
    assert result.code == 0
    head, titles, *rows = result.out.splitlines()
    assert head.startswith("reference: params.safetensors, in plain JAX")
    assert "; 3 photos; tolerance 1.0e-04" in head
    assert titles.split("  ")[0] == "format"
    assert [row.split()[:2] for row in rows] == [
        ["stablehlo", "model.stablehlo"],
        ["keras", "model.keras"],
        ["onnx", "model.onnx"],
    ]
    assert all(row.endswith("100.00%           passed") for row in rows)
    assert "skipped: 1 other file (1 .txt)" in result.err
    assert "broken.jpg: not an image" in result.err
    assert "1 of 4 photos could not be read" in result.err


def test_json(original: Path, folder: Path, socialtag: Socialtag):
    result = socialtag("verify-export", original, "--photos", folder, "--json", "--formats", "onnx", "stablehlo")
    found = json.loads(result.out)
    assert result.code == 0
    assert (found["photos"], found["unreadable"], found["tolerance"], found["passed"]) == (3, 1, 1e-4, True)
    assert [one["format"] for one in found["formats"]] == ["stablehlo", "onnx"]
    for one in found["formats"]:
        assert 0 <= one["largest_difference"] < 1e-5
        assert one["top_agreement"] == 1
        assert one["runtime"].split()[0] == {"stablehlo": "jax", "onnx": "onnxruntime"}[one["format"]]


def test_the_largest_difference_is_that_of_the_sigmoids(
    constant: Path, folder: Path, socialtag: Socialtag, tmp_path: Path
):
    """One output's bias is 0.1 higher in the ONNX file: the difference is known."""
    bundle = shutil.copytree(constant, tmp_path / "bundle")
    changed = LOGITS + np.array([0, 0, 0.1, 0, 0], np.float32)
    exported.change_onnx(bundle / "model.onnx", lambda model: exported.change_bias(model, changed))
    exported.rehash(bundle, "model.onnx")
    result = socialtag("verify-export", bundle, "--photos", folder, "--json", "--formats", "onnx")
    (one,) = json.loads(result.out)["formats"]
    assert result.code == 1
    assert one["result"] == "failed"
    assert one["largest_difference"] == pytest.approx(1 / (1 + np.exp(-0.1)) - 0.5, abs=1e-6)
    assert "differs by 2.5e-02, more than 1.0e-04" in one["why"]
    assert "failed: onnx" in result.err
    assert socialtag("verify-export", bundle, "--photos", folder, "--formats", "onnx", "--tolerance", "0.03").code == 0


def test_what_is_no_number_fails(constant: Path, folder: Path, socialtag: Socialtag, tmp_path: Path):
    bundle = shutil.copytree(constant, tmp_path / "bundle")
    values = np.array([2, -1, np.nan, -3, 1], np.float32)
    exported.change_onnx(bundle / "model.onnx", lambda model: exported.change_bias(model, values))
    exported.rehash(bundle, "model.onnx")
    result = socialtag("verify-export", bundle, "--photos", folder, "--json", "--tolerance", "1")
    found = {one["format"]: one for one in json.loads(result.out)["formats"]}
    assert result.code == 1
    assert found["onnx"]["result"] == "failed"
    assert found["onnx"]["why"] == "gave a probability that is no number"
    assert found["onnx"]["largest_difference"] is None
    assert found["keras"]["result"] == found["stablehlo"]["result"] == "passed"


def test_other_weights_in_the_keras_file(original: Path, folder: Path, socialtag: Socialtag, tmp_path: Path):
    """The head's kernel, turned around: every format but Keras's passes."""
    keras = keras_peer.keras
    bundle = shutil.copytree(original, tmp_path / "bundle")
    model = keras.saving.load_model(bundle / "model.keras")
    kernel, bias = model.get_layer("tags_logits").get_weights()
    model.get_layer("tags_logits").set_weights([-kernel, bias])
    model.save(bundle / "model.keras")
    exported.rehash(bundle, "model.keras")
    result = socialtag("verify-export", bundle, "--photos", folder, "--json")
    found = {one["format"]: one["result"] for one in json.loads(result.out)["formats"]}
    assert result.code == 1
    assert found == {"stablehlo": "passed", "keras": "failed", "onnx": "passed"}


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [("onnxruntime", "onnx", "onnx"), ("onnx", "onnx", "onnx"), ("keras", "keras", "keras")],
)
def test_what_cannot_run_is_not_checked_and_no_pass(
    constant: Path,
    folder: Path,
    socialtag: Socialtag,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    name: str,
    extra: str,
):
    monkeypatch.setitem(sys.modules, package, None)
    result = socialtag("verify-export", constant, "--photos", folder, "--formats", "stablehlo", name)
    assert result.code == 1
    row = result.out.splitlines()[-1]
    assert "not checked: " in row
    assert f"needs the package {package}, which is not installed -- pip install 'socialtag-jax[{extra}]'" in row
    assert f"not checked: {name}" in result.err
    assert socialtag("verify-export", constant, "--photos", folder, "--formats", "stablehlo").code == 0


def test_wrong_calls(constant: Path, folder: Path, socialtag: Socialtag, tmp_path: Path):
    plain = bundles.constant_bundle(tmp_path / "plain", LOGITS)
    result = socialtag("verify-export", plain, "--photos", folder, "--formats", "onnx")
    assert (result.code, result.out) == (2, "")
    assert "--formats: the bundle has stablehlo, no onnx" in result.err
    for text in ("0", "-1", "nan", "inf"):
        result = socialtag("verify-export", constant, "--photos", folder, f"--tolerance={text}")
        assert result.code == 2
        assert "--tolerance: " in result.err
    result = socialtag("verify-export", constant, "--photos", folder / "broken.jpg", "--formats", "stablehlo")
    assert result.code == 1
    assert "none of the photos can be read" in result.err


def test_a_bundle_in_the_cloud(constant: Path, folder: Path, socialtag: Socialtag, bucket: Bucket):
    there = bucket.upload(constant, "bundle")
    result = socialtag("verify-export", there, "--photos", folder, "--json", "--formats", "onnx")
    assert result.code == 0
    assert json.loads(result.out)["bundle"] == str(there)


def test_a_changed_bundle_is_refused(constant: Path, folder: Path, socialtag: Socialtag, tmp_path: Path):
    bundle = shutil.copytree(constant, tmp_path / "bundle")
    exported.change_onnx(bundle / "model.onnx", lambda model: exported.change_bias(model, LOGITS + 1))
    result = socialtag("verify-export", bundle, "--photos", folder)
    assert (result.code, result.out) == (1, "")
    assert "model.onnx: the file was changed" in result.err


def test_a_file_that_the_bundle_does_not_list_is_no_pass(
    original: Path, folder: Path, socialtag: Socialtag, tmp_path: Path
):
    """A model that lies in the folder will be taken for the bundle's, whoever put it there."""
    plain = bundles.constant_bundle(tmp_path / "plain", LOGITS)
    shutil.copy(original / "model.onnx", plain)
    result = socialtag("verify-export", plain, "--photos", folder, "--json")
    found = {one["format"]: one for one in json.loads(result.out)["formats"]}
    assert result.code == 1
    assert {name: one["result"] for name, one in found.items()} == {"stablehlo": "passed", "onnx": "failed"}
    assert found["onnx"]["why"] == "tagger.json does not list it: it is of another export"


def test_runtimes_under_other_names(
    constant: Path, folder: Path, socialtag: Socialtag, monkeypatch: pytest.MonkeyPatch
):
    """Who has a GPU has installed `onnxruntime-gpu`, which is imported as `onnxruntime`."""

    def version(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    result = socialtag("verify-export", constant, "--photos", folder, "--json", "--formats", "onnx")
    assert result.code == 0
    assert json.loads(result.out)["formats"][0]["runtime"] == f"onnxruntime {onnxruntime.__version__}"


def test_keras_multiplies_at_full_precision(constant: Path, monkeypatch: pytest.MonkeyPatch):
    """As the reference does: on a GPU, TensorFloat-32 would be beyond the tolerance."""
    found = []
    convolve = jax.lax.conv_general_dilated

    def recorded(*arguments: object, **options: object) -> jax.Array:
        found.append(jax.config.values["jax_default_matmul_precision"])
        return convolve(*arguments, **options)  # pyright: ignore[reportArgumentType]

    score = keras_file.open_model(constant / "model.keras", len(TAGS), bundles.SIZE)
    monkeypatch.setattr(jax.lax, "conv_general_dilated", recorded)
    score(exported.pixels(1))
    assert found == ["highest"] * 14


def test_agreement_by_hand():
    """20 tags: of the 15 most confident of the first photo 14 are the same, of the second 15, in another order."""
    expected = np.linspace(0.9, 0.1, 20, dtype=np.float32)[None].repeat(2, 0)
    scores = expected.copy()
    scores[0, 14], scores[0, 15] = expected[0, 15], expected[0, 14]
    scores[1, :15] = expected[1, :15][::-1]
    assert top_agreement(scores, expected) == [14 / 15, 1.0]
