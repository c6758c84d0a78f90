"""Makes the pictures of docs/pictures: the report, the tagger's page and the rating page, on postcards.

Command:  python docs/make_pictures.py (with the extras report, serve and test, and Chromium; 2 minutes on 2 CPU cores)
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

PROJECT = Path(__file__).resolve().parents[1]
PICTURES = PROJECT / "docs" / "pictures"
WORK = Path("build") / "pictures"
DATA, RUN, BUNDLE = WORK / "data", WORK / "run", WORK / "postcards.tagger"
COLOURS = 255
# As the test suite starts it.
BROWSER_OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "socialtag_jax.cli", *map(str, arguments)]


def socialtag(*arguments: str | Path) -> None:
    print("socialtag", *arguments, flush=True)
    subprocess.run(command(*arguments), cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def server(*arguments: str | Path) -> Iterator[str]:
    """Starts a `socialtag` command that serves pages; yields the address that it prints."""
    with subprocess.Popen(
        command(*arguments, "--port", "0"), cwd=PROJECT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.send_signal(signal.SIGINT)


@contextlib.contextmanager
def opened(browser: Browser, address: str, width: int, height: int) -> Iterator[Page]:
    """A page in a window of that size, in CSS pixels."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
    page.goto(address)
    yield page
    page.close()


def save(page: Page, name: str) -> None:
    """The window's content, with few enough colours to be small."""
    path = PICTURES / name
    path.parent.mkdir(exist_ok=True)
    page.screenshot(path=path)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1000} kB")


def postcards_bundle() -> None:
    """The demo's data set, run, evaluation and bundle; those of an earlier call are kept."""
    if not BUNDLE.exists():
        shutil.rmtree(RUN, ignore_errors=True)
        socialtag("prepare", "--source", "postcards", "--input", WORK / "photos", "--output", DATA)
        socialtag("train", "experiments/postcards.py", "--dataset", DATA, "--workdir", RUN)
        socialtag("evaluate", RUN, "--dataset", DATA)
        socialtag("export", RUN, "--output", BUNDLE)


def report(browser: Browser) -> None:
    with opened(browser, (RUN / "evaluation" / "test" / "report.html").resolve().as_uri(), 1100, 760) as page:
        page.evaluate("document.getElementById('scores').scrollIntoView()")
        save(page, "report.png")
        # Under the links that stay at the window's top.
        page.get_by_role("heading", name="At random").evaluate(
            "heading => scrollBy(0, heading.getBoundingClientRect().top - 60)"
        )
        save(page, "report_photos.png")


def tagger(browser: Browser, photos: list[Path]) -> None:
    with (
        server("serve", BUNDLE, "--feedback", WORK / "feedback.jsonl") as address,
        opened(browser, address, 1100, 760) as page,
    ):
        page.set_input_files("#files", photos)
        for photo in page.locator(".photo").all():
            expect(photo.locator(".accept").first).to_be_visible()
        first = page.locator(".photo").first
        for place in (0, 1):
            first.locator(".accept").nth(place).click()
        page.mouse.move(0, 0)
        expect(page.locator("#toast")).not_to_be_visible()
        save(page, "serve.png")


def rating(browser: Browser) -> None:
    study = WORK / "study.sqlite"
    study.unlink(missing_ok=True)
    with (
        server("rate", BUNDLE, "--dataset", DATA, "--photos", "40", "--study", study) as address,
        opened(browser, address, 1100, 760) as page,
    ):
        page.get_by_label("Your name").fill("Ada")
        page.get_by_role("button", name="Start").click()
        for number in range(1, 6):
            expect(page.locator("#where")).to_have_text(re.compile(f"Photo {number} of"))
            for place in (1, 3):
                page.locator("#tags button").nth(place).click()
            if number < 5:
                page.get_by_role("button", name="Next").click()
        page.mouse.move(0, 0)
        save(page, "rate.png")


def main() -> None:
    # Pages show paths as they were given.
    os.chdir(PROJECT)
    postcards_bundle()
    photos = [WORK / "photos" / "images" / f"{number:04d}.jpg" for number in (3, 17)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=list(BROWSER_OPTIONS)
        )
        report(browser)
        tagger(browser, photos)
        rating(browser)
        browser.close()


if __name__ == "__main__":
    main()
