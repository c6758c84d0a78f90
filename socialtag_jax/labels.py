"""Which photo has which tags: packed arrays, since a million photos with eleven tags each are too many Python objects.

Texts as found -> `LabelsPacker` -> `Labels` -> `normalise` -> pruning and balancing -> `Labels.vocabulary`.
"""

import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np

from socialtag_jax.tag_statistics import TagStatistics
from socialtag_jax.tags import TagVocabulary, display_form, normalise_tag

_BLOCK = 1 << 20
"""Pairs that are sorted at a time."""


@dataclass(frozen=True, eq=False)
class Labels:
    """Pairs of a photo and a tag that it has.

    Attributes:
      tags: distinct tags; some may have no pair.
      displays: the display form of each.
      photos: int64 [photos], ascending positions in the source: the photos that are there, with or without tags.
      rows: int32 [pairs], ascending: the position of the pair's photo.
      columns: int32 [pairs]: the index of its tag; within a photo unique, and in the order in which they are written.
      fixed: `tags` is the vocabulary as somebody gave it, in this order, whether photos have these tags or not.
    """

    tags: Sequence[str]
    displays: Sequence[str]
    photos: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    fixed: bool = False

    @property
    def counts(self) -> np.ndarray:
        """int64 [tags]: photos with each tag."""
        return np.bincount(self.columns, minlength=len(self.tags))

    @property
    def lengths(self) -> np.ndarray:
        """int64 [photos]: tags of each photo that is there."""
        size = int(self.photos[-1]) + 1 if len(self.photos) else 0
        return np.bincount(self.rows, minlength=size)[self.photos]

    def of(self, photo: int) -> tuple[int, ...]:
        """Ascending tag indices of the photo at this position of the source."""
        # Of the same type as the rows, which would be copied else.
        start, stop = np.searchsorted(self.rows, np.array((photo, photo + 1), np.int32))
        return tuple(sorted(self.columns[start:stop].tolist()))

    def statistics(self) -> TagStatistics:
        """Of the photos that are there."""
        return TagStatistics(self.counts, np.bincount(self.lengths))

    def keep_pairs(self, kept: np.ndarray) -> "Labels":
        """Without the pairs where the mask, bool [pairs], is false; all photos stay."""
        return replace(self, rows=self.rows[kept], columns=self.columns[kept])

    def keep_tags(self, kept: np.ndarray) -> "Labels":
        """Without the tags where the mask, bool [tags], is false; all photos stay."""
        return self.keep_pairs(kept[self.columns])

    def keep_photos(self, kept: np.ndarray) -> "Labels":
        """Without the photos where the mask, bool [photos], is false, and without their pairs."""
        photos = self.photos[kept]
        inside = np.zeros(int(self.photos[-1]) + 1 if len(self.photos) else 0, bool)
        inside[photos] = True
        pairs = inside[self.rows]
        return replace(self, photos=photos, rows=self.rows[pairs], columns=self.columns[pairs])

    def vocabulary(self) -> TagVocabulary:
        """The tags that any photo has, tags of most photos first, ties in code point order; or those that are given."""
        order = range(len(self.tags)) if self.fixed else self._frequent_first()
        return TagVocabulary(tuple(self.tags[tag] for tag in order), tuple(self.displays[tag] for tag in order))

    def in_vocabulary_order(self) -> "Labels":
        """The same pairs, with tag indices that are those of `vocabulary`."""
        vocabulary = self.vocabulary()
        index = {tag: number for number, tag in enumerate(vocabulary.tags)}
        columns = self._renumbered(index)[self.columns]
        return replace(self, tags=vocabulary.tags, displays=vocabulary.displays, columns=columns)

    def with_vocabulary(self, tags: Sequence[str]) -> "Labels":
        """The pairs of these tags alone; the vocabulary is then fixed. A tag that no photo has is its own display."""
        index = {tag: number for number, tag in enumerate(tags)}
        displays = dict(zip(self.tags, self.displays, strict=True))
        columns = self._renumbered(index)[self.columns]
        renamed = replace(
            self,
            tags=tuple(tags),
            displays=tuple(displays.get(tag, tag) for tag in tags),
            columns=columns,
            fixed=True,
        )
        return renamed.keep_pairs(columns >= 0)

    def _renumbered(self, index: Mapping[str, int]) -> np.ndarray:
        """int32 [tags]: the new index of each tag, -1 for those that have none."""
        return np.fromiter((index.get(tag, -1) for tag in self.tags), np.int32, len(self.tags))

    def _frequent_first(self) -> list[int]:
        counts = self.counts
        return sorted(np.flatnonzero(counts).tolist(), key=lambda tag: (-counts[tag], self.tags[tag]))


