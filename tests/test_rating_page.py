"""The rating page as raters meet it, in a browser."""

import json
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from socialtag_jax.shards.dataset import Dataset, open_dataset
from tests.rating_servers import PHOTOS, go_next, join, letters, mark, rated, serving, write_dataset
from tests.rating_studies import write_plain


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_dataset(tmp_path_factory.mktemp("dataset")))


def test_ten_photos_with_a_reload_in_the_middle(browser: Browser, dataset: Dataset, tmp_path: Path, socialtag):
    """By mouse, keys and touch alike; the results are what was clicked."""
    path = letters(tmp_path / "study.sqlite")
    rng = np.random.default_rng(0)
    clicked = [sorted(rng.choice(6, rng.integers(1, 6), replace=False).tolist()) for _ in range(PHOTOS)]
    clicked[4] = []
    with serving(path, dataset) as (study, address), browser.new_context() as context:
        page = context.new_page()
        join(page, address, "Ada")
        for number, places in enumerate(clicked[:5]):
            if number % 2:
                mark(page, *places)
                go_next(page, number + 2)
            else:
                for place in places or [-1]:
                    page.keyboard.press("0" if place < 0 else "123456"[place])
                page.keyboard.press("Enter")
                expect(page.locator("#where")).to_have_text(f"Photo {number + 2} of {PHOTOS}")
        # Half a photo is kept as well.
        mark(page, *clicked[5][:1])
        expect(page.locator("#saved")).to_have_text("Saved")
        page.reload()
        expect(page.locator("#where")).to_have_text(f"Photo 6 of {PHOTOS}")
        expect(page.locator("#tags [aria-pressed=true]")).to_have_text(
            [f"5{'abcdef'[clicked[5][0]]}{clicked[5][0] + 1}"]
        )
        assert page.locator("#progress").get_attribute("value") == "5"
        mark(page, *clicked[5][1:])
        go_next(page, 7)
        for number, places in enumerate(clicked[6:10], start=6):
            mark(page, *places)
            go_next(page, number + 2)
        assert rated(study) == {"Ada": clicked[:10]}
    document = json.loads(socialtag("rate", "--results", path, "--json").out)
    precision = document["subjective_precision"]["predicted"]
    values = [len(places) / 6 for places in clicked[:10]]
    assert (precision["photos"], precision["no_fitting_tag"]) == (10, 1)
    assert precision["mean"] == pytest.approx(np.mean(values))
    assert precision["median"] == pytest.approx(np.median(values))


def test_undo_back_and_none_fits(browser: Browser, dataset: Dataset, tmp_path: Path):
    with serving(letters(tmp_path / "study.sqlite"), dataset) as (study, address), browser.new_context() as context:
        page = context.new_page()
        join(page, address, "Ada")
        pressed = page.locator("#tags [aria-pressed=true]")
        # Going on without a word is no answer.
        page.get_by_role("button", name="Next").click()
        expect(page.locator("#notice")).to_contain_text("No tag is marked")
        mark(page, 0, 2)
        page.get_by_role("button", name="None fits").click()
        expect(pressed).to_have_count(0)
        page.keyboard.press("Control+z")
        expect(pressed).to_have_count(2)
        expect(page.get_by_role("button", name="None fits")).to_have_attribute("aria-pressed", "false")
        page.keyboard.press("u")
        expect(pressed).to_have_text(["0a1"])
        go_next(page, 2)
        page.keyboard.press("2")
        go_next(page, 3)
        # The last thing done was to go on from photo 2; before that, to mark its tag. A page that is new knows it too.
        page.reload()
        expect(page.locator("#where")).to_have_text(f"Photo 3 of {PHOTOS}")
        page.get_by_role("button", name="Undo").click()
        expect(page.locator("#where")).to_have_text(f"Photo 2 of {PHOTOS}")
        expect(pressed).to_have_text(["1b2"])
        assert rated(study) == {"Ada": [[0]]}
        page.keyboard.press("u")
        expect(pressed).to_have_count(0)
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#where")).to_have_text(f"Photo 1 of {PHOTOS}")
        expect(pressed).to_have_text(["0a1"])
        mark(page, 5)
        go_next(page, 2)
        assert rated(study) == {"Ada": [[0, 5]]}


def test_help_and_keys_that_can_be_turned_off(browser: Browser, dataset: Dataset, tmp_path: Path):
    with serving(letters(tmp_path / "study.sqlite"), dataset) as (_, address), browser.new_context() as context:
        page = context.new_page()
        join(page, address, "Ada")
        page.keyboard.press("?")
        expect(page.get_by_role("dialog", name="Help")).to_be_visible()
        page.get_by_label("Use these keys").uncheck()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        page.keyboard.press("1")
        # The space bar is any button's.
        page.locator("#tags button").nth(3).focus()
        page.keyboard.press("Space")
        expect(page.locator("#tags [aria-pressed=true]")).to_have_text(["0d4"])


def test_a_phone(browser: Browser, dataset: Dataset, tmp_path: Path):
    """Nothing is cut off at the side, fingers find what they tap, and the buttons stay in sight."""
    path = write_plain(tmp_path / "study.sqlite", [[f"tag number {place}" for place in range(35)] + ["x" * 90]])
    with (
        serving(path, dataset) as (study, address),
        browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as context,
    ):
        page = context.new_page()
        join(page, address, "Ada with a very long name that no phone can show in one line")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        boxes = page.locator("#tags button, .foot button").evaluate_all(
            "all => all.map(one => one.getBoundingClientRect()).map(one => [one.width, one.height])"
        )
        assert min(min(box) for box in boxes) >= 44
        following = page.get_by_role("button", name="Next")
        box = following.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 844
        before = page.locator("#tags button").nth(9).bounding_box()
        page.locator("#tags button").nth(8).tap()
        assert page.locator("#tags button").nth(9).bounding_box() == before
        page.locator("#tags button").nth(35).tap()
        following.tap()
        expect(page.locator("#where")).to_have_text("All done")
        assert list(rated(study).values()) == [[[8, 35]]]


