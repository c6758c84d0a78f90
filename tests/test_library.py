"""Tagging a library: killed at any instant and run again, it ends with the same files; sidecars come and go."""

import io
import itertools
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from socialtag_jax import Tagger, photo_search, predict, sidecars
from socialtag_jax.errors import UserError
from socialtag_jax.journal import Journal, file_state
from socialtag_jax.library import Sidecars
from socialtag_jax.library import tag as tag_library
from socialtag_jax.predict import Prediction
from socialtag_jax.presentation import Choice, Presentation, Presenter
from socialtag_jax.tagger import MAX_BATCH, SuggestedTag
from tests.bundles import random_bundle
from tests.photos import draw, library
from tests.sidecar_files import DARKTABLE

PHOTOS = 200
BROKEN = (0, 70, 199)
SETTINGS = {"threshold": 0.0}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_bundle(tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return library(tmp_path_factory.mktemp("photos"), PHOTOS, BROKEN)


def chooser(tagger: Tagger) -> Callable[[np.ndarray], Choice]:
    return Presenter(tagger.vocabulary, Presentation(0.45, 3)).choose


class Counting(Tagger):
    """Counts the photos that are scored."""

    scored = 0

    def launch(self, images: np.ndarray):
        self.scored += len(images)
        return super().launch(images)


def tag(tagger: Tagger, folder: Path, path: Path, stop_after: int | None = None) -> list[Prediction]:
    """A run that is interrupted after so many photos."""
    found = photo_search.find_photos([folder]).photos
    done: list[Prediction] = []
    with Journal.open(path, SETTINGS) as journal:
        predictions = tag_library(
            tagger,
            found,
            choose=chooser(tagger),
            journal=journal,
            sidecars=None,
            log=lambda _: None,
            stream=io.StringIO(),
        )
        for prediction in predictions:
            done.append(prediction)
            if len(done) == stop_after:
                break
    return done


def test_a_run_goes_on_from_the_last_whole_batch(bundle: Path, tmp_path: Path):
    folder, tagger = library(tmp_path / "photos", 80, (0, 40)), Counting.load(bundle)
    assert isinstance(tagger, Counting)
    whole = tag(tagger, folder, tmp_path / "whole")
    assert tagger.scored == 78
    assert sum(one.unreadable is not None for one in whole) == 2
    for stop_after in (MAX_BATCH, MAX_BATCH + 1):
        path = tmp_path / f"{stop_after}"
        assert tag(tagger, folder, path, stop_after) == whole[:stop_after]
        tagger.scored = 0
        # To the last bit of each confidence.
        assert tag(tagger, folder, path) == whole
        batches = -(-stop_after // MAX_BATCH)
        assert tagger.scored == sum(one.unreadable is None for one in whole[batches * MAX_BATCH :])
        assert path.read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_journal_that_was_cut_anywhere(bundle: Path, tmp_path: Path):
    """Cut at any byte, or filled up with zeros as after a power cut: what whole lines say is taken up."""
    folder, tagger = library(tmp_path / "photos", 40, (3,)), Tagger.load(bundle)
    path = tmp_path / "journal"
    whole = tag(tagger, folder, path)
    content = path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(content) if byte == ord("\n")]
    for at in (0, 5, *ends, *(random.Random(0).randrange(len(content)) for _ in range(20))):
        for tail in (b"", bytes(50)):
            path.write_bytes(content[:at] + (tail if at >= ends[0] else b""))
            with Journal.open(path, SETTINGS) as journal:
                assert len(journal) == max(sum(end <= at for end in ends) - 1, 0)
    assert tag(tagger, folder, path) == whole


def test_changed_photos_are_looked_at_again(bundle: Path, tmp_path: Path):
    folder, tagger = library(tmp_path / "photos", 70), Counting.load(bundle)
    assert isinstance(tagger, Counting)
    tag(tagger, folder, tmp_path / "journal")
    draw(folder / "0" / "000.png", ["green"], 99)
    (folder / "2" / "068.png").unlink()
    draw(folder / "3" / "new.png", ["red"], 5)
    tagger.scored = 0
    found = tag(tagger, folder, tmp_path / "journal")
    # The first batch, for the changed photo; the last, for the new one; and not the one between.
    assert tagger.scored == MAX_BATCH + (70 - 2 * MAX_BATCH)
    fresh = tag(Tagger.load(bundle), folder, tmp_path / "fresh")
    assert [one.path for one in found] == [one.path for one in fresh]
    assert [[tag.tag for tag in one.tags] for one in found] == [[tag.tag for tag in one.tags] for one in fresh]


def test_sidecars_that_changed_or_went_are_written_again(bundle: Path, tmp_path: Path):
    """A killed run, `untag`, and the same run once more: what the journal calls done has lost its tags."""
    folder, tagger = library(tmp_path / "photos", 3 * MAX_BATCH), Tagger.load(bundle)
    found = photo_search.find_photos([folder]).photos

    def run(stop_after: int | None = None) -> list[str]:
        lines: list[str] = []
        beside = Sidecars("f" * 64, now=lambda: "", show=None, log=pytest.fail)
        with Journal.open(tmp_path / "journal", SETTINGS, sidecar=sidecars.sidecar_path) as journal:
            predictions = tag_library(
                tagger,
                found,
                choose=Presenter(tagger.vocabulary, Presentation(0.0, 3)).choose,
                journal=journal,
                sidecars=beside,
                log=lines.append,
                stream=io.StringIO(),
            )
            for _ in itertools.islice(predictions, stop_after):
                pass
        return lines

    assert run(2 * MAX_BATCH) == []
    for photo in found[:3]:
        sidecars.untagging(sidecars.sidecar_path(photo)).apply()
    assert run() == [f"going on: {MAX_BATCH} of {3 * MAX_BATCH} photos are done"]
    assert all(sidecars.sidecar_path(photo).exists() for photo in found)
    # Nothing is left to do, and nothing is done.
    assert run() == [f"going on: {3 * MAX_BATCH} of {3 * MAX_BATCH} photos are done"]


def test_a_photo_that_changes_while_it_is_scored_is_looked_at_again(tmp_path: Path):
    photo, settings = tmp_path / "a.png", {"threshold": 0.0}
    draw(photo, ["red"], 0)
    before = file_state(photo)
    photo.write_bytes(b"another photo")
    with Journal.open(tmp_path / "journal", settings) as journal:
        journal.add([Prediction(photo, ())], {photo: before})
    with Journal.open(tmp_path / "journal", settings) as journal:
        assert not journal.has(photo, file_state(photo))


def test_a_journal_of_another_run(tmp_path: Path):
    path = tmp_path / "tags.csv.journal"
    with Journal.open(path, {"threshold": 0.3, "stop": ["a"]}) as journal:
        with (
            pytest.raises(UserError, match="another process is at work on these photos"),
            Journal.open(path, {"threshold": 0.3, "stop": ["a"]}),
        ):
            pass
        photo = tmp_path / "a\udcff.png"
        photo.write_bytes(b"a photo")
        state = file_state(photo)
        journal.add([Prediction(photo, (SuggestedTag("x", "X", 0.1 + 0.2),), abstained=True)], {photo: state})
    with pytest.raises(UserError, match="had other settings: stop, threshold"), Journal.open(path, {"threshold": 0.4}):
        pass
    with Journal.open(path, {"threshold": 0.3, "stop": ["a"]}) as journal:
        expected = Prediction(photo, (SuggestedTag("x", "X", 0.1 + 0.2),), abstained=True)
        assert journal.get(photo) == expected
        assert journal.has(photo, state)
        assert not journal.has(photo, [*state[:-1], 9])
        assert not journal.has(tmp_path / "b.png", state)
    for other in (b"my notes\n", b"{}\n", b'{"journal": "mine"}', b"[" * 100_000 + b"\n"):
        path.write_bytes(other)
        with pytest.raises(UserError, match="is no journal of socialtag"), Journal.open(path, SETTINGS):
            pass
        assert path.read_bytes() == other


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "socialtag_jax.cli", *map(str, arguments)]


