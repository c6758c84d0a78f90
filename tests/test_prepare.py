"""Photos -> data set: what is written, what is rejected, what is refused, and what a killed run leaves."""

import csv
import importlib
import io
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from socialtag_jax import files
from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.rules import parse_pruning
from socialtag_jax.shards import chunks, writing
from socialtag_jax.shards.dataset import Dataset, open_dataset
from socialtag_jax.shards.example import Record
from socialtag_jax.shards.images import canonical_jpeg
from socialtag_jax.shards.pixels import decode
from socialtag_jax.shards.prepare import PrepareOptions
from tests.photos import colour_rows, draw, photo_folder, prepared


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_folder(tmp_path_factory.mktemp("source"), colour_rows(30))


@pytest.fixture(scope="module")
def dataset(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    result = prepared(source, tmp_path_factory.mktemp("data"))
    assert (result.photos, result.written, result.rejected) == (30, 30, 0)
    return open_dataset(result.folder)


def test_every_photo_is_there_once_with_its_tags(source: Path, dataset: Dataset):
    rows = colour_rows(30)
    found = {}
    for split in dataset.splits:
        records = dataset.records(split)
        for index in range(len(records)):
            record = records[index]
            tags = {dataset.vocabulary.tags[tag] for tag in record.tags}
            found[record.image_id] = (tags, split)
            assert record.image == canonical_jpeg(source / record.image_id)
    assert found == {name: (set(tags), split) for name, (tags, split) in rows.items()}


def test_statistics_are_those_of_the_rows(dataset: Dataset):
    train = dataset.statistics["train"]
    expected = [tags for tags, split in colour_rows(30).values() if split == "train"]
    assert train.images == len(expected) == 24
    assert train.mean_tags == pytest.approx(np.mean([len(tags) for tags in expected]))
    counts = dict(zip(dataset.vocabulary.tags, train.counts.tolist(), strict=True))
    assert counts == {tag: sum(tag in tags for tags in expected) for tag in ("even", "red", "green", "blue")}
    assert dataset.max_tags == 2


def test_tfds_reads_the_metadata(dataset: Dataset):
    tfds: Any = importlib.import_module("tensorflow_datasets")
    info = tfds.builder_from_directory(dataset.folder).info
    assert info.full_name == dataset.name == "demo/1.0.0"
    assert {name: split.num_examples for name, split in info.splits.items()} == {
        name: len(split) for name, split in dataset.splits.items()
    }
    assert info.features["tags"].feature.names == list(dataset.vocabulary.tags)
    assert info.dataset_size == sum(path.stat().st_size for path in dataset.folder.glob("*.tfrecord-*-of-?????"))


def test_same_input_same_bytes_whatever_the_workers(source: Path, dataset: Dataset, tmp_path: Path):
    again = prepared(source, tmp_path, workers=2).folder
    names = sorted(path.name for path in again.iterdir())
    assert names == sorted(path.name for path in dataset.folder.iterdir())
    for name in names:
        assert (again / name).read_bytes() == (dataset.folder / name).read_bytes(), name


def test_second_run_does_nothing_and_other_options_are_refused(source: Path, dataset: Dataset):
    manifest = dataset.folder / "manifest.json"
    before = manifest.stat().st_mtime_ns
    assert prepared(source, dataset.folder.parents[1]).folder == dataset.folder
    assert manifest.stat().st_mtime_ns == before
    with pytest.raises(UserError, match="the folder exists and was made from other photos, tags or options"):
        prepared(source, dataset.folder.parents[1], image_size=64)


def test_many_shards(source: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writing, "_SHARD_BYTES", 20_000)
    sharded = open_dataset(prepared(source, tmp_path).folder)
    assert len(sharded.splits["train"].shards) > 3
    ids = [[one.records("train")[index].image_id for index in range(24)] for one in (sharded, dataset)]
    assert ids[0] == ids[1]


def test_rejects_are_listed_with_reasons(tmp_path: Path):
    splits = {
        "1.png": "test",
        "2.png": "train",
        "3.png": "train",
        "4.png": "train",
        "5.png": "train",
        "6.png": "validation",
    }
    folder = photo_folder(tmp_path / "in", {name: (["a"], split) for name, split in splits.items()})
    (folder / "2.png").unlink()
    (folder / "3.png").write_bytes(b"")
    data = (folder / "4.png").read_bytes()
    (folder / "4.png").write_bytes(data[: len(data) // 2])
    result = prepared(folder, tmp_path / "out")
    assert (result.photos, result.written, result.rejected) == (6, 3, 3)
    with (result.folder / "rejects.csv").open(newline="") as file:
        rejects = {row["image_id"]: row for row in csv.DictReader(file)}
    assert rejects["2.png"]["reason"] == "no such file"
    assert rejects["3.png"]["reason"] == "the file is empty (0 bytes)"
    assert "truncated" in rejects["4.png"]["reason"]
    assert "tags.csv" in rejects["4.png"]["where"]
    # Splits, tags and statistics know nothing of rejected photos.
    assert {name: len(split) for name, split in open_dataset(result.folder).splits.items()} == {
        "train": 1,
        "validation": 1,
        "test": 1,
    }


def test_a_split_never_vanishes_silently(tmp_path: Path):
    rows = {"1.png": (["a"], "train"), "2.png": (["a"], "validation"), "3.png": (["a"], "test")}
    folder = photo_folder(tmp_path / "in", rows)
    (folder / "2.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"none of the 1 validation photos is left, for example .*2\.png: 1 cannot"):
        prepared(folder, tmp_path / "out")


def test_two_at_once_are_refused(source: Path, tmp_path: Path):
    with (
        files.exclusive(tmp_path / "demo" / ".1.0.0.partial"),
        pytest.raises(UserError, match="another process is at work here"),
    ):
        prepared(source, tmp_path)


def test_more_chunks_than_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A large data set has more chunk files than a process may hold open."""
    folder = photo_folder(tmp_path / "in", colour_rows(60))
    monkeypatch.setattr(chunks, "CHUNK_PHOTOS", 1)
    open_now = len(list(Path("/proc/self/fd").iterdir()))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 40, before[1]))
    try:
        assert prepared(folder, tmp_path / "out").written == 60
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_deleted_index_is_rebuilt(source: Path, tmp_path: Path):
    folder = prepared(source, tmp_path).folder
    for index in folder.glob("*.index"):
        index.unlink()
    assert open_dataset(folder).records("train")[0].image_id


def test_no_decodable_photo_is_an_error_that_keeps_the_reasons(tmp_path: Path):
    folder = photo_folder(tmp_path / "in", {name: (["a"], None) for name in ("1.png", "2.png", "3.png")})
    for photo in folder.glob("*.png"):
        photo.unlink()
    with pytest.raises(UserError, match=r"none of the 3 photos can be decoded; the first one: .*no such file"):
        prepared(folder, tmp_path / "out")
    assert not (tmp_path / "out" / "demo" / "1.0.0").exists()
    assert (tmp_path / "out" / "demo" / "rejects.csv").read_text().count("no such file") == 3


def test_leaks_are_refused_by_name(tmp_path: Path):
    rows = {f"{n}.png": (["a"], split) for n, split in enumerate(["train"] * 5 + ["validation", "test"])}
    folder = photo_folder(tmp_path / "in", rows)
    shutil.copy(folder / "0.png", folder / "6.png")
    with pytest.raises(UserError, match=r"the same photo stands in two splits.* [06]\.png .* and [06]\.png"):
        prepared(folder, tmp_path / "out")
    assert prepared(folder, tmp_path / "out", allow_leaks=True).written == 7


def test_identical_photos_never_leak_from_a_random_split(tmp_path: Path):
    folder = photo_folder(tmp_path / "in", {f"{n}.png": (["a"], None) for n in range(30)})
    for n in range(15, 30):
        shutil.copy(folder / f"{n - 15}.png", folder / f"{n}.png")
    dataset = open_dataset(prepared(folder, tmp_path / "out").folder)
    split_of = {}
    for split in dataset.splits:
        records = dataset.records(split)
        split_of.update({records[index].image_id: split for index in range(len(records))})
    assert all(split_of[f"{n}.png"] == split_of[f"{n + 15}.png"] for n in range(15))
    assert set(split_of.values()) == {"train", "validation", "test"}


def test_unknown_allowed_tag(source: Path, tmp_path: Path):
    with pytest.raises(UsageError, match=r"'bleu'.*blue") as found:
        prepared(source, tmp_path, pruning=parse_pruning(["allow=red,bleu"]))
    assert found.value.exit_code == 2
    assert open_dataset(prepared(source, tmp_path, pruning=parse_pruning(["allow=red"])).folder).vocabulary.tags == (
        "red",
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [({"name": "My Photos"}, "--name"), ({"version": "1.0"}, "--version"), ({"image_size": 8}, "--image-size")],
)
def test_bad_options(options: dict, words: str):
    with pytest.raises(UsageError, match=words):
        PrepareOptions(**{"name": "demo", **options})


def test_a_killed_run_goes_on_and_ends_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """SIGKILL in the middle, twice; the third run's result is that of a run never interrupted."""
    folder = tmp_path / "in"
    rows = {f"{n:03d}.png": (["red"] if n % 2 else ["blue"], None) for n in range(400)}
    photo_folder(folder, rows)
    for n in range(400):  # large enough that decoding takes a while
        draw(folder / f"{n:03d}.png", rows[f"{n:03d}.png"][0], n, size=(420, 420))
    command = [sys.executable, "-m", "socialtag_jax.cli", "prepare", "--source", "tags-csv", "--workers", "1"]
    command += ["--input", str(folder), "--name", "demo", "--output"]
    partial = tmp_path / "killed" / "demo" / ".1.0.0.partial"
    for wanted in (1, 3):
        process = subprocess.Popen([*command, str(tmp_path / "killed")], stderr=subprocess.PIPE, start_new_session=True)
        deadline = time.monotonic() + 60
        while len(list(partial.glob("chunk-?????????"))) < wanted and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
        process.communicate(timeout=30)  # its workers hold the pipe: it ends only if they do
        assert not (tmp_path / "killed" / "demo" / "1.0.0").exists()
    done = len(list(partial.glob("chunk-?????????")))
    assert 3 <= done < 7
    result = subprocess.run([*command, str(tmp_path / "killed")], capture_output=True, text=True, check=True)
    assert "continuing an interrupted run" in result.stderr
    whole = prepared(folder, tmp_path / "whole").folder
    again = tmp_path / "killed" / "demo" / "1.0.0"
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }
    assert not partial.exists()


def test_opening_checks_the_folder(dataset: Dataset, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(dataset.folder, copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"incomplete data set: manifest\.json is missing"):
        open_dataset(copy)
    shutil.copy(dataset.folder / "manifest.json", copy)
    labels = copy / "tags.labels.txt"
    labels.write_text(labels.read_text().replace("red", "rot"))
    with pytest.raises(UserError, match=r"tags\.labels\.txt: the content is not what manifest\.json says"):
        open_dataset(copy)
    shutil.copy(dataset.folder / "tags.labels.txt", copy)
    shard = next(copy.glob("demo-train.tfrecord-*-of-?????"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"demo-train.* bytes, but manifest\.json says"):
        open_dataset(copy)
    shard.unlink()
    with pytest.raises(UserError, match="the file is missing"):
        open_dataset(copy)


def test_opening_finds_the_one_data_set_below(dataset: Dataset, tmp_path: Path):
    assert open_dataset(dataset.folder.parents[1]).folder == dataset.folder
    with pytest.raises(UserError, match="not a data set"):
        open_dataset(tmp_path)
    with pytest.raises(UserError, match="no such data set"):
        open_dataset(tmp_path / "nothing")
    for name in ("one", "two"):
        shutil.copytree(dataset.folder, tmp_path / name)
    with pytest.raises(UserError, match=r"holds 2 data sets.*name one of them"):
        open_dataset(tmp_path)
    with pytest.raises(UserError, match="no split 'holdout', only train, validation, test"):
        dataset.split("holdout")


def test_folders_without_our_files_count_as_made_by_tfds(dataset: Dataset, tmp_path: Path):
    """TFDS writes shards, dataset_info.json, features.json and labels, our builders rejects.csv: we count the rest."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in dataset.folder.iterdir():
        kept = path.name.startswith(("demo-", "dataset_info", "features", "rejects", "tags.labels"))
        if kept and path.suffix != ".index":
            shutil.copy(path, copy)
    opened = open_dataset(copy)
    assert opened.max_tags == dataset.max_tags
    np.testing.assert_array_equal(opened.statistics["test"].counts, dataset.statistics["test"].counts)
    assert opened.image_size is None


@pytest.mark.interop
def test_tensorflow_reads_equal_content(dataset: Dataset):
    """`tfds.builder_from_directory(...).as_dataset()`: the same encoded images, ids and tags, and pixels that fit."""
    tfds: Any = importlib.import_module("tensorflow_datasets")
    builder = tfds.builder_from_directory(dataset.folder)
    for split in dataset.splits:
        records = dataset.records(split)
        ours = {records[index].image_id: records[index] for index in range(len(records))}
        as_written = builder.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()})
        theirs = {
            example["image_id"].decode(): Record(
                example["image"], example["image_id"].decode(), tuple(example["tags"].tolist())
            )
            for example in tfds.as_numpy(as_written)
        }
        assert theirs == ours
        for example in tfds.as_numpy(builder.as_dataset(split=split)):
            with Image.open(io.BytesIO(ours[example["image_id"].decode()].image)) as image:
                # Two JPEG decoders, which enlarge the colour of noise in two ways.
                assert np.abs(np.asarray(image).astype(int) - example["image"]).mean() < 3


@pytest.mark.interop
def test_what_tfds_wrote_is_read_here(dataset: Dataset, tmp_path: Path):
    """Records, tags and statistics of a data set that TFDS stored by itself."""
    tf: Any = importlib.import_module("tensorflow")
    tfds: Any = importlib.import_module("tensorflow_datasets")
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "image_id": tfds.features.Text(),
            "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=["sea", "sun", "sand"])),
        }
    )
    records = dataset.records("train")
    images = [np.array(Image.open(io.BytesIO(records[index].image))) for index in range(6)]

    def examples() -> Any:
        for number, image in enumerate(images):
            yield {
                "image": image,
                "image_id": f"{number}.jpg",
                "tags": np.array([2, 0] if number % 2 else [], np.int64),
            }

    signature = {
        "image": tf.TensorSpec((None, None, 3), tf.uint8),
        "image_id": tf.TensorSpec((), tf.string),
        "tags": tf.TensorSpec((None,), tf.int64),
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name="beach",
        version="2.0.0",
        features=features,
        split_datasets={"train": tf.data.Dataset.from_generator(examples, output_signature=signature)},
        data_dir=tmp_path,
        disable_shuffling=True,
    )
    opened = open_dataset(tmp_path)
    assert opened.name == "beach/2.0.0"
    assert opened.vocabulary.tags == ("sea", "sun", "sand")
    found = opened.records("train")
    by_id = {found[index].image_id: found[index] for index in range(len(found))}
    assert {name: record.tags for name, record in by_id.items()} == {
        f"{number}.jpg": (0, 2) if number % 2 else () for number in range(6)
    }
    assert opened.statistics["train"].counts.tolist() == [3, 0, 3]
    for number, image in enumerate(images):
        assert np.abs(decode(by_id[f"{number}.jpg"].image, 64).astype(int) - image).mean() < 3


def test_manifest_lists_everything(dataset: Dataset):
    listed = json.loads((dataset.folder / "manifest.json").read_text())["files"]
    names = {path.name for path in dataset.folder.iterdir() if path.suffix != ".index"}
    assert {*listed, "manifest.json"} == names
