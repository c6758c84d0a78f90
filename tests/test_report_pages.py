"""The pages of `evaluate` and `report`: complete, small, and safe from what tags and paths hold."""

import html
import json
import math
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from socialtag_jax import trained
from socialtag_jax.config import Suggestion
from socialtag_jax.errors import UserError
from socialtag_jax.evaluate import Evaluation, Scorer
from socialtag_jax.report import comparison_page, evaluation_files, page
from socialtag_jax.report.evaluation_page import Training, evaluation_page, write_report
from socialtag_jax.report.thumbnails import MOST_BYTES
from socialtag_jax.report.training_curves import TrainingCurves
from socialtag_jax.shards.dataset import Dataset
from socialtag_jax.tags import TagVocabulary
from tests.conftest import Socialtag
from tests.evaluations import evaluation_of, written_dataset
from tests.report_pages import (
    HOSTILE,
    IMAGES,
    PATH,
    TAGS,
    comparison_of,
    hostile_dataset,
    page_of,
    random_evaluation,
    two_saved,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return hostile_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def evaluation(dataset: Dataset) -> Evaluation:
    return random_evaluation(dataset, 0)


@pytest.fixture(scope="module")
def text(dataset: Dataset, evaluation: Evaluation) -> str:
    return page_of(dataset, evaluation)


@pytest.fixture(scope="module")
def saved(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return two_saved(dataset, tmp_path_factory.mktemp("evaluations"))


def changed_evaluation(of: Path, folder: Path, change: dict[str, Any]) -> evaluation_files.SavedEvaluation:
    """A copy of an evaluation's files, with other fields in `metrics.json`."""
    for file in of.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    summary = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(summary | change))
    return evaluation_files.find(folder, "test")


@pytest.fixture(scope="module")
def comparison(dataset: Dataset, saved: tuple[Path, Path]) -> str:
    return comparison_of(saved, dataset)


def table_of(page_text: str) -> dict[str, Any]:
    """The content of the table of tags."""
    found = re.search(r'<script type="application/json" id="tag-table-data">(.*?)</script>', page_text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


class Attributes(HTMLParser):
    """What a browser would read of a page: its elements, and all that their attributes point to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
                self.addresses.append(value or "")
            if name in ("style", "clip-path", "fill", "filter", "mask"):
                self.addresses += re.findall(r"url\((.*?)\)", value or "")
            if name == "id":
                self.ids.append(value or "")


def test_nothing_is_loaded(text: str, comparison: str):
    """No address but of places on the page, and of pictures that are in it."""
    for one in (text, comparison):
        found = Attributes(one)
        assert found.elements["script"] == 2
        assert found.elements["link"] == found.elements["iframe"] == 0
        places = {address.removeprefix("#") for address in found.addresses if address.startswith("#")}
        assert places <= set(found.ids)
        assert len(found.ids) == len(set(found.ids))
        pictures = [address for address in found.addresses if address.startswith("data:image/jpeg;base64,")]
        assert len(pictures) == found.elements["img"] >= 8
        assert len(places | set(pictures)) == len(set(found.addresses))
        assert "@import" not in one
        assert "#0000a" not in one  # the colours that stand for the page's


def test_what_users_wrote_is_text(text: str, comparison: str):
    for one in (text, comparison):
        assert HOSTILE not in one
        assert PATH not in one
        assert HOSTILE in [row[0] for row in table_of(one)["rows"]]
        assert "{{ 7*7 }}" in one
    assert html.escape(PATH).replace("&quot;", "&#34;") in text


def test_table_has_what_per_tag_csv_has(text: str, evaluation: Evaluation):
    """Lift: precision over the share of photos, 40 in all, that have the tag."""
    table = table_of(text)
    assert [column["label"] for column in table["columns"]] == (
        ["tag", "training photos", "photos", "predicted", "precision", "recall", "F1", "AP", "lift"]
    )
    counts = evaluation.tag_counts
    rows = {row[0]: row for row in table["rows"]}
    assert len(rows) == len(TAGS)
    for tag, name in enumerate(TAGS):
        true, predicted, hits = (int(column[tag]) for column in (counts.true, counts.predicted, counts.true_positives))
        assert rows[name][1:4] == [true, true, predicted]
        assert rows[name][4] == (round(hits / predicted, 3) if predicted else None)
        assert rows[name][5] == (round(hits / true, 3) if true else None)
        assert rows[name][8] == (round(hits / predicted / (true / 40), 1) if predicted and true else None)
    assert any(row[5] is None for row in table["rows"])


def test_sections_of_the_page(text: str):
    for words in (
        "0.500 in validation",
        "calibration error",
        "by a loss weight of 10",
        "Predicted, not labelled, very sure",
        "Photos without a tag have no F1",
        "most frequent tags:",
        "Tags that dominate predictions",
    ):
        assert words in text
    assert "Published on" not in text


def test_a_bundle_has_no_training(dataset: Dataset, evaluation: Evaluation):
    assert 'id="training"' not in evaluation_page(evaluation, dataset, None)


def test_a_run_that_was_stopped_before_its_first_validation(dataset: Dataset, evaluation: Evaluation):
    curves = TrainingCurves([0.5, 0.4], [math.nan] * 2, [math.nan] * 2)
    found = evaluation_page(evaluation, dataset, Training(curves, positive_weight=10.0))
    assert "stopped before its first validation" in " ".join(found.split())
    assert "in the last one 0.400 in training, – in validation" in found
    assert "epoch 0" not in found
    assert "F1 on the validation photos" not in found


def test_how_often_the_very_sure_are_right(dataset: Dataset):
    """Every photo is surely given its first tag, which is right, and the next one that it has not."""
    confidences = np.zeros((IMAGES, len(TAGS)), np.float32)
    records = dataset.records("test")
    for row in range(IMAGES):
        tags = records[row].tags
        if tags:
            wrong = next(tag for tag in range(len(TAGS)) if tag not in tags)
            confidences[row, [tags[0], wrong]] = 0.95, 0.91
            confidences[row, tags[1]] = 0.5
    found = " ".join(evaluation_page(evaluation_of(dataset, confidences), dataset, None).split())
    assert "at least 90 % sure of a tag that the photo does not have" in found
    assert "Of all predictions that it is so sure of, 50 % are among the labels." in found


def test_nothing_is_predicted(dataset: Dataset):
    nothing = evaluation_of(dataset, np.full((IMAGES, len(TAGS)), 0.1, np.float32))
    page_text = evaluation_page(nothing, dataset, None)
    assert "No tag was predicted for any photo." in page_text
    assert "No two tags that the labels keep apart" in page_text


def test_size_of_five_thousand_photos(tmp_path: Path):
    """A thousand tags, and pictures of noise; as if every picture took all that it may, still under 5 MB."""
    rng = np.random.default_rng(0)
    tags = tuple(f"a rather long tag, number {number:04d}" for number in range(1000))
    labels = [sorted(set((999 * rng.power(0.4, 6)).astype(int).tolist())) for _ in range(5000)]
    image_ids = [f"some/folder/of/photos/{number:05d}.jpg" for number in range(5000)]
    dataset = written_dataset(tmp_path / "many", TagVocabulary(tags, tags), labels, image_ids, labels, (160, 120))
    confidences = rng.random((5000, 1000), np.float32) ** 12
    evaluation = evaluation_of(dataset, confidences)
    text = evaluation_page(evaluation, dataset, None)
    pictures = re.findall(r"data:image/jpeg;base64,[^\"]*", text)
    assert len(pictures) == 48
    rest = len(text.encode()) - sum(map(len, pictures))
    assert len(text.encode()) < 5e6
    assert rest + 48 * (MOST_BYTES * 4 / 3 + 30) < 5e6


def test_comparison_of_an_evaluation_with_itself(saved: tuple[Path, Path]):
    one = evaluation_files.find(saved[0], "test")
    text = comparison_page.comparison_page(one, one, None)
    assert "Neither has a clearly higher" in " ".join(text.split())
    assert "+0.000" in text
    assert "data:image" not in text
    assert all(row[6] == row[9] == 0 for row in table_of(text)["rows"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"trained_on_this_data_set": False}, "B was trained on another data set"),
        ({"threshold": 0.5}, "A and B predict tags by other limits"),
        ({"max_tags": 5}, "A and B predict tags by other limits"),
    ],
)
def test_what_makes_a_comparison_unfair(
    saved: tuple[Path, Path], tmp_path: Path, change: dict[str, Any], words: str | None
):
    text = comparison_page.comparison_page(
        evaluation_files.find(saved[0], "test"), changed_evaluation(saved[1], tmp_path, change), None
    )
    found = re.findall(r'<p class="notice">([AB] .*?)</p>', text)
    assert len(found) == (words is not None)
    assert all(one.startswith(str(words)) for one in found)


def test_comparison(comparison: str, saved: tuple[Path, Path]):
    """The means are those of metrics.json; the rows of the table those of per_tag.csv."""
    first, second = (json.loads((folder / "metrics.json").read_text())["scores"]["model"] for folder in saved)
    a, b = first["f1"]["mean"], second["f1"]["mean"]
    rows = re.search(r"F1 mean</th><td>(.*?)</td><td>(.*?)</td>\s*<td>(.*?)</td>", comparison)
    assert rows is not None
    assert rows.groups() == (f"{a:.3f}", f"{b:.3f}", f"{b - a:+.3f}".replace("-", "−"))
    assert "photos/" in comparison


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"split": "train"}, "not the same photos: the split was test for"),
        ({"dataset_fingerprint": "other"}, "not the same photos: the data set was tiny/1.0.0 for"),
        ({"threshold_curve": {}}, "'threshold_curve' holds no lists of numbers of one length"),
        ({"scores": {"model": {}}}, "field 'scores.model.f1' is missing"),
    ],
)
def test_what_cannot_be_compared(saved: tuple[Path, Path], tmp_path: Path, change: dict[str, Any], words: str):
    first, second = evaluation_files.find(saved[0], "test"), changed_evaluation(saved[1], tmp_path, change)
    with pytest.raises(UserError, match=re.escape(words)):
        comparison_page.comparison_page(first, second, None)


@pytest.mark.parametrize("name", ["per_tag.csv", "predictions.csv"])
def test_damaged_files(saved: tuple[Path, Path], tmp_path: Path, name: str):
    for file in saved[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    text = (tmp_path / name).read_text(encoding="utf-8")
    (tmp_path / name).write_text(text[: len(text) // 2], encoding="utf-8")
    one = evaluation_files.find(saved[0], "test")
    with pytest.raises(UserError):
        comparison_page.comparison_page(one, evaluation_files.find(tmp_path, "test"), None)


def test_report_command(socialtag: Socialtag, saved: tuple[Path, Path], dataset: Dataset, tmp_path: Path):
    output = tmp_path / "new" / "page.html"
    result = socialtag("report", *saved, "--dataset", dataset.location, "--output", output)
    assert (result.code, result.out) == (0, f"{output}\n")
    assert output.read_text(encoding="utf-8").startswith("<!doctype html>")
    missing = socialtag("report", saved[0], tmp_path / "new", "--output", output)
    assert missing.code == 1
    assert "no evaluation on test: no metrics.json" in missing.err
    assert "socialtag evaluate" in missing.err


def test_report_without_its_packages(
    socialtag: Socialtag, saved: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(page, "missing_package", lambda: "jinja2")
    result = socialtag("report", *saved, "--output", tmp_path / "page.html")
    assert result.code == 1
    assert result.err == (
        "socialtag: error: a report needs jinja2, which is not installed -- pip install 'socialtag-jax[report]'\n"
    )


def test_damaged_training_metrics_are_found_before_scoring(
    socialtag: Socialtag, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Scoring may take hours, and an error would lose it."""
    (tmp_path / "metrics.jsonl").write_text('{"kind": "epoch", "step": 3}\n')

    def score(images: np.ndarray) -> np.ndarray:
        raise AssertionError("scored before the curves were read")

    scorer = Scorer("run", dataset.vocabulary, 32, Suggestion(), 1, score, dataset.fingerprint)
    monkeypatch.setattr(trained, "run_scorer", lambda *arguments, **more: scorer)
    result = socialtag("evaluate", tmp_path, "--dataset", dataset.location)
    assert result.code == 1
    assert "metrics.jsonl: a line is not what a run writes: KeyError('loss')" in result.err


def test_evaluation_without_its_packages(
    dataset: Dataset, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """No report, and none left of an earlier evaluation, whose numbers are others."""
    write_report(evaluation, dataset, None, tmp_path)
    assert "Scores" in (tmp_path / "report.html").read_text(encoding="utf-8")
    monkeypatch.setattr(page, "missing_package", lambda: "matplotlib")
    write_report(evaluation, dataset, None, tmp_path)
    assert not (tmp_path / "report.html").exists()
