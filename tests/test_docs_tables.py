"""Tables of the documentation against what the code does: they fail when the two drift apart."""

import argparse
import json
import re
from pathlib import Path

import pytest

from socialtag_jax import cli, tagger
from socialtag_jax.export import export_bundle
from socialtag_jax.rules import BALANCING, PRESETS, PRUNING
from socialtag_jax.serve.app import tagging_app
from socialtag_jax.serve.feedback import FeedbackFile
from socialtag_jax.serve.limits import Limits
from socialtag_jax.shards import example
from socialtag_jax.shards.dataset import open_dataset
from tests.bundles import random_model
from tests.docs_pages import PAGES
from tests.evaluations import written_dataset
from tests.photos import colour_rows, photo_folder, prepared

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras, with NumPy 2


def table(page: str, first: str) -> list[list[str]]:
    """The cells of the page's table whose head begins with `first`, without the head."""
    text = PAGES[page].read_text(encoding="utf-8")
    (found,) = re.findall(rf"^\| {re.escape(first)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in found.splitlines()]


def names(cells: list[str]) -> list[str]:
    """What stands in backticks in these cells."""
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def first_column(page: str, first: str) -> list[str]:
    return names([row[0] for row in table(page, first)])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of photos one of which is none."""
    source = photo_folder(tmp_path_factory.mktemp("photos"), colour_rows(30))
    (source / "photos" / "000.png").write_bytes(b"no photo")
    return prepared(source, tmp_path_factory.mktemp("data")).folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With all formats."""
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    export_bundle(random_model(), folder, formats=tuple(tagger.FORMATS))
    return folder


def test_a_data_sets_files(dataset: Path):
    shard = re.compile(r"demo-(train|validation|test)\.tfrecord-\d{5}-of-\d{5}")
    found = {shard.sub("NAME-SPLIT.tfrecord-00000-of-00008", path.name) for path in dataset.iterdir()}
    assert set(first_column("tfrecords/README.md", "file")) == found


def test_a_records_features(dataset: Path):
    (path, *_) = sorted(dataset.glob("demo-train.tfrecord-*-of-?????"))
    content = path.read_bytes()
    # TFRecord: the length in 8 bytes, its checksum in 4, the record.
    record = example._example_class().FromString(content[12 : 12 + int.from_bytes(content[:8], "little")])
    found = {name: one.WhichOneof("kind") for name, one in record.features.feature.items()}
    kinds = {"bytes": "bytes_list", "int64 list": "int64_list"}
    rows = table("tfrecords/README.md", "feature")
    assert {names([name])[0]: kinds[kind] for name, kind, _ in rows} == found
    image = record.features.feature["image"].bytes_list.value[0]
    assert image.startswith(b"\xff\xd8\xff")  # JPEG
    assert str(open_dataset(dataset).image_size) in rows[0][2]


def test_a_bundles_description(bundle: Path):
    rows = {names([row[0]])[0]: row[1] for row in table("docs/reference/bundle.md", "key")}
    description = json.loads((bundle / "tagger.json").read_text())
    assert list(rows) == list(description)
    assert rows["format_version"].startswith(f"{tagger.FORMAT_VERSION};")
    assert f"format version {tagger.FORMAT_VERSION}." in PAGES["docs/reference/bundle.md"].read_text()
    told = names([rows["provenance"]])
    provenance = description["provenance"]
    assert set(told) == {*provenance, *provenance["dataset"]}


def test_a_bundles_files(bundle: Path):
    assert set(first_column("docs/consumers.md", "file")) == {path.name for path in bundle.iterdir()}


@pytest.mark.parametrize(
    ("head", "expected"),
    [("`--pruning`", {*PRUNING, *PRESETS}), ("`--balancing`", set(BALANCING))],
)
def test_rules(head: str, expected: set[str]):
    told = first_column("docs/guides/own_photos.md", head)
    assert {rule.partition("=")[0] for rule in told} == expected


def test_the_readmes_commands():
    (action,) = [one for one in cli._parser()[0]._actions if isinstance(one, argparse._SubParsersAction)]
    told = {words.split()[1] for words in first_column("README.md", "command") if words.startswith("socialtag ")}
    assert told == set(action.choices)


def test_what_evaluate_writes(bundle: Path, socialtag, tmp_path: Path):
    labels = [[number % 5] for number in range(4)]
    tags = random_model().vocabulary
    written_dataset(tmp_path / "data", tags, labels, [f"{number}.jpg" for number in range(4)], labels)
    output = tmp_path / "evaluation"
    assert socialtag("evaluate", bundle, "--dataset", tmp_path / "data", "--output", output).code == 0
    assert set(first_column("docs/guides/report.md", "file")) == {path.name for path in output.iterdir()}


def test_the_apis_paths(bundle: Path, tmp_path: Path):
    app = tagging_app(
        tagger.Tagger.load(bundle), Limits(), FeedbackFile(tmp_path / "feedback.jsonl"), hosts=["localhost"]
    )
    told = {tuple(one.split()) for one in first_column("docs/guides/export_and_serve.md", "path")}
    described = {(method.upper(), path) for path, one in app.openapi()["paths"].items() for method in one}
    # The description does not describe itself.
    assert told == {*described, ("GET", str(app.openapi_url))}