class LabelsPacker(Sequence[tuple[str, ...]]):
    """Takes the tags of one photo after the other, in any written form; each distinct text is kept once."""

    def __init__(self) -> None:
        self._index: dict[str, int] = {}
        self._texts: list[str] = []
        self._columns = array.array("i")
        self._stops = array.array("q", [0])

    def __len__(self) -> int:
        return len(self._stops) - 1

    @overload
    def __getitem__(self, row: int) -> tuple[str, ...]: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[tuple[str, ...]]: ...
    def __getitem__(self, row: int | slice) -> tuple[str, ...] | Sequence[tuple[str, ...]]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        return tuple(self._texts[text] for text in self._columns[self._stops[row] : self._stops[row + 1]])

    def append(self, texts: Iterable[str]) -> None:
        """Adds the next photo's tags."""
        for text in texts:
            number = self._index.get(text)
            if number is None:
                number = self._index[text] = len(self._texts)
                self._texts.append(text)
            self._columns.append(number)
        self._stops.append(len(self._columns))

    def labels(self) -> Labels:
        """The texts as they were found: two forms of one tag are two tags here, see `normalise`."""
        lengths = np.diff(np.frombuffer(self._stops, np.int64))
        rows = np.repeat(np.arange(len(self), dtype=np.int32), lengths)
        columns = np.array(self._columns, np.int32)
        return _unique(Labels(self._texts, self._texts, np.arange(len(self), dtype=np.int64), rows, columns))


def pack(tag_lists: Iterable[Iterable[str]]) -> Labels:
    """The labels of some photos, as they are written."""
    packer = LabelsPacker()
    for texts in tag_lists:
        packer.append(texts)
    return packer.labels()


def normalise(found: Labels) -> Labels:
    """Merges the written forms of a tag: tags become ids (`normalise_tag`), texts without any visible sign go.

    A tag's display form is the one that most photos have; the first in code point order among equals.
    """
    forms: dict[tuple[str, str], int] = {}
    form_of = [forms.setdefault(_form(text), len(forms)) for text in found.tags]
    by_form = _merge(found, form_of, [display for _, display in forms])
    counts = by_form.counts.tolist()
    displays: dict[str, str] = {}
    for (tag, display), _ in sorted(zip(forms, counts, strict=True), key=lambda item: (-item[1], item[0])):
        displays.setdefault(tag, display)
    ids = {tag: number for number, tag in enumerate(displays)}
    merged = _merge(by_form, [ids[tag] for tag, _ in forms], tuple(ids))
    named = replace(merged, displays=tuple(displays.values()))
    return named.keep_tags(np.array([tag != "" for tag in named.tags], bool))


def _form(text: str) -> tuple[str, str]:
    """The id and the display form; the text itself where it is either, since there may be millions of them."""
    tag, display = normalise_tag(text), display_form(text)
    return text if tag == text else tag, text if display == text else display


def build_vocabulary(tag_lists: Iterable[Iterable[str]]) -> TagVocabulary:
    """The vocabulary of some photos: tags of most photos first, ties in code point order of the ids.

    Args:
      tag_lists: the tags of each photo, in any written form; a tag counts once per photo.
    """
    return normalise(pack(tag_lists)).vocabulary()


def _merge(labels: Labels, groups: Sequence[int], names: Sequence[str]) -> Labels:
    """Tags of one group become one tag: group g is called `names[g]`."""
    target = np.array(groups, np.int32)
    return _unique(replace(labels, tags=names, displays=names, columns=target[labels.columns]))


def _unique(labels: Labels) -> Labels:
    """Leaves the first of equal pairs, and the order as it was."""
    rows, columns = labels.rows, labels.columns
    kept = np.ones(len(rows), bool)
    start = 0
    while start < len(rows):
        # Blocks end where a photo ends.
        stop = int(np.searchsorted(rows, rows[min(start + _BLOCK, len(rows)) - 1], side="right"))
        keys = rows[start:stop].astype(np.int64) * len(labels.tags) + columns[start:stop]
        _, first = np.unique(keys, return_index=True)
        kept[start:stop] = False
        kept[start + first] = True
        start = stop
    return labels.keep_pairs(kept) if not kept.all() else labels
