"""The demo postcards: the same for everybody, tagged truthfully, and never drawn over somebody's files."""

import csv
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from socialtag_jax.errors import UserError
from socialtag_jax.sources.postcard_art.painting import paint
from socialtag_jax.sources.postcard_art.plan import FORGET_RATE, RECIPES, Plan, random_streams
from socialtag_jax.sources.postcards import SOCIAL_RATES, draw_postcard, plan_postcard, render

SEED = 5


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    return [plan_postcard(index, SEED) for index in range(4000)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pictures_of(plans: list[Plan], most: int, **scene: str) -> Iterator[tuple[Plan, np.ndarray]]:
    """The first pictures, `most` of them, in whose scenes the given fields have the given values."""
    fitting = [
        (index, plan)
        for index, plan in enumerate(plans)
        if all(getattr(plan.scene, field) == value for field, value in scene.items())
    ]
    for index, plan in fitting[:most]:
        yield plan, draw_postcard(index, SEED)[0]


# Determinism


def test_a_postcard_depends_on_seed_and_index_alone() -> None:
    later = [draw_postcard(index, SEED) for index in (3, 1, 2)]
    for index, (picture, tags) in zip((3, 1, 2), later, strict=True):
        again, tags_again = draw_postcard(index, SEED)
        np.testing.assert_array_equal(picture, again)
        assert tags == tags_again == plan_postcard(index, SEED).tags


def test_another_seed_is_another_data_set() -> None:
    assert [plan_postcard(index, 0) for index in range(20)] != [plan_postcard(index, 1) for index in range(20)]
    assert not np.array_equal(draw_postcard(0, 0)[0], draw_postcard(0, 1)[0])


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    render(tmp_path / "alone", count=20, seed=SEED, workers=1)
    render(tmp_path / "together", count=20, seed=SEED, workers=2)
    assert contents(tmp_path / "alone") == contents(tmp_path / "together")


# Files


def test_tags_csv_lists_every_image(tmp_path: Path) -> None:
    tags_csv = render(tmp_path / "new" / "folder", count=5, seed=SEED, workers=1)
    assert tags_csv == tmp_path / "new" / "folder" / "tags.csv"
    with tags_csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [f"images/{index:04d}.jpg" for index in range(5)]
    assert {path.name for path in (tags_csv.parent / "images").iterdir()} == {Path(row["path"]).name for row in rows}
    for index, row in enumerate(rows):
        picture, tags = draw_postcard(index, SEED)
        assert tuple(row["tags"].split(" ")) == tags
        with Image.open(tags_csv.parent / row["path"]) as image:
            assert image.format == "JPEG"
            assert image.size == picture.shape[1::-1]
            assert np.abs(np.asarray(image, np.int16) - picture).mean() < 8


def test_an_interrupted_rendering_is_continued(tmp_path: Path) -> None:
    tags_csv = render(tmp_path, count=6, seed=SEED, workers=1)
    whole = contents(tmp_path)
    kept = tmp_path / "images" / "0000.jpg"
    kept_since = kept.stat().st_mtime_ns
    for name in ("images/0002.jpg", "images/0005.jpg", "tags.csv"):
        (tmp_path / name).unlink()
    assert render(tmp_path, count=6, seed=SEED, workers=1) == tags_csv
    assert contents(tmp_path) == whole
    assert kept.stat().st_mtime_ns == kept_since


def test_a_finished_data_set_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tags_csv = render(tmp_path, count=2, seed=SEED, workers=1)
    monkeypatch.setattr("socialtag_jax.sources.postcards.draw_postcard", None)  # drawing would fail
    assert render(tmp_path, count=2, seed=SEED, workers=1) == tags_csv


def test_tags_csv_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_at_the_third(index: int, seed: int) -> tuple[np.ndarray, tuple[str, ...]]:
        if index == 2:
            raise KeyboardInterrupt
        return draw_postcard(index, seed)

    monkeypatch.setattr("socialtag_jax.sources.postcards.draw_postcard", fail_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        render(tmp_path, count=4, seed=SEED, workers=1)
    assert set(contents(tmp_path)) == {"postcards.json", "images/0000.jpg", "images/0001.jpg"}


# Refusals


def test_a_foreign_folder_is_refused_and_not_touched(tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty, and not a folder of postcards -- name a new folder"):
        render(tmp_path, count=2)
    assert contents(tmp_path) == {"holiday.txt": b"mine"}


@pytest.mark.parametrize(("count", "seed"), [(3, SEED), (2, SEED + 1)])
def test_a_folder_of_other_postcards_is_refused(tmp_path: Path, count: int, seed: int) -> None:
    render(tmp_path, count=2, seed=SEED, workers=1)
    before = contents(tmp_path)
    expected = (
        f"holds other postcards: found .*'count': 2, 'seed': {SEED}.* expected .*'count': {count}, 'seed': {seed}"
    )
    with pytest.raises(UserError, match=expected):
        render(tmp_path, count=count, seed=seed, workers=1)
    assert contents(tmp_path) == before


def test_an_unreadable_note_is_refused(tmp_path: Path) -> None:
    (tmp_path / "postcards.json").write_text("{")
    with pytest.raises(UserError, match=r"holds other postcards: found postcards.json that cannot be read"):
        render(tmp_path, count=2)


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file: is a file, expected a folder"):
        render(tmp_path / "file", count=2)


def test_numbers_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="count is 0, expected 1 or more"):
        render(tmp_path / "new", count=0)
    with pytest.raises(UserError, match="seed is -1, expected 0 or more"):
        render(tmp_path / "new", seed=-1)
    with pytest.raises(UserError, match="workers is -2, expected 1 or more"):
        render(tmp_path / "new", workers=-2)
    assert not (tmp_path / "new").exists()


def test_the_note_says_what_is_in_the_folder(tmp_path: Path) -> None:
    render(tmp_path, count=1, seed=SEED, workers=1)
    assert json.loads((tmp_path / "postcards.json").read_text()) == {"edition": 1, "count": 1, "seed": SEED}


# Tags


def test_social_tags_are_given_at_their_rates(plans: list[Plan]) -> None:
    for tag, rate in SOCIAL_RATES.items():
        found = np.mean([tag in plan.social for plan in plans])
        assert found == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / len(plans))), tag
    assert 1.4 < sum(SOCIAL_RATES.values()) < 1.6
    assert 0.02 <= min(SOCIAL_RATES.values()) <= max(SOCIAL_RATES.values()) <= 0.25


