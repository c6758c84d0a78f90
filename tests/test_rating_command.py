"""`socialtag rate` from its command line: a study that is drawn, killed and gone on with, and calls that are wrong."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from socialtag_jax.rating.candidates import Source
from socialtag_jax.rating.study import Study
from socialtag_jax.shards.dataset import Dataset, open_dataset
from tests.bundles import TAGS, random_bundle
from tests.rating_servers import join, mark, write_dataset
from tests.rating_studies import clock


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In a folder whose name is no UTF-8, as old ones are."""
    folder = tmp_path_factory.mktemp("bundles") / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    return random_bundle(folder / "holiday.tagger")


def start(bundle: Path, data: Path, port: int, *more: str) -> tuple[subprocess.Popen[str], str]:
    """`socialtag rate` in a process of its own; returns it, and the address that it prints."""
    arguments = ["rate", bundle, "--dataset", data, "--port", port, *more]
    process = subprocess.Popen(
        [sys.executable, "-m", "socialtag_jax.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith("http://127.0.0.1:"):
        process.kill()
        pytest.fail(f"printed {line!r}, and {process.communicate()[1]}")
    return process, line.strip()


def test_the_command_is_killed_and_started_again(browser: Browser, bundle: Path, data: Path, socialtag):
    """A drawn study; SIGKILL while a page is open: the page waits, goes on, and nothing that was answered is lost."""
    path = bundle.parent / "holiday.tagger-rating" / "study.sqlite"
    process, address = start(bundle, data, 0, "--photos", "4", "--seed", "3")
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
            process.kill()
            process.communicate()
            mark(page, 2)
            clicked[1].append(page.locator("#tags bdi").nth(2).inner_text())
            expect(page.locator("#problem")).to_contain_text("Not saved yet")
            expect(page.locator("#saved")).to_have_text("Saving…")
            with Study.open(path, clock) as study:
                assert study.state(1, 0).answer.fitting == (0, 1)
                assert study.state(1, 1).answer.fitting == (0,)
            process, _ = start(bundle, data, port)
            expect(page.locator("#saved")).to_have_text("Saved", timeout=10_000)
            expect(page.locator("#problem")).to_be_hidden()
            page.get_by_role("button", name="Next").click()
            expect(page.locator("#where")).to_have_text("Photo 3 of 4")
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.splitlines()[-2:] == ["stopped by SIGINT", "the same command goes on with the study"]
    with Study.open(path, clock) as study:
        found = list(study.finished_answers())
        assert [
            [photo.tags[place].display for place in answer.fitting] for _, photo, ((_, answer, _),) in found
        ] == clicked
        _check_drawn(study, open_dataset(data))
    # The same study with other photos is another study.
    result = socialtag("rate", bundle, "--dataset", data, "--port", "0", "--photos", "5")
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
