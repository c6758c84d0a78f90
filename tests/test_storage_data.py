"""Data sets and bundles on `gs://`: as those on disk, and the command line's words where it must be the disk."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from socialtag_jax import Tagger, open_dataset
from socialtag_jax.errors import UserError
from socialtag_jax.export import export_bundle
from socialtag_jax.shards.dataset import Dataset
from socialtag_jax.shards.example import Record
from socialtag_jax.shards.tfrecord import index_path
from tests.bundles import random_bundle, random_model
from tests.conftest import Bucket
from tests.gcs_emulator import Fault
from tests.photos import colour_rows, photo_folder, prepared


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`DIR/demo/1.0.0`."""
    source = photo_folder(tmp_path_factory.mktemp("source"), colour_rows(30))
    return prepared(source, tmp_path_factory.mktemp("data")).folder


@pytest.fixture
def tfds_folder(local: Path, tmp_path: Path) -> Path:
    """As TFDS leaves it: without what only `prepare` writes."""
    folder = tmp_path / "demo" / "1.0.0"
    shutil.copytree(local, folder)
    for name in ("manifest.json", "statistics.json", "rejects.csv", "near_duplicates.csv"):
        (folder / name).unlink(missing_ok=True)
    for index in folder.glob("*.index"):
        index.unlink()
    return folder


def records_of(dataset: Dataset) -> dict[str, list[Record]]:
    found = {split: dataset.records(split) for split in dataset.splits}
    return {split: [records[index] for index in range(len(records))] for split, records in found.items()}


@pytest.mark.parametrize("below", ["data/demo/1.0.0", "data/demo", "data"])
def test_a_data_set_is_the_same_from_either_place(bucket: Bucket, local: Path, below: str):
    bucket.upload(local, "data/demo/1.0.0")
    bucket.emulator.inject(Fault("503", times=3), Fault("short", part="alt=media", times=3))
    remote, here = open_dataset(f"{bucket.root}/{below}"), open_dataset(local)
    assert str(remote.location) == f"{bucket.root}/data/demo/1.0.0"
    assert (remote.name, remote.fingerprint) == (here.name, here.fingerprint)
    assert remote.vocabulary == here.vocabulary
    assert remote.statistics["train"].max_tags == here.statistics["train"].max_tags
    assert (remote.image_size, remote.content_hashed) == (here.image_size, True)
    assert set(remote.splits) == {"train", "validation", "test"}
    assert records_of(remote) == records_of(here)


def test_only_the_splits_in_use_are_fetched(bucket: Bucket, local: Path):
    folder = bucket.upload(local, "data")
    dataset = open_dataset(folder)
    assert len(dataset.records("test")) == 3
    assert {path.name.split(".")[0] for path in dataset.folder.glob("*.tfrecord-*")} == {"demo-test"}


def test_a_data_set_of_tfds(bucket: Bucket, tfds_folder: Path):
    here = open_dataset(tfds_folder)
    folder = bucket.upload(tfds_folder, "data")
    remote = open_dataset(folder)
    assert remote.fingerprint == here.fingerprint
    assert not remote.content_hashed
    assert remote.max_tags == here.max_tags == 2
    assert records_of(remote) == records_of(here)
    # Reading leaves indexes behind, which belong to no data set's content.
    assert index_path(here.split("train").shards[0]).exists()
    assert open_dataset(tfds_folder).fingerprint == here.fingerprint
    assert open_dataset(folder).shard_states("test") == remote.shard_states("test")
    shard = next(tfds_folder.glob("*-test.tfrecord-*"))
    (folder / shard.name).write_bytes(bytes(shard.stat().st_size))
    changed = open_dataset(folder)
    assert changed.fingerprint == remote.fingerprint
    assert changed.shard_states("test") != remote.shard_states("test")
    assert changed.shard_states("train") == remote.shard_states("train")


def test_what_is_wrong_in_the_bucket(bucket: Bucket, local: Path):
    with pytest.raises(UserError, match=rf"{bucket.root}/data: no such data set"):
        open_dataset(bucket.root / "data")
    bucket.upload(local, "data/a")
    bucket.upload(local, "data/b")
    with pytest.raises(UserError, match="holds 2 data sets -- name one of them: gs://"):
        open_dataset(bucket.root / "data")
    shard = next(local.glob("*-train.tfrecord-*[0-9]"))
    content = shard.read_bytes()
    (bucket.root / "data/a" / shard.name).write_bytes(content[::-1])
    with pytest.raises(UserError, match=rf"data/a/{shard.name}: the content is not what .*SHA-256"):
        open_dataset(bucket.root / "data/a").records("train")
    (bucket.root / "data/a" / shard.name).write_bytes(content[1:])
    with pytest.raises(UserError, match=rf"data/a/{shard.name}: {len(content) - 1} bytes, but manifest.json says"):
        open_dataset(bucket.root / "data/a")
    (bucket.root / "data/b/tags.labels.txt").write_bytes((local / "tags.labels.txt").read_bytes()[::-1])
    with pytest.raises(UserError, match=r"data/b/tags\.labels\.txt: the content is not what manifest\.json says"):
        open_dataset(bucket.root / "data/b")


