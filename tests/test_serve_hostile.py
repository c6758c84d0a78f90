"""What a tagging server must bear: too much, too large, too slow, broken, and meant to harm."""

import asyncio
import contextlib
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import numpy as np
import pytest

from socialtag_jax import Tagger
from socialtag_jax.serve import uploads
from socialtag_jax.serve.app import tagging_app
from socialtag_jax.serve.feedback import FeedbackFile
from socialtag_jax.serve.limits import Limits
from socialtag_jax.shards.images import ResourceError
from socialtag_jax.web import hosting
from socialtag_jax.web.application import ApiError
from tests.hostile_photos import REJECTED, TAKEN, make, png_of_size
from tests.servers import running
from tests.tagging_servers import JPEG, LIMITS, SlowTagger, constant_tagger, error_of, form, wait_for

BASE64_THAT_IS_NONE = b"Content-Transfer-Encoding: base64\r\n\r\n!!!!!\r\n--x--\r\n"


@pytest.fixture(scope="module")
def constant(tmp_path_factory: pytest.TempPathFactory) -> Tagger:
    return constant_tagger(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def strict(constant: Tagger, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """With low limits."""
    path = tmp_path_factory.mktemp("feedback") / "choices.jsonl"
    with running(tagging_app(constant, LIMITS, FeedbackFile(path))) as address:
        yield address


@pytest.fixture(scope="module")
def server(constant: Tagger, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """With the limits of the command."""
    path = tmp_path_factory.mktemp("feedback") / "choices.jsonl"
    with running(tagging_app(constant, Limits(), FeedbackFile(path))) as address:
        yield address


def refused(address: str, status: int, code: str, **request: Any) -> httpx.Response:
    answer = httpx.post(f"{address}/v1/tags", **request)
    assert error_of(answer) == (status, code)
    return answer


def test_limits(strict: str):
    image = {"Content-Type": "image/png"}
    refused(strict, 413, "too_many_pixels", content=png_of_size(2001, 1000), headers=image)
    refused(strict, 413, "photo_too_large", content=bytes(60_001), headers=image)
    refused(strict, 413, "photo_too_large", files=form(bytes(60_001)))
    refused(strict, 413, "body_too_large", files=form(bytes(50_000), bytes(50_000)))
    refused(strict, 413, "body_too_large", content=bytes(10_000_000), headers=image)
    refused(strict, 413, "too_many_photos", files=form(*[JPEG] * 4))
    # Without a length that could be looked at first.
    refused(strict, 413, "photo_too_large", content=iter([bytes(40_000)] * 2), headers=image)
    refused(strict, 422, "no_photos", content=b"", headers=image)
    refused(strict, 422, "damaged_image", files=form(JPEG[:200]))
    refused(strict, 415, "unsupported_image", content=b"GIF is what this is not", headers={"Content-Type": "image/gif"})
    refused(strict, 415, "unsupported_content_type", json={"photo": "beach.jpg"})
    refused(strict, 415, "unsupported_content_type", data={"photos": "beach.jpg"})
    refused(strict, 415, "unsupported_content_type", content=JPEG)
    refused(strict, 415, "unsupported_encoding", content=JPEG, headers={**image, "Content-Encoding": "gzip"})
    refused(strict, 422, "unexpected_field", files=form(JPEG, field="images"))
    refused(strict, 422, "unexpected_field", files=form(JPEG), data={"threshold": "0.5"})


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"--x--\r\n"),
        ("multipart/form-data; boundary=x", JPEG),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\n\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; filename="a"\r\n\r\nb\r\n--x--'),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="photos"; filename="a"\r\n'),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="photos"; filename="a"\r\n\r\n' + JPEG,
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="photos"; filename="a"\r\n' + BASE64_THAT_IS_NONE,
        ),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"A: b\r\n" * 5000 + b"\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"A" * 50_000 + b": b\r\n\r\n--x--\r\n"),
        ("multipart/form-data; boundary=\xff\xfe", b"--x\r\n"),
        ("multipart/form-data; boundary=" + "x" * 5000, b"--x\r\n"),
    ],
)
def test_forms_that_are_none(strict: str, kind: str, body: bytes):
    headers = {b"Content-Type": kind.encode("latin-1")}
    answer = httpx.post(f"{strict}/v1/tags", content=body, headers=headers)
    assert error_of(answer)[0] in (400, 422)
    assert httpx.get(f"{strict}/healthz").json() == {"status": "ok"}


