"""One epoch's books: sums, times, progress, and the training metrics that go to the run folder."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TextIO

import jax

from socialtag_jax.errors import UserError
from socialtag_jax.progress import Progress, format_duration
from socialtag_jax.roofline import Bound, Roofline
from socialtag_jax.run_folder import RunLog

_LOG_EVERY = 20


def diverged(what: str, value: float) -> UserError:
    """The error of a loss that is no finite number."""
    return UserError(
        f"{what} is {value}: training diverged",
        hint="start again in a new --workdir with a lower learning rate; this one keeps the last epoch before",
    )


class Epoch:
    """Adds up one epoch's sums and times, shows progress, and writes training metrics.

    A step's sums are fetched one step late: fetching those of the step in flight would leave the devices without work.

    Args:
      label: of the progress line.
      number: of the epoch, from 1.
      steps_before: training steps done before it.
      images: how many the epoch has.
      images_after: how many the run's later epochs have, for the ETA.
      learning_rate: of the epoch's last step, for the metrics.
      roofline: of the training step.
      stream: where progress is shown.
      run_log: where metrics go.
      clock: seconds.
      done_at: when a step's sums will have been there, by that clock; a thread waits for them by default.
      host_clock: seconds in which this thread was at work.
    """

    def __init__(
        self,
        label: str,
        *,
        number: int,
        steps_before: int,
        images: int,
        images_after: int,
        learning_rate: float,
        roofline: Roofline,
        stream: TextIO,
        run_log: RunLog,
        clock: Callable[[], float] = time.perf_counter,
        host_clock: Callable[[], float] = time.thread_time,
        done_at: Callable[[Mapping[str, Any]], Future[float]] | None = None,
    ) -> None:
        self._number, self._steps_before, self._images_after = number, steps_before, images_after
        self._run_log, self._learning_rate, self._roofline = run_log, learning_rate, roofline
        self._clock, self._host_clock = clock, host_clock
        self._progress = Progress(label, images, "images", stream)
        self._start = clock()
        self._waited = self._host = 0.0
        self._images = self._loss = 0.0
        self._steps = 0
        self._in_flight: Mapping[str, Any] | None = None
        self._watcher = ThreadPoolExecutor(1, "step-times")
        self._done_at = done_at or (lambda sums: self._watcher.submit(_wait, sums, clock))
        self._done: Future[float] | None = None

    def timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches, while the time that the devices wait for them, or for the host, is added up.

        They wait from the end of the step before until the batch is there; one that arrives while they are still at
        work was not waited for. Where they are not, they also wait until the host has started the next step: what it
        does then counts as the host's time.
        """
        while True:
            start = self._clock()
            try:
                batch = next(batches)
            except StopIteration:
                return
            idle = self._in_flight is None or all(value.is_ready() for value in self._in_flight.values())
            if idle:
                arrived = self._clock()
                idle_since = start if self._done is None else max(start, self._done.result())
                self._waited += max(0.0, arrived - idle_since)
            host_start = self._host_clock()
            yield batch
            if idle:
                self._host += self._host_clock() - host_start

    def launched(self, sums: Mapping[str, Any]) -> None:
        """Takes the sums of the step just dispatched ("loss" and "images"), and counts those of the one before.

        Raises:
          UserError: the loss of the step before is no finite number.
        """
        self._done = self._done_at(sums)
        self._count()
        self._in_flight = sums

    def finish(self) -> dict[str, float]:
        """The epoch's numbers, its last step included: mean loss, images/s, shares of the time, MFU, learning rate.

        Raises:
          UserError: the last step's loss is no finite number.
        """
        self._count()
        self._watcher.shutdown()
        values = {**self._values(), "learning_rate": self._learning_rate}
        self._progress.finish(round(self._images), self._text(values))
        self._run_log.write("epoch", self._steps_before + self._steps, {**values, "bound": self._bound(values)})
        return values

    def _count(self) -> None:
        if self._in_flight is None:
            return
        sums = jax.device_get(self._in_flight)
        loss, images = float(sums["loss"]), float(sums["images"])
        self._steps += 1
        step = self._steps_before + self._steps
        if not math.isfinite(loss):
            raise diverged(f"the loss in step {step}, epoch {self._number},", loss)
        self._loss += loss
        self._images += images
        values = self._values()
        # The records of all batches so far may have been skipped: then there is no rate.
        left = (self._images_after + self._progress.total - self._images) / max(values["images_per_second"], 1e-3)
        self._progress.update(round(self._images), f"{self._text(values)}, whole run {format_duration(left)}")
        if self._steps % _LOG_EVERY == 0:
            self._run_log.write(
                "train", step, {**values, "loss": loss / max(images, 1.0), "bound": self._bound(values)}
            )

    def _values(self) -> dict[str, float]:
        elapsed = self._clock() - self._start
        return {
            "epoch": self._number,
            "loss": self._loss / max(self._images, 1.0),
            "images_per_second": self._images / elapsed,
            "data_wait_share": self._waited / elapsed,
            "host_share": self._host / elapsed,
            "mfu": self._roofline.mfu(self._steps, elapsed),
        }

    def _bound(self, values: Mapping[str, float]) -> Bound:
        return self._roofline.bound(values["data_wait_share"], values["host_share"])

    def _text(self, values: Mapping[str, float]) -> str:
        return (
            f"step {self._steps}, data wait {values['data_wait_share']:.1%}, MFU {values['mfu']:.1%} "
            f"({self._bound(values)} bound), loss {values['loss']:.4f}"
        )


def _wait(sums: Mapping[str, Any], clock: Callable[[], float]) -> float:
    jax.block_until_ready(sums)
    return clock()
