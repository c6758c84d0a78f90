"""A study's file: answers as they are given, taken back, and found again; who may write; what is no study."""

import contextlib
import shlex
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from socialtag_jax.errors import UserError
from socialtag_jax.rating.candidates import Source
from socialtag_jax.rating.study import Answer, ConflictError, NotFoundError, State, Study, TakenError
from socialtag_jax.rating.study_file import SCHEMA_VERSION, write_study
from tests.rating_studies import ORIGIN, clock, write_plain

NONE = Answer(none_fits=True, finished=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_plain(tmp_path / "study.sqlite", ["abc", "def", "ghi"])


def test_a_rater_goes_on_where_they_stopped(path: Path):
    with Study.open(path, clock) as study:
        ada = study.join("Ada").id
        state = study.state(ada)
        assert state == State("Ada", 0, Answer(), 0, 0, 0, 0)
        state = study.answer(ada, 0, Answer((1,)), after=0)
        state = study.answer(ada, 0, Answer((0, 1)), after=state.answer_id)
        assert (state.finished, state.next_position) == (0, 0)
        state = study.answer(ada, 0, Answer((0, 1), finished=True), after=state.answer_id)
        assert (state.finished, state.next_position) == (1, 1)
        study.answer(ada, 1, Answer((2,)), after=0)
    with Study.open(path, clock) as study:
        state = study.state(ada)
        assert (state.position, state.answer, state.finished) == (1, Answer((2,)), 1)
        assert study.state(ada, 0).answer == Answer((0, 1), finished=True)
        assert [one.finished for one in study.raters()] == [1]
        # The unfinished photo is nobody's result.
        assert [(photo.raters, [tag.fits for tag in photo.tags]) for photo in study.judged()] == [
            (("Ada",), [(True,), (True,), (False,)])
        ]


def test_undo_takes_back_one_change_after_the_other(path: Path):
    with Study.open(path, clock) as study:
        ada, ben = study.join("Ada").id, study.join("Ben").id
        first = study.answer(ada, 0, Answer((1,)), after=0)
        second = study.answer(ada, 0, Answer((1,), finished=True), after=first.answer_id)
        third = study.answer(ada, 1, Answer((0,)), after=0)
        other = study.answer(ben, 1, NONE, after=0)

        state = study.undo(ada, last=third.last_id)
        assert (state.position, state.answer) == (1, Answer())
        # The same request once more, as a page sends it that got no answer, takes nothing back.
        with pytest.raises(ConflictError):
            study.undo(ada, last=third.last_id)
        state = study.undo(ada, last=state.last_id)
        assert (state.position, state.answer, state.finished) == (0, Answer((1,)), 0)
        state = study.undo(ada, last=state.last_id)
        assert (state.position, state.answer) == (0, Answer())
        assert study.undo(ada, last=0) == State("Ada", 0, Answer(), 0, 0, 0, 0)
        assert study.state(ben, 1).answer_id == other.answer_id
        # What was taken back is told apart from what comes after it.
        assert study.answer(ada, 0, Answer((1,)), after=0).answer_id > max(second.answer_id, other.answer_id)


def test_one_writer_at_a_time(path: Path):
    """Two pages, in two processes even, of one rater: what was made from an older state is not taken."""
    with Study.open(path, clock) as one, Study.open(path, clock) as other:
        ada = one.join("Ada").id
        state = one.answer(ada, 0, Answer((0,)), after=0)
        with pytest.raises(ConflictError):
            other.answer(ada, 0, Answer((1,)), after=0)
        assert other.state(ada, 0).answer == Answer((0,))
        other.answer(ada, 0, Answer((0, 1)), after=state.answer_id)
        with pytest.raises(ConflictError):
            one.answer(ada, 0, Answer((0, 2)), after=state.answer_id)


def test_many_threads_lose_nothing(tmp_path: Path):
    """Eight raters at once, through two connections, a hundred answers each; and eight pages of one rater."""
    path = write_plain(tmp_path / "study.sqlite", ["ab"] * 100)
    taken = []
    with Study.open(path, clock) as one, Study.open(path, clock) as other:
        raters = [one.join(f"Rater {number}").id for number in range(8)]

        def rate(study: Study, rater: int) -> None:
            for position in range(100):
                study.answer(rater, position, Answer((position % 2,), finished=True), after=0)

        def fight(study: Study, number: int) -> None:
            for position in range(100):
                try:
                    study.answer(shared, position, NONE, after=0)
                    taken.append((position, number))
                except ConflictError:
                    pass

        shared = one.join("Shared").id
        jobs = [(rate, rater) for rater in raters] + [(fight, number) for number in range(8)]
        threads = [
            threading.Thread(target=work, args=((one, other)[number % 2], argument))
            for number, (work, argument) in enumerate(jobs)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        judged = one.judged()
    assert sorted(position for position, _ in taken) == list(range(100))
    assert len(judged) == 100
    for position, photo in enumerate(judged):
        assert len(photo.raters) == 9
        assert photo.tags[position % 2].fits == (True,) * 8 + (False,)


def test_answers_that_contradict_themselves(path: Path):
    with Study.open(path, clock) as study:
        ada = study.join("Ada").id
        for answer, words in (
            (Answer((1, 0)), "not ascending"),
            (Answer((1, 1)), "not ascending"),
            (Answer((1,), none_fits=True), "no tag fits, and some do"),
            (Answer(finished=True), "a finished photo has"),
        ):
            with pytest.raises(ValueError, match=words):
                study.answer(ada, 0, answer, after=0)
        for rater, position, answer in (
            (ada, 0, Answer((3,))),
            (ada, 0, Answer((-1,))),
            (ada, 3, NONE),
            (ada + 1, 0, NONE),
        ):
            with pytest.raises(NotFoundError):
                study.answer(rater, position, answer, after=0)
        assert study.state(ada, 0).last_id == 0


def test_names(path: Path):
    with Study.open(path, clock) as study:
        ada = study.join("  Ada \n Lovelace ")
        assert ada.name == "Ada Lovelace"
        assert study.join("\x1b[31m\u202eevil").name == "\\x1b[31m\\u202eevil"
        # Case, spaces, what is not seen, widths, and Greek, whose upper case has other marks than its lower.
        study.join("\u0390")
        for name in (
            "ADA LOVELACE",
            "ada\u00a0lovelace",
            "Ada\u200b Love\u00adlace",
            "\uff21da Lovelace",
            "\u03aa\u0301",
        ):
            with pytest.raises(TakenError, match="rates here already"):
                study.join(name)
        for name in ("", " \t ", "\u200b", "\u2060\u00ad", "x" * 61):
            with pytest.raises(ValueError, match="1 to 60 characters"):
                study.join(name)
        for name in ("=1+1", "+1", "-1", "@SUM(1)", "\uff1d1"):
            with pytest.raises(ValueError, match="cannot begin with any of"):
                study.join(name)
        assert len(study.raters()) == 3


def test_a_killed_writer_loses_nothing_that_it_reported(path: Path):
    """A process that is killed in the middle of writing; what it said was stored is there, in whole answers."""
    program = """
import itertools, sys
from socialtag_jax.rating.study import Answer, Study
from tests.rating_studies import clock
from pathlib import Path
with Study.open(Path(sys.argv[1]), clock) as study:
    ada, after = study.join("Ada").id, 0
    for number in itertools.count():
        after = study.answer(ada, 1, Answer((number % 3,)), after=after).answer_id
        print(after, number % 3, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        reported = [writer.stdout.readline() for _ in range(200)]
        writer.kill()
        reported += writer.stdout.read().splitlines()
    answer_id, place = map(int, [line for line in reported if len(line.split()) == 2][-1].split())
    with Study.open(path, clock) as study:
        state = study.state(1, 1)
        # One more may have been stored than could be reported.
        assert state.answer_id in (answer_id, answer_id + 1)
        assert state.answer.fitting == ((place + state.answer_id - answer_id) % 3,)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_what_is_no_study(tmp_path: Path, path: Path, socialtag):
    text = tmp_path / "notes.sqlite"
    text.write_text("Not a database, but long enough to be looked at as one. " * 40)
    other = tmp_path / "other.sqlite"
    foreign = sqlite3.connect(other)
    foreign.execute("CREATE TABLE photo (position)")
    foreign.close()
    newer = sqlite3.connect(path)
    newer.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    newer.close()
    for file, words in (
        (tmp_path / "nothing.sqlite", "no such study"),
        (tmp_path / "nowhere", "nowhere/study.sqlite: no such study"),
        (tmp_path / "round-1.2", "round-1.2/study.sqlite: no such study"),
        (text, "cannot be used as a rating study: file is not a database"),
        (other, "an SQLite file, but not of a rating study"),
        (path, f"schema version {SCHEMA_VERSION + 1}, expected {SCHEMA_VERSION}"),
    ):
        result = socialtag("rate", "--results", file)
        assert result.code == 1
        assert words in result.err
    assert not (tmp_path / "nothing.sqlite").exists()


@pytest.mark.parametrize("change", ["RENAME COLUMN seed TO grain", "RENAME TO essay"])
def test_another_schema_is_said_in_one_line(path: Path, socialtag, change: str):
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"ALTER TABLE study {change}")
    result = socialtag("rate", "--results", path)
    assert result.code == 1
    assert f"{path}: cannot be used as a rating study: no such" in result.err


def test_a_folder_that_cannot_be_written_to(tmp_path: Path):
    """An archived study: SQLite's log has no place there."""
    folder = tmp_path / "archive"
    folder.mkdir()
    write_plain(folder / "study.sqlite", ["abc"])
    folder_text, program = shlex.quote(str(folder)), f"{shlex.quote(sys.executable)} -m socialtag_jax.cli"
    script = f"""
        mount --bind {folder_text} {folder_text} && mount -o remount,bind,ro {folder_text} || exit 99
        {program} rate --results {folder_text}
    """
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script]
    result = subprocess.run(namespace, capture_output=True, text=True, check=False)
    if result.returncode == 99:
        pytest.skip(f"no folder can be mounted here: {result.stderr.strip()}")
    assert result.returncode == 1
    assert "its folder must be writable: copy it there" in result.stderr


@pytest.mark.parametrize("change", ["answer SET fitting = '[1'", "candidate SET sources = '[\"oracle\"]'"])
def test_damaged_content_is_said_in_one_line(path: Path, socialtag, change: str):
    with Study.open(path, clock) as study:
        study.answer(study.join("Ada").id, 0, Answer((1,), finished=True), after=0)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE {change}")
    result = socialtag("rate", "--results", path)
    assert result.code == 1
    assert result.err.startswith(f"socialtag: error: {path}: the study is damaged: ")


def test_a_study_is_never_written_over(path: Path):
    before = path.read_bytes()
    with pytest.raises(UserError, match="exists already"):
        write_study(path, ORIGIN, [], clock)
    assert path.read_bytes() == before


def test_what_goes_on_is_the_study_that_was_asked_for(path: Path):
    with Study.open(path, clock) as study:
        study.check(ORIGIN.bundle_sha256, ORIGIN.dataset_fingerprint, None, None, None)
        study.check(ORIGIN.bundle_sha256, ORIGIN.dataset_fingerprint, "test", 3, 0)
        for changed, words in (
            (("x", ORIGIN.dataset_fingerprint, None, None, None), "another bundle: holiday.tagger"),
            ((ORIGIN.bundle_sha256, "x", None, None, None), "another data set: holiday/1.0.0"),
            ((ORIGIN.bundle_sha256, ORIGIN.dataset_fingerprint, "train", None, None), "with --split test, not train"),
            ((ORIGIN.bundle_sha256, ORIGIN.dataset_fingerprint, None, 200, None), "with --photos 3, not 200"),
            ((ORIGIN.bundle_sha256, ORIGIN.dataset_fingerprint, None, None, 1), "with --seed 0, not 1"),
        ):
            with pytest.raises(UserError, match=words):
                study.check(*changed)


def test_the_sources_come_back(path: Path):
    with Study.open(path, clock) as study:
        assert [(one.display, one.sources) for one in study.photo(1).tags] == [
            (letter, (Source.PREDICTED,)) for letter in "def"
        ]
