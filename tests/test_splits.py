import itertools
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.sources.photo import Photo
from socialtag_jax.sources.splits import SPLITS, assign_splits, content_groups, find_leaks, leak_free_splits


def make_photos(splits: Sequence[str | None]) -> list[Photo]:
    return [
        Photo(Path(f"{number}.jpg"), f"{number}.jpg", (), split, f"tags.csv, row {number + 1}")
        for number, split in enumerate(splits)
    ]


def sizes(splits: Sequence[str]) -> tuple[int, ...]:
    counts = Counter(splits)
    assert set(counts) <= set(SPLITS)
    return tuple(counts[split] for split in SPLITS)


@pytest.mark.parametrize(
    ("photos", "expected"),
    [
        (3, (1, 1, 1)),
        (4, (2, 1, 1)),
        (10, (8, 1, 1)),
        (100, (80, 10, 10)),
        (5000, (4000, 500, 500)),
        # HARRISON, of which the reference system held out 5,738 photos twice.
        (57_383, (45_907, 5738, 5738)),
    ],
)
def test_random_sizes(photos: int, expected: tuple[int, int, int]) -> None:
    assert sizes(assign_splits(make_photos([None] * photos), seed=0, warn=pytest.fail)) == expected


def test_other_sizes() -> None:
    photos = make_photos([None] * 20)

    def sizes_of(photos: list[Photo], validation: float, test: float) -> tuple[int, ...]:
        return sizes(assign_splits(photos, seed=0, validation=validation, test=test, warn=pytest.fail))

    assert sizes_of(photos, 0.3, 0.2) == (10, 6, 4)
    # Whole numbers are photos.
    assert sizes_of(photos, 3, 0.2) == (13, 3, 4)
    assert sizes_of(photos, 0.1, 7) == (11, 2, 7)
    # Both 0.45 x 4 are rounded to 2, but training keeps one.
    assert sizes_of(photos[:4], 0.45, 0.45) == (1, 2, 1)
    for validation, test in ((0.0, 0.1), (0.1, -0.1), (2.5, 0.1), (float("nan"), 0.1), (float("inf"), 0.1)):
        with pytest.raises(UsageError, match=r"expected a share below 1, such as 0\.1, or a whole number of photos"):
            sizes_of(photos, validation, test)
    for validation, test in ((0.8, 0.2), (15, 0.25), (10, 10)):
        with pytest.raises(UsageError, match="leave none of the 20 photos for training"):
            sizes_of(photos, validation, test)


def test_amounts_of_named_splits() -> None:
    photos = make_photos(["train"] * 10 + ["test"] * 20)
    assert sizes(assign_splits(photos, seed=0, validation=4, warn=lambda _: None)) == (6, 4, 20)
    with pytest.raises(UsageError, match="--validation: 10 photos for validation leave none of the 10 in train"):
        assign_splits(photos, seed=0, validation=10, warn=lambda _: None)
    # Nothing is drawn where every split is named.
    named = make_photos(["train"] * 3 + ["validation", "test"])
    assert sizes(assign_splits(named, seed=0, validation=9, test=9, warn=pytest.fail)) == (3, 1, 1)


def test_random_splits_depend_on_the_seed_and_not_on_the_order_of_rows() -> None:
    photos = make_photos([None] * 50)
    first = assign_splits(photos, seed=1, warn=pytest.fail)
    assert assign_splits(photos, seed=1, warn=pytest.fail) == first
    assert assign_splits(photos[::-1], seed=1, warn=pytest.fail) == first[::-1]
    assert assign_splits(photos, seed=2, warn=pytest.fail) != first


def test_random_splits_are_fair() -> None:
    """Each of 10 photos is in test once in 10 draws: 40 +- 6 (one standard deviation) of 400."""
    photos = make_photos([None] * 10)
    draws = [assign_splits(photos, seed=seed, warn=pytest.fail) for seed in range(400)]
    for of_photo in zip(*draws, strict=True):
        assert 16 <= of_photo.count("test") <= 64


