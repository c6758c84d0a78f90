"""Curves against scikit-learn, and by hand."""

import numpy as np
import pytest
from sklearn import calibration as sk_calibration
from sklearn import metrics as sk

from socialtag_jax import curves, protocols
from socialtag_jax.curves import ConfidenceHistogram
from socialtag_jax.metrics import Ranking

IMAGES, TAGS = 400, 6


@pytest.fixture(scope="module")
def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Truth, bool [IMAGES, TAGS], and confidences that know something of it, float32, off the edges of bins."""
    rng = np.random.default_rng(0)
    truth = rng.random((IMAGES, TAGS)) < np.linspace(0.05, 0.6, TAGS)
    logits = rng.normal(0, 1.5, truth.shape) + 2.0 * truth - 1.0
    rounded = np.floor(1000 / (1 + np.exp(-logits))) / 1000 + 0.0005
    return truth, rounded.astype(np.float32)


@pytest.fixture(scope="module")
def histogram(pairs: tuple[np.ndarray, np.ndarray]) -> ConfidenceHistogram:
    """Added a tag at a time."""
    result = ConfidenceHistogram()
    for truth, confidences in zip(pairs[0].T, pairs[1].T, strict=True):
        result.add(confidences, np.flatnonzero(truth))
    return result


def test_a_confidence_on_an_edge_is_not_over_it():
    """As in scoring: 0.3 is not over 0.3. Bins are (0.299, 0.3], (0.3, 0.301]; 0 and 1 are in the first and last."""
    result = ConfidenceHistogram()
    result.add(np.array([0.3, np.nextafter(np.float32(0.3), np.float32(1)), 0.0, 1.0], np.float32), np.array([1, 3]))
    assert np.flatnonzero(result.pairs).tolist() == [0, 299, 300, 999]
    assert np.flatnonzero(result.true).tolist() == [300, 999]
    assert result.sums[299] == pytest.approx(0.3)


def test_precision_recall_against_scikit_learn(pairs: tuple[np.ndarray, np.ndarray], histogram: ConfidenceHistogram):
    truth, confidences = (one.ravel() for one in pairs)
    curve = curves.precision_recall(histogram)
    for point in range(0, len(curve.threshold), 37):
        chosen = confidences > curve.threshold[point]
        assert curve.precision[point] == pytest.approx(sk.precision_score(truth, chosen))
        assert curve.recall[point] == pytest.approx(sk.recall_score(truth, chosen))
    # No two different confidences share a bin, so that the curve is whole.
    steps = np.diff(np.concatenate([[0.0], curve.recall]))
    assert np.sum(steps * curve.precision) == pytest.approx(sk.average_precision_score(truth, confidences))
    assert curve.recall[-1] == 1.0


def test_calibration_against_scikit_learn(pairs: tuple[np.ndarray, np.ndarray], histogram: ConfidenceHistogram):
    truth, confidences = (one.ravel() for one in pairs)
    found = curves.calibration(histogram)
    share, confidence = sk_calibration.calibration_curve(truth, confidences, n_bins=10)
    there = found.pairs > 0
    np.testing.assert_allclose(found.share_true[there], share)
    np.testing.assert_allclose(found.confidence[there], confidence, rtol=1e-6)
    assert found.pairs.sum() == IMAGES * TAGS
    assert found.error == pytest.approx(np.average(np.abs(share - confidence), weights=found.pairs[there]))


def test_calibration_by_hand():
    """Two pairs of 0.9, one right; two of 0.2, none right: |0.9 - 0.5| and |0.2 - 0|, half the pairs each: 0.3."""
    histogram = ConfidenceHistogram()
    histogram.add(np.array([0.9, 0.9, 0.2, 0.2], np.float32), np.array([1]))
    found = curves.calibration(histogram)
    assert found.pairs.tolist() == [0, 2, 0, 0, 0, 0, 0, 0, 2, 0]
    assert (found.share_true[1], found.share_true[8]) == (0.0, 0.5)
    assert np.isnan(found.share_true[0])
    assert found.error == pytest.approx(0.3)


def test_the_confidence_that_a_weighted_loss_asks_for():
    """The minimum of the loss itself, found by trying: of a tag that is right in one of five photos, at weight 10."""
    share, weight = 0.2, 10.0
    tried = np.linspace(0.001, 0.999, 999)
    loss = -(1 - share) * np.log(1 - tried) - weight * share * np.log(tried)
    assert curves.weighted_confidence(np.array(share), weight) == pytest.approx(tried[loss.argmin()], abs=1e-3)
    assert curves.weighted_confidence(np.array(share), 1.0) == pytest.approx(share)


def test_threshold_curve_is_what_scoring_finds(pairs: tuple[np.ndarray, np.ndarray]):
    """Each point beside `protocols.judge`, which peers have checked, at that threshold; some images have no tag."""
    truth, confidences = pairs
    order = np.argsort(-confidences, axis=1, kind="stable").astype(np.int32)
    ranking = Ranking(order, np.take_along_axis(confidences, order, 1))
    true_ids = np.full(truth.shape, -1, np.int32)
    for row, tags in zip(true_ids, truth, strict=True):
        row[: tags.sum()] = np.flatnonzero(tags)
    assert (true_ids[:, 0] < 0).any()
    labels = protocols.SplitLabels([str(number) for number in range(IMAGES)], true_ids)
    thresholds = np.array([0.05, 0.3, 0.5, 0.95])
    curve = curves.threshold_curve(ranking, curves.hits(ranking, true_ids), true_ids, thresholds, 3)
    for point, threshold in enumerate(thresholds):
        scores, _ = protocols.judge(ranking, labels, TAGS, threshold=float(threshold), max_tags=3)
        for name in ("precision", "recall", "f1"):
            expected = np.nanmean(np.asarray(getattr(scores, name), np.float64))
            assert getattr(curve, name)[point] == pytest.approx(expected, rel=1e-6)
    assert curve.tags_per_image[0] <= 3


def test_threshold_curve_by_hand():
    """{a} predicted 0.9 right, 0.4 wrong; {a b}: 0.6 wrong, 0.2 right; and one without tags, which counts nowhere.

    Over 0.3: precision 1/2 and 0, recall 1 and 0, F1 2/3 and 0. Over 0.5: 1 and 0, 1 and 0, 1 and 0. Over 0.1: 1/2 and
    1/2, 1 and 1/2, 2/3 and 2/4.
    """
    ranking = Ranking(
        np.array([[0, 1], [2, 1], [0, 1]], np.int32), np.array([[0.9, 0.4], [0.6, 0.2], [0.9, 0.8]], np.float32)
    )
    true_ids = np.array([[0, -1], [0, 1], [-1, -1]], np.int32)
    correct = curves.hits(ranking, true_ids)
    assert correct.tolist() == [[True, False], [False, True], [False, False]]
    curve = curves.threshold_curve(ranking, correct, true_ids, np.array([0.1, 0.3, 0.5]), 2)
    np.testing.assert_allclose(curve.precision, [1 / 2, 1 / 4, 1 / 2])
    np.testing.assert_allclose(curve.recall, [3 / 4, 1 / 2, 1 / 2])
    np.testing.assert_allclose(curve.f1, [7 / 12, 1 / 3, 1 / 2])
    np.testing.assert_allclose(curve.tags_per_image, [2, 1.5, 1])
    assert curve.to_json()["tags_per_image"] == [2.0, 1.5, 1.0]