def test_social_tags_do_not_depend_on_the_picture(plans: list[Plan]) -> None:
    """No correlation with any content tag, nor among themselves, beyond what chance allows for so many pairs."""
    content = sorted({tag for plan in plans for tag in plan.visible})
    names = [*SOCIAL_RATES, *content]
    given = np.array([[tag in plan.social + plan.visible for tag in names] for plan in plans], np.float64)
    deviations = np.asarray(np.corrcoef(given.T))[: len(SOCIAL_RATES)] * np.sqrt(len(plans))
    pairs = deviations[~np.eye(len(SOCIAL_RATES), len(names), dtype=bool)]
    assert np.abs(pairs).max() < 4.5
    assert pairs.std() == pytest.approx(1.0, abs=0.12)


def test_uploaders_forget_some_tags_but_never_all(plans: list[Plan]) -> None:
    assert all(plan.content and set(plan.content) <= set(plan.visible) for plan in plans)
    kept = sum(len(plan.content) for plan in plans) / sum(len(plan.visible) for plan in plans)
    assert kept == pytest.approx(1 - FORGET_RATE, abs=0.01)


def test_a_postcard_has_about_five_tags_from_a_long_tailed_vocabulary(plans: list[Plan]) -> None:
    assert np.median([len(plan.tags) for plan in plans]) == 5
    assert 3.5 < np.mean([len(plan.content) for plan in plans]) < 4.5
    counts = np.sort([sum(tag in plan.content for plan in plans) for tag in {t for p in plans for t in p.visible}])
    assert 30 <= len(counts) <= 45
    assert counts[-1] > 0.25 * len(plans)
    assert 0.005 * len(plans) < counts[0] < 0.03 * len(plans)


def test_scenes_are_natural(plans: list[Plan]) -> None:
    for plan in plans:
        tags = set(plan.visible)
        assert "palm" not in tags or "beach" in tags
        assert "boat" not in tags or tags & {"sea", "lake", "city"}
        assert not {"stars", "moon", "fireworks", "lights"} & tags or "night" in tags
        assert not {"night", "rain", "fog"} & tags or "sun" not in tags
        assert not {"blackandwhite", "vintage"} & tags or not {"sunset", "autumn", "rainbow"} & tags


# Pictures


def test_pictures_have_the_planned_format(plans: list[Plan]) -> None:
    sizes = {(plan.height, plan.width): index for index, plan in enumerate(plans[:100])}
    assert set(sizes) == {(240, 320), (320, 240), (240, 240)}
    for size, index in sizes.items():
        picture, _ = draw_postcard(index, SEED)
        assert picture.shape == (*size, 3)
        assert picture.dtype == np.uint8


def test_black_and_white_has_no_colour(plans: list[Plan]) -> None:
    for plan, picture in pictures_of(plans, 3, style="blackandwhite"):
        assert "blackandwhite" in plan.visible
        np.testing.assert_array_equal(picture, picture[..., :1].repeat(3, axis=2))
    for plan, picture in pictures_of(plans, 3, style="colour"):
        assert "blackandwhite" not in plan.visible
        assert picture.std(axis=2).mean() > 1


def test_night_is_darker_than_day_and_sunset_is_warmer(plans: list[Plan]) -> None:
    def colours(time: str) -> np.ndarray:
        scenes = pictures_of(plans, 6, place="sea", time=time, style="colour", weather="clear")
        return np.mean([picture.mean(axis=(0, 1)) for _, picture in scenes], axis=0)

    day, sunset, night = (colours(time) for time in ("day", "sunset", "night"))
    assert night.mean() < 0.6 * day.mean()
    assert sunset[0] - sunset[2] > day[0] - day[2] + 40


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_can_be_painted_with_all_its_things_at_once(plans: list[Plan], recipe: str) -> None:
    plan = next(plan for plan in plans if plan.recipe == recipe)
    alike = [p for p in plans if p.recipe == recipe and p.scene.place == plan.scene.place]
    things = sorted({thing for p in alike for thing in p.things})
    picture = paint(dataclasses.replace(plan, things=tuple(things)), random_streams(0, SEED)[2])
    assert picture.std() > 10  # not a blank card
