"""What a tagging server tells Prometheus."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from socialtag_jax.serve.batching import Batch

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


class Metrics:
    """The figures, in a registry of their own.

    Args:
      waiting: photos that are not tagged yet.
      held: bytes of bodies that requests hold.
    """

    def __init__(self, waiting: Callable[[], int], held: Callable[[], int]) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        # fmt: off
        self.requests = Counter(
            "socialtag_requests", "Requests answered", ["route", "method", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "socialtag_request_seconds", "From a request's head to the end of its answer", ["route"],
            buckets=_SECONDS, registry=registry,
        )
        self.photos = Counter(
            "socialtag_photos", "Photos that were tagged, or refused with an error's code", ["outcome"],
            registry=registry,
        )
        self.decode_seconds = Histogram(
            "socialtag_decode_seconds", "From a photo's bytes to the model's input", buckets=_SECONDS,
            registry=registry,
        )
        self.batch_photos = Histogram(
            "socialtag_batch_photos", "Photos scored together", buckets=_SIZES, registry=registry
        )
        self.batch_seconds = Histogram(
            "socialtag_batch_seconds", "That the model took for a batch", buckets=_SECONDS, registry=registry
        )
        self.feedback = Counter(
            "socialtag_feedback", "Choices of people that were saved", ["choice"], registry=registry
        )
        # fmt: on
        Gauge("socialtag_photos_waiting", "Photos not tagged yet", registry=registry).set_function(waiting)
        Gauge("socialtag_held_bytes", "Of requests' bodies", registry=registry).set_function(held)

    def batch(self, batch: Batch) -> None:
        """Counts a batch."""
        self.batch_photos.observe(batch.photos)
        self.batch_seconds.observe(batch.seconds)


class Measured:
    """Counts requests and their time; outermost, so that refusals count too."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            # Whatever is sent to us, there are few series: a path counts as its route, or as none.
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.requests.labels(route, method, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(time.perf_counter() - start)
