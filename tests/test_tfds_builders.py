"""The builders of `tfrecords/`: what TFDS writes with them is what `prepare` writes, and it trains here.

Without TensorFlow TFDS writes array_record, in this process; `tfds build`, TFRecord and Apache Beam are interop tests.
"""

import csv
import dataclasses
import importlib.util
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from socialtag_jax.config import Experiment, Input, Model, Stage
from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.parallel import Devices
from socialtag_jax.rules import parse_pruning
from socialtag_jax.shards import tfds_examples
from socialtag_jax.shards.dataset import Dataset, open_dataset
from socialtag_jax.shards.images import canonical_jpeg
from socialtag_jax.shards.prepare import PrepareOptions, prepare
from socialtag_jax.shards.tfds_examples import PlannedPhoto, Reject
from socialtag_jax.sources import harrison, mirflickr, tags_csv
from socialtag_jax.sources.photo import Photo
from socialtag_jax.train import Trainer
from tests.photos import colour_rows, draw, photo_folder

TFRECORDS = Path(__file__).parents[1] / "tfrecords"
NAMES = ("harrison", "mirflickr", "tags_csv")

needs_writer = pytest.mark.skipif(
    importlib.util.find_spec("importlib_resources") is None,
    reason="TFDS writes data sets only with importlib_resources, which the extras test and tfds install",
)


# ---- small data sets as found on disk


def small_harrison(root: Path) -> Path:
    paths = [f"instagram_dataset/{place}/image_{number}.jpg" for place in ("sea", "city") for number in range(12)]
    for number, path in enumerate(paths):
        draw(root / path, ["red"], number)
    (root / "data_list.txt").write_text("".join(f"{path}\n" for path in paths))
    (root / "tag_list.txt").write_text("".join(f"{path.split('/')[1]} Love \n" for path in paths))
    (root / "vocab_index.txt").write_text("Love 0\nsea 1\ncity 2\n")
    return root


def small_mirflickr(root: Path) -> Path:
    for number in (*range(15), *range(10_000, 10_015)):
        colour = ("red", "red", "green", "blue")[number % 4]
        draw(root / f"images/{number // 10_000}/{number}.jpg", [colour], number)
        tag_file = root / f"tags/{number // 10_000}/{number}.txt"
        tag_file.parent.mkdir(parents=True, exist_ok=True)
        tag_file.write_text(f"{colour}\nNew York\nonly{number}\n")
    # Two photos of one content, which must not be parted; and one that is none, though without it the order of the
    # tags by frequency is the same: the builders count the tags of all photos, `prepare` those of the good ones.
    shutil.copy(root / "images/0/1.jpg", root / "images/1/10001.jpg")
    (root / "images/1/10003.jpg").write_bytes(b"broken")
    return root


def small_tags_csv(root: Path) -> Path:
    folder = photo_folder(root, colour_rows(30))
    (folder / "photos/003.png").write_bytes(b"")
    return folder


SMALL = {"harrison": small_harrison, "mirflickr": small_mirflickr, "tags_csv": small_tags_csv}
PRUNING = {"harrison": (), "mirflickr": ("camera-makers", "digits", "min-images=2", "min-tags=1"), "tags_csv": ()}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The folder of each small data set."""
    return {name: make(tmp_path_factory.mktemp("found") / name) for name, make in SMALL.items()}


def read(name: str, folder: Path) -> list[Photo]:
    if name == "harrison":
        return harrison.read(folder, warn=pytest.fail)
    if name == "mirflickr":
        return list(mirflickr.read(folder, warn=pytest.fail))
    return tags_csv.read(folder, warn=pytest.fail)


@pytest.fixture(scope="module")
def prepared(found: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Dataset]:
    """The same photos through `prepare`, which the builders are measured by."""
    output = tmp_path_factory.mktemp("prepared")
    datasets = {}
    for name, folder in found.items():
        options = PrepareOptions(name=name, pruning=parse_pruning(PRUNING[name]), workers=1)
        result = prepare(read(name, folder), output, options, log=lambda _: None, stream=io.StringIO())
        datasets[name] = open_dataset(result.folder)
    return datasets


# ---- what TFDS makes of them, without TensorFlow


def builder_class(name: str) -> Any:
    """The builder, imported as `tfds build tfrecords/NAME` does it."""
    utils: Any = importlib.import_module("tensorflow_datasets.core.utils")
    with utils.add_sys_path(TFRECORDS):
        return tfds.core.community.builder_cls_from_module(f"{name}.{name}_dataset_builder")


def build(name: str, manual_dir: Path, data_dir: Path, *, file_format: str = "array_record", **config: Any) -> Any:
    """Builds in this process, under the configuration `small`."""
    cls = builder_class(name)
    chosen = cls.builder_config_cls(name="small", **{"pruning": PRUNING[name], "beam": False, **config})
    builder = cls(data_dir=data_dir, config=chosen, file_format=file_format)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
    return builder


Content = dict[str, dict[str, tuple[bytes, set[str]]]]
"""By split and image id: the encoded image and the tags' names."""


