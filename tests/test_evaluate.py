"""An evaluation worked by hand: a model that always says the same, on a data set of eight known photos."""

import csv
import dataclasses
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn import metrics as sk

from socialtag_jax.config import Suggestion
from socialtag_jax.errors import UserError
from socialtag_jax.evaluate import Scorer, evaluate
from socialtag_jax.evaluation_report import table, write_results
from socialtag_jax.shards.dataset import Dataset, open_dataset
from tests.photos import colour_rows, photo_folder, prepared

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


def test_baseline_is_the_most_frequent_tags_of_train_and_validation(dataset: Dataset, scorer: Scorer):
    """In both: a 3, b 3, c 1, d 0: a, b and c are always predicted, d never was seen."""
    result = evaluate(scorer, dataset, "test", batch_size=8, threads=1, stream=io.StringIO())
    baseline = result.summary["scores"]["popularity_5"]
    assert baseline["f1"]["mean"] == pytest.approx(np.mean([4 / 5, 2 / 4, 2 / 5]))
    assert baseline["precision_at_1"] == pytest.approx(2 / 3)
    text = table(result.summary)
    assert "top 5 tags" in text
    assert "f1 mean" in text


def test_average_precision_against_scikit_learn(tmp_path: Path):
    """Sixty photos whose scores follow from their pixels, in batches that do not divide them."""
    rows = {
        name: (tags, "train" if number < 9 else "test")
        for number, (name, (tags, _)) in enumerate(colour_rows(69).items())
    }
    dataset = open_dataset(prepared(photo_folder(tmp_path / "source", rows), tmp_path / "data").folder)
    kernel = np.random.default_rng(0).normal(size=(3, 4))
    seen: list[np.ndarray] = []

    def score(images: np.ndarray) -> np.ndarray:
        logits = (images[0].mean((1, 2)) / 255.0 - 0.4) @ kernel
        seen.append((1.0 / (1.0 + np.exp(-logits))).astype(np.float32).round(2))  # some equal ones
        return seen[-1]

    scorer = Scorer("pixels", dataset.vocabulary, 32, Suggestion(), devices=1, score=score, trained_on="")
    result = evaluate(scorer, dataset, "test", batch_size=7, threads=1, stream=io.StringIO())
    probabilities = np.concatenate(seen)[:60]
    targets = np.array([[tag in row for tag in range(4)] for row in result.labels.tag_ids])
    expected = [sk.average_precision_score(targets[:, tag], probabilities[:, tag]) for tag in range(4)]
    np.testing.assert_allclose(result.average_precision, expected, rtol=1e-12)
    np.testing.assert_array_equal(result.ranking.probabilities, -np.sort(-probabilities))
    for image_id, row in zip(result.labels.image_ids, targets, strict=True):
        assert {dataset.vocabulary.tags[tag] for tag in np.flatnonzero(row)} == set(rows[image_id][0])


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


