"""What pruning and balancing do to a data set as `prepare` writes it."""

from pathlib import Path

import pytest

from socialtag_jax.errors import UserError
from socialtag_jax.rules import parse_balancing, parse_pruning
from socialtag_jax.shards.dataset import Dataset, open_dataset
from tests.conftest import Socialtag
from tests.photos import photo_folder, prepared

# 20 photos: sea on all but two, sky on half, five with a year; the last two have a year alone. 16 train, 2 and 2.
TAGS = [["sea"] + ["sky"] * (n % 2) + ["2008"] * (n % 4 == 0) for n in range(18)] + [["2008"], ["2008"]]
SPLITS = ["train"] * 14 + ["validation"] * 2 + ["test"] * 2 + ["train"] * 2
ROWS = {f"{n:02d}.png": (tags, split) for n, (tags, split) in enumerate(zip(TAGS, SPLITS, strict=True))}


def tags_by_photo(dataset: Dataset) -> dict[str, set[str]]:
    return {
        record.image_id: {dataset.vocabulary.tags[tag] for tag in record.tags}
        for split in dataset.splits
        for record in (dataset.records(split)[index] for index in range(len(dataset.records(split))))
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_folder(tmp_path_factory.mktemp("source"), ROWS)


def test_pruned_photos_are_never_decoded(source: Path, tmp_path: Path):
    lines: list[str] = []
    result = prepared(source, tmp_path, pruning=parse_pruning(["digits", "min-tags=1"]), log=lines.append)
    assert (result.photos, result.written, result.rejected, result.left_out) == (20, 18, 0, 2)
    dataset = open_dataset(result.folder)
    assert tags_by_photo(dataset) == {f"{n:02d}.png": set(TAGS[n]) - {"2008"} for n in range(18)}
    report = dataset.reports["pruning"]
    assert [(step.rule, step.images, step.unique_tags) for step in report] == [
        ("as found", 20, 3),
        ("normalised", 20, 3),
        ("digits", 20, 2),
        ("min-tags=1", 18, 2),
    ]
    assert any("min-tags=1" in line for line in lines)
    # Again: nothing to do; with other rules: refused.
    assert prepared(source, tmp_path, pruning=parse_pruning(["digits", "min-tags=1"])) == result
    with pytest.raises(UserError, match="made from other photos, tags or options"):
        prepared(source, tmp_path, pruning=parse_pruning(["digits"]))


def test_what_cannot_be_decoded_counts_for_nothing(tmp_path: Path):
    """A damaged photo gives the data set that its row's absence would give."""
    source = photo_folder(tmp_path / "in", ROWS)
    rules = parse_pruning(["min-images=9", "min-tags=1"])
    assert open_dataset(prepared(source, tmp_path / "whole", pruning=rules).folder).vocabulary.tags == ("sea", "sky")
    # Sky is on nine photos, this one among them.
    (source / "01.png").write_bytes(b"no image")
    result = prepared(source, tmp_path / "damaged", pruning=rules)
    dataset = open_dataset(result.folder)
    assert dataset.vocabulary.tags == ("sea",)
    # Two photos have nothing but the year, which is on seven.
    assert (result.photos, result.written, result.rejected, result.left_out) == (20, 17, 1, 2)
    images = [(step.rule, step.images) for step in dataset.reports["pruning"]]
    assert images == [
        ("as found", 20),
        ("normalised", 20),
        ("without rejected photos", 19),
        ("min-images=9", 19),
        ("min-tags=1", 17),
    ]


def test_rules_count_all_photos_but_the_damaged(tmp_path: Path):
    """Photos that a rule leaves out still count for the rules before it, the second time as well."""
    tags = {"a": ["x", "y"], "b": ["x"], "c": ["y", "z"], "d": ["z", "y"], "e": ["z", "y"], "f": ["z", "y"]}
    rules = parse_pruning(["min-images=2", "min-tags=2"])
    splits = {"a": "validation", "c": "test"}
    rows = {f"{name}.png": (its, splits.get(name, "train")) for name, its in tags.items()}
    source = photo_folder(tmp_path / "in", rows)
    (source / "f.png").write_bytes(b"no image")
    damaged = open_dataset(prepared(source, tmp_path / "damaged", pruning=rules).folder)
    del rows["f.png"]
    absent = open_dataset(prepared(photo_folder(tmp_path / "absent", rows), tmp_path / "out", pruning=rules).folder)
    assert damaged.vocabulary == absent.vocabulary
    assert damaged.vocabulary.tags == ("y", "z", "x")
    assert tags_by_photo(damaged) == tags_by_photo(absent)


def test_a_listed_tag_of_a_damaged_photo_is_no_mistake(tmp_path: Path):
    rows = {**ROWS, "20.png": (["sea", "selfie"], "train")}
    source = photo_folder(tmp_path / "in", rows)
    (source / "20.png").write_bytes(b"")
    result = prepared(source, tmp_path / "out", pruning=parse_pruning(["min-images=2", "stop=selfie"]))
    assert (result.written, result.rejected) == (20, 1)


def test_a_split_never_vanishes_because_of_pruning(tmp_path: Path):
    """Of the two photos with q, in validation and in test, one is damaged: then q is too rare, and the other goes."""
    rows = {f"{n}.png": (["p"], "train") for n in range(5)}
    rows |= {"v.png": (["q"], "validation"), "t.png": (["q"], "test"), "t2.png": (["p"], "test")}
    source = photo_folder(tmp_path / "in", rows)
    (source / "t.png").write_bytes(b"no image")
    words = r"none of the 1 validation photos is left, for example .*v\.png: 0 cannot be decoded, 1 have no tag"
    with pytest.raises(UserError, match=words):
        prepared(source, tmp_path / "out", pruning=parse_pruning(["min-images=2", "min-tags=1"]))


def test_balancing_changes_training_photos_alone(source: Path, tmp_path: Path):
    rules = parse_balancing(["down-sample=1"])
    dataset = open_dataset(prepared(source, tmp_path / "one", balancing=rules).folder)
    before, after = dataset.reports["balancing"]
    # In training sea is on 14 photos, sky on 7, 2008 on 6.
    assert (before.most_images, after.most_images) == (14, 7)
    counts = dict(zip(dataset.vocabulary.tags, dataset.statistics["train"].counts.tolist(), strict=True))
    assert counts == {"sea": 7, "sky": 7, "2008": 6}
    found = tags_by_photo(dataset)
    assert all(found[f"{n:02d}.png"] == set(TAGS[n]) for n in range(14, 18))
    assert all(found[name] for name in found)
    again = open_dataset(prepared(source, tmp_path / "two", balancing=rules).folder)
    assert again.fingerprint == dataset.fingerprint


def test_no_tag_left(source: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"no tag is left after 'min-images=99' -- loosen --pruning"):
        prepared(source, tmp_path, pruning=parse_pruning(["digits", "min-images=99"]))


def test_drawn_sizes(tmp_path: Path):
    source = photo_folder(tmp_path / "in", {name: (tags, None) for name, (tags, _) in ROWS.items()})
    dataset = open_dataset(prepared(source, tmp_path / "out", validation=3, test=0.25).folder)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 12, "validation": 3, "test": 5}


