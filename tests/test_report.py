"""A report's arithmetic, by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from socialtag_jax.curves import ThresholdCurve
from socialtag_jax.metrics import Ranking, TagCounts
from socialtag_jax.report import figures, photo_choice, photos, published, tag_groups, tag_pairs
from socialtag_jax.report.comparison_page import difference
from socialtag_jax.report.outcomes import Outcomes, outcomes
from socialtag_jax.report.page import shown
from socialtag_jax.report.thumbnails import MOST_BYTES, thumbnail
from socialtag_jax.report.training_curves import training_curves
from tests.evaluations import noise_jpeg


def made(true: list[list[int]], predicted: list[list[tuple[int, float]]], threshold: float = 0.3) -> Outcomes:
    """Outcomes of images with these tags and these rankings, the rest of which are tag 99 with confidence 0."""
    count = max(map(len, predicted))
    filled = [[*row, *[(99, 0.0)] * (count - len(row))] for row in predicted]
    tag_ids = np.array([[tag for tag, _ in row] for row in filled], np.int32)
    confidences = np.array([[value for _, value in row] for row in filled], np.float32)
    true_ids = np.full((len(true), max(map(len, true))), -1, np.int32)
    for row, tags in zip(true_ids, true, strict=True):
        row[: len(tags)] = tags
    return outcomes(Ranking(tag_ids, confidences), true_ids, threshold=threshold, max_tags=3)


def test_outcomes():
    """Tags 1 and 4 are true; 1 is right, 2 is wrong, 3 is not over the threshold, and 4 is the fourth of three."""
    found = made([[1, 4], []], [[(1, 0.9), (2, 0.8), (3, 0.3), (4, 0.25)], [(5, 0.7)]], threshold=0.3)
    assert found.right.tolist() == [[True, False, False, False], [False] * 4]
    assert found.wrong.tolist() == [[False, True, False, False], [True, False, False, False]]
    assert found.missed.tolist() == [[False, True], [False, False]]
    assert found.tagged.tolist() == [True, False]
    fourth = made([[4]], [[(1, 0.9), (2, 0.8), (3, 0.7), (4, 0.6)]])
    assert not fourth.right.any()
    assert fourth.missed.tolist() == [[True]]


def test_frequency_groups_each_have_a_third_of_the_uses():
    """Of 18 uses: 6 are the head; then 4 and 2 the middle; 2, 2, 1, 1 the tail, as is the tag that was never used."""
    frequency = np.array([2, 6, 0, 4, 1, 2, 1, 2])
    # In order: 6 | 4 2 | 2 2 1 1 0; before each: 0, 6, 10, 12, 14, 16, 17, 18.
    assert tag_groups.frequency_groups(frequency).tolist() == [1, 0, 2, 1, 2, 2, 2, 2]
    assert tag_groups.frequency_groups(np.zeros(3, np.int64)).tolist() == [2, 2, 2]


def test_group_scores():
    """Head: tag 0, 3 of 4 predicted right, 3 of 6 found. Tail: tag 1 is never predicted, tag 2 is on no image."""
    counts = TagCounts(np.array([3, 0, 0]), np.array([4, 0, 1]), np.array([6, 2, 0]))
    head, tail = tag_groups.group_scores(counts, np.array([0.5, 0.25, np.nan]), np.array([10, 1, 1]))
    assert (head.name, head.tags, head.least, head.most, head.scored, head.never_predicted) == ("head", 1, 10, 10, 1, 0)
    assert (head.precision, head.recall, head.f1, head.average_precision) == (0.75, 0.5, 0.6, 0.5)
    assert (tail.name, tail.tags, tail.least, tail.most, tail.scored, tail.never_predicted) == ("tail", 2, 1, 1, 1, 1)
    assert (tail.precision, tail.recall, tail.f1, tail.average_precision) == (0.0, 0.0, 0.0, 0.25)


def test_dominance():
    """Tags 2 and 0 are 8 of 10 predictions, but 3 of 12 labels; tag 3 is never predicted."""
    counts = TagCounts(np.zeros(4, int), np.array([3, 2, 5, 0]), np.array([2, 4, 1, 5]))
    found = tag_groups.dominance(counts, 2)
    assert (list(found.tags), found.share_of_predictions, found.share_of_labels) == ([2, 0], 0.8, 0.25)
    assert found.predicted_tags == 3
    assert list(tag_groups.dominance(counts).tags) == [2, 0, 1]


def test_confusions():
    """Ten photos. Tag 0 is missed in four, and in three of these tag 1 is said; tag 2 is said in all ten.

    Tag 1 instead of 0: 3 photos; it is said wrongly in three, so by chance 4 x 3 / 10 = 1.2. Tag 2 instead of 0: 4, by
    chance 4 x 10 / 10 = 4: no more than chance, and left out.
    """
    true = [[0, 3]] * 4 + [[3]] * 6
    predicted = [[(3, 0.9), (2, 0.8), (1, 0.7)]] * 3 + [[(3, 0.9), (2, 0.8)]] * 7
    assert tag_pairs.confusions(made(true, predicted), 100) == [tag_pairs.Confusion(0, 1, 3, 4 * 3 / 10)]


def test_confusions_do_not_depend_on_photos_without_tags():
    """Tag 1 is said wrongly for 30 more photos; they have no tag that it could be said instead of."""
    true = [[0, 3]] * 4 + [[3]] * 6 + [[]] * 30
    predicted = [[(3, 0.9), (1, 0.7)]] * 3 + [[(3, 0.9)]] * 7 + [[(1, 0.7)]] * 30
    assert tag_pairs.confusions(made(true, predicted), 100) == [tag_pairs.Confusion(0, 1, 3, 4 * 3 / 10)]


def test_conflicts():
    """Twenty photos: summer (0) on ten, winter (1) on the other ten; by chance, 10 x 10 / 20 = 5 would have both.

    Of independent tags, none would have both with a probability of exp(-5), below 0.01. Both are predicted for three.
    Sea (2) is on eight of the summer photos, and predicted with it: no conflict. Nor is it one with winter, of which
    the labels say too little: 8 x 10 / 20 = 4 would have both by chance, and exp(-4) is above 0.01.
    """
    true = [[0, 2]] * 8 + [[0]] * 2 + [[1]] * 10
    predicted = [[(0, 0.9), (2, 0.8)]] * 7 + [[(0, 0.9), (1, 0.8), (2, 0.7)]] * 3 + [[(1, 0.9)]] * 10
    assert tag_pairs.conflicts(made(true, predicted), 100) == [tag_pairs.Conflict(0, 1, 3, 0, 5.0)]
    # Photos without tags say nothing of which tags exclude each other.
    untagged = made([*true, *[[]] * 5], [*predicted, *[[(0, 0.9), (1, 0.8)]] * 5])
    assert tag_pairs.conflicts(untagged, 100) == [tag_pairs.Conflict(0, 1, 3, 0, 5.0)]


def test_pairs_are_those_of_counting_all(monkeypatch: pytest.MonkeyPatch):
    """In chunks that do not divide the images, beside a plain count over images and tags."""
    rng = np.random.default_rng(0)
    true = [sorted(rng.choice(8, 3, replace=False).tolist()) for _ in range(50)]
    predicted = [[(int(tag), 0.9) for tag in rng.choice(8, 3, replace=False)] for _ in range(50)]
    found = made(true, predicted)
    monkeypatch.setattr(tag_pairs, "_CHUNK", 7)
    for one in tag_pairs.confusions(found, 100, most=100):
        images = sum(
            one.missed in tags and one.missed not in said and one.said in said and one.said not in tags
            for tags, said in ((tags, [tag for tag, _ in row]) for tags, row in zip(true, predicted, strict=True))
        )
        assert one.images == images
        assert one.images > one.expected


def test_choice_of_photos():
    """0: sure and not labelled; 1: all right; 2: half right; 3: wrong, surely; 4: wrong; 5: without tags."""
    true = [[0], [0, 1], [0], [2], [2], []]
    predicted = [
        [(0, 0.99), (3, 0.95)],
        [(0, 0.9), (1, 0.8)],
        [(0, 0.6), (1, 0.5)],
        [(1, 0.8)],
        [(1, 0.5)],
        [(4, 0.99)],
    ]
    f1 = np.array([2 / 3, 1.0, 2 / 3, 0.0, 0.0, np.nan])
    found = made(true, predicted)
    choice = photo_choice.choose(found, f1, 1, seed=0)
    assert (choice.unlabelled, choice.best, choice.worst) == ([0], [1], [3])
    assert choice.random in ([2], [4])
    everything = photo_choice.choose(found, f1, 10, seed=0)
    assert everything == photo_choice.Choice([1, 2], [3, 4], [], [0])


def test_one_tag_does_not_fill_the_unlabelled_photos():
    found = made([[0]] * 5, [[(1, 0.99)]] * 4 + [[(2, 0.91)]])
    assert photo_choice.choose(found, np.zeros(5), 5, seed=0).unlabelled == [0, 1, 4]


def test_histogram_of_scores():
    """Float32 has no 0.3: it still belongs to the tenth that it opens."""
    values = np.array([0.0, 0.05, 0.3, 0.7, 1.0, np.nan], np.float32)
    assert figures.histogram_shares(values).tolist() == [0.4, 0, 0, 0.2, 0, 0, 0, 0.2, 0, 0.2]


def test_the_chosen_threshold_stands_at_the_score_that_it_has(monkeypatch: pytest.MonkeyPatch):
    """0.02 lies below all thresholds of the curve, which says nothing of it."""
    curve = ThresholdCurve(*(np.array(column) for column in ([0.05, 0.1], [0.2, 0.2], [0.9, 0.8], [0.5, 0.4], [9, 8])))
    drawn: list[Callable[[Axes], None]] = []
    monkeypatch.setattr(figures, "_svg", lambda draw, name: drawn.append(draw))
    figures.compared_thresholds({"A": (curve, (0.02, 0.61)), "B": (curve, (0.1, 0.4))})
    panel = Figure().subplots()
    drawn[0](panel)
    points = [line.get_xydata() for line in panel.get_lines() if line.get_marker() == "o"]
    np.testing.assert_allclose(np.concatenate(points), [[0.02, 0.61], [0.1, 0.4]])


def test_training_curves():
    """Two epochs; the first was stopped after its last step, so that only its validation was written."""
    lines = [
        {"kind": "train", "step": 20, "epoch": 1, "loss": 0.9},
        {"kind": "validation", "step": 30, "epoch": 1, "loss": 0.8, "f1": 0.1},
        {"kind": "epoch", "step": 60, "epoch": 2, "loss": 0.7},
        {"kind": "validation", "step": 60, "epoch": 2, "loss": None, "f1": 0.2},
    ]
    found = training_curves(lines)
    np.testing.assert_array_equal(found.training_loss, [math.nan, 0.7])
    np.testing.assert_array_equal(found.validation_loss, [0.8, math.nan])
    np.testing.assert_array_equal(found.validation_f1, [0.1, 0.2])
    assert found.best == (2, 0.2)


def test_paired_difference():
    """0.1, 0.3, 0.2, 0, -0.1: mean 0.1; squares of what is left 0, 0.04, 0.01, 0.01, 0.04, so variance 0.1 / 4.

    Student's t of 4 degrees of freedom, 97.5 %, is 2.776445 in printed tables.
    """
    first = np.array([0.1, 0.2, 0.3, 0.4, 0.5, np.nan])
    found = difference(first, first + np.array([0.1, 0.3, 0.2, 0.0, -0.1, 0.0]))
    half = 2.776445 * math.sqrt(0.025 / 5)
    assert found[:3] == pytest.approx((0.1, 0.1 - half, 0.1 + half), rel=1e-5)
    assert found[3:] == (3, 1, 1)
    one = difference(np.array([0.1]), np.array([0.3]))
    assert one.mean == pytest.approx(0.2)
    assert math.isnan(one.low)
    assert math.isnan(one.high)


def test_published_rows_are_of_the_same_data_set_alone():
    assert published.known_dataset(4999, 374) is published.KNOWN[0]
    assert published.known_dataset(57_000, 997) is published.KNOWN[1]
    assert published.known_dataset(57_384, 997) is None
    assert published.known_dataset(56_000, 997) is None
    assert published.known_dataset(4999, 375) is None


def test_our_values_beside_published_ones():
    """Found where the protocol's scores stand; none where it was not applied, or has no such baseline."""
    (corel,) = published.KNOWN[0].tables
    words = {"precision": 0.2, "recall": 0.3, "f1": 0.24, "words_recalled": 102}
    summary = {"five_words_an_image": {"words": 260, "scores": {"model": words}}, "scores": {}}
    assert published.our_values(corel, summary, "model") == [0.2, 0.3, 102]
    assert published.our_values(corel, summary, "popularity_15") is None
    assert published.our_values(corel, {"scores": {}}, "model") is None
    thesis = published.KNOWN[2].tables[0]
    f1 = {"mean": 0.11, "median": 0.08, "std": 0.13, "zero_share": 0.46}
    scores = {"model": {"f1": f1, "recall": {"mean": 0.15}, "precision": {"mean": 0.1}}}
    assert published.our_values(thesis, {"scores": scores}, "model") == [0.11, 0.08, 0.13, 0.15, 0.1, 0.46]


