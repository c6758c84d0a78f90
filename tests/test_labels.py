"""Packed labels against the same thing done with sets and dictionaries."""

import hashlib
from collections import Counter

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from socialtag_jax import labels as labels_module
from socialtag_jax.labels import build_vocabulary, normalise, pack
from socialtag_jax.tags import normalise_tag

PHOTOS = [["#Sea", "sea", "Sky"], ["Sea", "NA"], ["Sea", "sky", ""], ["SEA", "#"]]

words = st.lists(st.lists(st.sampled_from(["sea", "Sea", "#SEA", "sky", "Sky", "", "#", "naïve", "b a"]), max_size=6))


def test_vocabulary_worked_by_hand():
    vocabulary = build_vocabulary(PHOTOS)
    assert vocabulary.tags == ("sea", "sky", "na")
    # Sea: written Sea on three photos, sea and SEA on one; Sky and sky tie, and S comes first.
    assert vocabulary.displays == ("Sea", "Sky", "NA")
    assert len(vocabulary) == 3
    assert vocabulary.index == {"sea": 0, "sky": 1, "na": 2}
    assert vocabulary.sha256 == hashlib.sha256(b"sea\nsky\nna").hexdigest()
    assert vocabulary.encode(["NA", "unknown", "#sea", "ＳＥＡ", "#"]) == (0, 2)
    assert vocabulary.encode([]) == ()


def test_ties_are_in_code_point_order():
    assert build_vocabulary([["é", "z", "a", "b"], ["b"]]).tags == ("b", "a", "z", "é")
    assert len(build_vocabulary([])) == 0


@hypothesis.given(words)
def test_packed_labels_are_those_of_sets(tag_lists: list[list[str]]):
    labels = normalise(pack(tag_lists))
    expected = [{normalise_tag(text) for text in texts} - {""} for texts in tag_lists]
    assert [{labels.tags[tag] for tag in labels.of(photo)} for photo in range(len(tag_lists))] == expected
    counts = Counter(tag for tags in expected for tag in tags)
    assert {tag: count for tag, count in zip(labels.tags, labels.counts.tolist(), strict=True) if count} == counts
    assert labels.lengths.tolist() == [len(tags) for tags in expected]
    statistics = labels.statistics()
    assert (statistics.images, statistics.unique_tags) == (len(tag_lists), len(counts))
    ordered = labels.in_vocabulary_order()
    vocabulary = build_vocabulary(tag_lists)
    assert tuple(ordered.tags) == labels.vocabulary().tags == vocabulary.tags
    assert [ordered.of(photo) for photo in range(len(tag_lists))] == [vocabulary.encode(texts) for texts in tag_lists]


@hypothesis.given(words, st.integers(1, 3))
def test_blocks_change_nothing(tag_lists: list[list[str]], block: int):
    whole = pack(tag_lists)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labels_module, "_BLOCK", block)
        parts = pack(tag_lists)
    np.testing.assert_array_equal(parts.rows, whole.rows)
    np.testing.assert_array_equal(parts.columns, whole.columns)


def test_a_photo_keeps_the_order_of_its_tags():
    labels = normalise(pack([["c", "a", "C", "b"]]))
    assert [labels.tags[tag] for tag in labels.columns] == ["c", "a", "b"]


def test_photos_and_tags_are_left_out():
    labels = normalise(pack([["a", "b"], ["b"], [], ["a", "c"]]))
    fewer = labels.keep_photos(np.array([True, False, True, True]))
    assert fewer.photos.tolist() == [0, 2, 3]
    assert fewer.lengths.tolist() == [2, 0, 2]
    assert dict(zip(fewer.tags, fewer.counts.tolist(), strict=True)) == {"a": 2, "b": 1, "c": 1}
    # Photos keep their positions in the source.
    again = fewer.keep_tags(np.array([tag != "c" for tag in fewer.tags])).keep_photos(np.array([False, True, True]))
    assert again.photos.tolist() == [2, 3]
    assert [again.tags[tag] for tag in again.of(3)] == ["a"]
    assert again.vocabulary().tags == ("a",)
