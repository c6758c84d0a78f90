"""Balancing: exact numbers, the training photos alone, the same choice for the same seed."""

import numpy as np
import pytest

from socialtag_jax.balancing import balance
from socialtag_jax.errors import UsageError
from socialtag_jax.labels import Labels, normalise, pack
from socialtag_jax.rules import parse_balancing


def labels_of(photos: list[list[str]]) -> Labels:
    return normalise(pack(photos)).in_vocabulary_order()


def balanced_counts(photos: list[list[str]], *rules: str) -> dict[str, int]:
    labels = labels_of(photos)
    left, _ = balance(labels, labels.photos, parse_balancing(rules), seed=0)
    return dict(zip(left.tags, left.counts.tolist(), strict=True))


# 100 photos: love on 100, sea on 50, sky on 20, cat on 9.
PHOTOS = [["love"] + ["sea"] * (n < 50) + ["sky"] * (n < 20) + ["cat"] * (n < 9) for n in range(100)]


def test_the_head_comes_down_to_the_next_tag():
    assert balanced_counts(PHOTOS) == {"love": 100, "sea": 50, "sky": 20, "cat": 9}
    assert balanced_counts(PHOTOS, "down-sample=1") == {"love": 50, "sea": 50, "sky": 20, "cat": 9}
    assert balanced_counts(PHOTOS, "down-sample=2") == {"love": 20, "sea": 20, "sky": 20, "cat": 9}


def test_square_roots():
    # Roots of 100 x 25 and 50 x 25 (35.36); the others are not over 25.
    assert balanced_counts(PHOTOS, "square-root=25") == {"love": 50, "sea": 35, "sky": 20, "cat": 9}
    assert balanced_counts(PHOTOS, "square-root=25", "down-sample=1") == {"love": 35, "sea": 35, "sky": 20, "cat": 9}


def test_only_training_photos_change_and_empty_ones_go():
    labels = labels_of(PHOTOS)
    training = np.arange(0, 100, 2)
    left, steps = balance(labels, training, parse_balancing(["down-sample=1"]), seed=0)
    held_out = np.arange(1, 100, 2)
    assert set(held_out) <= set(left.photos.tolist())
    assert all(left.of(photo) == labels.of(photo) for photo in held_out.tolist())
    before, after = steps
    # In training love is on 50 photos, sea on 25.
    assert (before.rule, before.images, before.most_images) == ("training photos", 50, 50)
    assert (after.rule, after.most_images, after.images_without_tags) == ("down-sample=1", 25, 0)
    dropped = set(training.tolist()) - set(left.photos.tolist())
    assert after.images == 50 - len(dropped) < 50
    # Dropped photos had love alone.
    assert all(labels.of(photo) == (0,) for photo in dropped)


def test_photos_that_have_no_other_tag_go_first():
    """Thirty photos have love alone: as many as down-sampling takes, and no photo then denies a love that it has."""
    photos = [["love"]] * 30 + [["love", "sea"]] * 20
    labels = labels_of(photos)
    left, _ = balance(labels, labels.photos, parse_balancing(["down-sample=1"]), seed=0)
    assert left.photos.tolist() == list(range(30, 50))
    assert all(left.of(photo) == (0, 1) for photo in left.photos.tolist())


def test_photos_without_tags_stay():
    labels = labels_of([["love"], [], ["love", "sea"], []])
    left, _ = balance(labels, labels.photos, parse_balancing(["square-root=9"]), seed=0)
    assert left.photos.tolist() == [0, 1, 2, 3]


def test_the_choice_goes_by_the_seed_and_the_order_of_photos():
    labels = labels_of(PHOTOS)
    rules = parse_balancing(["down-sample=2"])

    def kept(labels: Labels, photos: np.ndarray, seed: int) -> list[tuple[int, ...]]:
        left, _ = balance(labels, photos, rules, seed)
        there = set(left.photos.tolist())
        return [left.of(photo) if photo in there else () for photo in photos.tolist()]

    first = kept(labels, np.arange(100), 0)
    assert kept(labels, np.arange(100), 0) == first
    assert kept(labels, np.arange(100), 1) != first
    # The same photos from a source that lists them backwards.
    backwards = labels_of(PHOTOS[::-1])
    assert kept(backwards, np.arange(100)[::-1], 0) == first


def test_too_few_tags():
    with pytest.raises(UsageError, match=r"down-sample=4: there are only 4 tags, so none after the 4 most frequent"):
        balanced_counts(PHOTOS, "down-sample=4")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("downsample=3", "--balancing: there is no rule 'downsample' -- did you mean 'down-sample'?"),
        ("down-sample", "'down-sample': expected a whole number of at least 1, as in down-sample=20"),
        ("square-root=x", "expected a whole number of at least 1"),
    ],
)
def test_wrong_rules(rule: str, words: str):
    with pytest.raises(UsageError) as caught:
        parse_balancing([rule])
    assert words in str(caught.value)
