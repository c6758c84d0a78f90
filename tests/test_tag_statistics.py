import json
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from socialtag_jax.labels import build_vocabulary
from socialtag_jax.tag_statistics import TagStatistics, tag_statistics


@hypothesis.given(st.lists(st.lists(st.integers(0, 6), unique=True, max_size=7), min_size=1, max_size=20))
def test_statistics_agree_with_numpy(encoded: list[list[int]]) -> None:
    statistics = tag_statistics(iter(encoded), n_tags=7)
    lengths = np.array([len(tags) for tags in encoded])
    assert statistics.images == len(encoded)
    assert statistics.images_without_tags == np.count_nonzero(lengths == 0)
    assert statistics.min_tags == lengths.min()
    assert statistics.max_tags == lengths.max()
    assert statistics.mean_tags == pytest.approx(lengths.mean())
    assert statistics.median_tags == np.median(lengths)
    expected = np.bincount([tag for tags in encoded for tag in tags], minlength=7)
    np.testing.assert_array_equal(statistics.counts, expected)
    assert statistics.counts.dtype == np.int64
    assert statistics.unique_tags == np.count_nonzero(expected)


@hypothesis.given(st.lists(st.lists(st.integers(0, 6), unique=True), max_size=9), st.integers(0, 9))
def test_statistics_of_parts_add_up(encoded: list[list[int]], cut: int) -> None:
    whole = tag_statistics(encoded, n_tags=7)
    parts = tag_statistics(encoded[:cut], n_tags=7) + tag_statistics(encoded[cut:], n_tags=7)
    assert parts.to_json() == whole.to_json()


def test_statistics_survive_json() -> None:
    statistics = tag_statistics([(0, 2), (), (2,)], n_tags=4)
    text = json.dumps(statistics.to_json())
    assert json.loads(text) == {
        "images": 3,
        "images_without_tags": 1,
        "unique_tags": 2,
        "min_tags": 0,
        "mean_tags": 1.0,
        "median_tags": 1.0,
        "max_tags": 2,
        "histogram": [1, 1, 1],
        "counts": [1, 0, 2, 0],
    }
    assert TagStatistics.from_json(json.loads(text)).to_json() == statistics.to_json()


def test_statistics_of_nothing() -> None:
    statistics = tag_statistics([], n_tags=2)
    assert (statistics.images, statistics.images_without_tags, statistics.unique_tags) == (0, 0, 0)
    assert (statistics.min_tags, statistics.mean_tags, statistics.median_tags, statistics.max_tags) == (0, 0, 0, 0)


def test_statistics_refuse_what_cannot_be() -> None:
    for index in (-1, 2):
        with pytest.raises(ValueError, match=rf"tag index {index} is outside 0 \.\. 1"):
            tag_statistics([(index,)], n_tags=2)
    with pytest.raises(ValueError, match="statistics of 1 and of 2 tags cannot be added"):
        _ = tag_statistics([], n_tags=1) + tag_statistics([], n_tags=2)


def test_harrison(shared_data: Path) -> None:
    """The published figures of the HARRISON labels: 57,383 images, 997 tags, mean 4.5, median 4, most frequent love."""
    path = shared_data / "harrison" / "tag_list.txt"
    if not path.exists():
        pytest.skip(f"no {path}")
    tag_lists = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    vocabulary = build_vocabulary(tag_lists)
    statistics = tag_statistics(map(vocabulary.encode, tag_lists), len(vocabulary))
    assert statistics.images == 57_383
    assert len(vocabulary) == statistics.unique_tags == 997
    assert (round(statistics.mean_tags, 3), statistics.median_tags) == (4.544, 4)
    assert (statistics.min_tags, statistics.max_tags) == (1, 10)
    assert vocabulary.tags[:6] == ("love", "friend", "beach", "family", "yellow", "girl")
    assert statistics.counts[:6].tolist() == [5892, 3646, 3025, 2966, 2667, 2614]