def killed_at(size: int, journal: Path, arguments: Sequence[object]) -> tuple[int | None, str]:
    """(exit code, what it said) of a command that is killed as soon as its journal has so many bytes."""
    process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        if journal.exists() and journal.stat().st_size >= size:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.0005)
    _, err = process.communicate(timeout=120)
    return process.returncode, err


def test_killed_at_any_time(socialtag, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run that is never stopped, and one that is killed again and again: the same files, sidecars included."""
    never, often = tmp_path / "never" / "photos", tmp_path / "often" / "photos"
    for folder in (never, often):
        library(folder, PHOTOS, BROKEN)
        (folder / "1" / "001.png.xmp").write_text(DARKTABLE)
        (folder / "1" / "004.png.xmp").write_text("<broken")
    # Relative paths, so that both write the same.
    monkeypatch.chdir(never.parent)
    call = ("predict", bundle, "photos", "--csv", "tags", "--write-xmp", "--threshold", 0.45)
    assert socialtag(*call).code == 1
    monkeypatch.chdir(often.parent)
    rng, done = random.Random(0), -1
    for size in sorted(rng.sample(range(2, 22_000), 3)):
        code, err = killed_at(size, often.parent / "tags.journal", call)
        assert code in (-signal.SIGKILL, 1), err
        if going_on := re.search(r"going on: (\d+) of 200", err):
            assert int(going_on[1]) >= done
            done = int(going_on[1])
    assert done > 0
    # What a kill in the middle of writing leaves: this one may have had no such luck.
    (often.parent / f".tags.csv.{2**22 + 1}-7@{socket.gethostname()}.tmp").write_text("path,tag")
    assert socialtag(*call).code == 1

    def contents(folder: Path) -> dict[str, str]:
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        date = re.compile(r"<socialtag:Date>[^<]*")
        return {
            name: path.read_bytes().hex() if path.suffix == ".png" else date.sub("", path.read_text())
            for name, path in files.items()
        }

    left, right = contents(never.parent), contents(often.parent)
    assert left == right
    assert "tags.journal" not in left
    assert (left["tags.rejects.csv"]).count("\n") == 1 + len(BROKEN) + 1
    assert sum(name.endswith(".xmp") for name in left) > 100


def test_what_is_not_searched(tmp_path: Path):
    for name in (
        "a.jpg",
        ".hidden.jpg",
        "._a.jpg",
        ".Trash-1000/files/b.jpg",
        "@eaDir/a.jpg/thumb.jpg",
        "$RECYCLE.BIN/c.jpg",
        "sub/d.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "sub" / "e.jpg").symlink_to(tmp_path / "a.jpg")
    found = photo_search.find_photos([tmp_path])
    assert [path.relative_to(tmp_path).as_posix() for path in found.photos] == ["a.jpg", "sub/d.jpg", "sub/e.jpg"]
    assert str(found.skipped) == "5 hidden, trash or cache entries, 1 link to folders"
    # What is named is searched.
    assert len(photo_search.find_photos([tmp_path / ".Trash-1000", tmp_path / "sub" / "loop"]).photos) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dry-run"], "--dry-run: shows what --write-xmp would do"),
        (["--dry-run", "--write-xmp", "--csv", "x.csv"], "--dry-run: shows what --write-xmp would do"),
        (["--min-confidence", "1.5"], "--min-confidence: 1.5: expected 0 to below 1"),
        (["--max-tags", "0"], "'0' is not a whole number of at least 1"),
        (["--csv", "a", "--jsonl", "b"], "not allowed with argument"),
    ],
)
def test_calls_that_make_no_sense(socialtag, tmp_path: Path, arguments: list[str], words: str):
    result = socialtag("predict", tmp_path, tmp_path, *arguments)
    assert result.code == 2
    assert words in result.err


def test_the_estimate_is_that_of_its_parts():
    assert predict.seconds_a_photo(0.02, 0.1, shares_cores=True) == pytest.approx(0.12)
    assert predict.seconds_a_photo(0.02, 0.1, shares_cores=False) == pytest.approx(0.1)
    assert predict.seconds_a_photo(0.02, 0.001, shares_cores=False) == pytest.approx(0.02)


def test_an_estimate_is_measured(bundle: Path, photos: Path):
    """By a clock of which decoding 8 photos takes 0.8 s and scoring a batch of 32 takes 6.4 s."""
    tagger = Tagger.load(bundle)
    paths = photo_search.find_photos([photos]).photos
    times = iter((0.0, 0.8, 5.0, 11.4))
    with ThreadPoolExecutor(2) as pool:
        seconds = predict.estimated_seconds(tagger, paths, pool, lambda: next(times))
    assert seconds == pytest.approx(200 * (0.1 + 0.2))
