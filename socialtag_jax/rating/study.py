"""A study's file: photos and their candidate tags, raters, and every answer as it is given.

SQLite, with a write-ahead log: an answer is on the disk before the page hears that it is saved, whatever then happens
to the program. Answers are only ever added, as the whole state of one rater's photo; the newest counts, and undo takes
the newest away.
"""

import contextlib
import json
import sqlite3
import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from socialtag_jax import files
from socialtag_jax.errors import UserError, printable
from socialtag_jax.rating.candidates import Source
from socialtag_jax.rating.results import JudgedPhoto, JudgedTag

SCHEMA_VERSION = 1
APPLICATION_ID = 0x53544A52
"""Marks the file as ours, to `file` and to us: "STJR"."""
LONGEST_NAME = 60
"""Characters of a rater's name."""

_SCHEMA = """
CREATE TABLE study (
  bundle TEXT NOT NULL, bundle_sha256 TEXT NOT NULL,        -- as it was named, and the hash of its tagger.json
  dataset TEXT NOT NULL, dataset_fingerprint TEXT NOT NULL,
  split TEXT NOT NULL, seed INTEGER NOT NULL,
  threshold REAL NOT NULL, max_tags INTEGER NOT NULL,       -- of a predicted tag
  created_at TEXT NOT NULL
);
CREATE TABLE photo (
  position INTEGER PRIMARY KEY,                             -- 0, 1, ..., as raters see them
  record INTEGER NOT NULL UNIQUE,                           -- index in the split
  image_id TEXT NOT NULL
);
CREATE TABLE candidate (
  photo INTEGER NOT NULL REFERENCES photo (position),
  place INTEGER NOT NULL,                                   -- 0, 1, ..., as raters see them
  tag TEXT NOT NULL, display TEXT NOT NULL,
  sources TEXT NOT NULL,                                    -- a JSON list of predicted, true, popular, random
  confidence REAL NOT NULL,                                 -- the model's, whatever the source
  PRIMARY KEY (photo, place), UNIQUE (photo, tag)
) WITHOUT ROWID;
CREATE TABLE rater (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL, key TEXT NOT NULL UNIQUE,             -- as written, and case-folded
  joined_at TEXT NOT NULL
);
CREATE TABLE answer (
  id INTEGER PRIMARY KEY AUTOINCREMENT,                     -- never used again, so that it tells states apart
  rater INTEGER NOT NULL REFERENCES rater (id),
  photo INTEGER NOT NULL REFERENCES photo (position),
  fitting TEXT NOT NULL,                                    -- a JSON list of places, ascending
  none_fits INTEGER NOT NULL CHECK (none_fits IN (0, 1)),
  finished INTEGER NOT NULL CHECK (finished IN (0, 1)),
  answered_at TEXT NOT NULL,
  CHECK (none_fits = 0 OR fitting = '[]'),
  CHECK (finished = 0 OR none_fits = 1 OR fitting <> '[]')
);
CREATE INDEX answer_by_photo ON answer (rater, photo, id);
"""


@dataclass(frozen=True)
class Origin:
    """What a study is about: a study goes on only with the same.

    Attributes:
      bundle: as the user named it.
      bundle_sha256: of its `tagger.json`, which lists the hash of every other file.
      dataset: name and version.
      dataset_fingerprint: of its content.
      split: that photos are from.
      seed: of the draws.
      threshold: of a predicted tag.
      max_tags: most predicted tags of a photo.
    """

    bundle: str
    bundle_sha256: str
    dataset: str
    dataset_fingerprint: str
    split: str
    seed: int
    threshold: float
    max_tags: int


@dataclass(frozen=True, slots=True)
class StudyTag:
    """A candidate tag, with what raters must not see."""

    tag: str
    display: str
    sources: tuple[Source, ...]
    confidence: float


@dataclass(frozen=True, slots=True)
class StudyPhoto:
    """A photo of the study: its record in the split, its path in the data set, and its tags as they are shown."""

    record: int
    image_id: str
    tags: Sequence[StudyTag]