@dataclass(frozen=True)
class FormRequest:
    """As much of a request as is read of it."""

    chunks: Sequence[bytes]
    headers = MappingProxyType({"content-type": "multipart/form-data; boundary=x"})

    async def stream(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            yield chunk


def test_a_form_that_is_changed_anywhere_is_read_or_refused():
    """Bytes changed, taken out, put in and repeated, and the body cut into pieces anywhere."""
    photo = b'--x\r\nContent-Disposition: form-data; name="photos"; filename="a.jpg"\r\n'
    form = photo + b"Content-Transfer-Encoding: base64\r\n\r\nAAAA\r\n" + photo + b"\r\nBBBB\r\n--x--\r\n"
    pieces = (b"\r\n", b"--x", b"--", b'"', b";", b"\r", b":", b"quoted-printable", b"=", b"\xff", b"\0")
    draw, found = random.Random(0), Counter[str]()
    for _ in range(2000):
        body = bytearray(form)
        for _ in range(draw.randint(1, 4)):
            place, other = draw.randrange(len(body)), draw.randrange(len(body))
            match draw.randrange(4):
                case 0:
                    body[place] = draw.randrange(256)
                case 1:
                    del body[place : place + draw.randint(1, 20)]
                case 2:
                    body[place:place] = draw.choice(pieces)
                case _:
                    body[place:place] = body[other : other + 30]
        cuts = sorted(draw.randrange(len(body) + 1) for _ in range(3))
        chunks = [bytes(body[start:end]) for start, end in pairwise([0, *cuts, len(body)])]
        memory = uploads.Memory(10_000)
        with memory.share() as share:
            try:
                asyncio.run(uploads.read(FormRequest(chunks), Limits(), share))  # pyright: ignore[reportArgumentType]
                found["read"] += 1
            except ApiError as error:
                found[error.code] += 1
        assert memory.held == 0
    assert set(found) == {"read", "bad_form", "unexpected_field"} | (set(found) & {"no_photos"})


def test_every_hostile_photo(server: str, tmp_path: Path):
    """All that can be a file: taken, or refused by its own error; the server goes on."""
    answered = 0
    with httpx.Client(timeout=60) as client:
        for case in (*TAKEN, *REJECTED):
            path = make(tmp_path, case)
            if len(path.name) > 255 or path.is_symlink() or not path.is_file() or path.stat().st_size > 2**25:
                continue
            answer = client.post(f"{server}/v1/tags", content=path.read_bytes(), headers={"Content-Type": "image/jpeg"})
            answered += 1
            if case.reason is None:
                assert answer.status_code == 200, case.name
            else:
                assert error_of(answer)[0] in (413, 415, 422), case.name
        assert client.get(f"{server}/healthz").status_code == 200
    assert answered > 80


def raw(address: str, data: bytes, *, wait: float = 10.0) -> bytes:
    """What a server answers to these bytes, until it closes the connection."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait) as connection:
        received = b""
        # Who sends on after the answer is cut off.
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
            while chunk := connection.recv(65_536):
                received += chunk
    return received


def head(*lines: str, path: str = "/v1/tags") -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", "Connection: close", *lines, "", ""]).encode()


def test_a_slow_body(strict: str):
    start = time.monotonic()
    answer = raw(strict, head("Content-Type: image/jpeg", "Content-Length: 1000") + b"slow")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"body_too_slow" in answer
    assert 1.5 < time.monotonic() - start < 8


def test_a_head_that_never_ends(constant: Tagger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nor begins, nor comes again; who is being answered is not cut off."""
    monkeypatch.setattr(hosting, "_HEAD_SECONDS", 0.3)
    slow = SlowTagger(constant)
    app = tagging_app(slow, Limits(), FeedbackFile(tmp_path / "c"))  # pyright: ignore[reportArgumentType]
    with running(app) as address, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.post, f"{address}/v1/tags", files=form(JPEG), timeout=30)
        for data in (b"", b"POST /v1/tags HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /he"):
            start = time.monotonic()
            assert raw(address, data).startswith(b"HTTP/1.1 200 " if data.startswith(b"GET") else b"")
            assert time.monotonic() - start < 5
        slow.go.set()
        assert answer.result().status_code == 200