def test_stats_and_preview(bucket: Bucket, local: Path, socialtag, tmp_path: Path):
    folder = bucket.upload(local, "data")
    here, there = (json.loads(socialtag("stats", path, "--json").out) for path in (local, folder))
    assert there.pop("folder") == str(folder)
    here.pop("folder")
    assert there == here
    sheets = []
    for path in (local, folder):
        result = socialtag("preview", path, "--output", tmp_path / "sheet.png")
        assert result.code == 0, result.err
        sheets.append((tmp_path / "sheet.png").read_bytes())
    assert sheets[0] == sheets[1]


def test_bundles(bucket: Bucket, tmp_path: Path):
    here, there = random_bundle(tmp_path / "here.tagger"), bucket.root / "there.tagger"
    bucket.emulator.inject(Fault("503", method="POST", times=2))
    export_bundle(random_model(), there)
    last = max(there.iterdir(), key=lambda path: path.stat().generation)
    assert last.name == "tagger.json"
    with pytest.raises(UserError, match=r"there\.tagger: exists already"):
        export_bundle(random_model(), there)

    bucket.emulator.inject(Fault("503", part="there.tagger", times=3), Fault("short", part="alt=media", times=3))
    photos = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    remote = Tagger.load(str(there))
    np.testing.assert_array_equal(remote.probabilities(photos), Tagger.load(here).probabilities(photos))
    with pytest.raises(UserError, match=r"gs://.*/other: not a bundle: no tagger\.json"):
        Tagger.load(bucket.root / "other")
    (there / "tags.txt").write_bytes(b"x\n")
    with pytest.raises(UserError, match="the file was changed"):
        Tagger.load(there)


def test_an_export_whose_upload_broke_off_is_repeated(bucket: Bucket, tmp_path: Path):
    here, there = random_bundle(tmp_path / "here.tagger"), bucket.root / "there.tagger"
    parts = {path.name for path in here.iterdir()}
    # The description is the last object, and is refused for good.
    bucket.emulator.inject(Fault("403", method="POST", part="/upload/", times=1, after=len(parts) - 1))
    with pytest.raises(UserError, match=r"tagger\.json: no permission"):
        export_bundle(random_model(), there)
    assert {path.name for path in there.iterdir()} == parts - {"tagger.json"}
    (there / "model.keras").write_bytes(b"of an export with --keras that was killed, too")
    export_bundle(random_model(), there)
    assert {path.name for path in there.iterdir()} == parts
    photos = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(
        Tagger.load(there).probabilities(photos), Tagger.load(here).probabilities(photos), strict=True
    )


@pytest.mark.parametrize("name", ["config.json", "checkpoints/4/x", "tagger.json"])
def test_an_export_to_a_folder_with_something_else_is_refused(bucket: Bucket, name: str):
    (bucket.root / "run" / "tags.txt").write_bytes(b"x")
    (bucket.root / "run" / name).write_bytes(b"x")
    with pytest.raises(UserError, match="/run: exists already"):
        export_bundle(random_model(), bucket.root / "run")


@pytest.mark.parametrize(
    "arguments",
    [
        ["prepare", "--source", "tags-csv", "--input", "x", "--output", "gs://bucket/data"],
        ["prepare", "--source", "tags-csv", "--input", "gs://bucket/photos", "--output", "x"],
        ["stats", "gs://bucket/photos", "--source", "tags-csv"],
        ["train", "gs://bucket/mine.py", "--dataset", "x", "--workdir", "y"],
        ["sweep", "mine.py", "--dataset", "x", "--output", "gs://bucket/sweep"],
        ["predict", "x", "gs://bucket/photo.jpg"],
        ["weights", "convert", "gs://bucket/x.h5", "--output", "x"],
    ],
)
def test_what_must_be_on_this_computer(socialtag, arguments: list[str]):
    result = socialtag(*arguments)
    assert result.code == 2
    assert "must be on this computer -- `gcloud storage rsync FOLDER gs://... --recursive` copies to" in result.err


def test_a_bad_address_is_a_usage_error(socialtag):
    result = socialtag("stats", "gs://Bucket/data")
    assert result.code == 2
    assert "gs://Bucket/data: expected gs://BUCKET/FOLDER" in result.err