def test_published_rows_of_other_test_photos():
    """Corel5K's own test split has 499 photos, which share 260 words with the training photos; others were random."""
    (corel,) = published.KNOWN[0].tables
    own = {"images": 499, "five_words_an_image": {"words": 260}}
    assert published.same_test_split(corel, own)
    assert not published.same_test_split(corel, own | {"images": 500})
    assert not published.same_test_split(corel, own | {"five_words_an_image": {"words": 255}})
    assert not any(published.same_test_split(table, own) for one in published.KNOWN[1:] for table in one.tables)


@pytest.mark.parametrize("size", [(360, 360), (4000, 300), (20, 3000)])
def test_thumbnails_are_bounded(size: tuple[int, int]):
    """Even of noise, which JPEG cannot make small."""
    address = thumbnail(noise_jpeg(0, size, quality=95))
    assert address.startswith("data:image/jpeg;base64,")
    assert len(address) <= MOST_BYTES * 4 / 3 + 30


def test_what_is_shown_of_a_tag():
    assert shown("sea") == "sea"
    assert shown("x" * 1000) == "x" * 79 + "…"
    assert shown("a\u202eb\x07") == "a\\u202eb\\x07"


def test_chips():
    """Predicted ones as ranked, then the missed; what is too much is counted."""
    found = photos.chips([("a", 0.914), ("b", 0.5)], ["a", "c"], {"c": "C"})
    states = [(one["state"], one["tag"], one["confidence"]) for one in found]
    assert states == [("right", "a", 91), ("wrong", "b", 50), ("missed", "C", None)]
    many = photos.chips([(f"{number}", 0.9) for number in range(22)], [f"t{number}" for number in range(21)], {})
    assert [one["tag"] for one in many if one["state"] == "more"] == ["and 2 more predicted", "and 1 more missed"]
    assert len(many) == 42