@hypothesis.given(st.lists(st.integers(0, 12), min_size=3, max_size=60), st.integers(0, 3))
def test_random_splits_keep_groups_together(groups: list[int], seed: int) -> None:
    hypothesis.assume(len(set(groups)) >= 3)
    photos = make_photos([None] * len(groups))
    splits = assign_splits(photos, seed=seed, groups=groups, warn=pytest.fail)
    assert find_leaks(groups, splits) == []
    assert min(sizes(splits)) >= 1


def test_groups_do_not_change_sizes_while_single_photos_suffice() -> None:
    groups = [number if number < 60 else 60 + number % 7 for number in range(100)]
    splits = assign_splits(make_photos([None] * 100), seed=0, groups=groups, warn=pytest.fail)
    assert sizes(splits) == (80, 10, 10)
    assert set(splits[60:]) == {"train"}


def test_too_few_photos() -> None:
    with pytest.raises(
        UserError, match="2 different photos cannot fill the splits train, validation, test -- add photos"
    ):
        assign_splits(make_photos([None] * 2), seed=0, warn=pytest.fail)
    with pytest.raises(UserError, match="2 different photos"):
        assign_splits(make_photos([None] * 4), seed=0, groups=["a", "a", "b", "b"], warn=pytest.fail)


def test_complete_splits_stand() -> None:
    named = ["test", "train", "validation", "train"]
    assert assign_splits(make_photos(named), seed=0, warn=pytest.fail) == named


def complete(named: Sequence[str | None], groups: Sequence[int] | None = None) -> tuple[list[str], list[str]]:
    """The completed splits, and the warnings."""
    warnings: list[str] = []
    return assign_splits(make_photos(named), seed=0, groups=groups, warn=warnings.append), warnings


def test_validation_is_carved_out_of_train() -> None:
    """As in Corel5K: 4,500 photos for training, of which a ninth is a tenth of what training and validation have."""
    named = ["train"] * 4500 + ["test"] * 499
    splits, warnings = complete(named)
    assert sizes(splits) == (4000, 500, 499)
    assert splits[4500:] == ["test"] * 499
    assert warnings == ["no photo is in validation: 500 of 4500 in train, drawn at random, are moved there"]
    photos = make_photos(named)
    assert assign_splits(photos[::-1], seed=0, warn=lambda _: None) == splits[::-1]
    assert assign_splits(photos, seed=1, warn=lambda _: None) != splits


def test_carving_keeps_groups_together() -> None:
    groups = [number // 2 for number in range(40)]
    splits, _ = complete(["train"] * 38 + ["test"] * 2, groups=groups)
    assert find_leaks(groups, splits) == []
    assert sizes(splits) == (34, 4, 2)


def test_train_only() -> None:
    splits, warnings = complete(["train"] * 18)
    assert sizes(splits) == (16, 2, 0)
    assert warnings[1:] == ["no photo is in test: `socialtag evaluate` then needs --split validation"]


def test_test_only() -> None:
    splits, warnings = complete([None] * 18 + ["test"] * 3)
    assert sizes(splits) == (16, 2, 3)
    assert splits[18:] == ["test"] * 3
    assert warnings[0] == "18 photos without a split are put in train, since no photo is said to be in train"


def test_photos_without_a_split_beside_train_are_test() -> None:
    splits, warnings = complete(["train", "validation", None, None])
    assert splits == ["train", "validation", "test", "test"]
    assert warnings == ["2 photos without a split are put in test, since no photo is said to be in test"]


def test_photos_without_a_split_beside_validation_are_train() -> None:
    splits, warnings = complete(["validation", None])
    assert splits == ["validation", "train"]
    assert len(warnings) == 2


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (
            ["train", "test", None, None],
            r"tags\.csv, row 3: '2\.jpg' has no split, though other photos are in train and test \(2 photos have",
        ),
        (["test", "test"], r"tags\.csv, row 1: no photo is for training: all 2 are in test -- put some in train"),
        (["validation", "test"], r"no photo is for training: all 2 are in test or validation"),
        (["test", "train"], r"tags\.csv, row 2: train has 1 photo, of which none can be spared for validation -- add"),
    ],
)
def test_splits_that_cannot_be_completed(named: list[str | None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        assign_splits(make_photos(named), seed=0, warn=pytest.fail)


def test_leaks_worked_by_hand() -> None:
    groups = ["a", "b", "a", "c", "b", "a", "b"]
    splits = ["train", "train", "train", "test", "test", "test", "validation"]
    assert find_leaks(groups, splits) == [(1, 4), (0, 5), (1, 6)]


@hypothesis.given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(SPLITS)), max_size=12))
def test_leaks_are_a_part_of_all_pairs_that_names_every_group(photos: list[tuple[int, str]]) -> None:
    groups, splits = [group for group, _ in photos], [split for _, split in photos]
    pairs = itertools.combinations(range(len(photos)), 2)
    expected = {(a, b) for a, b in pairs if groups[a] == groups[b] and splits[a] != splits[b]}
    leaks = find_leaks(groups, splits)
    assert set(leaks) <= expected
    assert {b for _, b in leaks} == {b for _, b in expected}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict[str, bytes]], list[Path]]:
    def write_files(contents: dict[str, bytes]) -> list[Path]:
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
        return [tmp_path / name for name in contents]

    return write_files


