"""A data set's files that contradict each other: a manifest, dataset_info.json, statistics.json or labels that lie."""

import functools
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from socialtag_jax import files
from socialtag_jax.config import Suggestion
from socialtag_jax.errors import UserError
from socialtag_jax.evaluate import Scorer, evaluate
from socialtag_jax.shards.dataset import Dataset, open_dataset
from socialtag_jax.shards.tfrecord import RecordSource, write_shard
from socialtag_jax.shards.verification import verify
from tests.attempts import attempt
from tests.conftest import Socialtag
from tests.photos import colour_rows, photo_folder, prepared


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = photo_folder(tmp_path_factory.mktemp("source"), colour_rows(20))
    return prepared(source, tmp_path_factory.mktemp("data")).folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "copy")


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    """Edits a JSON file's content, in place or by what is returned."""
    content = json.loads(path.read_text())
    edited = edit(content)
    path.write_text(json.dumps(content if edited is None else edited))


def relist(folder: Path, *names: str) -> None:
    """Makes the manifest say what these files are by now: a lie that is told twice."""

    def edit(manifest: Any) -> None:
        for name in names:
            path = folder / name
            manifest["files"][name] = {"size": path.stat().st_size, "sha256": files.sha256(path)}

    change(folder / "manifest.json", edit)


def opened(folder: Path) -> Dataset:
    """With all metadata read."""
    dataset = open_dataset(folder)
    _ = dataset.statistics, dataset.reports, dataset.max_tags, dataset.image_size
    return dataset


def use(folder: Path) -> None:
    """Everything that commands ask a data set for."""
    dataset = opened(folder)
    for split in dataset.splits:
        records = dataset.records(split)
        assert [records[index] for index in range(len(records))]


def test_the_untouched_copy_is_fine(folder: Path):
    use(folder)
    assert verify(open_dataset(folder), stream=io.StringIO()) == (20, [])


def put(*keys: Any) -> Callable[[Any], None]:
    """Sets the field at these keys but the last one to the last one; `...` deletes it."""
    *path, last, value = keys

    def edit(content: Any) -> None:
        for key in path:
            content = content[key]
        if value is ...:
            del content[last]
        else:
            content[last] = value

    return edit


SHARD = "demo-train.tfrecord-00000-of-00001"
MANIFEST_LIES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "size of a label file": (put("files", "tags.labels.txt", "size", 3), "bytes, but manifest.json says 3"),
    "size of a shard": (put("files", SHARD, "size", 3), "bytes, but manifest.json says 3"),
    "hash of a label file": (put("files", "tags.labels.txt", "sha256", "0" * 64), "SHA-256 differs"),
    "size is a text": (put("files", SHARD, "size", "3"), "size' is '3', expected a whole number"),
    "size is negative": (put("files", SHARD, "size", -3), "size' is -3, expected a whole number"),
    "size is true": (put("files", SHARD, "size", True), "size' is True, expected a whole number"),
    "size is missing": (put("files", SHARD, "size", ...), "size' is missing"),
    "hash is a number": (put("files", "features.json", "sha256", 5), "sha256' is 5, expected a text"),
    "file is a number": (put("files", "features.json", 5), "features.json' is 5, expected an object"),
    "no labels": (put("files", "tags.labels.txt", ...), "does not list tags.labels.txt"),
    "no display forms": (put("files", "tags.display.txt", ...), "does not list tags.display.txt"),
    "no statistics": (put("files", "statistics.json", ...), "does not list statistics.json"),
    "no shard": (put("files", SHARD, ...), f"does not list {SHARD}"),
    "nothing": (put("files", {}), "does not list dataset_info.json"),
    "a file that is not there": (put("files", "more.txt", {"size": 1, "sha256": ""}), "the file is missing"),
    "a file elsewhere": (put("files", "../x", {"size": 1, "sha256": ""}), r"lists '\.\./x', which is no file's name"),
    "an absolute path": (put("files", "/etc/hosts", {"size": 1, "sha256": ""}), "which is no file's name"),
    "files is a list": (put("files", []), r"field 'files' is \[\], expected an object"),
    "no files": (put("files", ...), "field 'files' is missing"),
    "a list": (lambda _: [], r"holds \[\], expected an object"),
    "null": (lambda _: "null", "expected an object"),
}


