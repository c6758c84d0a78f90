"""One epoch's books: sums, times, progress, and the training metrics that go to the run folder."""

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import numpy as np

from socialtag_jax.errors import UserError
from socialtag_jax.progress import Progress, format_duration
from socialtag_jax.run_folder import RunLog

_LOG_EVERY = 20


class Epoch:
    """Adds up one epoch's sums and times, shows progress, and writes training metrics.

    Args:
      label: of the progress line.
      number: of the epoch, from 1.
      steps_before: training steps done before it.
      images: how many the epoch has.
      stream: where progress is shown.
      run_log: where metrics go.
    """

    def __init__(
        self, label: str, number: int, steps_before: int, images: int, stream: TextIO, run_log: RunLog
    ) -> None:
        self._number, self._steps_before, self._run_log = number, steps_before, run_log
        self._progress = Progress(label, images, "images", stream)
        self._start = time.perf_counter()
        self._waited = 0.0
        self._images = self._loss = 0.0
        self._steps = 0

    def timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches, while the time spent waiting for them is added up."""
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waited += time.perf_counter() - start
            yield batch

    def add(self, sums: Mapping[str, np.ndarray], images_after: int) -> None:
        """Takes one step's sums.

        Args:
          sums: "loss" and "images".
          images_after: training images of the run's later epochs, for the ETA.

        Raises:
          UserError: the loss is no finite number.
        """
        loss, images = float(sums["loss"]), float(sums["images"])
        self._steps += 1
        step = self._steps_before + self._steps
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} in step {step}, epoch {self._number}",
                hint="lower the learning rate; the last epoch's checkpoint is kept",
            )
        self._loss += loss
        self._images += images
        values = self._values()
        left = (images_after + self._progress.total - self._images) / values["images_per_second"]
        self._progress.update(round(self._images), f"{self._text(values)}, whole run {format_duration(left)}")
        if self._steps % _LOG_EVERY == 0:
            self._run_log.write("train", step, {**values, "loss": loss / images})

    def finish(self) -> dict[str, float]:
        """The epoch's numbers: mean loss, images/s, share of time waited for data."""
        values = self._values()
        self._progress.finish(round(self._images), self._text(values))
        self._run_log.write("epoch", self._steps_before + self._steps, values)
        return values

    def _values(self) -> dict[str, float]:
        elapsed = time.perf_counter() - self._start
        return {
            "epoch": self._number,
            "loss": self._loss / self._images,
            "images_per_second": self._images / elapsed,
            "data_wait_share": self._waited / elapsed,
        }

    def _text(self, values: Mapping[str, float]) -> str:
        return f"step {self._steps}, data wait {values['data_wait_share']:.1%}, loss {values['loss']:.4f}"
