"""The rating page of a study, served from this process, and what tests do on it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Page, expect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from socialtag_jax.rating.application import rating_application
from socialtag_jax.rating.study import Study
from socialtag_jax.rules import parse_pruning
from socialtag_jax.shards.dataset import Dataset
from tests.bundles import TAGS
from tests.photos import photo_folder, prepared
from tests.rating_studies import clock, write_plain
from tests.servers import running

PHOTOS = 12


def write_dataset(folder: Path) -> Path:
    """A data set of as many test photos, with the tags of `tests/bundles.py`, whose folders are called after them."""
    rows = {
        f"{TAGS[number % 5]}/{number:02d}.png": (
            [TAGS[number % 5], TAGS[(number + 1) % 5]],
            "test" if number % 2 else "train",
        )
        for number in range(2 * PHOTOS)
    }
    pruning = parse_pruning([f"vocabulary={','.join(TAGS)}"])
    return prepared(photo_folder(folder / "photos", rows), folder / "data", pruning=pruning).folder


class Recorder:
    """Keeps every answer as it leaves the server: its path, status, headers and body."""

    def __init__(self, app: ASGIApp, sent: list[bytes]) -> None:
        self._app, self._sent = app, sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts = [scope.get("path", "").encode()]

        async def record(message: Message) -> None:
            parts.append(repr([message.get("status"), sorted(message.get("headers", []))]).encode())
            parts.append(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, record)
        if scope["type"] == "http":
            self._sent.append(b"\n".join(parts))


@contextlib.contextmanager
def serving(
    path: Path, dataset: Dataset, sent: list[bytes] | None = None, *, port: int = 0
) -> Iterator[tuple[Study, str]]:
    """The page of a study; yields the study and the page's address."""
    with Study.open(path, clock) as study:
        app = rating_application(study, dataset.records("test"), hosts=[])
        app.add_middleware(Recorder, sent=[] if sent is None else sent)
        with running(app, port=port) as address:
            yield study, address


def letters(path: Path) -> Path:
    """A study of as many photos as the data set has, with distinct tags each: photo 3 has 3a to 3f."""
    return write_plain(path, [[f"{number}{letter}" for letter in "abcdef"] for number in range(PHOTOS)])


def join(page: Page, address: str, name: str) -> None:
    page.goto(address)
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#tags button").first).to_be_visible()


def mark(page: Page, *places: int) -> None:
    for place in places:
        page.locator("#tags button").nth(place).click()


def go_next(page: Page, number: int | None) -> None:
    """Goes on to photo `number` (counted from 1), or to the end."""
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#where")).to_have_text("All done" if number is None else f"Photo {number} of {PHOTOS}")


def rated(study: Study) -> dict[str, list[list[int]]]:
    """Of each rater: the places that they marked, photo by photo."""
    found: dict[str, list[list[int]]] = {}
    for _, _, answers in study.finished_answers():
        for name, answer, _ in answers:
            found.setdefault(name, []).append(list(answer.fitting))
    return found