@dataclass(frozen=True, slots=True)
class Rater:
    """A rater, and how many photos they have finished."""

    id: int
    name: str
    finished: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What one rater has said of one photo so far.

    Attributes:
      fitting: places of the tags that fit, ascending.
      none_fits: said outright: no tag fits.
      finished: the rater has gone on to the next photo. Then some tag fits, or none does: an empty answer is none.
    """

    fitting: tuple[int, ...] = ()
    none_fits: bool = False
    finished: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """Where a rater stands.

    Attributes:
      position: the photo that this is about.
      answer: to it.
      answer_id: of that answer; 0 without any.
      last_id: of the rater's newest answer to any photo, which undo takes away; 0 without any.
      finished: photos that the rater has finished.
      next_position: the first photo that they have not finished; None after the last.
    """

    position: int
    answer: Answer
    answer_id: int
    last_id: int
    finished: int
    next_position: int | None


class Conflict(Exception):
    """The state that a change starts from is not the newest: another page of the same rater has changed it.

    Args:
      state: the newest.
    """

    def __init__(self, state: State) -> None:
        super().__init__("another page of this rater has gone on from here")
        self.state = state


class Unknown(Exception):
    """There is no such rater or photo, or no such tag of the photo."""


class Study:
    """An open study. Threads may share it.

    Args:
      connection: to a file with this schema, in autocommit mode.
      path: of the file.
      clock: the time of day, with its zone.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, clock: Callable[[], datetime]) -> None:
        self._connection, self._path, self._clock = connection, path, clock
        self._lock = threading.Lock()
        row = self._one("SELECT * FROM study")
        self.origin = Origin(*row[:-1])
        self.created_at: str = row[-1]
        (self.photos,) = self._one("SELECT count(*) FROM photo")

    @classmethod
    def create(cls, path: Path, origin: Origin, photos: Sequence[StudyPhoto], clock: Callable[[], datetime]) -> None:
        """Writes a study without raters: all of it, or no file.

        Raises:
          UserError: the file exists.
        """
        if path.exists():
            raise UserError("exists already", where=path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_path(path) as temporary:
            connection = sqlite3.connect(temporary, isolation_level=None)
            try:
                connection.executescript(
                    f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; {_SCHEMA}"
                )
                connection.execute("BEGIN")
                values = tuple(getattr(origin, name) for name in Origin.__dataclass_fields__)
                connection.execute("INSERT INTO study VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*values, _text(clock())))
                connection.executemany(
                    "INSERT INTO photo VALUES (?, ?, ?)",
                    [(position, photo.record, photo.image_id) for position, photo in enumerate(photos)],
                )
                connection.executemany(
                    "INSERT INTO candidate VALUES (?, ?, ?, ?, ?, ?)",
                    [
                        (position, place, one.tag, one.display, json.dumps(one.sources), one.confidence)
                        for position, photo in enumerate(photos)
                        for place, one in enumerate(photo.tags)
                    ],
                )
                connection.execute("COMMIT")
            finally:
                connection.close()

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path, clock: Callable[[], datetime]) -> Iterator[Self]:
        """Opens a study, to go on or to look at.

        Raises:
          UserError: no such file, not a study, or one of another version of this program.
        """
        if not path.is_file():
            raise UserError("no such study", where=path, hint="make one with `socialtag rate BUNDLE --dataset DATASET`")
        # The file's own triggers and views, of which it should have none, may not call functions.
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        try:
            try:
                connection.execute("PRAGMA trusted_schema = OFF")
                (application,) = connection.execute("PRAGMA application_id").fetchone()
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if application != APPLICATION_ID:
                    raise UserError("an SQLite file, but not of a rating study", where=path)
                if version != SCHEMA_VERSION:
                    hint = "go on with the version of socialtag-jax that made it"
                    raise UserError(f"schema version {version}, expected {SCHEMA_VERSION}", where=path, hint=hint)
                connection.execute("PRAGMA journal_mode = WAL")
                # Each answer is synced to the disk before it counts as saved.
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA foreign_keys = ON")
                yield cls(connection, path, clock)
            except sqlite3.DatabaseError as error:
                raise UserError(f"cannot be used as a rating study: {error}", where=path) from error
        finally:
            connection.close()

    def photo(self, position: int) -> StudyPhoto:
        """A photo with its candidates.

        Raises:
          Unknown: there is none at that position.
        """
        with self._lock:
            return self._photo(position)

    def raters(self) -> Sequence[Rater]:
        """All raters, in the order in which they joined."""
        with self._lock:
            rows = self._connection.execute("SELECT id, name FROM rater ORDER BY id").fetchall()
            return [Rater(rater, name, len(self._finished(rater))) for rater, name in rows]

    def join(self, name: str) -> Rater:
        """The rater of that name, in upper or lower case; a new one where there is none.

        Raises:
          ValueError: no name: empty, or too long; says so to the person who typed it.
        """
        written = printable(" ".join(unicodedata.normalize("NFC", name).split()))
        if not 0 < len(written) <= LONGEST_NAME:
            raise ValueError(f"Please type a name of 1 to {LONGEST_NAME} characters.")
        with self._writing():
            key = unicodedata.normalize("NFKC", written).casefold()
            self._connection.execute(
                "INSERT INTO rater (name, key, joined_at) VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING",
                (written, key, _text(self._clock())),
            )
            rater, known = self._one("SELECT id, name FROM rater WHERE key = ?", key)
            return Rater(rater, known, len(self._finished(rater)))

    def state(self, rater: int, position: int | None = None) -> State:
        """Where a rater stands with a photo.

        Args:
          rater: their id.
          position: of the photo; None for the first that they have not finished, or the last of all.

        Raises:
          Unknown: no such rater or photo.
        """
        with self._lock:
            return self._state(rater, position)

    def answer(self, rater: int, position: int, answer: Answer, *, after: int) -> State:
        """Adds an answer; it is on the disk when this returns.

        Args:
          rater: their id.
          position: of the photo.
          answer: the whole of it.
          after: id of the answer to this photo that this one was made from; 0 for none.

        Raises:
          Unknown: no such rater or photo, or places that the photo lacks.
          Conflict: another answer came in between; this one was not taken.
          ValueError: the answer contradicts itself, or is finished and empty.
        """
        if list(answer.fitting) != sorted(set(answer.fitting)):
            raise ValueError("the places are not ascending")
        if answer.none_fits and answer.fitting:
            raise ValueError("no tag fits, and some do")
        if answer.finished and not answer.none_fits and not answer.fitting:
            raise ValueError("a finished photo has fitting tags, or none that fits")
        with self._writing():
            before = self._state(rater, position)
            places = len(self._photo(position).tags)
            if answer.fitting and not 0 <= answer.fitting[0] <= answer.fitting[-1] < places:
                raise Unknown(f"photo {position} has the places 0 to {places - 1}")
            if before.answer_id != after:
                raise Conflict(before)
            self._connection.execute(
                "INSERT INTO answer (rater, photo, fitting, none_fits, finished, answered_at) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    rater,
                    position,
                    json.dumps(answer.fitting),
                    answer.none_fits,
                    answer.finished,
                    _text(self._clock()),
                ),
            )
            return self._state(rater, position)

    def undo(self, rater: int, *, last: int) -> State | None:
        """Takes back the rater's newest answer.

        Args:
          rater: their id.
          last: its id, so that a request that is sent twice takes back one.

        Returns:
          the state of its photo as it was before; None where there is nothing to take back.

        Raises:
          Unknown: no such rater.
          Conflict: it is not the newest; nothing was taken back.
        """
        with self._writing():
            before = self._state(rater, None)
            if before.last_id != last:
                raise Conflict(before)
            if not last:
                return None
            (position,) = self._one("SELECT photo FROM answer WHERE id = ?", last)
            self._connection.execute("DELETE FROM answer WHERE id = ?", (last,))
            return self._state(rater, position)

    def finished_answers(self) -> Iterator[tuple[int, StudyPhoto, Sequence[tuple[str, Answer, str]]]]:
        """Every photo that some rater has finished: its position, the photo, and (rater's name, answer, time) of each."""
        with self._lock:
            rows = self._connection.execute(
                """
                SELECT photo, name, fitting, none_fits, finished, answered_at
                FROM answer JOIN rater ON rater.id = answer.rater
                WHERE answer.id IN (SELECT max(id) FROM answer GROUP BY rater, photo) AND finished
                ORDER BY photo, rater.id
                """
            ).fetchall()
            by_photo: dict[int, list[tuple[str, Answer, str]]] = {}
            for position, name, *answer, time in rows:
                by_photo.setdefault(position, []).append((name, _answer(*answer), time))
            photos = {position: self._photo(position) for position in by_photo}
        for position, answers in by_photo.items():
            yield position, photos[position], answers

    def judged(self) -> Sequence[JudgedPhoto]:
        """What the arithmetic needs of every photo that some rater has finished."""
        return [
            JudgedPhoto(
                tuple(name for name, _, _ in answers),
                tuple(
                    JudgedTag(one.sources, tuple(place in answer.fitting for _, answer, _ in answers))
                    for place, one in enumerate(photo.tags)
                ),
            )
            for _, photo, answers in self.finished_answers()
        ]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction that no other writer, in whatever process, comes in between of."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _one(self, query: str, *values: object) -> tuple:
        row = self._connection.execute(query, values).fetchone()
        if row is None:
            raise UserError("the study is damaged: a row is missing", where=self._path)
        return row

    def _photo(self, position: int) -> StudyPhoto:
        row = self._connection.execute("SELECT record, image_id FROM photo WHERE position = ?", (position,)).fetchone()
        if row is None:
            raise Unknown(f"no photo {position}")
        tags = self._connection.execute(
            "SELECT tag, display, sources, confidence FROM candidate WHERE photo = ? ORDER BY place", (position,)
        )
        return StudyPhoto(
            *row,
            [StudyTag(tag, display, tuple(map(Source, json.loads(names))), value) for tag, display, names, value in tags],
        )

    def _finished(self, rater: int) -> set[int]:
        rows = self._connection.execute(
            """
            SELECT photo FROM answer
            WHERE id IN (SELECT max(id) FROM answer WHERE rater = ? GROUP BY photo) AND finished
            """,
            (rater,),
        )
        return {photo for (photo,) in rows}

    def _state(self, rater: int, position: int | None) -> State:
        known = self._connection.execute("SELECT count(*) FROM rater WHERE id = ?", (rater,)).fetchone()
        if known != (1,):
            raise Unknown(f"no rater {rater}")
        finished = self._finished(rater)
        following = next((one for one in range(self.photos) if one not in finished), None)
        if position is None:
            position = self.photos - 1 if following is None else following
        if not 0 <= position < self.photos:
            raise Unknown(f"no photo {position}")
        row = self._connection.execute(
            "SELECT id, fitting, none_fits, finished FROM answer WHERE rater = ? AND photo = ? ORDER BY id DESC LIMIT 1",
            (rater, position),
        ).fetchone()
        (last,) = self._one("SELECT coalesce(max(id), 0) FROM answer WHERE rater = ?", rater)
        answer_id, *answer = row or (0, "[]", 0, 0)
        return State(position, _answer(*answer), answer_id, last, len(finished), following)


def _answer(fitting: str, none_fits: int, finished: int) -> Answer:
    return Answer(tuple(json.loads(fitting)), bool(none_fits), bool(finished))


def _text(time: datetime) -> str:
    return time.isoformat(timespec="seconds")