def test_stats_shows_both(socialtag: Socialtag, source: Path, tmp_path: Path):
    command = ["--pruning", "digits", "min-tags=1", "--balancing", "down-sample=1"]
    prepared_folder = socialtag("prepare", "--source", "tags-csv", "--input", source, "--output", tmp_path, *command)
    assert "20 photos in = " in prepared_folder.err
    for arguments in ((prepared_folder.out.strip(),), (source, "--source", "tags-csv", *command)):
        result = socialtag("stats", *arguments)
        assert result.code == 0
        rows = {line.split()[0]: line.split()[1:] for line in result.out.splitlines() if line.strip()}
        assert rows["digits"][:3] == ["20", "2", "2"]
        assert rows["min-tags=1"][:3] == ["18", "0", "2"]
        assert "down-sample=1" in rows
    refused = socialtag("stats", prepared_folder.out.strip(), "--pruning", "digits")
    assert refused.code == 2
    assert "--pruning, --balancing: a prepared data set keeps its tags" in refused.err


def test_a_given_vocabulary(source: Path, tmp_path: Path):
    """For a model that was trained elsewhere: its outputs are these tags, those that no photo has included."""
    order = tmp_path / "order.txt"
    order.write_text("sky\nNowhere\n#Sea\n", encoding="utf-8")
    lines: list[str] = []
    rules = parse_pruning([f"vocabulary=@{order}", "min-tags=1"])
    result = prepared(source, tmp_path / "out", pruning=rules, log=lines.append)
    dataset = open_dataset(result.folder)
    assert dataset.vocabulary.tags == ("sky", "nowhere", "sea")
    # The two photos that have the year alone are left out.
    assert tags_by_photo(dataset) == {f"{n:02d}.png": set(TAGS[n]) - {"2008"} for n in range(18)}
    assert dataset.reports["pruning"][-2].unique_tags == 2
    assert "warning: 1 of the 3 tags of the vocabulary are on no photo" in lines


def test_wrong_balancing_is_found_before_decoding(source: Path, tmp_path: Path):
    with pytest.raises(UserError, match="down-sample=9: there are only 3 tags"):
        prepared(source, tmp_path, balancing=parse_balancing(["down-sample=9"]))
    assert not list(tmp_path.rglob("final"))