def content(dataset: Dataset) -> Content:
    by_split: Content = {}
    for split in dataset.splits:
        records = dataset.records(split)
        by_split[split] = {
            record.image_id: (record.image, {dataset.vocabulary.tags[tag] for tag in record.tags})
            for record in (records[index] for index in range(len(records)))
        }
    return by_split


def content_of_source(builder: Any) -> Content:
    names = builder.info.features["tags"].feature.names
    by_split: Content = {}
    for split in builder.info.splits:
        source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        by_split[split] = {
            example["image_id"].decode(): (example["image"], {names[tag] for tag in example["tags"]})
            for example in (source[index] for index in range(len(source)))
        }
    return by_split


def rejects(folder: Path) -> list[dict[str, str]]:
    with (folder / "rejects.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@needs_writer
@pytest.mark.parametrize("name", NAMES)
def test_array_record_equals_prepare(
    name: str, found: Mapping[str, Path], prepared: Mapping[str, Dataset], tmp_path: Path
):
    built = build(name, found[name], tmp_path)
    ours = prepared[name]
    # Read back as a stranger would, who has the folder alone.
    builder = tfds.builder_from_directory(built.data_path)
    assert builder.info.full_name == f"{name}/small/1.0.0"
    assert content_of_source(builder) == content(ours)
    for file in ("tags.labels.txt", "tags.display.txt"):
        assert (built.data_path / file).read_text() == (ours.folder / file).read_text()
    assert rejects(Path(built.data_path)) == rejects(ours.folder)
    assert not (built.data_path / "plan").exists()


@needs_writer
def test_what_is_not_tfrecord_is_refused_by_name(found: Mapping[str, Path], tmp_path: Path):
    folder = build("tags_csv", found["tags_csv"], tmp_path).data_path
    with pytest.raises(UserError, match="the shards are 'array_record', expected 'tfrecord'"):
        open_dataset(Path(folder))


def test_records_and_rejects_by_hand(found: Mapping[str, Path], prepared: Mapping[str, Dataset], tmp_path: Path):
    """The small sets hold what the tests above are meant to see."""
    by_split = content(prepared["mirflickr"])
    image, tags = {**by_split["train"], **by_split["validation"], **by_split["test"]}["images/0/4.jpg"]
    assert image == canonical_jpeg(found["mirflickr"] / "images/0/4.jpg")
    assert tags == {"red", "new york"}
    assert sum(map(len, by_split.values())) == 29
    twins = [{"images/0/1.jpg", "images/1/10001.jpg"} & members.keys() for members in by_split.values()]
    assert sorted(map(len, twins)) == [0, 0, 2]
    (reject,) = rejects(prepared["mirflickr"].folder)
    assert reject["image_id"] == "images/1/10003.jpg"
    assert reject["where"].endswith("tags/1/10003.txt")


@needs_writer
def test_config_reaches_the_images(found: Mapping[str, Path], tmp_path: Path):
    by_split = content_of_source(build("harrison", found["harrison"], tmp_path, image_size=40))
    assert sum(map(len, by_split.values())) == 24
    for members in by_split.values():
        for image_id, (image, _) in members.items():
            assert image == canonical_jpeg(found["harrison"] / image_id, 40)


@needs_writer
def test_harrison_overlay_and_csv_separator(found: Mapping[str, Path], tmp_path: Path):
    fixed = tmp_path / "fixed/instagram_dataset/sea/image_3.jpg"
    draw(fixed, ["blue"], 99)
    built = build("harrison", found["harrison"], tmp_path / "data", overlay=str(tmp_path / "fixed"))
    images = {key: image for members in content_of_source(built).values() for key, (image, _) in members.items()}
    assert images["instagram_dataset/sea/image_3.jpg"] == canonical_jpeg(fixed)
    folder = photo_folder(tmp_path / "csv", {f"{number}.png": (["a"], None) for number in range(6)})
    (folder / "tags.csv").write_text("path,tags\n" + "".join(f"{number}.png,New York;sea\n" for number in range(6)))
    built = build("tags_csv", folder, tmp_path / "data", tag_separator=";")
    assert built.info.features["tags"].feature.names == ["new york", "sea"]


@needs_writer
def test_leaks_are_refused_by_name(tmp_path: Path):
    rows = {f"{n}.png": (["a"], split) for n, split in enumerate(["train"] * 5 + ["validation", "test"])}
    folder = photo_folder(tmp_path / "in", rows)
    shutil.copy(folder / "0.png", folder / "6.png")
    with pytest.raises(UserError, match=r"the same photo stands in two splits.*0\.png .*allow_leaks in --config"):
        build("tags_csv", folder, tmp_path / "out")
    built = build("tags_csv", folder, tmp_path / "out", allow_leaks=True)
    assert {name: split.num_examples for name, split in built.info.splits.items()} == {
        "train": 5,
        "validation": 1,
        "test": 1,
    }


@needs_writer
def test_no_tag_left(found: Mapping[str, Path], tmp_path: Path):
    with pytest.raises(UserError, match=r"no tag is left after 'min-images=101' -- loosen --pruning"):
        build("mirflickr", found["mirflickr"], tmp_path, pruning=("mirflickr",))


@pytest.mark.parametrize("name", NAMES)
def test_defaults(name: str):
    """Of the configuration that is built unless told otherwise, and of one's own."""
    cls = builder_class(name)
    (default,) = cls.BUILDER_CONFIGS
    for config in (default, cls.builder_config_cls(name="small")):
        assert (config.image_size, config.seed, config.allow_leaks) == (288, 0, False)
        assert (config.pruning, config.beam) == ((("mirflickr",), True) if name == "mirflickr" else ((), False))


@pytest.mark.parametrize(("option", "value"), [("image_size", 8), ("seed", -1)])
def test_bad_config(option: str, value: int):
    with pytest.raises(UsageError, match=f"--config: {option} is {value}, expected at least"):
        builder_class("harrison").builder_config_cls(name="small", **{option: value})


@pytest.mark.parametrize(
    ("pruning", "words"),
    [("mirflickr", "pruning is 'mirflickr', expected a list"), (["nosuch"], "there is no rule 'nosuch'")],
)
def test_bad_pruning(pruning: object, words: str):
    with pytest.raises(UsageError, match=f"--config: {words}"):
        builder_class("harrison").builder_config_cls(name="small", pruning=pruning)


@needs_writer
@pytest.mark.parametrize(
    ("package", "options", "words"),
    [
        ("tensorflow", {"file_format": "tfrecord"}, r"--file_format: TFDS writes the format tfrecord only with Tensor"),
        (
            "apache_beam",
            {"beam": True},
            r"--config: Apache Beam is not installed -- pip install 'socialtag-jax\[tfds\]'",
        ),
    ],
)
def test_missing_packages_are_named_before_the_work(
    package: str, options: dict[str, Any], words: str, found: Mapping[str, Path], tmp_path: Path
):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(UserError, match=words):
        build("tags_csv", found["tags_csv"], tmp_path, **options)


def test_neither_tensorflow_nor_beam_is_imported():
    code = (
        "import sys, socialtag_jax.shards.tfds_builder\n"
        "assert not {'tensorflow', 'apache_beam'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_plan_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tfds_examples, "_PLAN_PHOTOS", 2)
    photos = [PlannedPhoto(f"/in/{n}.jpg", f"ü{n}.jpg", tuple(range(n)), "tags.csv, row 1") for n in range(5)]
    paths = tfds_examples.write_plan(tfds.core.Path(tmp_path) / "train", photos)
    assert [Path(path).name for path in paths] == ["00000.jsonl", "00001.jsonl", "00002.jsonl"]
    assert [photo for path in paths for photo in tfds_examples.read_plan(path)] == photos


def test_examples_in_order_with_the_rejects_aside(tmp_path: Path):
    draw(tmp_path / "a.jpg", ["red"], 0)
    photos = [PlannedPhoto(str(tmp_path / f"{name}.jpg"), name, (0, 2), "row") for name in ("a", "b")]
    found: list[Reject] = []
    examples = dict(tfds_examples.examples(photos, 32, found.append))
    image = canonical_jpeg(tmp_path / "a.jpg", 32)
    assert examples == {"a": {"image": image, "image_id": "a", "tags": [0, 2]}}
    assert found == [Reject("b", "no such file", "row")]


# ---- `tfds build`, with TensorFlow and Apache Beam

BUILDS: dict[str, list[str]] = {
    # data set -> options beyond the folders
    "harrison": [],
    "mirflickr": [
        f'--config={{"name": "small", "pruning": {json.dumps(PRUNING["mirflickr"])}}}',
        # Apache Beam's direct runner in Python, in two processes that know nothing but what is sent to them.
        "--beam_pipeline_options=runner=FnApiRunner,direct_running_mode=multi_processing,direct_num_workers=2",
    ],
    "tags_csv": [],
}


@pytest.fixture(scope="module")
def tfds_build(found: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[Path, str]]:
    """The folder that the command wrote, and what it said, for each data set."""
    output = tmp_path_factory.mktemp("tfds")
    results = {}
    for name, options in BUILDS.items():
        command = [str(Path(sys.executable).with_name("tfds")), "build", str(TFRECORDS / name), *options]
        command += [f"--data_dir={output}", f"--manual_dir={found[name]}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-4000:]
        config = "small" if options else "default"
        results[name] = (output / name / config / "1.0.0", done.stdout)
    return results


@pytest.mark.interop
@pytest.mark.parametrize("name", NAMES)
def test_tfds_build_equals_prepare(
    name: str, tfds_build: Mapping[str, tuple[Path, str]], prepared: Mapping[str, Dataset]
):
    folder, said = tfds_build[name]
    built, ours = open_dataset(folder), prepared[name]
    assert built.name == f"{name}/1.0.0"
    assert content(built) == content(ours)
    assert (built.vocabulary.tags, built.vocabulary.displays) == (ours.vocabulary.tags, ours.vocabulary.displays)
    for split, statistics in ours.statistics.items():
        np.testing.assert_array_equal(built.statistics[split].counts, statistics.counts)
    rejected = rejects(folder)
    assert rejected == rejects(ours.folder)
    assert len(rejected) == (0 if name == "harrison" else 1)
    assert ("1 of 30 photos cannot be decoded, see rejects.csv" in said) == bool(rejected)
    assert not (folder / "plan").exists()


@pytest.mark.interop
@pytest.mark.parametrize("name", NAMES)
def test_tensorflow_reads_what_tfds_build_wrote(
    name: str, tfds_build: Mapping[str, tuple[Path, str]], prepared: Mapping[str, Dataset]
):
    builder: Any = tfds.builder_from_directory(tfds_build[name][0])
    names = builder.info.features["tags"].feature.names
    by_split = {}
    for split in builder.info.splits:
        examples = builder.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()})
        by_split[split] = {
            example["image_id"].decode(): (example["image"], {names[tag] for tag in example["tags"]})
            for example in tfds.as_numpy(examples)
        }
    assert by_split == content(prepared[name])


@pytest.mark.interop
def test_what_tfds_build_wrote_trains(tfds_build: Mapping[str, tuple[Path, str]], tmp_path: Path):
    experiment = Experiment(
        name="built",
        weights="random",
        model=Model(input_size=48, hidden_units=32),
        input=Input(batch_size=8, eval_batch_size=8),
        stages=(Stage(epochs=1, freeze_layers=19),),
        debug_batches=1,
    )
    dataset = open_dataset(tfds_build["mirflickr"][0])
    trainer = Trainer(experiment, dataset, tmp_path, devices=Devices(), log=lambda _: None, stream=io.StringIO())
    result = trainer.run()
    assert dataclasses.astuple(result.position)[3] == 1
    assert '"kind": "validation"' in (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.interop
def test_the_second_build_does_nothing(tfds_build: Mapping[str, tuple[Path, str]], found: Mapping[str, Path]):
    folder, _ = tfds_build["tags_csv"]
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    builder = builder_class("tags_csv")(data_dir=folder.parents[2])
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=found["tags_csv"]))
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.interop
def test_beam_in_this_process_writes_the_same_files(found: Mapping[str, Path], tmp_path: Path):
    """Beam or not: equal records in equal shards, array_record as well."""
    direct = build("mirflickr", found["mirflickr"], tmp_path / "direct").data_path
    cls = builder_class("mirflickr")
    config = cls.builder_config_cls(name="small", pruning=PRUNING["mirflickr"])
    beam: Any = importlib.import_module("apache_beam")
    options = tfds.download.DownloadConfig(
        manual_dir=found["mirflickr"],
        beam_options=beam.options.pipeline_options.PipelineOptions(["--runner=FnApiRunner"]),
    )
    builder = cls(data_dir=tmp_path / "beam", config=config, file_format="array_record")
    builder.download_and_prepare(download_config=options)
    assert content_of_source(builder) == content_of_source(tfds.builder_from_directory(direct))
    assert rejects(Path(builder.data_path)) == rejects(Path(direct))
