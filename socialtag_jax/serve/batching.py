"""Dynamic batching: photos that wait while the device is busy are scored together when it is free again."""

import asyncio
import collections
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

Score = Callable[[np.ndarray], np.ndarray]
"""uint8 [n, height, width, 3] -> float32 [n, n_tags]; called in a thread of its own."""

_PAUSE = 0.05
_SMOOTHING = 0.2
_LONGEST_WAIT = 60.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    pixels: np.ndarray
    scores: "asyncio.Future[np.ndarray]"


@dataclass(frozen=True)
class Batch:
    """A batch that was scored.

    Attributes:
      photos: in it.
      seconds: that the model took.
    """

    photos: int
    seconds: float


@dataclass
class Batcher:
    """Scores single photos, as many at a time as wait.

    On an idle device a photo is scored at once, and the longer the device is busy, the larger the next batch becomes.
    After a batch there is a pause of a twentieth of its time: who was answered and sends the next photo at once goes
    together with those who wait already, instead of taking turns with them in halves. A batch is a power of two, the
    sizes that `Tagger.launch` pads to, so that no padding is computed; what is left over goes with the next one.

    Attributes:
      score: the model.
      most: photos of a batch.
      observe: is told of each batch.
      clock: seconds, monotonic.
    """

    score: Score
    most: int
    observe: Callable[[Batch], None] = lambda _: None
    clock: Callable[[], float] = time.perf_counter
    _queue: collections.deque[_Waiting] = field(default_factory=collections.deque)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _worker: "asyncio.Task[None] | None" = None
    _seconds_a_photo: float = 0.0
    _began: float | None = None

    def start(self) -> None:
        """Starts to work; in a running event loop."""
        self._worker = asyncio.get_running_loop().create_task(self._work())

    async def close(self) -> None:
        """Ends the work. Whoever still waits is cancelled."""
        assert self._worker is not None
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)
        while self._queue:
            self._queue.popleft().scores.cancel()

    @property
    def alive(self) -> bool:
        """Whether photos are scored."""
        return self._worker is not None and not self._worker.done()

    def seconds_busy(self) -> float:
        """How long the batch of now has taken so far; 0 where there is none."""
        return 0.0 if self._began is None else self.clock() - self._began

    def seconds_for(self, photos: int) -> float:
        """How long so many photos will probably take, by how long the last ones took; 1 to 60."""
        return min(max(1.0, photos * self._seconds_a_photo), _LONGEST_WAIT)

    async def scores(self, pixels: np.ndarray) -> np.ndarray:
        """A photo's probabilities.

        A cancelled call's photo is not scored, where that has not begun.

        Args:
          pixels: uint8 [height, width, 3].

        Returns:
          float32 [n_tags].
        """
        waiting = _Waiting(pixels, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._arrived.set()
        return await waiting.scores

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "device") as device:
            while True:
                await self._arrived.wait()
                batch = self._take()
                if not batch:
                    self._arrived.clear()
                    continue
                start = self._began = self.clock()
                try:
                    rows = await loop.run_in_executor(device, self.score, np.stack([one.pixels for one in batch]))
                    scored = list(zip(batch, rows, strict=True))
                except Exception as error:  # of this batch; the next one may go well
                    for one in batch:
                        if not one.scores.done():
                            one.scores.set_exception(error)
                    continue
                finally:
                    self._began = None
                seconds = self.clock() - start
                for one, row in scored:
                    if not one.scores.done():
                        one.scores.set_result(row)
                self._remember(Batch(len(batch), seconds))
                if len(self._queue) < self.most:
                    await asyncio.sleep(_PAUSE * seconds)

    def _take(self) -> list[_Waiting]:
        """The first of those who still wait, a power of two."""
        while self._queue and self._queue[0].scores.done():
            self._queue.popleft()
        wanted = batch_size(sum(not one.scores.done() for one in self._queue), self.most)
        batch: list[_Waiting] = []
        while len(batch) < wanted:
            first = self._queue.popleft()
            if not first.scores.done():
                batch.append(first)
        return batch

    def _remember(self, batch: Batch) -> None:
        seconds = batch.seconds / batch.photos
        known = self._seconds_a_photo or seconds
        self._seconds_a_photo = known + _SMOOTHING * (seconds - known)
        self.observe(batch)


def batch_size(waiting: int, most: int) -> int:
    """The largest power of two of at most `waiting` and at most `most`; 0 where nothing waits."""
    return 0 if waiting < 1 else 2 ** (min(waiting, most).bit_length() - 1)
