"""Many photos, packed: a hundred bytes each instead of a kilobyte of Python objects."""

import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self, overload

import numpy as np

from socialtag_jax.labels import Labels, LabelsPacker
from socialtag_jax.sources.photo import Photo
from socialtag_jax.sources.splits import SPLITS

_SPLIT_CODES = {None: 0} | {split: code for code, split in enumerate(SPLITS, start=1)}
_SPLIT_OF_CODE = {code: split for split, code in _SPLIT_CODES.items()}


class _PackedTexts:
    """A list of texts in one piece of memory."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._stops = array.array("q", [0])

    def append(self, text: str) -> None:
        # File names may hold bytes that are no UTF-8, which Python writes as lone surrogates.
        self._data += text.encode("utf-8", "surrogatepass")
        self._stops.append(len(self._data))

    def __getitem__(self, row: int) -> str:
        return self._data[self._stops[row] : self._stops[row + 1]].decode("utf-8", "surrogatepass")


class PhotoTable(Sequence[Photo]):
    """The photos of a source, in its order; each is unpacked when it is asked for.

    Args:
      photos: are consumed one by one.
    """

    def __init__(self, photos: Iterable[Photo]) -> None:
        self._image_ids, self._paths, self._wheres = _PackedTexts(), _PackedTexts(), _PackedTexts()
        self._splits = bytearray()
        self._tags = LabelsPacker()
        for photo in photos:
            self._image_ids.append(photo.image_id)
            self._paths.append(str(photo.path))
            self._wheres.append(photo.where)
            self._splits.append(_SPLIT_CODES[photo.split])
            self._tags.append(photo.tags)
        self.positions = np.arange(len(self._tags), dtype=np.int64)
        """int64 [photos]: where each photo stands in the source."""

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, index: int) -> Photo: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Photo | Self:
        if isinstance(index, slice):
            return self.take(index)
        row = int(self.positions[index])
        return Photo(
            path=Path(self._paths[row]),
            image_id=self._image_ids[row],
            tags=self._tags[row],
            split=_SPLIT_OF_CODE[self._splits[row]],
            where=self._wheres[row],
        )

    def image_id(self, index: int) -> str:
        """That of one photo, without unpacking the rest of it."""
        return self._image_ids[int(self.positions[index])]

    @property
    def image_ids(self) -> Iterator[str]:
        """The image ids, in order."""
        return (self._image_ids[row] for row in self.positions.tolist())

    def take(self, indices: np.ndarray | slice) -> Self:
        """The photos at these indices, in their order; shares all memory with this table."""
        taken = object.__new__(type(self))
        taken.__dict__.update(self.__dict__)
        taken.positions = self.positions[indices]
        return taken

    def labels(self) -> Labels:
        """The tags of all photos of the source, as written: its photos are `positions`, whatever was taken since."""
        return self._tags.labels()