def test_five_words_an_image_by_hand(tmp_path: Path):
    """Words with a training and a test image: a b c e f g; d, the most confident one, has no training image.

    The model always says a e g c b, over the threshold or not, and never f. Of the four test images, a is true for
    two, each other word for one: precision 2/4 for a, 1/4 for the other four, 0 for f: mean (2 + 4) / 4 / 6 = 1/4.
    Recall 1 for five of the six words: mean 5/6. F1 = 2 (1/4 x 5/6) / (1/4 + 5/6) = (5/12) / (13/12) = 5/13.
    The most frequent words of train and validation are b c e f g: mean precision 5 (1/4) / 6 = 5/24, recall 5/6,
    F1 = 2 (5/24 x 5/6) / (5/24 + 20/24) = (25/72) / (25/24) = 1/3.

    By image, the same five score an F1 of 0, 2 x 2 / (5 + 2), the same again, and 2 x 1 / (5 + 2): mean 5/14. On
    validation, train alone counts: b c e f a, never right.
    """
    train, validation = [["a", "b", "c", "e", "f"], ["b", "c", "e", "f"]], [["g"], ["g"]]
    test = [["a", "d"], ["b", "c"], ["e", "f"], ["a", "g"]]
    rows: dict[str, tuple[Sequence[str], str | None]] = {}
    for split, photos in (("train", train), ("validation", validation), ("test", test)):
        rows |= {f"{split}{n}.png": (tags, split) for n, tags in enumerate(photos)}
    dataset = open_dataset(prepared(photo_folder(tmp_path / "source", rows), tmp_path / "data").folder)
    confidence = {"d": 0.99, "a": 0.9, "e": 0.8, "g": 0.004, "c": 0.002, "b": 0.001, "f": 0.0005}
    constant = np.array([confidence[tag] for tag in dataset.vocabulary.tags], np.float32)
    scorer = Scorer(
        name="constant",
        vocabulary=dataset.vocabulary,
        input_size=32,
        suggestion=Suggestion(0.3, 2),
        devices=1,
        score=lambda images: np.broadcast_to(constant, (images.shape[1], 7)),
        trained_on="",
    )
    result = evaluate(scorer, dataset, "test", batch_size=3, threads=1, stream=io.StringIO())
    section = result.summary["five_words_an_image"]
    assert section["words"] == 6
    model, baseline = section["scores"]["model"], section["scores"]["popularity_5"]
    assert model == pytest.approx({"precision": 1 / 4, "recall": 5 / 6, "f1": 5 / 13, "words_recalled": 5})
    assert baseline == pytest.approx({"precision": 5 / 24, "recall": 5 / 6, "f1": 1 / 3, "words_recalled": 5})
    lines = [" ".join(line.split()) for line in table(result.summary).splitlines()]
    assert "five words an image (Corel5K's protocol), 6 words" in lines
    assert "mean word precision 0.250 0.208 -" in lines
    assert "words with a recall over 0 (N+) 5 5 -" in lines
    assert result.summary["scores"]["popularity_5"]["f1"]["mean"] == pytest.approx(5 / 14)
    on_validation = evaluate(scorer, dataset, "validation", batch_size=3, threads=1, stream=io.StringIO()).summary
    assert on_validation["scores"]["popularity_5"]["f1"]["mean"] == 0.0


def test_without_a_train_split_there_is_no_baseline(dataset: Dataset, scorer: Scorer):
    """As in a folder that TFDS wrote with a test split alone."""
    alone = dataclasses.replace(dataset)
    vars(alone)["statistics"] = {"test": dataset.statistics["test"]}
    summary = evaluate(scorer, alone, "test", batch_size=8, threads=1, stream=io.StringIO()).summary
    assert list(summary["scores"]) == ["model"]
    assert "five_words_an_image" not in summary
    assert "top 5 tags" not in table(summary)


def test_a_split_without_tags(scorer: Scorer, dataset: Dataset):
    untagged = dataclasses.replace(dataset)
    empty = dataclasses.replace(dataset.statistics["test"], counts=np.zeros(4, np.int64))
    vars(untagged)["statistics"] = {**dataset.statistics, "test": empty}
    with pytest.raises(UserError, match="no image of the split 'test' has a tag: nothing to score"):
        evaluate(scorer, untagged, "test", batch_size=8, threads=1, stream=io.StringIO())


def test_a_full_disk_is_said_before_the_model_is_asked(
    dataset: Dataset, scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    idle = dataclasses.replace(scorer, score=lambda _: pytest.fail("the model was asked"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=63))
    needed = r"4 x 4 probabilities need 0\.00 GB for a while: 0\.00 GB are free -- free some space, or"
    for scratch, hint in ((tmp_path, "name an --output on another disk"), (None, "set TMPDIR to a folder on another")):
        with pytest.raises(UserError, match=f"{needed} {hint}"):
            evaluate(idle, dataset, "test", batch_size=8, threads=1, stream=io.StringIO(), scratch=scratch)


def test_progress_of_both_phases(dataset: Dataset, scorer: Scorer):
    stream = io.StringIO()
    evaluate(scorer, dataset, "test", batch_size=8, threads=1, stream=stream)
    assert "evaluate test 4/4 (100%)" in stream.getvalue()
    assert "average precision 4/4 (100%)" in stream.getvalue()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_no_numbers(dataset: Dataset, scorer: Scorer, value: float):
    broken = dataclasses.replace(scorer, score=lambda images: np.full((images.shape[1], 4), value, np.float32))
    with pytest.raises(UserError, match="values that are no numbers"):
        evaluate(broken, dataset, "test", batch_size=8, threads=1, stream=io.StringIO())
