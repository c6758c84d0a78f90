"""The tagger's page in a real browser: photos in, suggestions judged, choices saved, hashtags copied."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, FilePayload, Locator, Page, Route, expect

from socialtag_jax import Tagger
from socialtag_jax.serve.app import tagging_app
from socialtag_jax.serve.feedback import FeedbackFile
from socialtag_jax.serve.limits import Limits
from tests.bundles import constant_bundle
from tests.hostile_photos import encoded, picture
from tests.legibility import contrasts
from tests.servers import running

LOGITS = np.array([2, -1, 0, -3, 1], np.float32)
"""beach 88 %, sun 73 %, sea 50 %, dog 27 %, snow 5 %."""
JPEG = encoded(picture(size=(400, 300)), "JPEG")


def chosen(name: str = "holiday.jpg", data: bytes = JPEG) -> FilePayload:
    """As a person chooses it."""
    return FilePayload(name=name, mimeType="image/jpeg", buffer=data)


@pytest.fixture(scope="module")
def choices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("feedback") / "choices.jsonl"


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Tagger:
    return Tagger.load(constant_bundle(tmp_path_factory.mktemp("bundles") / "bundle", LOGITS))


@pytest.fixture(scope="module")
def address(tagger: Tagger, choices: Path) -> Iterator[str]:
    with running(tagging_app(tagger, Limits(photo_bytes=100_000), FeedbackFile(choices))) as address:
        yield address


@pytest.fixture
def context(browser: Browser, address: str) -> Iterator[BrowserContext]:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, address: str) -> Iterator[Page]:
    """Open, and without an error or a request to elsewhere to its end."""
    yield from opened(context, address)


def opened(context: BrowserContext, address: str) -> Iterator[Page]:
    page = context.new_page()
    local = (address, "blob:", "data:")
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(local) else None)
    page.goto(address)
    expect(page.locator("#model")).to_have_text("holiday: a model that knows 5 tags")
    yield page
    # Of a request that fails as the test wants it to, the browser says so as well.
    assert [one for one in wrong if not one.startswith("Failed to load resource")] == []


def shown(photo: Locator) -> list[str]:
    """The suggestions, with their confidence."""
    return photo.locator(".accept").all_inner_texts()


def copied(page: Page) -> str:
    return page.evaluate("() => navigator.clipboard.readText()")


def lines(path: Path) -> list[tuple[str, str]]:
    return [(one["tag"], one["choice"]) for one in map(json.loads, path.read_text().splitlines())]


def chip(photo: Locator, tag: str) -> Locator:
    return photo.locator(f'.tag[data-tag="{tag}"]')


def test_suggestions_slider_choices_and_copy(page: Page, choices: Path):
    before = len(lines(choices))
    page.set_input_files("#files", [chosen()])
    photo = page.locator(".photo")
    expect(photo.locator(".tag")).to_have_count(3)
    assert [re.split(r"\s*\n\s*", text) for text in shown(photo)] == [
        ["beach".title(), "88 %"],
        ["Sun", "73 %"],
        ["Sea", "50 %"],
    ]

    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    slider = page.get_by_role("slider", name="Show tags that are more than")
    slider.fill("60")
    expect(photo.locator(".tag")).to_have_count(2)
    slider.fill("1")
    expect(photo.locator(".tag")).to_have_count(5)
    page.get_by_label("At most").fill("4")
    expect(photo.locator(".tag")).to_have_count(4)
    expect(photo.locator(".count")).to_have_text("4 tags")
    assert requests == []

    chip(photo, "beach").locator(".accept").click()
    chip(photo, "sun").locator(".reject").click()
    chip(photo, "dog").locator(".accept").click()
    expect(chip(photo, "beach")).to_have_class(re.compile("chip-right"))
    expect(chip(photo, "sun")).to_have_class(re.compile("chip-wrong"))
    # What was chosen stays, wherever the slider is.
    slider.fill("99")
    expect(photo.locator(".tag")).to_have_count(3)
    slider.fill("30")
    chip(photo, "dog").locator(".accept").click()
    expect(page.locator("#saved")).to_have_text("4 choices saved to choices.jsonl on the server")
    assert lines(choices)[before:] == [
        ("beach", "accepted"),
        ("sun", "rejected"),
        ("dog", "accepted"),
        ("dog", "undecided"),
    ]

    slider.fill("30")
    photo.locator(".copy").click()
    expect(page.get_by_role("status").filter(has_text="Copied")).to_have_text("Copied #Beach #Sea")
    assert copied(page) == "#Beach #Sea"


def test_the_page_shows_what_the_commands_suggest(
    browser: Browser, tagger: Tagger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """At the model's own threshold, which is between two steps of the slider: 73.1 % is not over 73.4 %."""
    monkeypatch.setattr(tagger, "threshold", 0.734)
    context = browser.new_context()
    with running(tagging_app(tagger, Limits(), FeedbackFile(tmp_path / "choices"))) as address:
        for page in opened(context, address):
            expect(page.locator("#threshold-text")).to_have_text("73.4 %")
            page.set_input_files("#files", [chosen()])
            expect(page.locator(".count")).to_have_text("1 tag")
            page.get_by_role("slider").press("ArrowLeft")
            expect(page.locator("#threshold-text")).to_have_text("72 %")
            expect(page.locator(".count")).to_have_text("2 tags")
    context.close()


