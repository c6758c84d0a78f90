"""The rating page as raters meet it, in a browser, and what its server sends and takes."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from socialtag_jax.rating.application import rating_application
from socialtag_jax.rating.candidates import Source
from socialtag_jax.rating.study import Study
from socialtag_jax.rating.study_file import StudyPhoto, StudyTag, write_study
from socialtag_jax.rules import parse_pruning
from socialtag_jax.shards.dataset import Dataset, open_dataset
from tests.bundles import TAGS, random_bundle
from tests.photos import photo_folder, prepared
from tests.rating_studies import ORIGIN, clock, write_plain
from tests.servers import headless_browser, running

PHOTOS = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with the tags of `tests/bundles.py`, whose folders are called after them."""
    rows = {
        f"{TAGS[number % 5]}/{number:02d}.png": (
            [TAGS[number % 5], TAGS[(number + 1) % 5]],
            "test" if number % 2 else "train",
        )
        for number in range(2 * PHOTOS)
    }
    source = photo_folder(tmp_path_factory.mktemp("photos"), rows)
    pruning = parse_pruning([f"vocabulary={','.join(TAGS)}"])
    return prepared(source, tmp_path_factory.mktemp("data"), pruning=pruning).folder


@pytest.fixture(scope="module")
def dataset(data: Path) -> Dataset:
    return open_dataset(data)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_bundle(tmp_path_factory.mktemp("bundles") / "holiday.tagger")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with headless_browser() as found:
        yield found


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
def serving(path: Path, dataset: Dataset, sent: list[bytes] | None = None) -> Iterator[tuple[Study, str]]:
    """The page of a study; yields the study and the page's address."""
    with Study.open(path, clock) as study:
        app = rating_application(study, dataset.records("test"), hosts=[])
        app.add_middleware(Recorder, sent=[] if sent is None else sent)
        with running(app) as address:
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
        # The last thing done was to go on from photo 2; before that, to mark its tag.
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
        join(behind, address, "ada")
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
            httpx.post(f"{address}/api/raters", json={"name": name})
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


def study_photos(sources: Sequence[Source], confidence: float) -> Sequence[StudyPhoto]:
    return [
        StudyPhoto(
            record,
            f"beach/{record}.jpg",
            [StudyTag(tag, tag, (source,), confidence) for tag, source in zip(TAGS, sources, strict=True)],
        )
        for record in range(PHOTOS)
    ]


def test_what_is_sent_does_not_depend_on_the_sources(browser: Browser, dataset: Dataset, tmp_path: Path):
    """Two studies that differ in nothing but sources and confidences: every byte of the traffic is equal."""
    traffic: list[list[bytes]] = []
    for sources, confidence in (
        ([Source.PREDICTED, Source.TRUE, Source.POPULAR, Source.RANDOM, Source.PREDICTED], 0.9),
        ([Source.RANDOM, Source.POPULAR, Source.PREDICTED, Source.TRUE, Source.TRUE], 0.1),
    ):
        path, sent = tmp_path / f"{confidence}.sqlite", []
        write_study(path, ORIGIN, study_photos(sources, confidence), clock)
        with serving(path, dataset, sent) as (_, address), browser.new_context() as context:
            page = context.new_page()
            join(page, address, "Ada")
            mark(page, 0, 3)
            go_next(page, 2)
            page.keyboard.press("u")
            expect(page.locator("#where")).to_have_text(f"Photo 1 of {PHOTOS}")
            page.goto(address)
            expect(page.locator("#raters a")).to_have_count(1)
            httpx.get(f"{address}/openapi.json")
        traffic.append(sorted(sent))
    assert len(traffic[0]) > 15
    assert traffic[0] == traffic[1]
    # Nor is there a place where it could stand, whatever its value.
    for answer in traffic[0]:
        if not answer.startswith((b"/photos/", b"/static/")):
            assert not re.search(rb"predict|popular|random|decoy|confiden|sources|image_id|beach/", answer)


def test_what_the_server_refuses(dataset: Dataset, tmp_path: Path):
    with serving(letters(tmp_path / "study.sqlite"), dataset) as (study, address):
        client = httpx.Client(base_url=address)
        ada = client.post("/api/raters", json={"name": "Ada"}).json()["id"]
        photo = f"/api/raters/{ada}/photos/0"
        good = {"fitting": [1], "none_fits": False, "finished": True, "after": 0}
        for answer, status in (
            (client.post("/api/raters", json={"name": " "}), 422),
            (client.post("/api/raters", json={"name": "x" * 2000}), 422),
            (client.get("/api/raters/99"), 404),
            (client.get("/api/raters/9999999999999999999999"), 422),
            (client.get(f"/api/raters/{ada}/photos/{PHOTOS}"), 404),
            (client.get(f"/photos/{PHOTOS}"), 404),
            (client.put(photo, json={**good, "fitting": [6]}), 404),
            (client.put(photo, json={**good, "fitting": [2, 1]}), 422),
            (client.put(photo, json={**good, "fitting": []}), 422),
            (client.put(photo, json={**good, "none_fits": True}), 422),
            (client.put(photo, json={**good, "fitting": ["a"]}), 422),
            (client.put(photo, json={**good, "after": 5}), 409),
            (client.post(f"/api/raters/{ada}/undo", json={"last": 5}), 409),
            (client.put(photo, json=good, headers={"Origin": "http://elsewhere.example"}), 403),
            (client.put(photo, json=good, headers={"Host": "elsewhere.example"}), 421),
        ):
            assert answer.status_code == status, answer.text
            assert set(answer.json()["error"]) == {"code", "message"}
        assert study.state(ada, 0).last_id == 0
        assert client.put(photo, json=good).status_code == 200
        image = client.get("/photos/0")
        assert image.headers["content-type"] == "image/jpeg"
        assert image.content == dataset.records("test")[0].image
        client.close()


