"""The documentation's site: it is built, needs no network and no server, and has all that it should."""

import html
import itertools
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import Browser, expect

from socialtag_jax import cli
from tests.docs_pages import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` does: any warning fails, such as a link to nothing."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--nitpicky", "--quiet", "-b", "html"]
    built = subprocess.run([*command, str(ROOT / "docs"), str(site)], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return site


def test_the_site_needs_no_network(site: Path) -> None:
    loaded = re.compile(r"""<(?:link|script|img|iframe|source)\b[^>]*?(?:src|href)=["'](?:https?:)?//""")
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    assert [page.name for page in pages if loaded.search(page.read_text(encoding="utf-8"))] == []
    styles = [text for path in site.rglob("*.css") if (text := path.read_text(encoding="utf-8"))]
    assert not any(re.search(r"@import|url\(\s*['\"]?(https?:)?//", text) for text in styles)


class _Links(HTMLParser):
    """What a page can be jumped to at, and what it links to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids: set[str] = {"", "top"}
        self.links: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name == "id":
                self.ids.add(value)
            if value and name in ("href", "src"):
                self.links.append(value)


def test_every_link_leads_somewhere(site: Path) -> None:
    """Files and places within pages; other sites are not asked."""
    pages = {page.resolve(): _Links(page) for page in site.rglob("*.html")}
    lost = []
    for page, found in pages.items():
        for link in map(urlsplit, found.links):
            if link.scheme or link.netloc:
                continue
            target = (page.parent / unquote(link.path)).resolve() if link.path else page
            if not target.exists() or (target in pages and unquote(link.fragment) not in pages[target].ids):
                lost.append((page.name, link.geturl()))
    assert lost == []
    assert sum(len(found.links) for found in pages.values()) > 1000


def test_examples_keep_their_lines(site: Path) -> None:
    page = html.unescape((site / "reference" / "commands.html").read_text(encoding="utf-8"))
    for command in ("prepare", "train", "predict"):
        assert re.search(rf"<pre>.*?examples:\n  socialtag {command} .*\n  socialtag {command} ", page)


def test_the_site_is_searched_without_a_server(site: Path, browser: Browser) -> None:
    page = browser.new_page()
    page.goto((site / "index.html").as_uri())
    page.locator("input[name=q]").first.fill("sidecars")
    page.keyboard.press("Enter")
    found = page.locator("ul.search").get_by_role("link", name="Tagging a library")
    found.first.click()
    expect(page.get_by_role("heading", name="Tagging a library")).to_be_visible()
    page.close()


def test_pages_fit_a_phone(site: Path, browser: Browser) -> None:
    """What is too wide, such as a table, scrolls by itself."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    for path in sorted(site.rglob("*.html")):
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path.name
    page.close()


def test_every_command_and_field_is_in_the_reference(site: Path) -> None:
    parser, _ = cli._parser()
    (actions,) = (action for action in parser._actions if action.dest == "command")
    assert actions.choices is not None
    page = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    for name, command in dict(actions.choices).items():
        assert f'id="socialtag-{name}"' in page
        for flag in itertools.chain.from_iterable(action.option_strings for action in command._actions):
            assert f'id="socialtag-{name}-{flag.strip("-")}"' in page or f">{flag}<" in page, (name, flag)
    page = (site / "reference" / "experiments.html").read_text(encoding="utf-8")
    for flag in ("--seed", "--stages.N.freeze-layers", "--optimizer.schedule.warmup-epochs", "--cache.views"):
        assert flag in page
    assert "Share of hidden activations dropped in training" in page
