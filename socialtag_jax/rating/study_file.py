"""A study's file: SQLite, with a write-ahead log.

Photos and their candidate tags are written once, when the study is drawn; raters and answers are added by `study.py`.
"""

import contextlib
import dataclasses
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from socialtag_jax import files
from socialtag_jax.errors import UserError
from socialtag_jax.rating.candidates import Source

SCHEMA_VERSION = 1
APPLICATION_ID = 0x53544A52
"""Marks the file as ours, to `file` and to us: "STJR"."""
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


def write_study(path: Path, origin: Origin, photos: Sequence[StudyPhoto], clock: Callable[[], datetime]) -> None:
    """Writes a study without raters: all of it, or no file.

    Raises:
      UserError: the file exists.
    """
    if path.exists():
        raise UserError("exists already", where=path, hint="name another file")
    with files.atomic_path(path) as temporary:
        connection = sqlite3.connect(temporary, isolation_level=None)
        try:
            connection.executescript(
                f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; {_SCHEMA}"
            )
            connection.execute("BEGIN")
            values = dataclasses.astuple(origin)
            connection.execute("INSERT INTO study VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*values, time_text(clock())))
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


@contextlib.contextmanager
def connect(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a study, in autocommit mode, that threads may share one at a time.

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
                what = "an SQLite file, but not of a rating study"
                raise UserError(what, where=path, hint="name the study's file, or a new one")
            if version != SCHEMA_VERSION:
                hint = "go on with the version of socialtag-jax that made it"
                raise UserError(f"schema version {version}, expected {SCHEMA_VERSION}", where=path, hint=hint)
            connection.execute("PRAGMA journal_mode = WAL")
            # Each answer is synced to the disk before it counts as saved.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            yield connection
        except sqlite3.DatabaseError as error:
            # The write-ahead log lies beside the file, even of a study that is only looked at.
            unwritable = getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY"))
            hint = (
                "its folder must be writable: copy it there, with its -wal file if it has one" if unwritable else None
            )
            raise UserError(f"cannot be used as a rating study: {error}", where=path, hint=hint) from error
    finally:
        connection.close()


def time_text(time: datetime) -> str:
    """A time of day with its zone, to the second, as ISO 8601 has it."""
    return time.isoformat(timespec="seconds")
