"""Scores against scikit-learn, and a hand-worked example."""

import warnings
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk

from socialtag_jax.metrics import (
    TagCounts,
    average_precision,
    image_scores,
    micro_f1,
    predicted,
    ranked,
    tag_precision_recall_f1,
)


@pytest.fixture
def random_case() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    targets = (rng.random((60, 30)) < 0.15).astype(np.float32)
    targets[:, 0] = np.maximum(targets[:, 0], targets.sum(1) == 0)  # every image has a tag
    probabilities = np.clip(0.3 * targets + rng.random((60, 30)) * 0.6, 0, 1).astype(np.float32)
    return probabilities, targets


def test_hand_worked_image():
    """Four tags over 0.3, the two most confident kept: one of them true, of three true tags."""
    probabilities = jnp.array([[0.9, 0.8, 0.4, 0.35, 0.1, 0.3]], jnp.float32)
    targets = jnp.array([[0, 1, 1, 0, 1, 0]], jnp.float32)
    scores = image_scores(probabilities, targets, threshold=0.3, max_tags=2)
    assert float(scores.precision[0]) == pytest.approx(1 / 2)
    assert float(scores.recall[0]) == pytest.approx(1 / 3)
    assert float(scores.f1[0]) == pytest.approx(2 / 5)
    assert float(scores.precision_at_1[0]) == 0.0
    # the five most confident: 0, 1, 2, 3, 5
    assert float(scores.recall_at_5[0]) == pytest.approx(2 / 3)
    assert float(scores.accuracy_at_5[0]) == 1.0


def test_threshold_is_exclusive_and_ties_go_to_the_lower_index():
    probabilities = jnp.array([[0.25, 0.5, 0.5, 0.5]], jnp.float32)
    np.testing.assert_array_equal(predicted(probabilities, 0.25, 2), [[False, True, True, False]])
    np.testing.assert_array_equal(predicted(probabilities, 0.25, 9), [[False, True, True, True]])
    assert not predicted(probabilities, 0.5, 9).any()


def test_ranked_on_the_host_is_predicted_on_the_device(random_case: tuple[np.ndarray, np.ndarray]):
    probabilities = np.round(random_case[0], 1)  # many equal ones
    flags = np.asarray(predicted(jnp.asarray(probabilities), 0.3, 4))
    for row, chosen in zip(probabilities, flags, strict=True):
        indices = ranked(row, 0.3, 4)
        assert set(indices) == set(np.flatnonzero(chosen))
        assert list(row[indices]) == sorted(row[indices], reverse=True)


def test_no_prediction_scores_zero():
    scores = image_scores(jnp.zeros((1, 6), jnp.float32), jnp.ones((1, 6), jnp.float32), threshold=0.3, max_tags=15)
    assert float(scores.precision[0]) == float(scores.recall[0]) == float(scores.f1[0]) == 0.0


def test_image_scores_against_scikit_learn(random_case: tuple[np.ndarray, np.ndarray]):
    probabilities, targets = random_case
    found = image_scores(jnp.asarray(probabilities), jnp.asarray(targets), threshold=0.3, max_tags=30)
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
    counts = TagCounts((chosen & true).sum(0), chosen.sum(0), true.sum(0))
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
                    assert average_precision(scores[:, tag], targets[:, tag] > 0) == pytest.approx(expected)


def test_average_precision_of_constant_scores_is_the_prevalence():
    targets = np.array([True, False, False, True, False])
    assert average_precision(np.ones(5), targets) == pytest.approx(2 / 5)
