"""A library of photos, tagged: each photo once, whatever interrupts, and beside each its sidecar."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import numpy as np

from socialtag_jax import files, xmp
from socialtag_jax.errors import UserError
from socialtag_jax.journal import FileState, Journal, file_state
from socialtag_jax.predict import Prediction, predict
from socialtag_jax.presentation import Choice
from socialtag_jax.sidecars import Change, tagging
from socialtag_jax.tagger import MAX_BATCH, Tagger

_WRITERS = 8
"""Sidecars that are written at once: each waits for the disk."""


@dataclass
class Counts:
    """What became of a library's photos.

    Attributes:
      photos: all of them.
      unreadable: that could not be read.
      abstained: without tags, since none was sure enough.
      left: whose sidecars were left alone.
    """

    photos: int = 0
    unreadable: int = 0
    abstained: int = 0
    left: int = 0

    def add(self, prediction: Prediction) -> None:
        """Counts a photo."""
        self.photos += 1
        self.unreadable += prediction.unreadable is not None
        self.abstained += prediction.abstained
        self.left += prediction.sidecar_left is not None


class Sidecars:
    """Brings the sidecars of photos up to date.

    Args:
      model: SHA-256 of the model's parameters, in hexadecimal.
      now: the date to write, as ISO 8601.
      show: takes each change instead of its being made; None to make them.
      log: takes a line on each sidecar that is left alone.
    """

    def __init__(
        self, model: str, *, now: Callable[[], str], show: Callable[[Change], None] | None, log: Callable[[str], None]
    ) -> None:
        self._model, self._now, self._show, self._log = model, now, show, log

    def update(self, predictions: Sequence[Prediction], pool: ThreadPoolExecutor) -> list[Prediction]:
        """Writes the tags of photos beside them.

        Returns:
          the predictions; those whose sidecar was left alone say why.

        Raises:
          OSError: no file can be written: the disk is full.
        """
        updated = []
        # A photo that is named twice has one sidecar.
        once = {prediction.path: prediction for prediction in predictions}
        changes = dict(zip(once, pool.map(self._change, once.values()), strict=True))
        for prediction in predictions:
            change = changes[prediction.path]
            if isinstance(change, UserError):
                self._log(f"socialtag: error: {change}: left alone")
                updated.append(replace(prediction, sidecar_left=change.what))
                continue
            updated.append(prediction)
            if change is not None and self._show is not None:
                self._show(change)
        return updated

    def clean(self, photos: Sequence[Path]) -> None:
        """Deletes what a run that was killed has left beside these photos."""
        if self._show is None:
            for folder in {photo.parent for photo in photos}:
                files.sweep(folder)

    def _change(self, prediction: Prediction) -> Change | UserError | None:
        if prediction.unreadable is not None:
            return None
        if not os.path.lexists(prediction.path):
            return UserError("the photo is gone", where=prediction.path)
        tags = [xmp.ScoredTag(one.display, one.confidence) for one in prediction.tags]
        try:
            change = tagging(prediction.path, xmp.Record(self._model, self._now(), tags))
            if self._show is None:
                change.apply()
        except UserError as error:
            return error
        return change


def tag(
    tagger: Tagger,
    photos: Sequence[Path],
    *,
    choose: Callable[[np.ndarray], Choice],
    journal: Journal | None,
    sidecars: Sidecars | None,
    log: Callable[[str], None],
    stream: TextIO,
) -> Iterator[Prediction]:
    """What becomes of each photo, in order, as `predict` has it.

    A batch's sidecars are written before the journal says so: after an interruption, those of a batch may be looked at
    again, and found as they should be. What the journal has of photos and sidecars that are as they were is not done
    again.

    Args:
      tagger: the model.
      photos: to read.
      choose: one photo's probabilities (float32 [n_tags]) -> its tags.
      journal: of this run; None to keep none.
      sidecars: to keep up to date; None for none.
      log: takes one line of text at a time.
      stream: where progress is shown.
    """
    batches = [photos[start : start + MAX_BATCH] for start in range(0, len(photos), MAX_BATCH)]
    states: dict[Path, FileState] = {}
    if journal is not None:
        # On a network's disk each takes a millisecond.
        with ThreadPoolExecutor(_WRITERS) as pool:
            states = dict(zip(photos, pool.map(file_state, photos), strict=True))
    # Whole batches, since what a photo is scored with may change its scores' last bits.
    known = [journal is not None and all(journal.has(one, states[one]) for one in batch) for batch in batches]
    pending = [photo for batch, done in zip(batches, known, strict=True) if not done for photo in batch]
    if len(pending) < len(photos):
        log(f"going on: {len(photos) - len(pending):,} of {len(photos):,} photos are done")
    if sidecars is not None:
        # Only the sidecars of the batch at which a run was killed can be unfinished.
        sidecars.clean(pending[:MAX_BATCH])
    scored = predict(tagger, pending, choose=choose, log=log, stream=stream, done=len(photos) - len(pending))
    with ThreadPoolExecutor(_WRITERS) as pool:
        for batch, done in zip(batches, known, strict=True):
            if done:
                assert journal is not None
                yield from map(journal.get, batch)
                continue
            predictions = list(itertools.islice(scored, len(batch)))
            if sidecars is not None:
                predictions = sidecars.update(predictions, pool)
            if journal is not None:
                journal.add(predictions, states)
            yield from predictions
        # Shows the last of the progress.
        for _ in scored:
            raise AssertionError("more predictions than photos")