@pytest.mark.parametrize("lie", MANIFEST_LIES)
def test_a_manifest_that_lies(folder: Path, lie: str):
    edit, words = MANIFEST_LIES[lie]
    change(folder / "manifest.json", edit)
    with pytest.raises(UserError, match=words) as caught:
        open_dataset(folder)
    assert "copy" in str(caught.value.where)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"files": NaN}', b"\0\0\0\0"],
    ids=["empty", "cut", "no UTF-8", "nested", "NaN", "zeros"],
)
@pytest.mark.parametrize("name", ["manifest.json", "dataset_info.json"])
def test_what_is_no_json(folder: Path, name: str, content: bytes):
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        open_dataset(folder)


@pytest.mark.parametrize("name", ["manifest.json", "dataset_info.json", "statistics.json", "tags.labels.txt", SHARD])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(folder: Path, name: str):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(UserError, match=r"Not a regular file|(is|are) missing"):
        open_dataset(folder)


def test_shards_that_nobody_knows(folder: Path):
    """Left over from another time, in the manifest or not: they would be left out without a word."""
    extra = folder / "demo-train.tfrecord-00001-of-00002"
    shutil.copy(folder / SHARD, extra)
    with pytest.raises(UserError, match=r"00001-of-00002: no split in dataset_info\.json has this shard"):
        open_dataset(folder)
    relist(folder, extra.name)
    with pytest.raises(UserError, match=r"00001-of-00002: no split in dataset_info\.json has this shard"):
        open_dataset(folder)


def split(name: str, content: Any) -> Any:
    return next(one for one in content["splits"] if one["name"] == name)


INFO_LIES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "name is a number": (put("name", 7), "field 'name' is 7, expected a text"),
    "no version": (put("version", ...), "field 'version' is missing"),
    "splits are an object": (put("splits", {}), r"field 'splits' is \{\}, expected a list of objects"),
    "a split is a text": (put("splits", ["train"]), "expected a list of objects"),
    "a split has no name": (put("splits", 0, "name", ...), r"field 'splits\.0\.name' is missing"),
    "lengths are a number": (put("splits", 0, "shardLengths", 3), "shardLengths' is 3, expected a list of whole"),
    "a length is negative": (put("splits", 0, "shardLengths", ["-3"]), "expected a list of whole numbers"),
    "a length is a fraction": (put("splits", 0, "shardLengths", [1.5]), "expected a list of whole numbers"),
    "too many records": (
        lambda content: split("train", content).update(shardLengths=["17"]),
        "counts 16 images of train; .* has 17",
    ),
    "too few records": (
        lambda content: split("train", content).update(shardLengths=["15"]),
        "counts 16 images of train; .* has 15",
    ),
    "one shard more": (lambda content: split("train", content).update(shardLengths=["8", "8"]), "does not list"),
    "a split twice": (lambda content: content["splits"].append(content["splits"][0]), "lists a split twice"),
    "no test split": (lambda content: content["splits"].remove(split("test", content)), "demo-test.* no split in"),
    "shards elsewhere": (put("splits", 0, "filepathTemplate", "../{SHARD_X_OF_Y}"), "which is no file's name"),
    "a shard from the root": (put("splits", 0, "filepathTemplate", "/etc/hosts"), "which is no file's name"),
    "a template of a number": (put("splits", 0, "filepathTemplate", 9), "filepathTemplate' is 9, expected a text"),
    "another format": (put("fileFormat", "riegeli"), "the shards are 'riegeli', expected 'tfrecord'"),
    "no format": (put("fileFormat", ...), "the shards are None, expected 'tfrecord'"),
}


