"""The draw of a rating study: which photos, which tags, and that their order says nothing."""

import collections
import math
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from socialtag_jax.rating.candidates import POPULAR, RANDOM, Source, choose_photos, mix, popular_pool

TAGS = st.lists(st.integers(0, 39), unique=True, max_size=15)


@given(TAGS, TAGS, TAGS, st.integers(0, 9), st.integers(0, 9))
def test_each_tag_once_with_all_its_sources(
    predicted: Sequence[int], true: Sequence[int], popular: Sequence[int], seed: int, record: int
):
    mixed = mix(predicted, true, popular, 40, seed=seed, record=record)
    by_source = {source: {one.tag for one in mixed if source in one.sources} for source in Source}
    assert len({one.tag for one in mixed}) == len(mixed)
    assert all(one.sources == tuple(source for source in Source if source in one.sources) for one in mixed)
    assert all(one.sources for one in mixed)
    assert by_source[Source.PREDICTED] == set(predicted)
    assert by_source[Source.TRUE] == set(true)
    assert by_source[Source.POPULAR] <= set(popular)
    assert len(by_source[Source.POPULAR]) == min(POPULAR, len(popular))
    assert len(by_source[Source.RANDOM]) == RANDOM


@given(TAGS, TAGS, st.integers(0, 9))
def test_the_draw_depends_on_its_arguments_alone(predicted: Sequence[int], true: Sequence[int], seed: int):
    popular = list(range(15))
    first = mix(predicted, true, popular, 40, seed=seed, record=3)
    assert mix(predicted, true, popular, 40, seed=seed, record=3) == first
    # What is shown, and where, does not tell whether the model or the owner named a tag.
    swapped = mix(true, predicted, popular, 40, seed=seed, record=3)
    assert [one.tag for one in swapped] == [one.tag for one in first]
    assert [one.tag for one in mix(predicted[::-1], true, popular, 40, seed=seed, record=3)] == [
        one.tag for one in first
    ]


def test_seeds_and_photos_differ():
    mixed = [mix([1, 2, 3], [4], range(15), 40, seed=seed, record=record) for seed in range(5) for record in range(5)]
    assert len({tuple(one.tag for one in photo) for photo in mixed}) == 25


def test_every_place_is_as_likely_for_every_source():
    """Over 4,000 photos: where in the list the tags of one source alone stand, and which tags random ones are."""
    places, random = {source: [] for source in Source}, collections.Counter()
    for record in range(4000):
        mixed = mix([0, 1, 2], [3, 4], [5, 6, 7, 8, 9], 20, seed=0, record=record)
        random.update(one.tag for one in mixed if Source.RANDOM in one.sources)
        for place, one in enumerate(mixed):
            if len(one.sources) == 1:
                places[one.sources[0]].append((place + 0.5) / len(mixed))
    assert scipy.stats.chisquare([random[tag] for tag in range(20)]).pvalue > 1e-3
    for found in places.values():
        # Uniform over 0 to 1: mean 1/2, standard deviation 1/sqrt(12). Four standard errors.
        assert np.mean(found) == pytest.approx(0.5, abs=4 / math.sqrt(12 * len(found)))
        fifths = np.histogram(found, 5, (0, 1))[0]
        # Lists have 10 to 15 tags, of which a fifth holds 2 or 3.
        assert fifths.max() < 1.2 * fifths.min()


def test_random_tags_are_drawn_among_all():
    """A random tag may be one that the model names: else random tags would fit less often than by chance."""
    mixed = [mix(range(10), [], [], 20, seed=0, record=record) for record in range(200)]
    both = sum(one.sources == (Source.PREDICTED, Source.RANDOM) for photo in mixed for one in photo)
    assert both == pytest.approx(200 * RANDOM * 10 / 20, rel=0.1)


def test_a_small_vocabulary():
    mixed = mix([0], [1], [0, 1], 2, seed=0, record=0)
    assert sorted(one.tag for one in mixed) == [0, 1]
    assert {one.tag: one.sources for one in mixed}[0] == (Source.PREDICTED, Source.POPULAR, Source.RANDOM)


def test_photos_are_drawn_once_and_a_longer_study_begins_alike():
    found = choose_photos(1000, 200, 7)
    assert len(set(found.tolist())) == 200
    assert found.min() >= 0
    assert found.max() < 1000
    np.testing.assert_array_equal(choose_photos(1000, 50, 7), found[:50])
    assert sorted(choose_photos(10, 10, 0).tolist()) == list(range(10))


def test_popular_tags_by_training_photos():
    assert popular_pool(np.array([3, 0, 9, 3, 5])) == [2, 4, 0, 3]
    assert popular_pool(np.arange(30)) == list(range(29, 14, -1))