def start(bundle: Path, data: Path, study: Path, port: int, *more: str) -> tuple[subprocess.Popen[str], str]:
    """`socialtag rate` in a process of its own; returns it, and the address that it prints."""
    arguments = ["rate", bundle, "--dataset", data, "--study", study, "--port", port, *more]
    process = subprocess.Popen(
        [sys.executable, "-m", "socialtag_jax.cli", *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith("http://127.0.0.1:"):
        process.kill()
        process.communicate()
        pytest.fail(f"printed {line!r}")
    return process, line.strip()


def test_the_command_is_killed_and_started_again(browser: Browser, bundle: Path, data: Path, tmp_path: Path, socialtag):
    """A drawn study; SIGKILL while a page is open: the page waits, goes on, and nothing that was answered is lost."""
    path = tmp_path / "new" / "study.sqlite"
    process, address = start(bundle, data, path, 0, "--photos", "4", "--seed", "3")
    port = int(address.rpartition(":")[2])
    clicked: list[list[str]] = []
    try:
        with browser.new_context() as context:
            page = context.new_page()

            def mark_some(count: int) -> None:
                # Chips end in their key.
                texts = [text[:-1] for text in page.locator("#tags button").all_text_contents()]
                assert set(texts) <= set(TAGS)
                mark(page, *range(count))
                clicked.append(texts[:count])

            join(page, address, "Ada")
            mark_some(2)
            page.get_by_role("button", name="Next").click()
            expect(page.locator("#where")).to_have_text("Photo 2 of 4")
            mark_some(1)
            expect(page.locator("#saved")).to_have_text("Saved")
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            mark(page, 2)
            clicked[1].append(page.locator("#tags bdi").nth(2).inner_text())
            expect(page.locator("#problem")).to_contain_text("Not saved yet")
            expect(page.locator("#saved")).to_have_text("Saving…")
            with Study.open(path, clock) as study:
                assert study.state(1, 0).answer.fitting == (0, 1)
                assert study.state(1, 1).answer.fitting == (0,)
            assert process.stdout is not None
            process.stdout.close()
            process, _ = start(bundle, data, path, port)
            expect(page.locator("#saved")).to_have_text("Saved", timeout=10_000)
            expect(page.locator("#problem")).to_be_hidden()
            page.get_by_role("button", name="Next").click()
            expect(page.locator("#where")).to_have_text("Photo 3 of 4")
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(30)
        assert process.stdout is not None
        process.stdout.close()
    assert code == 130
    with Study.open(path, clock) as study:
        found = list(study.finished_answers())
        assert [
            [photo.tags[place].display for place in answer.fitting] for _, photo, ((_, answer, _),) in found
        ] == clicked
        _check_drawn(study, open_dataset(data))
    # The same study with other photos is another study.
    result = socialtag("rate", bundle, "--dataset", data, "--study", path, "--port", "0", "--photos", "5")
    assert result.code == 1
    assert "the study was drawn with --photos 4, not 5" in result.err


def _check_drawn(study: Study, dataset: Dataset) -> None:
    """The tags of each photo are its own, and those that evaluation counts as predicted."""
    records = dataset.records("test")
    assert replace(study.origin, bundle="") == replace(
        study.origin, bundle="", dataset_fingerprint=dataset.fingerprint, split="test", seed=3
    )
    for position in range(study.photos):
        photo = study.photo(position)
        record = records[photo.record]
        assert photo.image_id == record.image_id
        own = {one.tag for one in photo.tags if Source.TRUE in one.sources}
        assert own == {dataset.vocabulary.tags[tag] for tag in record.tags}
        for one in photo.tags:
            assert (Source.PREDICTED in one.sources) == (one.confidence > study.origin.threshold)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["rate"], 2, "needs BUNDLE and --dataset DATASET, or --results STUDY"),
        (["rate", "x.tagger"], 2, "needs BUNDLE and --dataset"),
        (["rate", "x.tagger", "--dataset", "x", "--json"], 2, "--json: goes with --results STUDY"),
        (["rate", "x.tagger", "--results", "x"], 2, "BUNDLE: belongs to a new study"),
        (["rate", "--results", "x", "--photos", "5"], 2, "--photos: belongs to a new study"),
        (["rate", "gs://bucket/x.tagger", "--dataset", "x"], 2, "--study: a bundle on gs:// has no folder beside it"),
    ],
)
def test_wrong_calls(socialtag, arguments: list[str], code: int, words: str):
    result = socialtag(*arguments)
    assert result.code == code
    assert words in result.err


def test_more_photos_than_there_are(socialtag, bundle: Path, data: Path, tmp_path: Path):
    result = socialtag("rate", bundle, "--dataset", data, "--study", tmp_path, "--port", "0", "--photos", "13")
    assert result.code == 2
    assert "13 photos asked for, but test has 12" in result.err
    assert not (tmp_path / "study.sqlite").exists()


def test_without_the_packages_that_host_pages(bundle: Path, data: Path):
    program = "import sys; sys.modules['fastapi'] = None; from socialtag_jax.cli import main; main(sys.argv[1:])"
    arguments = [sys.executable, "-c", program, "rate", str(bundle), "--dataset", str(data)]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("socialtag: error: the packages that host pages are missing (fastapi)")
    assert "pip install 'socialtag-jax[serve]'" in result.stderr


def test_no_bundle(socialtag, data: Path, tmp_path: Path):
    result = socialtag("rate", tmp_path, "--dataset", data, "--port", "0")
    assert result.code == 1
    assert "not a bundle: tagger.json cannot be read" in result.err