@pytest.mark.parametrize("lie", INFO_LIES)
def test_a_dataset_info_that_lies(folder: Path, lie: str):
    edit, words = INFO_LIES[lie]
    change(folder / "dataset_info.json", edit)
    relist(folder, "dataset_info.json")
    with pytest.raises(UserError, match=words):
        use(folder)


def one_more(content: Any) -> None:
    content["splits"]["train"]["counts"][0] += 1


STATISTICS_LIES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "other tags": (put("vocabulary_sha256", "0" * 64), r"was counted for other tags than tags\.labels\.txt has"),
    "no tags": (put("vocabulary_sha256", ...), "field 'vocabulary_sha256' is missing"),
    "no splits": (put("splits", ...), "field 'splits' is missing"),
    "a split less": (put("splits", "test", ...), "has the splits train, validation; dataset_info.json has train"),
    "a split more": (put("splits", "dev", {}), "has the splits train, validation, test, dev; dataset_info"),
    "a tag less": (put("splits", "train", "counts", [1, 2]), "counts of train contradict themselves: 2 tags"),
    "a use more": (one_more, "counts of train contradict themselves"),
    "negative counts": (put("splits", "train", "counts", [-1, 2, 3, 4]), "expected a list of whole numbers"),
    "fractions": (put("splits", "train", "counts", [1.0, 2, 3, 4]), "expected a list of whole numbers"),
    "texts": (put("splits", "train", "counts", ["1", "2", "3", "4"]), "expected a list of whole numbers"),
    "an image more": (put("splits", "train", "histogram", [1, 8, 8]), "counts 17 images of train; .* has 16"),
    "no histogram": (put("splits", "train", "histogram", ...), "histogram' is missing"),
    "image size is a text": (put("image_size", "288"), "image_size' is '288', expected a whole number"),
    "image size is zero": (put("image_size", 0), "image_size' is 0, expected a whole number of at least 1"),
    "pruning is a number": (put("pruning", 3), "pruning' is 3, expected a list of objects"),
    "a rule without a mean": (put("pruning", 0, "mean_tags", ...), r"pruning\.0\.mean_tags' is missing"),
    "a rule that is a list": (put("pruning", 0, "rule", []), r"pruning\.0\.rule' is \[\], expected a text"),
}


@pytest.mark.parametrize("lie", STATISTICS_LIES)
def test_statistics_that_lie(folder: Path, lie: str):
    edit, words = STATISTICS_LIES[lie]
    change(folder / "statistics.json", edit)
    relist(folder, "statistics.json")
    with pytest.raises(UserError, match=words):
        use(folder)


@pytest.mark.parametrize("name", ["tags.labels.txt", "tags.display.txt"])
def test_two_tags_swapped(folder: Path, name: str):
    """The labels are not those that were counted; the display forms not those of the labels."""
    path = folder / name
    first, second, *rest = path.read_text().splitlines()
    path.write_text("".join(f"{line}\n" for line in (second, first, *rest)))
    relist(folder, name)
    with pytest.raises(UserError, match=r"tags\.display\.txt, line 1: .* is no way to write the tag"):
        use(folder)
    # In both files: then the statistics know better.
    other = folder / ("tags.display.txt" if name == "tags.labels.txt" else "tags.labels.txt")
    first, second, *rest = other.read_text().splitlines()
    other.write_text("".join(f"{line}\n" for line in (second, first, *rest)))
    relist(folder, other.name)
    with pytest.raises(UserError, match=r"statistics\.json: was counted for other tags than tags\.labels\.txt has"):
        use(folder)


def swap_counts(folder: Path, split: str) -> None:
    """Statistics that are consistent, and wrong."""

    def edit(content: Any) -> None:
        counts = content["splits"][split]["counts"]
        assert counts[0] != counts[-1]
        counts[0], counts[-1] = counts[-1], counts[0]

    change(folder / "statistics.json", edit)
    relist(folder, "statistics.json")


