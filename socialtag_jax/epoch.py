"""One epoch's books: sums, times, progress, and the training metrics that go to the run folder."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TextIO

import jax

from socialtag_jax.divergence import DivergedError
from socialtag_jax.position import EpochSums, Position
from socialtag_jax.progress import Progress, format_duration
from socialtag_jax.roofline import Bound, Roofline
from socialtag_jax.run_folder import RunLog

_LOG_EVERY = 20


class Epoch:
    """Adds up one epoch's sums and times, shows progress, and writes training metrics.

    A step's sums are fetched one step late: fetching those of the step in flight would leave the devices without work.

    Args:
      label: of the progress line.
      position: in the epoch, of which some may be done already.
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
        position: Position,
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
        self._number, self._steps_before, self._images_after = position.epoch + 1, position.epoch_start, images_after
        self._first = self.done = position.current
        self._run_log, self._learning_rate, self._roofline = run_log, learning_rate, roofline
        self._clock, self._host_clock = clock, host_clock
        self._progress = Progress(label, images, "images", stream, done=round(self.done.images))
        self._start = clock()
        self._waited = self._host = 0.0
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
          DivergedError: the loss of the step before is no finite number.
        """
        self._done = self._done_at(sums)
        self._count()
        self._in_flight = sums

    def settle(self) -> EpochSums:
        """Waits for the step in flight: what is done of the epoch.

        Raises:
          DivergedError: its loss is no finite number.
        """
        self._count()
        return self.done

    def finish(self) -> dict[str, float]:
        """The epoch's numbers, its last step included: mean loss, images/s, shares of the time, MFU, learning rate.

        Raises:
          DivergedError: the last step's loss is no finite number.
        """
        self.settle()
        self._watcher.shutdown()
        values = {**self._values(), "learning_rate": self._learning_rate}
        self._progress.finish(round(self.done.images), self._text(values))
        self._run_log.write("epoch", self._steps_before + self.done.steps, {**values, "bound": self._bound(values)})
        return values

    def _count(self) -> None:
        if self._in_flight is None:
            return
        sums = jax.device_get(self._in_flight)
        self._in_flight = None
        loss, images = float(sums["loss"]), float(sums["images"])
        done = self.done
        step = self._steps_before + done.steps + 1
        if not math.isfinite(loss):
            raise DivergedError(f"the loss in step {step}, epoch {self._number},", loss, done.steps)
        self.done = EpochSums(done.steps + 1, done.loss + loss, done.images + images)
        values = self._values()
        # The records of all batches so far may have been skipped: then there is no rate.
        rate = max(values["images_per_second"], 1e-3)
        left = (self._images_after + self._progress.total - self.done.images) / rate
        self._progress.update(round(self.done.images), f"{self._text(values)}, whole run {format_duration(left)}")
        if self.done.steps % _LOG_EVERY == 0:
            self._run_log.write(
                "train", step, {**values, "loss": loss / max(images, 1.0), "bound": self._bound(values)}
            )

    def _values(self) -> dict[str, float]:
        elapsed, steps = self._clock() - self._start, self.done.steps - self._first.steps
        return {
            "epoch": self._number,
            "loss": self.done.loss / max(self.done.images, 1.0),
            # Of an epoch that was interrupted after its last step, nothing is left to be timed.
            "images_per_second": (self.done.images - self._first.images) / elapsed if steps else math.nan,
            "data_wait_share": self._waited / elapsed,
            "host_share": self._host / elapsed,
            "mfu": self._roofline.mfu(steps, elapsed),
        }

    def _bound(self, values: Mapping[str, float]) -> Bound:
        return self._roofline.bound(values["data_wait_share"], values["host_share"])

    def _text(self, values: Mapping[str, float]) -> str:
        return (
            f"step {self.done.steps}, data wait {values['data_wait_share']:.1%}, MFU {values['mfu']:.1%} "
            f"({self._bound(values)} bound), loss {values['loss']:.4f}"
        )


def _wait(sums: Mapping[str, Any], clock: Callable[[], float]) -> float:
    jax.block_until_ready(sums)
    return clock()
