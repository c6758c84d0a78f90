"""Photos that look the same in two splits: scores on one are then too good, as the model was trained on the other.

A perceptual hash says which low-frequency cosine coefficients of a small gray version are over their median (Zauner
2010). Saved again at another quality or size, or made brighter, a photo changes few of its 144 bits: at most 16, for 99
of 100 such copies of Corel5K's photos, where all pairs that differ in so few show one scene. Cropped by a twentieth, a
photo changes more: such copies are not found.
"""

import csv
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from socialtag_jax.sources.photo import Photo

HASH_BYTES = 18
MAX_DISTANCE = 16
"""Bits, of 144, that two versions of one photo may differ in."""

_SIZE, _LOW = 32, 12
_BANDS = 4
_CANDIDATES = 1 << 21
"""Pairs that are compared at a time."""


def _cosines() -> np.ndarray:
    """float64 [12, 32]: the low-frequency rows of a cosine transform (DCT-II)."""
    frequency, position = np.arange(_LOW)[:, None], np.arange(_SIZE)[None, :]
    return np.cos(np.pi * frequency * (position + 0.5) / _SIZE)


_COSINES = _cosines()
# The lowest 8 x 8 coefficients first: these bits are the most stable ones, and the search goes by them.
_ORDER = np.lexsort((np.arange(_LOW * _LOW), np.maximum.outer(np.arange(_LOW), np.arange(_LOW)).ravel()))


def perceptual_hash(image: Image.Image) -> bytes:
    """The hash of an RGB image.

    Returns:
      18 bytes: bit k says whether coefficient k is over the median of all but the mean's; the first 64 bits are those
      of the 8 x 8 lowest frequencies.
    """
    small = image.convert("L").resize((_SIZE, _SIZE), Image.Resampling.BOX, reducing_gap=1.0)
    # Rounded, so that no processor's own way of adding up decides a bit.
    coefficients = np.round(_COSINES @ np.asarray(small, np.float64) @ _COSINES.T, 6).ravel()[_ORDER]
    # The first one is the mean brightness.
    return np.packbits(coefficients > np.median(coefficients[1:])).tobytes()


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """A photo of the validation or test split and the photo of another split that looks most like it.

    Attributes:
      photo: its position.
      other: that of the other one; in training where there is any near-duplicate in training.
      distance: bits, of 144, that their hashes differ in.
    """

    photo: int
    other: int
    distance: int


def find_near_duplicates(hashes: np.ndarray, splits: Sequence[str]) -> list[NearDuplicate]:
    """Searches every photo of the validation and test splits among those of other splits.

    What a copy has changed in all four places is missed: a hundredth of those that are 15 % brighter.

    Photos are compared when one of the four quarters of their first 64 bits is equal; then the whole hashes count.

    Args:
      hashes: uint8 [photos, 18].
      splits: of each photo.

    Returns:
      one entry for each such photo that has a near-duplicate, in the order of the photos.
    """
    words = np.pad(hashes, ((0, 0), (0, -HASH_BYTES % 8))).view(np.uint64)
    bands = np.ascontiguousarray(hashes[:, : 2 * _BANDS]).view(np.uint16)
    names = list(dict.fromkeys(["train", *splits]))
    codes = np.array([names.index(split) for split in splits], np.int8)
    held_out = np.flatnonzero(codes != 0)
    # (not in training, distance, position) of the best so far, as one number that compares.
    nothing = np.iinfo(np.int64).max
    best = np.full(len(codes), nothing, np.int64)
    for band in range(_BANDS):
        keys = bands[:, band]
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        starts = np.searchsorted(ordered, keys[held_out], side="left")
        sizes = np.searchsorted(ordered, keys[held_out], side="right") - starts
        for block in _blocks(sizes):
            lengths = sizes[block]
            photos = np.repeat(held_out[block], lengths)
            offsets = np.arange(len(photos)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            others = order[np.repeat(starts[block], lengths) + offsets]
            apart = codes[photos] != codes[others]
            photos, others = photos[apart], others[apart]
            distances = np.bitwise_count(words[photos] ^ words[others]).sum(axis=1, dtype=np.int64)
            near = distances <= MAX_DISTANCE
            photos, others, distances = photos[near], others[near], distances[near]
            ranks = ((codes[others] != 0).astype(np.int64) << 48) | (distances << 40) | others
            np.minimum.at(best, photos, ranks)
    found = np.flatnonzero(best != nothing).tolist()
    return [
        NearDuplicate(photo, int(best[photo]) & ((1 << 40) - 1), (int(best[photo]) >> 40) & 0xFF) for photo in found
    ]


def _blocks(sizes: np.ndarray) -> list[slice]:
    """Slices of about `_CANDIDATES` candidates each."""
    ends = np.cumsum(sizes)
    cuts = np.searchsorted(ends, np.arange(_CANDIDATES, ends[-1] if len(ends) else 0, _CANDIDATES))
    edges = [0, *sorted(set(cuts.tolist())), len(sizes)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges) if stop > start]


def count_by_split(found: Sequence[NearDuplicate], splits: Sequence[str]) -> dict[tuple[str, str], int]:
    """How many photos of a split have their near-duplicate in which other one: (split, other split) -> photos."""
    counts: dict[tuple[str, str], int] = {}
    for one in found:
        key = (splits[one.photo], splits[one.other])
        counts[key] = counts.get(key, 0) + 1
    return counts


def as_csv(found: Sequence[NearDuplicate], photos: Sequence[Photo], splits: Sequence[str]) -> str:
    """The pairs as CSV text: what lies in which split, and the distance."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image_id", "split", "near_duplicate", "its_split", "distance"))
    for one in found:
        pair = [(photos[index].image_id, splits[index]) for index in (one.photo, one.other)]
        writer.writerow((*pair[0], *pair[1], one.distance))
    return text.getvalue()