def test_where_the_browser_lets_no_page_copy(page: Page):
    """As over plain HTTP from another computer: the older way, and where that fails too, by hand."""
    page.set_input_files("#files", [chosen()])
    expect(page.locator(".tag")).to_have_count(3)
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new DOMException('no')); }")
    page.locator(".copy").click()
    expect(page.locator("#toast")).to_have_text("Copied #Beach #Sun #Sea")
    expect(page.locator(".copy")).to_be_focused()
    assert copied(page) == "#Beach #Sun #Sea"
    shown: list[str] = []

    def dismiss(dialog: Dialog) -> None:
        shown.append(dialog.default_value)
        dialog.dismiss()

    page.on("dialog", dismiss)
    page.evaluate("() => { document.execCommand = () => false; }")
    page.locator(".reject").first.click()
    page.locator(".copy").click()
    assert shown == ["#Sun #Sea"]


def test_several_photos_good_and_bad(page: Page):
    bad, large = chosen("letter.jpg", b"not a photo"), chosen("large.jpg", bytes(100_001))
    page.set_input_files("#files", [chosen(), bad, large, chosen("other.jpg")])
    names = [name.inner_text() for name in page.locator(".photo-name").all()]
    assert names == ["holiday.jpg", "letter.jpg", "large.jpg", "other.jpg"]
    expect(page.locator(".count:visible")).to_have_count(2)
    states = page.locator(".state")
    expect(states.nth(1)).to_contain_text("Not an image, or of another kind than JPEG")
    expect(states.nth(2)).to_contain_text("which this server does not take")
    # Once for all of them.
    expect(page.locator("#toast")).to_have_text("2 photos tagged, 2 without tags")
    page.get_by_role("button", name="Copy all hashtags").click()
    expect(page.locator("#toast")).to_have_text("Copied #Beach #Sun #Sea")
    page.get_by_role("button", name="Remove letter.jpg from this page").click()
    expect(page.locator(".photo")).to_have_count(3)
    expect(page.get_by_role("button", name="Remove large.jpg from this page")).to_be_focused()


def test_pasted_and_dropped_photos(page: Page):
    """As a browser hands them over: files of a clipboard, and of a drag."""
    give = """([kind, type, bytes]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], `${kind}.jpg`, { type }));
        const event = kind === "paste"
            ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true })
            : new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
        document.body.dispatchEvent(event);
    }"""
    for kind in ("paste", "drop"):
        page.evaluate(give, [kind, "image/jpeg", list(JPEG)])
    expect(page.locator(".count:visible")).to_have_count(2)
    assert page.locator(".photo-name").all_inner_texts() == ["paste.jpg", "drop.jpg"]


def test_a_file_that_cannot_be_read_any_more(page: Page, tmp_path: Path):
    """It is not the server that is at fault."""
    paths = [tmp_path / f"{number}.jpg" for number in range(4)]
    for path in paths:
        path.write_bytes(JPEG)
    under_way: list[Route] = []
    page.route("**/v1/tags*", lambda route: under_way.append(route))
    page.set_input_files("#files", paths)
    while len(under_way) < 3:
        page.wait_for_timeout(20)
    paths[3].write_bytes(JPEG + b"more")
    for route in under_way:
        route.continue_()
    state = page.locator(".state").nth(3)
    expect(state).to_have_text("This cannot be read: it is a folder, or a file that was moved or changed.")
    expect(page.locator(".count:visible")).to_have_count(3)