def test_who_takes_no_answer(strict: str, monkeypatch: pytest.MonkeyPatch):
    """Is cut off; who takes it slowly is not."""
    monkeypatch.setattr(hosting, "_HEAD_SECONDS", 0.3)
    host, port = strict.removeprefix("http://").split(":")
    requests = b"GET /static/theme.css HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100

    def seconds_open(reads: bool) -> float:
        start = time.monotonic()
        with socket.create_connection((host, int(port))) as connection:
            connection.setblocking(False)
            while time.monotonic() < start + 3:
                time.sleep(0.01)
                try:
                    with contextlib.suppress(BlockingIOError):
                        connection.send(requests)
                    with contextlib.suppress(BlockingIOError):
                        assert not reads or connection.recv(2**16)
                except ConnectionError:
                    break
        return time.monotonic() - start

    assert seconds_open(reads=False) < 3
    assert seconds_open(reads=True) >= 3


def test_heads_that_lie(strict: str):
    image = "Content-Type: image/jpeg"
    assert raw(strict, head(image, "Content-Length: 99999999999999") + JPEG).startswith(b"HTTP/1.1 413 ")
    assert raw(strict, head(image, "Content-Length: -1") + JPEG).startswith(b"HTTP/1.1 400 ")
    assert raw(strict, head(image, "Content-Length: abc") + JPEG).startswith(b"HTTP/1.1 400 ")
    # Both, as in request smuggling: h11 takes the chunks.
    assert b" 400 " in raw(strict, head(image, "Transfer-Encoding: chunked", "Content-Length: 5") + b"XYZ\r\n")
    for data in (b"\x16\x03\x01\x02\x00\x01" + bytes(200), b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 50_000 + b"\r\n"):
        assert raw(strict, data)[:13] in (b"HTTP/1.1 400 ", b"")
    # Who asks before it sends is told not to.
    expecting = head(image, "Content-Length: 10000000", "Expect: 100-continue")
    answer = raw(strict, expecting)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert httpx.get(f"{strict}/healthz").json() == {"status": "ok"}


def test_a_sender_who_goes_away(strict: str, caplog: pytest.LogCaptureFixture):
    """Is no failure of the server: nothing of it is in the log."""
    gone = 'socialtag_requests_total{method="POST",route="/v1/tags",status="408"} '

    def count() -> float:
        lines = httpx.get(f"{strict}/metrics").text.splitlines()
        return sum(float(line.removeprefix(gone)) for line in lines if line.startswith(gone))

    before, (host, port) = count(), strict.removeprefix("http://").split(":")
    for kind in ("image/jpeg", "multipart/form-data; boundary=x") * 5:
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head(f"Content-Type: {kind}", f"Content-Length: {len(JPEG)}") + b"--x\r\n")
    wait_for(lambda: count() == before + 10)
    assert caplog.text == ""
    assert httpx.post(f"{strict}/v1/tags", files=form(JPEG)).status_code == 200


def test_overload_is_503_with_retry_after_and_what_waits_goes_together(constant: Tagger, tmp_path: Path):
    slow = SlowTagger(constant)
    limits = Limits(photos=3, waiting=5, seconds=20)
    app = tagging_app(slow, limits, FeedbackFile(tmp_path / "choices.jsonl"))  # pyright: ignore[reportArgumentType]
    with running(app) as address, ThreadPoolExecutor(16) as pool:

        def ask(_: int = 0) -> httpx.Response:
            return httpx.post(f"{address}/v1/tags", files=form(JPEG), timeout=30)

        first = pool.submit(ask)
        while not slow.batches:
            time.sleep(0.01)
        others = [pool.submit(ask) for _ in range(12)]
        deadline = time.monotonic() + 10
        while sum(one.done() for one in others) < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        slow.go.set()
        answers = [one.result() for one in others]
        refusals = [answer for answer in answers if answer.status_code != 200]
        assert len(refusals) == 8
        for refusal in refusals:
            assert error_of(refusal) == (503, "overloaded")
            assert 1 <= int(refusal.headers["retry-after"]) <= 60
        assert first.result().status_code == 200
        assert slow.batches == [1, 4]
        assert ask().status_code == 200


