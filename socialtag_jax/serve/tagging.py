"""Photos of a request -> suggested tags: decoded in threads, scored in batches, within the limits."""

import asyncio
import contextlib
import hashlib
import math
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from starlette.requests import ClientDisconnect, Request

from socialtag_jax.machine import usable_cores
from socialtag_jax.serve import uploads
from socialtag_jax.serve.batching import Batcher
from socialtag_jax.serve.limits import Limits
from socialtag_jax.serve.monitoring import Metrics
from socialtag_jax.serve.uploads import Upload
from socialtag_jax.shards.images import ImageError, OtherKindError, ResourceError, TooManyPixelsError
from socialtag_jax.tagger import MAX_BATCH, SuggestedTag, Tagger
from socialtag_jax.web.application import ApiError


@dataclass(frozen=True)
class TaggedPhoto:
    """What becomes of a photo.

    Attributes:
      name: as it was sent.
      sha256: of its bytes, in hexadecimal.
      tags: most confident first; empty where there is an error.
      error: why it has none.
    """

    name: str | None
    sha256: str
    tags: Sequence[SuggestedTag]
    error: ApiError | None = None


class TaggingService:
    """A model at the disposal of many requests at once.

    Args:
      tagger: the model.
      limits: on what it takes.
    """

    def __init__(self, tagger: Tagger, limits: Limits) -> None:
        self.tagger, self.limits = tagger, limits
        self._waiting = 0
        self._memory = uploads.Memory(limits.held_bytes)
        self.metrics = Metrics(lambda: self._waiting, lambda: self._memory.held)
        self._batcher = Batcher(tagger.probabilities, MAX_BATCH, self.metrics.batch)
        self._decoders = ThreadPoolExecutor(usable_cores(), "decode")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While it is, requests are answered."""
        # The threads use the cores; OpenCV's would only contend with them.
        cv2.setNumThreads(1)
        self._batcher.start()
        try:
            yield
        finally:
            await self._batcher.close()
            self._decoders.shutdown(cancel_futures=True)

    @property
    def alive(self) -> bool:
        """Whether photos can be tagged, within the time limit."""
        return self._batcher.alive and self._batcher.seconds_busy() < self.limits.seconds

    async def answer(self, request: Request, threshold: float, max_tags: int) -> list[TaggedPhoto]:
        """Tags a request's photos, in their order.

        Args:
          request: with photos.
          threshold: only tags with a confidence over it.
          max_tags: at most so many a photo.

        Raises:
          ApiError: the request is refused; 503 with Retry-After where there is too much to do.
          ClientDisconnect: the sender has gone.
        """
        # Before the body is read: who is refused anyway need not send it.
        if self._waiting >= self.limits.waiting:
            raise self._overloaded()
        with self._memory.share() as share:
            try:
                photos = await uploads.read(request, self.limits, share)
            except uploads.NoRoomError:
                raise self._overloaded() from None
            if self._waiting + len(photos) > self.limits.waiting:
                raise self._overloaded()
            self._waiting += len(photos)
            try:
                return await self._while_wanted(request, photos, threshold, max_tags)
            finally:
                self._waiting -= len(photos)

    async def _while_wanted(
        self, request: Request, photos: Sequence[Upload], threshold: float, max_tags: int
    ) -> list[TaggedPhoto]:
        """Gives up when the sender has gone, or after the time limit: what has not begun then is not done."""
        tasks = [asyncio.ensure_future(self._tag(photo, threshold, max_tags)) for photo in photos]
        tagging = asyncio.gather(*tasks)
        # The body has been read: all that can come is the news that the sender has gone.
        leaving = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait({tagging, leaving}, timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if tagging.done():
                return tagging.result()
            raise ClientDisconnect if leaving.done() else self._overloaded()
        finally:
            # Each by itself: where one has failed, `tagging` is done, and cancels no other.
            for task in (*tasks, leaving):
                task.cancel()
            ended: list[asyncio.Future[Any]] = [tagging, *tasks, leaving]
            await asyncio.gather(*ended, return_exceptions=True)

    async def _tag(self, photo: Upload, threshold: float, max_tags: int) -> TaggedPhoto:
        loop = asyncio.get_running_loop()
        try:
            sha256, pixels = await loop.run_in_executor(self._decoders, self._decode, photo)
        except ResourceError as error:
            raise ApiError(503, "no_resources", error.what, headers={"Retry-After": "60"}) from error
        if isinstance(pixels, ImageError):
            refusal = _refusal(pixels)
            self.metrics.photos.labels(refusal.code).inc()
            return TaggedPhoto(photo.name, sha256, (), refusal)
        scores = await self._batcher.scores(pixels)
        self.metrics.photos.labels("tagged").inc()
        return TaggedPhoto(photo.name, sha256, self.tagger.choose(scores, threshold, max_tags))

    def _decode(self, photo: Upload) -> tuple[str, np.ndarray | ImageError]:
        """A photo's hash, and its pixels or why it has none."""
        sha256 = hashlib.sha256(photo.data).hexdigest()
        try:
            with self.metrics.decode_seconds.time():
                return sha256, self.tagger.pixels(photo.data, largest_pixels=self.limits.pixels)
        except ImageError as error:
            return sha256, error

    def _overloaded(self) -> ApiError:
        seconds = math.ceil(self._batcher.seconds_for(self._waiting))
        what = f"there is more to do than can be done now: try again in {seconds} seconds"
        return ApiError(503, "overloaded", what, headers={"Retry-After": str(seconds)})


def warm_up(tagger: Tagger) -> None:
    """Compiles the model for every size of batch, so that no request waits for it."""
    for power in range(MAX_BATCH.bit_length()):
        tagger.probabilities(np.zeros((2**power, tagger.input_size, tagger.input_size, 3), np.uint8))


def _refusal(error: ImageError) -> ApiError:
    if isinstance(error, OtherKindError):
        return ApiError(415, "unsupported_image", error.what)
    if isinstance(error, TooManyPixelsError):
        return ApiError(413, "too_many_pixels", error.what)
    return ApiError(422, "damaged_image", error.what)
