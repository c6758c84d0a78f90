"""Damaged records that a run goes on without: at most so many, each counted once and listed."""

import functools
import json
import threading
from collections.abc import Callable

from socialtag_jax import files
from socialtag_jax.errors import UserError
from socialtag_jax.storage import Location

Damaged = Callable[[int, UserError], None]
"""Takes a record's index and what is wrong with it: raises, or returns so that the record is left out of its batch."""

BAD_RECORDS = "bad_records.jsonl"
"""In the run folder: one JSON object a line, for each record that was ever skipped."""


def stop(index: int, error: UserError) -> None:
    """No damaged record is skipped: the `Damaged` of everything that scores."""
    del index
    raise error


def never_skipped(split: str) -> Damaged:
    """`stop`, for every split."""
    del split
    return stop


class BadRecords:
    """Counts and lists the damaged records of a run, and stops it where they are too many.

    A record counts once, however often it is met, in whatever thread or epoch; also when the run is continued.

    Args:
      most: so many may be skipped; 0 for none.
      path: the list, which a continued run adds to.
      log: takes a line on each record that is skipped.
    """

    def __init__(self, most: int, path: Location, *, log: Callable[[str], None]) -> None:
        self._most, self._path, self._log = most, path, log
        self._found: dict[tuple[str, int], str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._found)

    def start(self, *, continued: bool) -> None:
        """Takes up the list of the run that is continued; empties what a run left that saved nothing.

        Raises:
          UserError: the list is damaged.
        """
        if not continued and self._path.exists():
            files.write_text(self._path, "")
        try:
            lines = files.read_bytes(self._path).decode().split("\n")[:-1] if self._path.exists() else []
            read = [json.loads(line) for line in lines]
            self._found = {(one["split"], one["record"]): line for one, line in zip(read, lines, strict=True)}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the list of skipped records cannot be read: {error}",
                where=self._path,
                hint="delete it: the records are listed again as they are met",
            ) from error

    def of(self, split: str) -> Damaged:
        """What to do with the damaged records of a split."""
        return functools.partial(self._skip, split)

    def _skip(self, split: str, record: int, error: UserError) -> None:
        if self._most == 0:
            raise error
        with self._lock:
            known = (split, record) in self._found
            # A continued run may have skipped more than it now may.
            if known and len(self._found) <= self._most:
                return
            if known or len(self._found) >= self._most:
                raise UserError(
                    f"{error.what}; with it, more records are damaged than the {self._most} that may be skipped",
                    where=error.where,
                    hint=f"the others are listed in {self._path}; restore the shards from a copy, or allow more with "
                    "--input.max-bad-records",
                )
            entry = {"split": split, "record": record, "where": error.where, "what": error.what}
            self._found[split, record] = json.dumps(entry)
            # In order of the records: which thread came first is chance.
            files.write_text(self._path, "".join(f"{self._found[key]}\n" for key in sorted(self._found)))
            count = len(self._found)
        self._log(f"warning: {error.where}: {error.what}: record skipped ({count:,} of at most {self._most:,})")

    def report(self) -> None:
        """Says at the end how many there were."""
        if self._found:
            self._log(f"warning: {len(self._found):,} damaged records were skipped; they are listed in {self._path}")
