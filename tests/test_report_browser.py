"""The pages of `evaluate` and `report` in a real browser: the table of tags, what can be read, and what is printed."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.legibility import contrasts
from tests.report_pages import HOSTILE, comparison_of, hostile_dataset, page_of, random_evaluation, two_saved


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    dataset = hostile_dataset(tmp_path_factory.mktemp("data"))
    return page_of(dataset, random_evaluation(dataset, 0))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> str:
    dataset = hostile_dataset(tmp_path_factory.mktemp("data"))
    return comparison_of(two_saved(dataset, tmp_path_factory.mktemp("evaluations")), dataset)


def opened(browser: Browser, text: str, folder: Path, **options: Any) -> tuple[Page, list[str]]:
    """The page from a file, and all addresses that it asked for, but for pictures that are in it."""
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    shown = browser.new_page(**options)
    asked: list[str] = []
    shown.on("request", lambda request: None if request.url.startswith("data:") else asked.append(request.url))
    shown.on("pageerror", lambda error: pytest.fail(str(error)))
    shown.on("console", lambda message: pytest.fail(message.text))
    shown.goto(path.as_uri())
    return shown, asked


def column(shown: Page, number: int) -> list[str]:
    return shown.locator(f"#tag-table tbody tr > :nth-child({number})").all_inner_texts()


def test_table_in_a_browser(browser: Browser, text: str, tmp_path: Path):
    shown, asked = opened(browser, text, tmp_path)
    status, rows = shown.locator("#tag-table [role=status]"), shown.locator("#tag-table tbody tr")
    assert status.inner_text() == "50 of 80 tags"
    assert rows.count() == 50
    shown.get_by_role("button", name="Show more").click()
    assert rows.count() == 80
    assert not shown.get_by_role("button", name="Show more").is_visible()
    # A keyboard goes on from the table, not from the top of the page.
    assert shown.evaluate("document.activeElement.getAttribute('aria-label')") == "Scores by tag"

    head = shown.locator("#tag-table thead th", has_text="recall")
    head.get_by_role("button").click()
    assert rows.count() == 50
    shown.get_by_role("button", name="Show more").click()
    recalls = [float(cell) for cell in column(shown, 6) if cell != "–"]
    assert recalls == sorted(recalls, reverse=True)
    assert recalls[0] > recalls[-1]
    assert len(recalls) < 80
    assert set(column(shown, 6)[len(recalls) :]) == {"–"}
    assert head.get_attribute("aria-sort") == "descending"
    head.get_by_role("button").press("Enter")
    recalls = [float(cell) for cell in column(shown, 6)[: len(recalls)]]
    assert recalls == sorted(recalls)
    assert head.get_attribute("aria-sort") == "ascending"
    shown.locator("#tag-table thead th button").first.click()
    shown.get_by_role("button", name="Show more").click()
    names = [name for name in column(shown, 1) if name.startswith("tag")]
    assert names == [f"tag{number}" for number in range(75)]

    search = shown.get_by_role("searchbox", name="Search")
    search.fill("#TAG1")
    assert column(shown, 1) == ["tag1", *(f"tag{number}" for number in range(10, 20))]
    assert status.inner_text() == "11 of 11 tags that match"
    search.fill("onerror")
    assert column(shown, 1) == [HOSTILE]
    search.fill("no such tag")
    assert rows.count() == 0
    # Neither tag nor path has become an element, or run.
    assert shown.locator("[onerror]").count() == 0
    assert shown.locator("script").count() == 2
    assert shown.title() == "tiny/1.0.0, test: evaluation"
    assert asked == [shown.url]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["text", "comparison"])
def test_legible_in_both_schemes(
    browser: Browser, scheme: str, which: str, tmp_path: Path, request: pytest.FixtureRequest
):
    """Contrast AA, 4.5 to 1, of every text, those in figures included; and nothing wider than a phone."""
    text = request.getfixturevalue(which)
    viewport = {"width": 390, "height": 844}
    shown, asked = opened(browser, text, tmp_path, color_scheme=scheme, viewport=viewport)
    found = contrasts(shown)
    assert len(found) > 300
    assert min(found)[0] >= 4.5, min(found)
    assert any(words == "threshold" for _, words in found)  # of a figure
    assert shown.evaluate("document.documentElement.scrollWidth") <= 390
    paper = shown.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", paper))) < 60) == (scheme == "dark")
    assert asked == [shown.url]


@pytest.mark.parametrize("which", ["text", "comparison"])
def test_fits_on_paper(browser: Browser, which: str, tmp_path: Path, request: pytest.FixtureRequest):
    """A page that is wider is cut at its right edge. A4 less the margins is 186 mm, 703 px."""
    shown, _ = opened(browser, request.getfixturevalue(which), tmp_path, viewport={"width": 703, "height": 1000})
    shown.emulate_media(media="print")
    assert shown.evaluate("document.documentElement.scrollWidth") <= 703


def test_without_javascript(browser: Browser, text: str, tmp_path: Path):
    """All but the table of tags is there; where its numbers are, the page says."""
    with browser.new_context(java_script_enabled=False) as context:
        shown = context.new_page()
        (tmp_path / "report.html").write_text(text, encoding="utf-8")
        shown.goto((tmp_path / "report.html").as_uri())
        notice = shown.locator("noscript p")
        assert notice.is_visible()
        assert "per_tag.csv beside this page has the same numbers" in notice.inner_text()
        assert not shown.get_by_role("searchbox").is_visible()
        assert shown.get_by_role("heading", name="Calibration").is_visible()


def test_print(browser: Browser, text: str, tmp_path: Path):
    """On white paper, from a dark screen too, and without what cannot be clicked there."""
    shown, _ = opened(browser, text, tmp_path, color_scheme="dark")
    shown.emulate_media(media="print", color_scheme="dark")
    assert shown.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert not shown.locator("nav").is_visible()
    assert not shown.get_by_role("searchbox").is_visible()
    # A table in part says so.
    assert shown.get_by_text("50 of 80 tags").is_visible()
    arrow = "getComputedStyle(document.querySelector('[aria-sort] button'), '::after').content"
    assert shown.evaluate(arrow) == "none"
    assert min(contrasts(shown))[0] >= 4.5
    pages = re.findall(rb"/Type\s*/Page\b", shown.pdf(format="A4", print_background=True))
    assert 3 <= len(pages) <= 20
