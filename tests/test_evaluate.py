"""An evaluation worked by hand: a model that always says the same, on a data set of eight known photos."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from socialtag_jax.config import Suggestion
from socialtag_jax.errors import UserError
from socialtag_jax.evaluate import Scorer, evaluate, table, write_results
from socialtag_jax.shards.dataset import Dataset, open_dataset
from tests.photos import photo_folder, prepared

# Tags in vocabulary order: a (5 photos), b (3), c (2), d (1).
TRAIN = [["a", "b"], ["a"], ["a", "c"], ["b"]]
TEST = [["a", "b"], ["c"], [], ["a", "d"]]
PROBABILITIES = np.array([0.9, 0.2, 0.6, 0.3], np.float32)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rows = {f"train{n}.png": (tags, "train") for n, tags in enumerate(TRAIN)}
    rows |= {"validation.png": (["b"], "validation")}
    rows |= {f"test{n}.png": (tags, "test") for n, tags in enumerate(TEST)}
    folder = photo_folder(tmp_path_factory.mktemp("source"), rows)
    return open_dataset(prepared(folder, tmp_path_factory.mktemp("data")).folder)


@pytest.fixture(scope="module")
def scorer(dataset: Dataset) -> Scorer:
    assert dataset.vocabulary.tags == ("a", "b", "c", "d")

    def score(images: np.ndarray) -> np.ndarray:
        return np.broadcast_to(PROBABILITIES, (images.shape[0] * images.shape[1], 4))

    return Scorer("constant", dataset.vocabulary, 32, Suggestion(0.3, 15), devices=1, score=score, trained_on="")


def test_by_hand(dataset: Dataset, scorer: Scorer):
    """Predicted: a and c, always (d is not over 0.3). Test: {a,b}: 1 of 2; {c}: 1 of 1; {}: left out; {a,d}: 1 of 2."""
    result = evaluate(scorer, dataset, "test", batch_size=3, threads=1, stream=io.StringIO())
    summary, scores = result.summary, result.summary["scores"]["model"]
    assert (summary["images"], summary["images_without_tags"]) == (4, 1)
    f1 = [1 / 2, 2 / 3, 1 / 2]
    assert scores["f1"]["mean"] == pytest.approx(np.mean(f1))
    assert scores["f1"]["median"] == pytest.approx(1 / 2)
    assert scores["f1"]["std"] == pytest.approx(np.std(f1))
    assert scores["f1"]["zero"] == 0
    assert scores["precision"]["mean"] == pytest.approx(1 / 2)
    assert scores["recall"]["mean"] == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
    assert scores["precision_at_1"] == pytest.approx(2 / 3)
    assert scores["recall_at_5"] == scores["accuracy_at_5"] == pytest.approx(1.0)
    # True positives 2, 0, 1, 0; predicted 4, 0, 4, 0; true 2, 1, 1, 1.
    assert scores["micro_f1"] == pytest.approx(2 * 3 / (8 + 5))
    assert scores["macro_f1"] == pytest.approx(np.mean([4 / 6, 0, 2 / 5, 0]))
    # A constant score's average precision is the tag's share of the four images.
    assert scores["mean_average_precision"] == pytest.approx(np.mean([2, 1, 1, 1]) / 4)


def test_baseline_is_the_train_splits_most_frequent_tags(dataset: Dataset, scorer: Scorer):
    """In train: a 3, b 2, c 1, d 0: a, b and c are always predicted, d never was seen."""
    result = evaluate(scorer, dataset, "test", batch_size=8, threads=1, stream=io.StringIO())
    baseline = result.summary["scores"]["popularity_5"]
    assert baseline["f1"]["mean"] == pytest.approx(np.mean([4 / 5, 2 / 4, 2 / 5]))
    assert baseline["precision_at_1"] == pytest.approx(2 / 3)
    text = table(result.summary)
    assert "top 5 tags" in text
    assert "f1 mean" in text


def test_files(dataset: Dataset, scorer: Scorer, tmp_path: Path):
    result = evaluate(scorer, dataset, "test", batch_size=8, threads=1, stream=io.StringIO())
    write_results(result, dataset, scorer, tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert json.loads((folder / "metrics.json").read_text())["scores"]["model"]["f1"]["zero"] == 0
    with (folder / "per_tag.csv").open(newline="") as file:
        tags = {row["tag"]: row for row in csv.DictReader(file)}
    assert (tags["a"]["train_images"], tags["a"]["images"], tags["a"]["predicted"]) == ("3", "2", "4")
    assert float(tags["a"]["precision"]) == pytest.approx(0.5)
    with (folder / "predictions.csv").open(newline="") as file:
        rows = {row["image_id"]: row for row in csv.DictReader(file)}
    assert json.loads(rows["test0.png"]["true_tags"]) == ["a", "b"]
    assert json.loads(rows["test0.png"]["predicted_tags"]) == ["a", "c"]
    assert json.loads(rows["test0.png"]["confidences"]) == [0.9, 0.6]
    assert rows["test2.png"]["f1"] == ""


def test_outputs_that_are_no_numbers(dataset: Dataset, scorer: Scorer):
    import dataclasses

    broken = dataclasses.replace(scorer, score=lambda images: np.full((images.shape[1], 4), np.nan, np.float32))
    with pytest.raises(UserError, match="values that are no numbers"):
        evaluate(broken, dataset, "test", batch_size=8, threads=1, stream=io.StringIO())
