"""The rating page when photos are late, answers are refused, or another page or study comes between."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from socialtag_jax.rating.study import Answer
from socialtag_jax.shards.dataset import Dataset, open_dataset
from tests.rating_servers import PHOTOS, go_next, join, letters, mark, rated, serving, write_dataset
from tests.rating_studies import write_plain

_FAILURE = {"error": {"code": "internal_error", "message": "the server failed"}}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_dataset(tmp_path_factory.mktemp("dataset")))


def hold(page: Page, path: str) -> list[Route]:
    """Keeps back what the page asks for; returns what is kept."""
    held: list[Route] = []
    page.route(path, lambda route: held.append(route) if route.request.method == "GET" else route.fallback())
    return held


def fail(page: Page, path: str, method: str) -> None:
    """Answers with an error."""
    page.route(
        path,
        lambda route: route.fulfill(status=500, json=_FAILURE) if route.request.method == method else route.fallback(),
    )


def test_no_photo_is_judged_by_the_one_before(browser: Browser, dataset: Dataset, tmp_path: Path):
    """As long as the next photo has not come, neither have its tags, and nothing can be marked."""
    with serving(letters(tmp_path / "study.sqlite"), dataset) as (study, address), browser.new_context() as context:
        page = context.new_page()
        join(page, address, "Ada")
        before = page.locator("#photo").get_attribute("src")
        held = hold(page, "**/api/studies/*/photos/1")
        mark(page, 0)
        with page.expect_request("**/api/studies/*/photos/1"):
            page.get_by_role("button", name="Next").click()
        expect(page.locator("#work")).to_have_attribute("aria-busy", "true")
        mark(page, 3)
        page.keyboard.press("4")
        expect(page.locator("#tags bdi").first).to_have_text("0a")
        assert page.locator("#photo").get_attribute("src") == before
        held[0].continue_()
        expect(page.locator("#where")).to_have_text(f"Photo 2 of {PHOTOS}")
        expect(page.locator("#tags bdi").first).to_have_text("1a")
        assert page.locator("#photo").get_attribute("src") != before
        assert page.locator("#photo").evaluate("photo => photo.complete && photo.naturalWidth > 0")
        assert study.state(1, 0).answer == Answer((0,), finished=True)
        assert study.state(1, 1).answer_id == 0


def test_a_photo_that_does_not_come(browser: Browser, dataset: Dataset, tmp_path: Path):
    with serving(letters(tmp_path / "study.sqlite"), dataset) as (study, address), browser.new_context() as context:
        page = context.new_page()
        fail(page, "**/api/studies/*/photos/1", "GET")
        join(page, address, "Ada")
        mark(page, 0)
        page.get_by_role("button", name="Next").click()
        expect(page.locator("#problem")).to_contain_text("the server failed. Load this page again")
        expect(page.locator("#work")).to_be_hidden()
        page.keyboard.press("1")
        page.keyboard.press("u")
        page.unroute_all()
        page.reload()
        expect(page.locator("#where")).to_have_text(f"Photo 2 of {PHOTOS}")
        assert rated(study) == {"Ada": [[0]]}


@pytest.mark.parametrize("refused", ["mark", "next"])
def test_an_answer_that_is_not_stored_is_not_called_saved(
    browser: Browser, dataset: Dataset, tmp_path: Path, refused: str
):
    with serving(letters(tmp_path / "study.sqlite"), dataset) as (study, address), browser.new_context() as context:
        page = context.new_page()
        join(page, address, "Ada")
        mark(page, 0)
        expect(page.locator("#saved")).to_have_text("Saved")
        fail(page, "**/raters/1/photos/0", "PUT")
        if refused == "mark":
            mark(page, 1)
        else:
            page.get_by_role("button", name="Next").click()
        expect(page.locator("#problem")).to_contain_text("the server failed")
        # Whatever waited for the answer does not hide that.
        page.wait_for_load_state("networkidle")
        expect(page.locator("#problem")).to_be_visible()
        expect(page.locator("#saved")).to_have_text("")
        expect(page.locator("#work")).to_be_hidden()
        assert study.state(1, 0).answer == Answer((0,))


def test_marks_while_a_conflict_is_looked_at(browser: Browser, dataset: Dataset, tmp_path: Path):
    """What was made from a state that is gone is not stored, however late the page learns what is."""
    with serving(letters(tmp_path / "study.sqlite"), dataset) as (study, address), browser.new_context() as context:
        page = context.new_page()
        join(page, address, "Ada")
        study.answer(1, 0, Answer((1, 2)), after=0)
        held = hold(page, "**/raters/1/photos/0")
        mark(page, 4)
        for number in range(2):
            # Perhaps it was stored all the same; and then: what is stored?
            while len(held) <= number:
                page.wait_for_timeout(10)
            mark(page, 5)
            held[number].continue_()
        expect(page.locator("#notice")).to_contain_text("Another page has changed this")
        expect(page.locator("#tags [aria-pressed=true]")).to_have_text(["0b2", "0c3"])
        expect(page.locator("#saved")).to_have_text("Saved")
        assert study.state(1, 0).answer == Answer((1, 2))


def test_a_page_of_another_study(browser: Browser, dataset: Dataset, tmp_path: Path):
    """It was left open, and another study is served at its address, with a rater of the same number."""
    with browser.new_context() as context:
        page = context.new_page()
        with serving(letters(tmp_path / "first.sqlite"), dataset) as (_, address):
            join(page, address, "Ada")
            start = context.new_page()
            start.goto(address)
        other = write_plain(tmp_path / "second.sqlite", ["abcdef"] * 3)
        with serving(other, dataset, port=int(address.rpartition(":")[2])) as (study, _):
            study.join("Ben")
            mark(page, 4)
            expect(page.locator("#problem")).to_contain_text("Another study is served at this address now")
            assert study.state(1, 0).answer_id == 0
            # The first page learns of it as well.
            start.get_by_label("Your name").fill("Ada")
            start.get_by_role("button", name="Start").click()
            expect(start.locator("#problem")).to_contain_text("Another study is served")
            start.get_by_role("button", name="Start").click()
            expect(start.locator("#where")).to_have_text("Photo 1 of 3")


def test_enter_and_the_button_that_has_the_keys(browser: Browser, dataset: Dataset, tmp_path: Path):
    """On a tag that Tab has reached, Enter marks it; after a click on one, it goes on."""
    with serving(letters(tmp_path / "study.sqlite"), dataset) as (study, address), browser.new_context() as context:
        page = context.new_page()
        join(page, address, "Ada")
        page.keyboard.press("Tab")
        while page.evaluate("document.activeElement.className") != "chip":
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#tags [aria-pressed=true]")).to_have_text(["0a1"])
        expect(page.locator("#where")).to_have_text(f"Photo 1 of {PHOTOS}")
        go_next(page, 2)
        mark(page, 2)
        page.keyboard.press("Enter")
        expect(page.locator("#where")).to_have_text(f"Photo 3 of {PHOTOS}")
        page.get_by_role("button", name="None fits").click()
        page.keyboard.press("Enter")
        expect(page.locator("#where")).to_have_text(f"Photo 4 of {PHOTOS}")
        assert rated(study) == {"Ada": [[0], [2], []]}


def test_a_browser_that_keeps_nothing(browser: Browser, dataset: Dataset, tmp_path: Path):
    with serving(letters(tmp_path / "study.sqlite"), dataset) as (_, address), browser.new_context() as context:
        page = context.new_page()
        page.add_init_script(
            "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('', 'SecurityError') }})"
        )
        join(page, address, "Ada")
        page.keyboard.press("?")
        page.get_by_label("Use these keys").uncheck()
        page.keyboard.press("Escape")
        page.keyboard.press("1")
        expect(page.locator("#tags [aria-pressed=true]")).to_have_count(0)


def test_a_name_that_is_taken(browser: Browser, dataset: Dataset, tmp_path: Path):
    """Another person of the same name does not go on with the first one's study by mistake."""
    with serving(letters(tmp_path / "study.sqlite"), dataset) as (study, address), browser.new_context() as context:
        page = context.new_page()
        page.goto(address)
        study.join("Ada")
        page.get_by_label("Your name").fill(" ada")
        page.get_by_role("button", name="Start").click()
        expect(page.get_by_role("alert")).to_contain_text("Ada rates here already")
        page.get_by_role("link", name="Ada").click()
        expect(page.locator("#rater")).to_have_text("Ada")
        assert [one.name for one in study.raters()] == ["Ada"]
