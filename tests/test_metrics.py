"""Scores against scikit-learn, and a hand-worked example."""

import warnings
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk

from socialtag_jax.metrics import (
    ImageScores,
    TagCounts,
    average_precision,
    hits,
    image_scores,
    micro_f1,
    predicted,
    rank,
    ranked,
    tag_counts,
    tag_precision_recall_f1,
    word_scores,
)


def padded(targets: np.ndarray) -> np.ndarray:
    """0 or 1 [images, n_tags] -> ascending tag ids, padded with -1."""
    result = np.full((len(targets), max(1, int(targets.sum(1).max()))), -1, np.int32)
    for row, flags in zip(result, targets, strict=True):
        row[: int(flags.sum())] = np.flatnonzero(flags)
    return result


def scores_of(probabilities: np.ndarray, targets: np.ndarray, threshold: float, max_tags: int) -> ImageScores:
    ranking = rank(jnp.asarray(probabilities), max(max_tags, 5))
    return image_scores(ranking, jnp.asarray(padded(targets)), threshold=threshold, max_tags=max_tags)


@pytest.fixture
def random_case() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    targets = (rng.random((60, 30)) < 0.15).astype(np.float32)
    targets[:, 0] = np.maximum(targets[:, 0], targets.sum(1) == 0)  # every image has a tag
    probabilities = np.clip(0.3 * targets + rng.random((60, 30)) * 0.6, 0, 1).astype(np.float32)
    return probabilities, targets


def test_hand_worked_image():
    """Four tags over 0.3, the two most confident kept: one of them true, of three true tags."""
    probabilities = np.array([[0.9, 0.8, 0.4, 0.35, 0.1, 0.3]], np.float32)
    targets = np.array([[0, 1, 1, 0, 1, 0]], np.float32)
    scores = scores_of(probabilities, targets, 0.3, 2)
    assert float(scores.precision[0]) == pytest.approx(1 / 2)
    assert float(scores.recall[0]) == pytest.approx(1 / 3)
    assert float(scores.f1[0]) == pytest.approx(2 / 5)
    assert float(scores.precision_at_1[0]) == 0.0
    # the five most confident: 0, 1, 2, 3, 5
    assert float(scores.recall_at_5[0]) == pytest.approx(2 / 3)
    assert float(scores.accuracy_at_5[0]) == 1.0


def chosen_ids(probabilities: np.ndarray, threshold: float, max_tags: int) -> list[list[int]]:
    ranking = rank(jnp.asarray(probabilities), max_tags)
    flags = np.asarray(predicted(ranking, threshold, max_tags))
    return [list(row[its]) for row, its in zip(np.asarray(ranking.tag_ids), flags, strict=True)]


def test_threshold_is_exclusive_and_ties_go_to_the_lower_index():
    probabilities = np.array([[0.25, 0.5, 0.5, 0.5]], np.float32)
    assert chosen_ids(probabilities, 0.25, 2) == [[1, 2]]
    assert chosen_ids(probabilities, 0.25, 9) == [[1, 2, 3]]
    assert chosen_ids(probabilities, 0.5, 9) == [[]]


def test_a_longer_ranking_predicts_no_more_tags(random_case: tuple[np.ndarray, np.ndarray]):
    ranking = rank(jnp.asarray(random_case[0]), 9)
    np.testing.assert_array_equal(predicted(ranking, 0.3, 2).sum(-1), (random_case[0] > 0.3).sum(-1).clip(max=2))


def test_ranked_on_the_host_is_predicted_on_the_device(random_case: tuple[np.ndarray, np.ndarray]):
    probabilities = np.round(random_case[0], 1)  # many equal ones
    assert chosen_ids(probabilities, 0.3, 4) == [list(ranked(row, 0.3, 4)) for row in probabilities]


def test_no_prediction_scores_zero():
    scores = scores_of(np.zeros((1, 6), np.float32), np.ones((1, 6), np.float32), 0.3, 15)
    assert float(scores.precision[0]) == float(scores.recall[0]) == float(scores.f1[0]) == 0.0


def test_image_scores_against_scikit_learn(random_case: tuple[np.ndarray, np.ndarray]):
    probabilities, targets = random_case
    found = scores_of(probabilities, targets, 0.3, 30)
    chosen = (probabilities > 0.3).astype(int)
    for row in range(len(targets)):
        precision, recall, f1, _ = sk.precision_recall_fscore_support(
            targets[row].astype(int), chosen[row], average="binary", zero_division=cast(Any, 0)
        )
        np.testing.assert_allclose(
            [found.precision[row], found.recall[row], found.f1[row]], [precision, recall, f1], rtol=1e-6
        )


def test_tag_scores_against_scikit_learn(random_case: tuple[np.ndarray, np.ndarray]):
    probabilities, targets = random_case
    chosen, true = probabilities > 0.3, targets > 0
    ranking, true_ids = rank(jnp.asarray(probabilities), 30), padded(targets)
    flags = (np.asarray(hits(ranking, true_ids)), np.asarray(predicted(ranking, 0.3, 30)))
    counts = tag_counts(np.asarray(ranking.tag_ids), *flags, true_ids, 30)
    np.testing.assert_array_equal(counts, [(chosen & true).sum(0), chosen.sum(0), true.sum(0)])
    expected = sk.precision_recall_fscore_support(true, chosen, average=None, zero_division=cast(Any, 0))[:3]
    np.testing.assert_allclose(tag_precision_recall_f1(counts), expected, rtol=1e-12)
    assert micro_f1(counts) == pytest.approx(sk.f1_score(true, chosen, average="micro"))


def test_average_precision_against_scikit_learn(random_case: tuple[np.ndarray, np.ndarray]):
    probabilities, targets = random_case
    coarse = np.round(probabilities, 1)  # many equal scores
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for scores in (probabilities, coarse):
            for tag in range(targets.shape[1]):
                if targets[:, tag].any():
                    expected = sk.average_precision_score(targets[:, tag], scores[:, tag])
                    assert average_precision(scores[:, tag], np.flatnonzero(targets[:, tag])) == pytest.approx(expected)


def test_average_precision_of_constant_scores_is_the_prevalence():
    assert average_precision(np.ones(5), np.array([0, 3])) == pytest.approx(2 / 5)


def test_word_scores_without_a_hit():
    nothing = TagCounts(np.zeros(3), np.array([1, 0, 0]), np.array([0, 1, 1]))
    assert word_scores(nothing, np.array([1, 2])) == (0.0, 0.0, 0.0, 0)