def test_tags_that_nobody_has_seen_are_not_judged(browser: Browser, dataset: Dataset, tmp_path: Path):
    """On a phone, the last of many tags lie below the buttons: the first Next shows them."""
    path = write_plain(tmp_path / "study.sqlite", [[f"tag number {place}" for place in range(35)], ["a", "b"]])
    with (
        serving(path, dataset) as (study, address),
        browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as context,
    ):
        page = context.new_page()
        join(page, address, "Ada")
        page.locator("#tags button").nth(0).tap()
        page.get_by_role("button", name="Next").tap()
        expect(page.locator("#notice")).to_contain_text("There are more tags")
        expect(page.locator("#tags button").last).to_be_in_viewport(ratio=1)
        assert page.locator("#tags button").last.evaluate(
            "one => one.getBoundingClientRect().bottom <= document.getElementById('foot').getBoundingClientRect().top"
        )
        page.locator("#tags button").nth(34).tap()
        page.get_by_role("button", name="Next").tap()
        expect(page.locator("#where")).to_have_text("Photo 2 of 2")
        assert rated(study) == {"Ada": [[0, 34]]}
        # Two tags are in sight at once, and so is a photo that is looked at again.
        page.locator("#tags button").nth(1).tap()
        page.get_by_role("button", name="Next").tap()
        expect(page.locator("#where")).to_have_text("All done")


@pytest.mark.parametrize(("width", "height"), [(320, 256), (320, 640), (844, 390)])
def test_a_small_screen(browser: Browser, dataset: Dataset, tmp_path: Path, width: int, height: int):
    """As of a window of 1280 by 1024 at four times its size: nothing is cut off at the side."""
    with (
        serving(letters(tmp_path / "study.sqlite"), dataset) as (study, address),
        browser.new_context(viewport={"width": width, "height": height}) as context,
    ):
        page = context.new_page()
        join(page, address, "Ada Lovelace")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        mark(page, 5)
        go_next(page, 2)
        assert rated(study) == {"Ada Lovelace": [[5]]}


def test_two_raters_at_once(browser: Browser, dataset: Dataset, tmp_path: Path):
    with (
        serving(letters(tmp_path / "study.sqlite"), dataset) as (study, address),
        browser.new_context() as one,
        browser.new_context() as other,
    ):
        pages = {"Ada": one.new_page(), "Ben": other.new_page()}
        for name, page in pages.items():
            join(page, address, name)
        for number in range(5):
            for name, page in pages.items():
                mark(page, number, *([5] if name == "Ben" else []))
            for page in pages.values():
                go_next(page, number + 2)
        assert rated(study) == {"Ada": [[number] for number in range(5)], "Ben": [[number, 5] for number in range(5)]}
        pages["Ada"].goto(address)
        expect(pages["Ada"].locator("#raters a")).to_have_text([f"Ada5 of {PHOTOS}", f"Ben5 of {PHOTOS}"])


def test_two_pages_of_one_rater(browser: Browser, dataset: Dataset, tmp_path: Path):
    """The page that is behind is told so, shows what is stored, and writes over nothing."""
    with (
        serving(letters(tmp_path / "study.sqlite"), dataset) as (study, address),
        browser.new_context() as one,
        browser.new_context() as other,
    ):
        ahead, behind = one.new_page(), other.new_page()
        join(ahead, address, "Ada")
        behind.goto(address)
        behind.get_by_role("link", name="Ada").click()
        expect(behind.locator("#tags button").first).to_be_visible()
        mark(ahead, 1, 2)
        expect(ahead.locator("#saved")).to_have_text("Saved")
        mark(behind, 4)
        expect(behind.locator("#notice")).to_contain_text("Another page has changed this")
        expect(behind.locator("#tags [aria-pressed=true]")).to_have_text(["0b2", "0c3"])
        mark(behind, 4)
        go_next(behind, 2)
        assert rated(study) == {"Ada": [[1, 2, 4]]}


HOSTILE = (
    "<img src=x onerror=document.title='hacked'>",
    "\"><script>document.title='hacked'</script>",
    "{{7*7}}${7*7}",
    "\u202eevil",
    "&lt;b&gt;",
    "' OR 1=1; DROP TABLE answer; --",
)


def test_hostile_tags_and_names_are_text(browser: Browser, dataset: Dataset, tmp_path: Path):
    path = write_plain(tmp_path / "study.sqlite", [HOSTILE])
    with serving(path, dataset) as (study, address), browser.new_context() as context:
        page = context.new_page()
        for name in HOSTILE[2:]:
            study.join(name)
        for name in HOSTILE[:2]:
            join(page, address, name)
            expect(page.locator("#tags bdi")).to_have_text(list(HOSTILE), use_inner_text=False)
            assert page.locator("#tags bdi").evaluate_all("all => all.map(one => one.children.length)") == [0] * 6
            assert page.locator("#rater").text_content() == name
            mark(page, 0)
            page.get_by_role("button", name="Next").click()
            expect(page.locator("#where")).to_have_text("All done")
            assert page.title() == "All done – Rating study"
        page.goto(address)
        shown = [name.replace("\u202e", "\\u202e") for name in (*HOSTILE[2:], *HOSTILE[:2])]
        expect(page.locator("#raters bdi")).to_have_text(shown)
        assert page.locator("#raters bdi *").count() == 0
        assert page.title() == "Rating study"
        assert list(rated(study).values()) == [[[0]]] * 2
