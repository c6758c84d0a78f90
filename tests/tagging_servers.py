"""What the tests of the tagging server share: a model whose answers are known, requests, and their errors."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from socialtag_jax import Tagger
from socialtag_jax.serve.limits import Limits
from tests.bundles import constant_bundle
from tests.hostile_photos import encoded, picture

LOGITS = np.array([2, -1, 0, -3, 1], np.float32)
"""beach 0.881, dog 0.269, sea 0.5, snow 0.047, sun 0.731."""
JPEG = encoded(picture(), "JPEG")
LIMITS = Limits(photos=3, photo_bytes=60_000, request_bytes=100_000, pixels=2_000_000, seconds=2.0, waiting=4)


def constant_tagger(folder: Path) -> Tagger:
    """Answers the same whatever the photo."""
    return Tagger.load(constant_bundle(folder / "bundle", LOGITS))


def form(*photos: bytes, field: str = "photos") -> list[tuple[str, tuple[str, bytes]]]:
    return [(field, (f"{number}.jpg", data)) for number, data in enumerate(photos)]


def error_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and code, of the one shape that an error has."""
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    assert body["error"]["message"]
    assert "Traceback" not in answer.text
    return answer.status_code, body["error"]["code"]


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class SlowTagger:
    """A tagger whose model takes its time, and whose first photos wait until they are let go."""

    def __init__(self, tagger: Tagger) -> None:
        self._tagger = tagger
        self.go = threading.Event()
        self.batches: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tagger, name)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(len(images))
        assert self.go.wait(20)
        return self._tagger.probabilities(images)
