"""Bundles whose parts were swapped, altered or exchanged, with hashes that do not agree, and with hashes that do."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from socialtag_jax import Tagger
from socialtag_jax.errors import UserError
from tests.attempts import attempt
from tests.bundles import SIZE, TAGS, constant_bundle
from tests.exported import rehash
from tests.test_lying_metadata import WRONG, change, leaves, put

LOGITS = np.array([2, -1, 0, -3, 1], np.float32)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return constant_bundle(tmp_path_factory.mktemp("bundles") / "bundle", LOGITS)


@pytest.fixture
def bundle(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "bundle")


def swap_lines(path: Path) -> None:
    first, second, *rest = path.read_text().splitlines()
    path.write_text("".join(f"{line}\n" for line in (second, first, *rest)))


@pytest.mark.parametrize("name", ["tags.txt", "tags.display.txt", "model.stablehlo", "params.safetensors"])
def test_every_byte_counts(bundle: Path, name: str):
    """A bit in each of some places, and some lengths; the weights are 59 MB."""
    data = (bundle / name).read_bytes()
    for position in np.linspace(0, len(data) - 1, 6, dtype=int):
        (bundle / name).write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(UserError, match=rf"{name}: the file was changed"):
            Tagger.load(bundle)
    for length in np.linspace(0, len(data) - 1, 3, dtype=int):
        (bundle / name).write_bytes(data[:length])
        with pytest.raises(UserError, match=rf"{name}: the file was changed"):
            Tagger.load(bundle)


@pytest.mark.parametrize("name", ["tags.txt", "tags.display.txt"])
def test_swapped_tags(bundle: Path, name: str):
    """With a hash that agrees, and in both files."""
    swap_lines(bundle / name)
    rehash(bundle, name)
    with pytest.raises(UserError, match=r"not those that the model was trained on|no way to write the tag"):
        Tagger.load(bundle)
    swap_lines(bundle / ("tags.display.txt" if name == "tags.txt" else "tags.txt"))
    rehash(bundle, "tags.txt", "tags.display.txt")
    with pytest.raises(UserError, match="the tags are not those that the model was trained on"):
        Tagger.load(bundle)
    # The weights know their tags as well.
    from socialtag_jax.tags import TagVocabulary

    change(bundle / "tagger.json", put("vocabulary_sha256", TagVocabulary.load(bundle / "tags.txt").sha256))
    with pytest.raises(UserError, match="the tags are not those that the model was trained on"):
        Tagger.load(bundle)


def test_display_forms_need_a_hash(bundle: Path):
    change(bundle / "tagger.json", put("files", "tags.display.txt", ...))
    with pytest.raises(UserError, match=r"lists no hash for tags\.display\.txt"):
        Tagger.load(bundle)


def alter_weights(bundle: Path, edit: Callable[[dict[str, np.ndarray]], object]) -> None:
    path = bundle / "params.safetensors"
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    params = load_file(path)
    edit(params)
    save_file(params, path, metadata)
    rehash(bundle, path.name)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda params: params.pop("block1_conv1/kernel"), "takes other arguments than these weights"),
        (lambda params: params.update({"more/kernel": np.zeros(3, np.float32)}), "takes other arguments than these"),
        (lambda params: params.update({"tags_logits/bias": np.zeros(4, np.float32)}), "tags_logits.*bias.* expected"),
        (lambda params: params.update({"tags_logits/bias": np.zeros(5, np.float16)}), "float32 .*5.* expected float16"),
    ],
    ids=["missing", "more", "shape", "dtype"],
)
def test_weights_that_do_not_fit_the_program(bundle: Path, edit: Callable[..., object], words: str):
    alter_weights(bundle, edit)
    with pytest.raises(UserError, match=rf"model\.stablehlo: .*{words}"):
        Tagger.load(bundle)


@pytest.mark.parametrize("data", [b"", b"\0" * 8, b"\xff" * 100, b"{}", b'\x10\0\0\0\0\0\0\0{"a":1}         '])
def test_other_bytes_with_a_right_hash(bundle: Path, data: bytes):
    for name, words in (
        ("params.safetensors", "cannot be read as safetensors"),
        ("model.stablehlo", "cannot be read as"),
    ):
        before = (bundle / name).read_bytes()
        (bundle / name).write_bytes(data)
        rehash(bundle, name)
        with pytest.raises(UserError, match=words):
            Tagger.load(bundle)
        (bundle / name).write_bytes(before)
        rehash(bundle, name)
    assert Tagger.load(bundle).probabilities(np.zeros((1, SIZE, SIZE, 3), np.uint8)).shape == (1, len(TAGS))


def replace_program(bundle: Path, function: Callable[[Any, jax.Array], Any], **options: Any) -> None:
    """Puts another program in, which takes the same arguments and agrees with its hash."""
    params: dict[str, dict[str, Any]] = {}
    for name, array in load_file(bundle / "params.safetensors").items():
        layer, _, leaf = name.partition("/")
        params.setdefault(layer, {})[leaf] = jax.ShapeDtypeStruct(array.shape, array.dtype)
    (batch,) = export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, SIZE, SIZE, 3), jnp.uint8)
    exported = export.export(jax.jit(function), **options)(params, images)
    (bundle / "model.stablehlo").write_bytes(exported.serialize())
    rehash(bundle, "model.stablehlo")


@pytest.mark.parametrize("target", ["xla_ffi_python_cpu_callback", "xla_python_cpu_callback", "my_own_function"])
def test_a_program_that_calls_out_is_refused(bundle: Path, target: str):
    """What a hostile bundle would do: have XLA call a function of this process, at an address or by a number."""

    def call(params: Any, images: jax.Array) -> jax.Array:
        found = jax.ffi.ffi_call(target, jax.ShapeDtypeStruct((), jnp.float32))(jnp.float32(0), index=np.uint64(0))
        return jnp.broadcast_to(found, (images.shape[0], len(TAGS)))

    replace_program(bundle, call, disabled_checks=[export.DisabledSafetyCheck.custom_call(target)], platforms=("cpu",))
    with pytest.raises(UserError, match=r"model\.stablehlo: the program holds the operation 'custom_call'.* refused"):
        Tagger.load(bundle)


def test_stable_custom_calls_are_refused_as_well(bundle: Path):
    """JAX itself promises to go on supporting this one; no bundle of ours has any."""

    def decompose(params: Any, images: jax.Array) -> jax.Array:
        values = jnp.linalg.eigvalsh(jnp.eye(len(TAGS), dtype=jnp.float32))
        return jnp.broadcast_to(values, (images.shape[0], len(TAGS)))

    replace_program(bundle, decompose, platforms=("cpu",))
    with pytest.raises(UserError, match="holds the operation 'custom_call'"):
        Tagger.load(bundle)


@pytest.mark.parametrize(
    "function",
    [
        lambda params, images: jnp.zeros((images.shape[0], 4), jnp.float32),
        lambda params, images: jnp.zeros((len(TAGS),), jnp.float32),
        lambda params, images: jnp.zeros((images.shape[0], len(TAGS)), jnp.int32),
        lambda params, images: (jnp.zeros((images.shape[0], len(TAGS)), jnp.float32), images),
    ],
    ids=["a tag less", "no batch", "whole numbers", "two outputs"],
)
def test_a_program_with_other_outputs(bundle: Path, function: Callable[..., Any]):
    replace_program(bundle, function)
    with pytest.raises(UserError, match=r"model\.stablehlo: the program (does not fit|takes other arguments)"):
        Tagger.load(bundle)


@pytest.mark.parametrize("name", ["tagger.json", "tags.txt", "model.stablehlo", "params.safetensors"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(bundle: Path, name: str):
    (bundle / name).unlink()
    os.mkfifo(bundle / name)
    with pytest.raises(UserError, match=r"Not a regular file|file is missing"):
        Tagger.load(bundle)


def test_files_elsewhere_are_not_read(bundle: Path):
    change(bundle / "tagger.json", put("files", "../bundle/tags.txt", "0" * 64))
    with pytest.raises(UserError, match=r"lists '\.\./bundle/tags\.txt', which is no file's name"):
        Tagger.load(bundle)


USED = ("format_version", "input_size", "image_size", "threshold", "max_tags", "vocabulary_sha256", "files")


def test_any_field_of_any_kind(bundle: Path):
    """Each field that the tagger uses in turn, each kind of wrong value."""
    path = bundle / "tagger.json"
    text = path.read_text()
    tried = 0
    for keys in leaves(json.loads(text)):
        if not keys or (keys[0] not in USED and keys != ("provenance", "dataset", "fingerprint")):
            continue
        for wrong in WRONG:
            path.write_text(text)
            change(path, put(*keys, wrong))
            tagger, error = attempt(lambda: Tagger.load(bundle))
            tried += 1
            if error is None:
                # A fingerprint may be any text.
                assert keys[0] == "provenance"
                assert isinstance(wrong, str)
                assert tagger.input_size == SIZE
            else:
                assert str(error.where).startswith(str(bundle))
    assert tried > 100