def test_keyboard_alone(page: Page, choices: Path):
    before = len(lines(choices))
    # Only where somebody listens does the browser tell of a chooser; to be sure that it knows before the key comes.
    page.on("filechooser", lambda _: None)
    page.keyboard.press("Tab")
    expect(page.locator("#files")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files([chosen()])
    photo = page.locator(".photo")
    expect(photo.locator(".tag")).to_have_count(3)
    page.keyboard.press("Tab")
    expect(page.locator("#threshold")).to_be_focused()
    page.keyboard.press("Home")
    expect(photo.locator(".tag")).to_have_count(5)
    expect(page.locator("#threshold")).to_have_attribute("aria-valuetext", "0 percent")
    for _ in range(4):
        page.keyboard.press("Tab")
    # One stop for all tags of a photo; its first tag.
    expect(chip(photo, "beach").locator(".accept")).to_be_focused()
    page.keyboard.press("Enter")
    expect(chip(photo, "beach").locator(".accept")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Delete")
    expect(chip(photo, "sun").locator(".reject")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#toast")).to_have_text("Sun: rejected")
    page.keyboard.press("End")
    page.keyboard.press("r")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowLeft")
    expect(chip(photo, "snow").locator(".accept")).to_be_focused()
    page.keyboard.press("r")
    page.keyboard.press("c")
    expect(page.locator("#toast")).to_have_text("Copied #Beach #Sea #Dog #Snow")
    expect(page.locator("#saved")).to_contain_text("4 choices saved")
    assert lines(choices)[before:] == [
        ("beach", "accepted"),
        ("sun", "rejected"),
        ("snow", "rejected"),
        ("snow", "undecided"),
    ]
    page.keyboard.press("Tab")
    expect(photo.locator(".copy")).to_be_focused()
    # Back to where one was, be it by keys or by a click.
    page.keyboard.press("Shift+Tab")
    expect(chip(photo, "snow").locator(".accept")).to_be_focused()
    chip(photo, "sea").locator(".accept").click()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    expect(chip(photo, "sea").locator(".accept")).to_be_focused()


def test_what_a_screen_reader_says(page: Page):
    """Every control has a name and says its state."""
    page.set_input_files("#files", [chosen()])
    expect(page.get_by_role("status").filter(has_text="holiday")).to_have_text("holiday.jpg: 3 tags")
    page.get_by_role("button", name="Sun, 73 % likely").click()
    page.get_by_role("button", name="Reject Sea").click()
    expect(page.get_by_role("toolbar", name="Tags of holiday.jpg")).to_match_aria_snapshot(
        """
        - toolbar "Tags of holiday.jpg":
          - button "Beach, 88 % likely"
          - button "Reject Beach"
          - button "Sun, 73 % likely" [pressed]
          - button "Reject Sun"
          - button "Sea, 50 % likely, rejected"
          - button "Reject Sea" [pressed]
        """
    )
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, img")].filter((one) => one.checkVisibility() &&
            !(one.ariaLabel || one.innerText || one.labels?.length || one.hasAttribute("alt"))).length"""
    )
    assert unnamed == 0


def test_choices_that_could_not_be_saved_are_sent_again(page: Page, choices: Path):
    before = len(lines(choices))
    page.set_input_files("#files", [chosen()])
    expect(page.locator(".tag")).to_have_count(3)
    page.context.set_offline(True)
    chip(page.locator(".photo"), "beach").locator(".accept").click()
    expect(page.get_by_role("alert")).to_have_text("The server does not answer. 1 choice not saved yet; trying again.")
    leaving = "() => window.dispatchEvent(new Event('beforeunload', { cancelable: true }))"
    assert not page.evaluate(leaving)
    page.context.set_offline(False)
    expect(page.locator("#saved")).to_contain_text("1 choice saved", timeout=10_000)
    expect(page.get_by_role("alert")).to_be_hidden()
    assert page.evaluate(leaving)
    assert lines(choices)[before:] == [("beach", "accepted")]


def test_choices_about_another_model_are_not_sent_for_ever(page: Page, choices: Path):
    """The server was started again with another one while the page was open."""
    before = len(lines(choices))

    def other_model(route: Route) -> None:
        response = route.fetch()
        route.fulfill(response=response, json={**response.json(), "model": "0" * 64})

    page.route("**/v1/tags*", other_model)
    page.set_input_files("#files", [chosen("old.jpg")])
    expect(page.locator(".tag")).to_have_count(3)
    page.unroute("**/v1/tags*")
    page.set_input_files("#files", [chosen("new.jpg")])
    expect(page.locator(".tag")).to_have_count(6)
    # At once: the first is on its way while the others gather, of the old model and of the new one.
    page.evaluate("() => [0, 1, 4, 5].forEach((place) => document.querySelectorAll('.accept')[place].click())")
    alert = "The tag was suggested by another model than the one that is served. 2 choices not saved. Reload the page"
    expect(page.get_by_role("alert")).to_contain_text(alert)
    expect(page.locator("#saved")).to_contain_text("2 choices saved")
    assert lines(choices)[before:] == [("sun", "accepted"), ("sea", "accepted")]


def test_many_choices_at_once_are_sent_in_pieces(page: Page, choices: Path):
    """While the server was away, 100 of them gathered, of a photo with a long name: browsers refuse 64 KiB at once."""
    before = len(lines(choices))
    page.set_input_files("#files", [chosen("\N{SNOWFLAKE}" * 250 + ".jpg")])
    expect(page.locator(".tag")).to_have_count(3)
    page.route("**/v1/feedback", lambda route: route.abort())
    page.evaluate("() => { for (let n = 0; n < 100; n++) document.querySelector('.accept').click(); }")
    expect(page.get_by_role("alert")).to_contain_text("100 choices not saved yet")
    page.unroute("**/v1/feedback")
    expect(page.locator("#saved")).to_contain_text("100 choices saved", timeout=10_000)
    assert lines(choices)[before:] == [("beach", "accepted"), ("beach", "undecided")] * 50


def test_a_server_that_is_away_is_asked_again(page: Page):
    page.context.set_offline(True)
    page.set_input_files("#files", [chosen()])
    expect(page.locator(".state")).to_have_text("The server does not answer. Trying again in 3 s")
    page.context.set_offline(False)
    expect(page.locator(".tag")).to_have_count(3, timeout=10_000)


def test_try_again_keeps_the_focus(page: Page):
    page.route("**/v1/tags*", lambda route: route.fulfill(status=500, json={"error": {"message": "it failed"}}))
    page.set_input_files("#files", [chosen()])
    expect(page.locator(".state")).to_have_text("It failed.")
    page.unroute("**/v1/tags*")
    page.get_by_role("button", name="Try again").press("Enter")
    expect(page.locator(".photo-name")).to_be_focused()
    expect(page.locator(".tag")).to_have_count(3)


def test_a_busy_server_is_asked_again(page: Page):
    answers = iter([503])

    def first_busy(route: Route) -> None:
        if next(answers, None):
            route.fulfill(status=503, headers={"Retry-After": "1"}, json={"error": {"code": "overloaded"}})
        else:
            route.continue_()

    page.route("**/v1/tags*", first_busy)
    page.set_input_files("#files", [chosen()])
    expect(page.locator(".state")).to_have_text("The server is busy. Trying again in 1 s")
    expect(page.locator(".tag")).to_have_count(3)


def test_on_a_phone(browser: Browser, address: str):
    """390 pixels wide: nothing is cut off, and what is tapped is large enough."""
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    for page in opened(context, address):
        page.set_input_files("#files", [chosen("a_very_long_name_of_a_photo_" * 6 + ".jpg")])
        photo = page.locator(".photo")
        page.locator("#threshold").fill("1")
        expect(photo.locator(".tag")).to_have_count(5)
        chip(photo, "beach").locator(".accept").tap()
        chip(photo, "sea").locator(".reject").tap()
        expect(chip(photo, "beach")).to_have_class(re.compile("chip-right"))
        expect(chip(photo, "sea")).to_have_class(re.compile("chip-wrong"))
        assert page.evaluate("() => document.documentElement.scrollWidth") == 390
        sizes = page.evaluate(
            """() => [...document.querySelectorAll("button, .button, input[type=range]")]
                .filter((one) => one.checkVisibility()).map((one) => one.getBoundingClientRect())
                .map((box) => [Math.min(box.left, 390 - box.right), box.height])"""
        )
        assert all(margin >= 0 and height >= 36 for margin, height in sizes)
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(browser: Browser, address: str, scheme: str):
    """Contrast AA, 4.5 to 1, of every text."""
    context = browser.new_context(color_scheme=scheme)  # pyright: ignore[reportArgumentType]
    for page in opened(context, address):
        page.set_input_files("#files", [chosen(), chosen(data=b"no photo")])
        expect(page.locator(".tag")).to_have_count(3)
        expect(page.locator(".failed")).to_have_count(1)
        page.locator(".accept").nth(0).click()
        page.locator(".reject").nth(1).click()
        page.mouse.move(0, 0)
        found = contrasts(page)
        assert len(found) > 15
        assert min(found)[0] >= 4.5, min(found)
    context.close()
