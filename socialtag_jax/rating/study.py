"""An open study: who rates, and every answer as it is given.

An answer is on the disk before the page hears that it is saved, whatever then happens to the program. Answers are only
ever added, as the whole state of one rater's photo; the newest counts, and undo takes the newest away.
"""

import contextlib
import dataclasses
import hashlib
import json
import sqlite3
import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self, TypeVar

from socialtag_jax.errors import UserError, printable
from socialtag_jax.rating import study_file
from socialtag_jax.rating.candidates import Source
from socialtag_jax.rating.results import JudgedPhoto, JudgedTag
from socialtag_jax.rating.study_file import Origin, StudyPhoto, StudyTag

_Decoded = TypeVar("_Decoded")
_DAMAGED = "restore the file from a copy"
LONGEST_NAME = 60
"""Characters of a rater's name."""
_FORMULA = "=+-@"
"""A spreadsheet that opens the CSV file would take a name that begins so for a formula, and whoever can reach the page
can type one."""


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
      rater: their name.
      position: the photo that this is about.
      answer: to it.
      answer_id: of that answer; 0 without any.
      last_id: of the rater's newest answer to any photo, which undo takes away; 0 without any.
      finished: photos that the rater has finished.
      next_position: the first photo that they have not finished; None after the last.
    """

    rater: str
    position: int
    answer: Answer
    answer_id: int
    last_id: int
    finished: int
    next_position: int | None


class ConflictError(Exception):
    """The state that a change starts from is not the newest: another page of the same rater has changed it."""


class NotFoundError(Exception):
    """There is no such rater or photo, or no such tag of the photo."""


class TakenError(Exception):
    """A rater of that name has joined already, who may be somebody else."""


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
        columns = [field.name for field in dataclasses.fields(Origin)]
        *origin, self.created_at = self._one(f"SELECT {', '.join(columns)}, created_at FROM study")
        self.origin = Origin(*origin)
        (self.photos,) = self._one("SELECT count(*) FROM photo")

    @property
    def key(self) -> str:
        """Tells this study from others, in addresses: a page of another must not write into this one."""
        what = [*dataclasses.astuple(self.origin), self.created_at, self.photos]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path, clock: Callable[[], datetime]) -> Iterator[Self]:
        """Opens a study, to go on or to look at.

        Raises:
          UserError: as `study_file.connect`; or, later, of answers or candidates that this program did not write.
        """
        with study_file.connect(path) as connection:
            yield cls(connection, path, clock)

    def check(
        self, bundle_sha256: str, dataset_fingerprint: str, split: str | None, photos: int | None, seed: int | None
    ) -> None:
        """Sees to it that this is the study that was asked for; None asks for whatever it has.

        Raises:
          UserError: it is another.
        """
        own, hint = self.origin, "name another --study to draw a new one"
        if bundle_sha256 != own.bundle_sha256:
            raise UserError(f"a study of another bundle: {own.bundle} as it was then", where=self._path, hint=hint)
        if dataset_fingerprint != own.dataset_fingerprint:
            what = f"a study of another data set: {own.dataset} with other content"
            raise UserError(what, where=self._path, hint=hint)
        asked = {"--split": (split, own.split), "--photos": (photos, self.photos), "--seed": (seed, own.seed)}
        for flag, (wanted, has) in asked.items():
            if wanted is not None and wanted != has:
                raise UserError(f"the study was drawn with {flag} {has}, not {wanted}", where=self._path, hint=hint)

    def photo(self, position: int) -> StudyPhoto:
        """A photo with its candidates.

        Raises:
          NotFoundError: there is none at that position.
        """
        with self._lock:
            return self._photo(position)

    def raters(self) -> Sequence[Rater]:
        """All raters, in the order in which they joined."""
        with self._lock:
            rows = self._connection.execute("SELECT id, name FROM rater ORDER BY id").fetchall()
            return [Rater(rater, name, len(self._finished(rater))) for rater, name in rows]

    def join(self, name: str) -> Rater:
        """A new rater.

        Raises:
          ValueError: no name; says so to the person who typed it.
          TakenError: another rater's, but for case, spaces and ways of writing; likewise.
        """
        written = printable(" ".join(unicodedata.normalize("NFC", name).split()))
        key = _key(written)
        if not key or len(written) > LONGEST_NAME:
            raise ValueError(f"Please type a name of 1 to {LONGEST_NAME} characters.")
        if key[0] in _FORMULA:
            raise ValueError(f"A name cannot begin with any of {' '.join(_FORMULA)}")
        with self._writing():
            known = self._connection.execute("SELECT name FROM rater WHERE key = ?", (key,)).fetchone()
            if known is not None:
                raise TakenError(
                    f"{known[0]} rates here already. Is it you? Then go on as {known[0]}, below. If not,"
                    " please add something to your name."
                )
            row = self._connection.execute(
                "INSERT INTO rater (name, key, joined_at) VALUES (?, ?, ?)",
                (written, key, study_file.time_text(self._clock())),
            )
            assert row.lastrowid is not None
            return Rater(row.lastrowid, written, 0)

    def state(self, rater: int, position: int | None = None) -> State:
        """Where a rater stands with a photo.

        Args:
          rater: their id.
          position: of the photo; None for the first that they have not finished, or the last of all.

        Raises:
          NotFoundError: no such rater or photo.
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
          NotFoundError: no such rater or photo, or places that the photo lacks.
          ConflictError: another answer came in between; this one was not taken.
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
                raise NotFoundError(f"photo {position} has the places 0 to {places - 1}")
            if before.answer_id != after:
                raise ConflictError(f"photo {position} has the newer answer {before.answer_id}")
            values = (rater, position, json.dumps(answer.fitting), answer.none_fits, answer.finished)
            self._connection.execute(
                """
                INSERT INTO answer (rater, photo, fitting, none_fits, finished, answered_at)
                VALUES (?, ?, ?, ?, ?, ?)
                """,
                (*values, study_file.time_text(self._clock())),
            )
            return self._state(rater, position)

    def undo(self, rater: int, *, last: int) -> State:
        """Takes back the rater's newest answer.

        Args:
          rater: their id.
          last: its id, so that a request that is sent twice takes back one; 0, of a rater without answers, none.

        Returns:
          the state of its photo as it was before.

        Raises:
          NotFoundError: no such rater.
          ConflictError: it is not the newest; nothing was taken back.
        """
        with self._writing():
            before = self._state(rater, None)
            if before.last_id != last:
                raise ConflictError(f"the newest answer is {before.last_id}")
            if not last:
                return before
            (position,) = self._one("SELECT photo FROM answer WHERE id = ?", last)
            self._connection.execute("DELETE FROM answer WHERE id = ?", (last,))
            return self._state(rater, position)

    def finished_answers(self) -> Iterator[tuple[int, StudyPhoto, Sequence[tuple[str, Answer, str]]]]:
        """Every photo that some rater has finished: its position, itself, and each one's (name, answer, time)."""
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
                by_photo.setdefault(position, []).append((name, self._decode(_answer, *answer), time))
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
            raise UserError("the study is damaged: a row is missing", where=self._path, hint=_DAMAGED)
        return row

    def _decode(self, decode: Callable[..., _Decoded], *values: object) -> _Decoded:
        try:
            return decode(*values)
        except (TypeError, ValueError) as error:
            raise UserError(f"the study is damaged: {error}", where=self._path, hint=_DAMAGED) from error

    def _photo(self, position: int) -> StudyPhoto:
        row = self._connection.execute("SELECT record, image_id FROM photo WHERE position = ?", (position,)).fetchone()
        if row is None:
            raise NotFoundError(f"no photo {position}")
        tags = self._connection.execute(
            "SELECT tag, display, sources, confidence FROM candidate WHERE photo = ? ORDER BY place", (position,)
        )
        candidates = [
            StudyTag(tag, display, self._decode(_sources, names), value) for tag, display, names, value in tags
        ]
        return StudyPhoto(*row, tags=candidates)

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
        known = self._connection.execute("SELECT name FROM rater WHERE id = ?", (rater,)).fetchone()
        if known is None:
            raise NotFoundError(f"no rater {rater}")
        finished = self._finished(rater)
        following = next((one for one in range(self.photos) if one not in finished), None)
        if position is None:
            position = self.photos - 1 if following is None else following
        if not 0 <= position < self.photos:
            raise NotFoundError(f"no photo {position}")
        row = self._connection.execute(
            """
            SELECT id, fitting, none_fits, finished FROM answer
            WHERE rater = ? AND photo = ? ORDER BY id DESC LIMIT 1
            """,
            (rater, position),
        ).fetchone()
        (last,) = self._one("SELECT coalesce(max(id), 0) FROM answer WHERE rater = ?", rater)
        answer_id, answer = (0, Answer()) if row is None else (row[0], self._decode(_answer, *row[1:]))
        return State(known[0], position, answer, answer_id, last, len(finished), following)


def _key(name: str) -> str:
    """What names have in common that people take for the same: case, widths of letters, and what cannot be seen."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    # Format characters (zero-width spaces, soft hyphens) and surrogates that stand alone.
    return "".join(character for character in folded if unicodedata.category(character) not in ("Cf", "Cs")).strip()


def _sources(names: str) -> tuple[Source, ...]:
    return tuple(map(Source, json.loads(names)))


def _answer(fitting: str, none_fits: int, finished: int) -> Answer:
    return Answer(tuple(json.loads(fitting)), bool(none_fits), bool(finished))
