"""Which photo is for training, validation or test, and whether one photo is for two of them."""

import concurrent.futures
import hashlib
import itertools
import math
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.sources.photo import Photo

SPLITS = ("train", "validation", "test")


def leak_free_splits(
    photos: Sequence[Photo],
    *,
    seed: int,
    validation: float = 0.1,
    test: float = 0.1,
    allow_leaks: bool,
    hint: str,
    warn: Callable[[str], None],
) -> list[str]:
    """`assign_splits` by the files' content: identical files are in one split, or the source's splits are refused.

    Args:
      photos: with unique image ids.
      seed: of the random choices.
      validation: as `assign_splits` has it.
      test: as well.
      allow_leaks: goes on, with a warning, when byte-identical photos stand in two splits.
      hint: says how to allow leaks.
      warn: takes one line of text at a time.

    Returns:
      The split of each photo, in the order of `photos`.

    Raises:
      UserError: byte-identical photos stand in two splits, or as `assign_splits`.
    """
    groups = content_groups([photo.path for photo in photos])
    splits = assign_splits(photos, seed=seed, validation=validation, test=test, groups=groups, warn=warn)
    leaks = find_leaks(groups, splits)
    if leaks:
        first, second = leaks[0]
        message = (
            f"the same photo stands in two splits ({len(leaks)} such pairs): "
            f"{photos[first].image_id} ({splits[first]}) and {photos[second].image_id} ({splits[second]}) "
            "are byte-identical"
        )
        if not allow_leaks:
            raise UserError(message, where=photos[first].where or None, hint=hint)
        warn(f"{message}; going on because leaks are allowed")
    return splits


def assign_splits(
    photos: Sequence[Photo],
    *,
    seed: int,
    validation: float = 0.1,
    test: float = 0.1,
    groups: Sequence[Hashable] | None = None,
    warn: Callable[[str], None],
) -> list[str]:
    """Gives every photo a split.

    Where no photo has one, all are split at random. Otherwise what the source says stands, and is completed:

    * photos without a split are train if no photo is named train, test if train is named and test is not;
    * if then no photo is validation, a random share of train becomes validation.

    Random choices depend on the seed, the image ids and the groups, not on the order of the photos. They never part a
    group, and they take the smallest groups for validation and test, so that sizes are exact while photos without a
    copy suffice, and scores count few photos twice.

    Args:
      photos: with unique image ids.
      seed: of the random choices.
      validation: share (above 0, below 1) or number (1 or more, whole) of the photos that are drawn for validation.
      test: the same for test.
      groups: equal keys mark photos that belong together, such as identical files; None if there are none.
      warn: takes one line of text about splits that were completed.

    Returns:
      The split of each photo, in the order of `photos`.

    Raises:
      UserError: too few photos, no photo for training, or photos without a split where both train and test are named.
      UsageError: shares or numbers that leave nothing for training, or are not as above.
    """
    drawn = {"validation": validation, "test": test}
    for split, amount in drawn.items():
        if not (0 < amount < 1 or (math.isfinite(amount) and amount == int(amount) >= 1)):
            expected = "expected a share below 1, such as 0.1, or a whole number of photos"
            raise UsageError(f"{amount:g}: {expected}", where=f"--{split}")
    keys = range(len(photos)) if groups is None else groups
    # Unpacking photos takes time: they may be a million.
    found = [photo.split for photo in photos]
    if not any(found):
        return _random_splits(photos, keys, seed, drawn)
    splits = _fill_blanks(photos, found, warn)
    if "train" not in splits:
        raise UserError(
            f"no photo is for training: all {len(photos)} are in {' or '.join(sorted(set(splits)))}",
            where=photos[0].where or None,
            hint="put some in train, or leave out the splits to have them drawn at random",
        )
    if "validation" not in splits:
        train = splits.count("train")
        # The same share of what is not for testing as where all are drawn.
        share = validation / (1 - test) if test < 1 else validation
        _carve_validation(photos, splits, keys, seed, round(train * share) if validation < 1 else int(validation), warn)
    if "test" not in splits:
        warn("no photo is in test: `socialtag evaluate` then needs --split validation")
    return splits


def _random_splits(
    photos: Sequence[Photo], keys: Sequence[Hashable], seed: int, amounts: Mapping[str, float]
) -> list[str]:
    wanted = {split: round(len(photos) * amount) if amount < 1 else int(amount) for split, amount in amounts.items()}
    if sum(amount if amount < 1 else amount / len(photos) for amount in amounts.values()) >= 1:
        raise UsageError(
            f"{wanted['validation']:,} for validation and {wanted['test']:,} for test leave none of the "
            f"{len(photos):,} photos for training",
            where="--validation, --test",
        )
    groups = _shuffled_groups(photos, range(len(photos)), keys, seed)
    if len(groups) < len(SPLITS):
        raise UserError(
            f"{len(groups)} different photos cannot fill the splits {', '.join(SPLITS)}",
            hint="add photos: at least 3 different ones are needed",
        )
    splits = ["train"] * len(photos)
    for split, leave in (("validation", 2), ("test", 1)):
        taken = _take(groups, wanted[split], leave=leave)
        for position in itertools.chain.from_iterable(groups[:taken]):
            splits[position] = split
        groups = groups[taken:]
    return splits


