"""The bundle's own loader; that it answers as evaluation does is in test_train.py."""

import hashlib
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from socialtag_jax import Tagger
from socialtag_jax.errors import UserError
from tests.bundles import SIZE, TAGS, constant_bundle

LOGITS = np.array([2, -1, 0, -3, 1], np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return constant_bundle(tmp_path_factory.mktemp("bundles") / "bundle", LOGITS)


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """To be changed."""
    return shutil.copytree(bundle, tmp_path / "bundle")


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


@pytest.mark.parametrize("count", [0, 1, 3, 32, 70])
def test_probabilities_are_the_sigmoid_of_the_logits(bundle: Path, count: int):
    """Beyond 32 images in several batches; padding leaves no trace."""
    tagger = Tagger.load(bundle)
    found = tagger.probabilities(images(count))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.broadcast_to(1 / (1 + np.exp(-LOGITS)), (count, 5)), rtol=1e-6)


def test_suggestions_from_known_probabilities(bundle: Path):
    """0.881, 0.269, 0.5, 0.047, 0.731."""
    tagger = Tagger.load(bundle)
    (tags,) = tagger.suggest(images(1), threshold=0.3, max_tags=2)
    assert [(one.tag, one.display, round(one.confidence, 3)) for one in tags] == [
        ("beach", "Beach", 0.881),
        ("sun", "Sun", 0.731),
    ]


def test_the_weights_are_in_one_file_of_the_bundle(copy: Path):
    """The program holds none of them: with another head in the weights' file, the bundle answers by that."""
    bundle = copy
    assert (bundle / "model.stablehlo").stat().st_size < 100_000
    weights = bundle / "params.safetensors"
    with safe_open(weights, framework="numpy") as file:
        metadata = file.metadata()
    save_file({**load_file(weights), "tags_logits/bias": -LOGITS}, weights, metadata)
    description = json.loads((bundle / "tagger.json").read_text())
    description["files"]["params.safetensors"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    (bundle / "tagger.json").write_text(json.dumps(description))
    found = Tagger.load(bundle).probabilities(images(1))
    np.testing.assert_allclose(found, 1 / (1 + np.exp(LOGITS[None])), rtol=1e-6)


def test_few_batch_sizes_are_compiled(bundle: Path):
    """Batches of 1 to 9 images are padded to 1, 2, 4, 8 and 16."""
    tagger = Tagger.load(bundle)
    shapes = {tagger.launch(images(count)).shape for count in range(1, 10)}
    assert shapes == {(rows, len(TAGS)) for rows in (1, 2, 4, 8, 16)}


def test_another_format_version_is_refused(copy: Path):
    path = copy / "tagger.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 1}))
    with pytest.raises(UserError, match=r"tagger\.json: format version 1, expected 2 .*export the run again"):
        Tagger.load(copy)


@pytest.mark.parametrize("name", ["tags.txt", "model.stablehlo", "params.safetensors"])
def test_every_file_needs_a_hash(copy: Path, name: str):
    path = copy / "tagger.json"
    description = json.loads(path.read_text())
    del description["files"][name]
    path.write_text(json.dumps(description))
    with pytest.raises(UserError, match=f"lists no hash for {name}"):
        Tagger.load(copy)


def test_loading_leaves_the_process_as_it_is(bundle: Path):
    before = dict(jax.config.values)
    Tagger.load(bundle)
    assert jax.config.values == before