def test_consistent_statistics_of_another_data_set_are_found_by_reading(folder: Path):
    swap_counts(folder, "train")
    total, problems = verify(open_dataset(folder), stream=io.StringIO())
    assert total == 20
    assert problems == [f"{folder / 'statistics.json'}: the tag counts of train are not those of its records"]


def test_evaluation_refuses_counts_that_are_not_those_of_the_records(folder: Path):
    swap_counts(folder, "validation")
    dataset = open_dataset(folder)

    def score(images: np.ndarray) -> np.ndarray:
        return np.full((images.shape[0] * images.shape[1], len(dataset.vocabulary)), 0.5, np.float32)

    scorer = Scorer("half", dataset.vocabulary, 32, Suggestion(), 1, score, "")
    with pytest.raises(UserError, match=r"statistics\.json: the tag counts of validation are not those of its records"):
        evaluate(scorer, dataset, "validation", batch_size=4, threads=1, stream=io.StringIO())


def test_records_in_another_order_are_found_by_reading(folder: Path, socialtag: Socialtag):
    """A whole shard of the right size: every record's checksums are right, but the shard's hash is not."""
    path = folder / SHARD
    records = [RecordSource([path])[index] for index in range(16)]
    write_shard(path, iter(records[::-1]))
    assert len(open_dataset(folder).records("train")) == 16
    result = socialtag("stats", folder, "--verify")
    assert result.code == 1
    assert f"{path}: the content is not what manifest.json says (SHA-256 differs)" in result.err


def test_every_damaged_record_is_named_by_reading(folder: Path, socialtag: Socialtag):
    good = socialtag("stats", folder, "--verify")
    assert good.code == 0
    assert "verified: 20 records are as" in good.err
    path = folder / SHARD
    data = bytearray(path.read_bytes())
    source = RecordSource([path])
    for number in (3, 9):
        data[int(source.where(number).rpartition(" ")[2]) + 30] ^= 1
    path.write_bytes(data)
    result = socialtag("stats", folder, "--verify")
    assert result.code == 1
    assert all(f"{source.where(number)}: the checksum of the record's data" in result.err for number in (3, 9))
    assert "3 problems in 20 records" in result.err


WRONG: tuple[Any, ...] = (None, True, -1, 1.5, 10**400, "x", "../x", "\0", [], {}, [[]], float("nan"))


def leaves(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in a JSON document; of a long list, that of the first items."""
    items = list(content.items()) if isinstance(content, dict) else []
    items = list(enumerate(content[:2])) if isinstance(content, list) else items
    return [path, *(leaf for key, item in items for leaf in leaves(item, (*path, key)))]


@pytest.mark.parametrize("name", ["dataset_info.json", "statistics.json", "manifest.json", "features.json"])
def test_any_field_of_any_kind(original: Path, tmp_path: Path, name: str):
    """Each field of a file in turn, each kind of wrong value, with a manifest that agrees: an error, or no harm."""
    folder = shutil.copytree(original, tmp_path / "copy")
    text, manifest = (folder / name).read_text(), (folder / "manifest.json").read_text()
    before = open_dataset(folder)
    tried = refused = 0
    for path in leaves(json.loads(text)):
        if not path:
            continue
        for wrong in WRONG:
            (folder / "manifest.json").write_text(manifest)
            (folder / name).write_text(text)
            change(folder / name, put(*path, wrong))
            if name != "manifest.json":
                relist(folder, name)
            tried += 1
            dataset, error = attempt(functools.partial(opened, folder))
            if error is not None:
                assert str(error.where).startswith(str(folder))
                refused += 1
            else:
                assert dataset.splits == before.splits
                assert dataset.vocabulary == before.vocabulary
                assert dataset.max_tags == before.max_tags
    assert tried > 100
    assert refused or name == "features.json"