def _fill_blanks(photos: Sequence[Photo], found: Sequence[str | None], warn: Callable[[str], None]) -> list[str]:
    blanks = found.count(None)
    filler = next((split for split in ("train", "test") if split not in found), None)
    if filler is None and blanks:
        first = photos[found.index(None)]
        raise UserError(
            f"{first.image_id!r} has no split, though other photos are in train and test ({blanks} photos have none)",
            where=first.where or None,
            hint=f"write {', '.join(SPLITS)} for each photo, or for none",
        )
    if blanks:
        warn(f"{blanks} photos without a split are put in {filler}, since no photo is said to be in {filler}")
    return [split or filler or "" for split in found]


def _carve_validation(
    photos: Sequence[Photo],
    splits: list[str],
    keys: Sequence[Hashable],
    seed: int,
    wanted: int,
    warn: Callable[[str], None],
) -> None:
    """Turns `wanted` random photos of train into validation, in place."""
    train = [position for position, split in enumerate(splits) if split == "train"]
    if wanted >= len(train) > 1:
        raise UsageError(
            f"{wanted:,} photos for validation leave none of the {len(train):,} in train", where="--validation"
        )
    groups = _shuffled_groups(photos, train, keys, seed)
    if len(groups) < 2:
        raise UserError(
            f"train has {len(groups)} photo, of which none can be spared for validation",
            where=photos[train[0]].where or None,
            hint="add photos to train, or put some in validation",
        )
    taken = list(itertools.chain.from_iterable(groups[: _take(groups, wanted, leave=1)]))
    for position in taken:
        splits[position] = "validation"
    warn(f"no photo is in validation: {len(taken)} of {len(train)} in train, drawn at random, are moved there")


def _shuffled_groups(
    photos: Sequence[Photo], positions: Iterable[int], keys: Sequence[Hashable], seed: int
) -> list[list[int]]:
    """The positions by group: small groups first, in random order among those of one size."""
    groups: defaultdict[Hashable, list[int]] = defaultdict(list)
    image_ids = [photo.image_id for photo in photos]
    for position in sorted(positions, key=image_ids.__getitem__):
        groups[keys[position]].append(position)
    in_order = list(groups.values())
    shuffled = [in_order[index] for index in np.random.default_rng(seed).permutation(len(in_order)).tolist()]
    return sorted(shuffled, key=len)


def _take(groups: Sequence[Sequence[int]], photos: int, *, leave: int) -> int:
    """How many of the first groups hold at least `photos` photos; at least one, and all but `leave` at most."""
    enough = int(np.searchsorted(np.cumsum([len(group) for group in groups]), photos)) + 1
    return min(enough, len(groups) - leave)


def find_leaks(groups: Sequence[Hashable], splits: Sequence[str]) -> list[tuple[int, int]]:
    """Photos that stand in one split while a photo of the same group stands in another.

    Args:
      groups: a key for each photo, equal for photos of the same content (see `content_groups`).
      splits: the split of each photo.

    Returns:
      A pair of positions for each photo whose group has an earlier photo in another split: the first such, and it. (All
      pairs would be a million where a thousand copies of one placeholder image stand in either split.)
    """
    firsts: defaultdict[Hashable, dict[str, int]] = defaultdict(dict)
    leaks = []
    for position, (group, split) in enumerate(zip(groups, splits, strict=True)):
        first_by_split = firsts[group]
        earlier = next((first for other, first in first_by_split.items() if other != split), None)
        if earlier is not None:
            leaks.append((earlier, position))
        first_by_split.setdefault(split, position)
    return leaks


# ---- content of files

_TAIL_BYTES = 4096
_CHUNK_FILES = 256


def content_groups(paths: Sequence[Path]) -> list[int]:
    """Groups files of identical content.

    Only files of equal size are opened, and only those with equal last bytes are read in full.

    Returns:
      For each path the position of the first one with that content. A file that is missing, empty or unreadable stands
      alone: it is no photo, and `prepare` says so.
    """
    groups = list(range(len(paths)))
    suspects: list[int] = groups.copy()
    same: list[list[int]] = []
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for look in (_size, _tail, _content):
            chunks = [suspects[start : start + _CHUNK_FILES] for start in range(0, len(suspects), _CHUNK_FILES)]
            looks = pool.map(lambda chunk, look=look: [look(paths[position]) for position in chunk], chunks)
            same = _groups_of_several(suspects, itertools.chain.from_iterable(looks))
            suspects = [position for group in same for position in group]
    for group in same:
        for position in group:
            groups[position] = min(group)
    return groups


def _groups_of_several(positions: Iterable[int], keys: Iterable[Hashable]) -> list[list[int]]:
    """The positions by key, without those whose key is None or stands alone."""
    groups: defaultdict[Hashable, list[int]] = defaultdict(list)
    for position, key in zip(positions, keys, strict=True):
        if key is not None:
            groups[key].append(position)
    return [group for group in groups.values() if len(group) > 1]


def _size(path: Path) -> int | None:
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a path with a NUL character
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) and status.st_size else None


def _tail(path: Path) -> bytes | None:
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(-min(_TAIL_BYTES, os.fstat(file.fileno()).st_size), os.SEEK_END)
            return hashlib.sha256(file.read()).digest()
    except OSError:
        return None


def _content(path: Path) -> bytes | None:
    try:
        with path.open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None
