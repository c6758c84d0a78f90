"""The protocols by hand, and their baselines on the real labels of Corel5K and HARRISON."""

import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from socialtag_jax.labels import build_vocabulary
from socialtag_jax.protocols import (
    SplitLabels,
    common_words,
    five_frequent_words,
    five_words,
    popularity,
    training_counts,
)
from socialtag_jax.sources import harrison, tags_csv
from socialtag_jax.sources.photo import Photo
from socialtag_jax.sources.splits import assign_splits
from socialtag_jax.tag_statistics import TagStatistics, tag_statistics


def labels_of(tag_lists: list[tuple[int, ...]]) -> SplitLabels:
    tag_ids = np.full((len(tag_lists), max(map(len, tag_lists))), -1, np.int32)
    for row, tags in zip(tag_ids, tag_lists, strict=True):
        row[: len(tags)] = tags
    return SplitLabels([f"{number}.jpg" for number in range(len(tag_lists))], tag_ids)


def test_words_by_hand():
    """Four images, four words (a b c d); two words an image here, since the arithmetic is the same for five.

    image  true      predicted
    0      a b       a b
    1      a         c a
    2      b d       a c
    3      c         c d

    word   true  predicted  hits   precision  recall
    a        2       3        2       2/3        1
    b        2       1        1        1        1/2
    c        1       3        1       1/3        1
    d        1       1        0        0         0

    Mean precision (2/3 + 1 + 1/3 + 0) / 4 = 1/2; mean recall (1 + 1/2 + 1 + 0) / 4 = 5/8;
    F1 = 2 (1/2 x 5/8) / (1/2 + 5/8) = (5/8) / (9/8) = 5/9; recall over 0: a, b and c.
    """
    labels = labels_of([(0, 1), (0,), (1, 3), (2,)])
    predicted = np.array([[0, 1], [2, 0], [0, 2], [2, 3]], np.int32)
    found = five_words(predicted, labels, np.arange(4, dtype=np.int32), 5)
    assert found == pytest.approx({"precision": 1 / 2, "recall": 5 / 8, "f1": 5 / 9, "words_recalled": 3})


def test_common_words_and_their_baseline():
    """Seven words; in training 9 8 7 6 5 4 0 times; word 1 is on no image of the split, word 6 was never learned.

    Left: 0 2 3 4 5, all five of them given to both images. Image 0 has 0 and 6, image 1 has 2 3 4 5:
    each word is true for one of two images, so precision 1/2 and recall 1 for all five.
    """
    training = np.array([9, 8, 7, 6, 5, 4, 0])
    labels = labels_of([(0, 6), (2, 3, 4, 5)])
    words = common_words(training, np.array([1, 0, 1, 1, 1, 1, 1]))
    np.testing.assert_array_equal(words, [0, 2, 3, 4, 5])
    found = five_frequent_words(training, labels, words)
    assert found == pytest.approx({"precision": 1 / 2, "recall": 1.0, "f1": 2 / 3, "words_recalled": 5})


def test_what_counts_as_training():
    statistics = {
        split: TagStatistics(np.array(counts), np.array([0, 1]))
        for split, counts in {"train": [1, 0], "validation": [0, 2], "test": [4, 4]}.items()
    }
    expected = {"test": [1, 2], "validation": [1, 0], "train": [1, 2]}
    for split, counts in expected.items():
        np.testing.assert_array_equal(training_counts(statistics, split), counts)
    without_validation = {name: statistics[name] for name in ("train", "test")}
    np.testing.assert_array_equal(training_counts(without_validation, "test"), [1, 0])
    assert training_counts({"test": statistics["test"]}, "test") is None
    assert len(common_words(None, np.array([4, 4]))) == 0


def split_labels(photos: list[Photo], splits: list[str]) -> tuple[dict[str, TagStatistics], SplitLabels]:
    """Statistics of every split, and the labels of test."""
    vocabulary = build_vocabulary(photo.tags for photo in photos)
    encoded = [vocabulary.encode(photo.tags) for photo in photos]
    by_split = {
        name: [tags for tags, its in zip(encoded, splits, strict=True) if its == name] for name in sorted(set(splits))
    }
    statistics = {name: tag_statistics(tags, len(vocabulary)) for name, tags in by_split.items()}
    return statistics, labels_of(by_split["test"])


def test_corel5k(shared_data: Path, tmp_path: Path):
    """260 words, as published; its five most frequent words are water, sky, tree, people and grass.

    Given to all 499 test images, each has a recall of 1 and a precision of its share of the test images. The other 255
    count 0, so that the mean recall is 5/260, whatever the images are.
    """
    with zipfile.ZipFile(shared_data / "corel5k.zip") as archive:
        (tmp_path / "tags.csv").write_bytes(archive.read("corel5k/tags.csv"))
    photos = tags_csv.read(tmp_path, warn=pytest.fail)
    splits = assign_splits(photos, seed=0, warn=lambda _: None)
    assert "validation" in splits
    statistics, labels = split_labels(photos, splits)
    training = training_counts(statistics, "test")
    assert training is not None
    words = common_words(training, statistics["test"].counts)
    assert len(words) == 260
    test = [set(photo.tags) for photo in photos if photo.split == "test"]
    shares = [sum(word in tags for tags in test) / 499 for word in ("water", "sky", "tree", "people", "grass")]
    precision, recall = sum(shares) / 260, 5 / 260
    found = five_frequent_words(training, labels, words)
    assert found == pytest.approx(
        {
            "precision": precision,
            "recall": recall,
            "f1": 2 * precision * recall / (precision + recall),
            "words_recalled": 5,
        }
    )


def test_popularity_alone_reaches_the_thesis_on_harrison(shared_data: Path):
    """The thesis's model: F1 0.07, and 0 for 59 % of a random tenth's images. The 15 most frequent tags do as well."""
    folder = shared_data / "harrison"
    if not folder.is_dir():
        pytest.skip(f"no HARRISON lists in {shared_data}")
    photos = harrison.read(folder, need_images=False, warn=pytest.fail)
    splits = assign_splits(photos, seed=0, warn=pytest.fail)
    statistics, labels = split_labels(photos, splits)
    training = training_counts(statistics, "test")
    assert training is not None
    found = popularity(training, labels)
    learned, test = (
        [set(photo.tags) for photo, its in zip(photos, splits, strict=True) if (its == "test") == tested]
        for tested in (False, True)
    )
    frequency = Counter(tag for tags in learned for tag in tags)
    for size in (5, 15):
        always = {tag for tag, _ in sorted(frequency.items(), key=lambda item: (-item[1], item[0]))[:size]}
        f1 = [2 * len(always & tags) / (size + len(tags)) for tags in test]
        scores = found[f"popularity_{size}"]
        assert scores["f1"]["mean"] == pytest.approx(np.mean(f1), rel=1e-5)
        assert scores["f1"]["zero"] == f1.count(0)
    assert round(found["popularity_15"]["f1"]["mean"], 2) == 0.07
    assert found["popularity_15"]["f1"]["zero_share"] < 0.59  # the thesis's model