def error_of_health(address: str) -> tuple[int, str] | None:
    answer = httpx.get(f"{address}/healthz")
    return None if answer.status_code == 200 else error_of(answer)


def test_an_answer_that_takes_too_long(constant: Tagger, tmp_path: Path):
    slow = SlowTagger(constant)
    app = tagging_app(slow, Limits(seconds=0.5), FeedbackFile(tmp_path / "c"))  # pyright: ignore[reportArgumentType]
    with running(app) as address:
        answer = httpx.post(f"{address}/v1/tags", files=form(JPEG), timeout=30)
        assert error_of(answer) == (503, "overloaded")
        # Who watches the server learns that it tags nothing.
        wait_for(lambda: error_of_health(address) == (503, "not_tagging"))
        slow.go.set()
        assert httpx.post(f"{address}/v1/tags", files=form(JPEG)).status_code == 200
        assert httpx.get(f"{address}/healthz").status_code == 200


def test_requests_hold_no_more_memory_than_they_may(constant: Tagger, tmp_path: Path):
    limits = Limits(held_bytes=100_000)
    with running(tagging_app(constant, limits, FeedbackFile(tmp_path / "choices.jsonl"))) as address:
        answer = httpx.post(f"{address}/v1/tags", files=form(bytes(100_000)))
        assert error_of(answer) == (503, "overloaded")
        assert "retry-after" in answer.headers
        assert httpx.post(f"{address}/v1/tags", files=form(JPEG)).status_code == 200


def test_of_a_request_that_fails_nothing_goes_on(constant: Tagger, tmp_path: Path):
    """For one of its photos there is no memory: the answer is 503, and the others give up their place."""

    class Failing(SlowTagger):
        def pixels(self, photo: bytes, *, largest_pixels: int) -> np.ndarray:
            if photo == b"large":
                wait_for(lambda: len(self.batches) > 0)
                raise ResourceError("there is not enough memory to decode it")
            return self._tagger.pixels(photo, largest_pixels=largest_pixels)

    failing = Failing(constant)
    app = tagging_app(failing, Limits(), FeedbackFile(tmp_path / "c"))  # pyright: ignore[reportArgumentType]
    with running(app) as address, ThreadPoolExecutor(1) as pool:
        first = pool.submit(httpx.post, f"{address}/v1/tags", files=form(JPEG), timeout=30)
        wait_for(lambda: len(failing.batches) > 0)
        answer = httpx.post(f"{address}/v1/tags", files=form(b"large", JPEG))
        assert error_of(answer) == (503, "no_resources")
        assert answer.headers["retry-after"] == "60"
        failing.go.set()
        assert first.result().status_code == 200
        assert httpx.post(f"{address}/v1/tags", files=form(JPEG)).status_code == 200
    assert failing.batches == [1, 1]


def test_a_batch_that_fails_is_one_answer(constant: Tagger, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    class Failing(SlowTagger):
        def probabilities(self, images: np.ndarray) -> np.ndarray:
            if not self.go.is_set():
                raise MemoryError("no room on the device")
            return super().probabilities(images)

    failing = Failing(constant)
    app = tagging_app(failing, Limits(), FeedbackFile(tmp_path / "c"))  # pyright: ignore[reportArgumentType]
    with running(app) as address:
        assert error_of(httpx.post(f"{address}/v1/tags", files=form(JPEG))) == (500, "internal_error")
        deadline = time.monotonic() + 10
        while "no room on the device" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "no room on the device" in caplog.text
        failing.go.set()
        assert httpx.post(f"{address}/v1/tags", files=form(JPEG)).status_code == 200
        assert httpx.get(f"{address}/healthz").status_code == 200
