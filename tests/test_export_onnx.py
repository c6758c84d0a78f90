"""The `.onnx` file of a bundle: whole, checked, the same every time, and onnxruntime says with it what the bundle says.

That Keras says the same is in test_verify_export.py.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import external_data_helper
from safetensors import safe_open

from socialtag_jax import cli, export_onnx
from socialtag_jax.errors import UserError
from socialtag_jax.export import export_bundle
from socialtag_jax.tagger import Tagger
from socialtag_jax.weight_files.onnx_graph import read_onnx
from tests import bundles, exported
from tests.bundles import SIZE, TAGS


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By the command line; not to be changed."""
    folder = tmp_path_factory.mktemp("onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("socialtag_jax.trained.load", lambda *_, **__: bundles.random_model())
        with pytest.raises(SystemExit) as stopped:
            cli.main(["export", str(folder), "--output", str(folder / "bundle"), "--formats", "stablehlo", "onnx"])
    assert stopped.value.code == 0
    return folder / "bundle"


@pytest.fixture(scope="module")
def session(bundle: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("count", [1, 2, 7])
def test_onnxruntime_says_what_the_bundle_says(bundle: Path, session: onnxruntime.InferenceSession, count: int):
    """Whatever the batch's size. Tolerance: 1e-5 of a probability, float32 sums in another order."""
    images = exported.pixels(count)
    (found,) = session.run(["probabilities"], {"images": images})
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float32
    expected = Tagger.load(bundle).probabilities(images)
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_inputs_and_outputs(bundle: Path):
    model = onnx.load(bundle / "model.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    signature = f"(uint8[batch,{SIZE},{SIZE},3] images) => (float[batch,{len(TAGS)}] probabilities)"
    assert signature in onnx.printer.to_text(model)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert not any(external_data_helper.uses_external_data(one) for one in model.graph.initializer)


def test_what_it_knows_of_itself(bundle: Path, session: onnxruntime.InferenceSession):
    found = session.get_modelmeta().custom_metadata_map
    description = json.loads((bundle / "tagger.json").read_text())
    assert json.loads(found["tags"]) == list(TAGS)
    assert json.loads(found["displays"]) == ["Beach", "Dog", "Sea", "Snow", "Sun"]
    assert json.loads(found["provenance"]) == description["provenance"]
    for key in ("input_size", "threshold", "max_tags", "vocabulary_sha256", "name"):
        assert found[key] == str(description[key])
    with safe_open(bundle / "params.safetensors", framework="numpy") as file:
        assert found["licence"] == file.metadata()["licence"]


def test_our_own_reader_finds_the_convolutions(bundle: Path):
    """`socialtag weights convert model.onnx` reads what it reads of other exporters."""
    found = read_onnx(bundle / "model.onnx")
    params = bundles.random_model().params
    assert len(found.tensors) == 26
    for name, tensor in found.tensors.items():
        layer, leaf = name.split("/")
        array = np.asarray(params[layer][leaf])
        np.testing.assert_array_equal(tensor, array.transpose(3, 2, 0, 1) if leaf == "kernel" else array)


def test_the_same_model_makes_the_same_bytes(bundle: Path, tmp_path: Path):
    """In a process of its own, which orders sets in its own way."""
    code = """
import sys, pathlib
from socialtag_jax.export import export_bundle
from tests import bundles
export_bundle(bundles.random_model(), pathlib.Path(sys.argv[1]), formats=["onnx"])
"""
    command = [sys.executable, "-c", code, tmp_path / "again"]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "JAX_PLATFORMS": "cpu"}
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1], env=environment)
    assert (tmp_path / "again" / "model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()


def test_it_is_listed_and_guarded_like_the_others(bundle: Path, tmp_path: Path):
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    assert "model.onnx" in json.loads((copy / "tagger.json").read_text())["files"]
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match=r"model\.onnx: the file was changed"):
        Tagger.load(copy)


def test_what_no_file_can_hold_is_refused_before_anything_is_written(tmp_path: Path):
    """A million tags over 512 hidden units are 2.2 GB; these arrays are one number each, shown many times."""
    n_tags = 1_080_000
    params = {
        **jax.tree.map(np.asarray, bundles.random_model().params),
        "tags_logits": {
            "kernel": np.broadcast_to(np.float32(0), (512, n_tags)),
            "bias": np.broadcast_to(np.float32(0), (n_tags,)),
        },
    }
    with pytest.raises(UserError, match=r"model\.onnx: 2,2\d\d,\d{3},\d{3} bytes .* at most 2,146,435,072 -- export"):
        export_onnx.write_model(params, SIZE, {}, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_unknown_formats_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="no format 'onx', expected some of stablehlo, keras, onnx"):
        export_bundle(bundles.random_model(), tmp_path / "bundle", formats=["onnx", "onx"])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_onnx_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"needs the package onnx.* -- pip install 'socialtag-jax\[onnx\]'"):
        export_bundle(bundles.random_model(), tmp_path / "bundle", formats=["onnx"])
    assert list(tmp_path.iterdir()) == []