def test_identical_files_are_one_group(write: Callable[[dict[str, bytes]], list[Path]]) -> None:
    large = bytes(100_000)
    paths = write(
        {
            "a": b"sea",
            "b": b"sky",
            "copy of a": b"sea",
            "longer": b"sea!",
            "large": large,
            "same tail": b"\1" + large[1:],
            "copy of large": large,
            "longer with the same tail": large + b"\0",
            "third a": b"sea",
        }
    )
    assert content_groups(paths) == [0, 1, 0, 3, 4, 5, 4, 7, 0]
    assert content_groups([]) == []


def test_what_is_no_readable_file_stands_alone(
    write: Callable[[dict[str, bytes]], list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write({"empty": b"", "empty too": b"", "locked": b"sea", "a": b"sea", "copy": b"sea"})
    os.mkfifo(tmp_path / "pipe")
    paths += [tmp_path / name for name in ("missing", "missing", ".", ".", "pipe", "pipe", "nul\0")]
    original = Path.open

    def refuse_one(path: Path, *arguments: str, **options: int) -> object:
        if path.name == "locked":
            raise PermissionError(13, os.strerror(13))
        return original(path, *arguments, **options)  # pyright: ignore[reportCallIssue, reportArgumentType]

    monkeypatch.setattr(Path, "open", refuse_one)
    assert content_groups(paths) == [0, 1, 2, 3, 3, *range(5, 12)]


def test_many_files(write: Callable[[dict[str, bytes]], list[Path]]) -> None:
    """More than a thread takes at a time."""
    paths = write({f"{number}": f"{number % 500:04d}".encode() for number in range(1000)})
    assert content_groups(paths) == [number % 500 for number in range(1000)]


def test_leak_free_splits(tmp_path: Path) -> None:
    """Files 0 and 5 are identical: never parted at random, refused where the source parts them."""
    photos = [Photo(tmp_path / f"{number}.jpg", f"{number}.jpg", (), None, f"row {number}") for number in range(10)]
    for number, photo in enumerate(photos):
        photo.path.write_bytes(b"same" if number in (0, 5) else bytes([number]))
    for seed in range(20):
        splits = leak_free_splits(photos, seed=seed, allow_leaks=False, hint="", warn=pytest.fail)
        assert sizes(splits) == (8, 1, 1)
        assert splits[0] == splits[5]
    named = ["train"] * 5 + ["test"] * 4 + ["validation"]
    photos = [Photo(one.path, one.image_id, (), split, one.where) for one, split in zip(photos, named, strict=True)]
    words = (
        r"row 0: the same photo stands in two splits \(1 such pairs\): 0\.jpg \(train\) and 5\.jpg \(test\) .* -- stop"
    )
    with pytest.raises(UserError, match=words):
        leak_free_splits(photos, seed=0, allow_leaks=False, hint="stop", warn=pytest.fail)
    lines: list[str] = []
    assert leak_free_splits(photos, seed=0, allow_leaks=True, hint="stop", warn=lines.append) == named
    assert len(lines) == 1
    assert lines[0].endswith("are byte-identical; going on because leaks are allowed")
