"""The tagging server's API, over real sockets."""

import contextlib
import hashlib
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from socialtag_jax import Tagger
from socialtag_jax.serve.app import tagging_app
from socialtag_jax.serve.feedback import FeedbackFile
from socialtag_jax.serve.limits import Limits
from tests.bundles import TAGS, constant_bundle, random_bundle
from tests.hostile_photos import REJECTED, TAKEN, encoded, make, picture, png_of_size
from tests.servers import running

LOGITS = np.array([2, -1, 0, -3, 1], np.float32)
JPEG = encoded(picture(), "JPEG")
BASE64_THAT_IS_NONE = b"Content-Transfer-Encoding: base64\r\n\r\n!!!!!\r\n--x--\r\n"
LIMITS = Limits(photos=3, photo_bytes=60_000, request_bytes=100_000, pixels=2_000_000, seconds=2.0, waiting=4)


@pytest.fixture(scope="module")
def constant(tmp_path_factory: pytest.TempPathFactory) -> Tagger:
    return Tagger.load(constant_bundle(tmp_path_factory.mktemp("bundles") / "bundle", LOGITS))


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Tagger:
    """Answers that depend on the photo."""
    return Tagger.load(random_bundle(tmp_path_factory.mktemp("bundles") / "bundle"))


@pytest.fixture(scope="module")
def feedback(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("feedback") / "choices.jsonl"


@pytest.fixture(scope="module")
def strict(constant: Tagger, feedback: Path) -> Iterator[str]:
    """With low limits."""
    with running(tagging_app(constant, LIMITS, FeedbackFile(feedback), hosts=["tagger.example"])) as address:
        yield address


@pytest.fixture(scope="module")
def server(tagger: Tagger, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """With the limits of the command."""
    path = tmp_path_factory.mktemp("feedback") / "choices.jsonl"
    with running(tagging_app(tagger, Limits(), FeedbackFile(path))) as address:
        yield address


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


def refused(address: str, status: int, code: str, **request: Any) -> httpx.Response:
    answer = httpx.post(f"{address}/v1/tags", **request)
    assert error_of(answer) == (status, code)
    return answer


def test_a_photo_as_the_body(strict: str):
    """0.881, 0.269, 0.5, 0.047 and 0.731 are the sigmoids of the logits."""
    answer = httpx.post(f"{strict}/v1/tags", content=JPEG, headers={"Content-Type": "image/jpeg"})
    body = answer.json()
    assert answer.status_code == 200
    assert (body["threshold"], body["max_tags"]) == (0.3, 15)
    (photo,) = body["photos"]
    assert photo["sha256"] == hashlib.sha256(JPEG).hexdigest()
    assert [(one["tag"], one["display"], round(one["confidence"], 3)) for one in photo["tags"]] == [
        ("beach", "Beach", 0.881),
        ("sun", "Sun", 0.731),
        ("sea", "Sea", 0.5),
    ]


def test_threshold_and_most_tags(strict: str):
    def tags(query: str) -> list[str]:
        answer = httpx.post(f"{strict}/v1/tags?{query}", files=form(JPEG))
        return [one["tag"] for one in answer.json()["photos"][0]["tags"]]

    assert tags("threshold=0&max_tags=5") == ["beach", "sun", "sea", "dog", "snow"]
    assert tags("threshold=0.6") == ["beach", "sun"]
    assert tags("max_tags=1") == ["beach"]
    for query in ("threshold=1", "threshold=-0.1", "threshold=x", "max_tags=0", "max_tags=6", "threshold=nan"):
        assert error_of(httpx.post(f"{strict}/v1/tags?{query}", files=form(JPEG))) == (422, "invalid_request")


def test_answers_are_those_of_the_tagger(server: str, tagger: Tagger, tmp_path: Path):
    """Of many photos that are sent at once, alone or together: each has its own, in the order in which it was sent."""
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (40 + number, 50, 3), np.uint8) for number in range(20)]
    from PIL import Image

    photos = [encoded(Image.fromarray(array), "PNG") for array in arrays]
    expected = [[(one.tag, one.confidence) for one in tags] for tags in tagger.suggest(arrays, threshold=0)]
    assert len({str(one) for one in expected}) == 20

    def ask(numbers: range) -> list[Any]:
        found = httpx.post(f"{server}/v1/tags?threshold=0", files=form(*(photos[number] for number in numbers)))
        return [[(one["tag"], one["confidence"]) for one in photo["tags"]] for photo in found.json()["photos"]]

    with ThreadPoolExecutor(8) as pool:
        parts = [range(start, min(start + 1 + start % 3, 20)) for start in (0, 1, 3, 6, 7, 9, 12, 13, 15, 18, 19)]
        for numbers, found in zip(parts, pool.map(ask, parts), strict=True):
            for number, tags in zip(numbers, found, strict=True):
                assert [tag for tag, _ in tags] == [tag for tag, _ in expected[number]]
                np.testing.assert_allclose([p for _, p in tags], [p for _, p in expected[number]], atol=2e-6)


def test_one_bad_photo_among_others(strict: str):
    answer = httpx.post(f"{strict}/v1/tags", files=form(JPEG, b"not a photo", JPEG[:200]))
    assert answer.status_code == 200
    first, second, third = answer.json()["photos"]
    assert (first["name"], len(first["tags"])) == ("0.jpg", 3)
    assert (second["name"], second["error"]["code"]) == ("1.jpg", "unsupported_image")
    assert (third["name"], third["error"]["code"]) == ("2.jpg", "damaged_image")
    assert "tags" not in second
    assert "error" not in first


def test_limits(strict: str):
    image = {"Content-Type": "image/png"}
    refused(strict, 413, "too_many_pixels", content=png_of_size(2001, 1000), headers=image)
    refused(strict, 413, "photo_too_large", content=bytes(60_001), headers=image)
    refused(strict, 413, "photo_too_large", files=form(bytes(60_001)))
    refused(strict, 413, "body_too_large", files=form(bytes(50_000), bytes(50_000)))
    refused(strict, 413, "body_too_large", content=bytes(10_000_000), headers=image)
    refused(strict, 413, "too_many_photos", files=form(*[JPEG] * 4))
    # Without a length that could be looked at first.
    refused(strict, 413, "photo_too_large", content=iter([bytes(40_000)] * 5), headers=image)
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


def test_names_are_only_shown(strict: str):
    name = "../../etc/pass\u2028wd<script>.jpg"
    answer = httpx.post(f"{strict}/v1/tags", files=[("photos", (name, JPEG))])
    assert answer.json()["photos"][0]["name"] == "pass\u2028wd<script>.jpg"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"


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


def test_a_sender_who_goes_away(strict: str):
    host, port = strict.removeprefix("http://").split(":")
    for _ in range(20):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head("Content-Type: image/jpeg", f"Content-Length: {len(JPEG)}") + JPEG[:300])
    assert httpx.post(f"{strict}/v1/tags", files=form(JPEG)).status_code == 200


def test_other_sites_cannot_use_it(strict: str):
    """Neither by a name that they point here, nor by a page of theirs."""
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "", "[::1", "a@localhost"):
        answer = httpx.get(f"{strict}/v1/model", headers={"Host": host})
        assert error_of(answer) == (421, "unknown_host"), host
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]:8000", "192.168.1.7", "tagger.example:80"):
        assert httpx.get(f"{strict}/v1/model", headers={"Host": host}).status_code == 200, host
    choice = {"photo": "0" * 64, "tag": "sun", "confidence": 0.5, "choice": "accepted"}
    for origin in ("http://evil.example", "null", "http://localhost:1"):
        answer = httpx.post(f"{strict}/v1/feedback", json={"choices": [choice]}, headers={"Origin": origin})
        assert error_of(answer) == (403, "other_origin")
    own = httpx.post(f"{strict}/v1/feedback", json={"choices": [choice]}, headers={"Origin": strict})
    assert own.json() == {"saved": 1}


def test_every_answer_is_guarded(strict: str):
    answers = [httpx.get(f"{strict}{path}") for path in ("/", "/static/tagger.js", "/v1/model", "/nothing", "/v1/tags")]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 405]
    for answer in answers:
        assert answer.headers["content-security-policy"].startswith("default-src 'self'; ")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers
    for path in ("/static/../hosting.py", "/static/%2e%2e/hosting.py", "/static/..%2fhosting.py", "/static/"):
        with contextlib.closing(http.client.HTTPConnection(strict.removeprefix("http://"))) as connection:
            connection.request("GET", path)
            assert connection.getresponse().status == 404


def test_model(strict: str, constant: Tagger):
    body = httpx.get(f"{strict}/v1/model").json()
    assert (body["name"], body["n_tags"], body["input_size"]) == ("holiday", len(TAGS), 32)
    assert body["sha256"] == constant.description["files"]["params.safetensors"]
    assert body["limits"]["photos"] == 3
    assert body["feedback"] == "choices.jsonl"


def test_metrics(strict: str):
    def figures() -> dict[tuple[str, ...], float]:
        text = httpx.get(f"{strict}/metrics").text
        samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
        return {(one.name, *sorted(one.labels.values())): one.value for one in samples}

    before = figures()
    httpx.post(f"{strict}/v1/tags", files=form(JPEG, b"not a photo"))
    httpx.request("BREW", f"{strict}/nothing/{time.time()}")
    after = figures()

    def grown(*key: str) -> float:
        return after[key] - before.get(key, 0.0)

    assert grown("socialtag_requests_total", "/v1/tags", "200", "POST") == 1
    assert grown("socialtag_requests_total", "404", "none", "other") == 1
    assert grown("socialtag_photos_total", "tagged") == 1
    assert grown("socialtag_photos_total", "unsupported_image") == 1
    assert grown("socialtag_batch_photos_sum") == 1
    assert grown("socialtag_request_seconds_count", "/v1/tags") == 1
    assert after[("socialtag_photos_waiting",)] == 0
    assert after[("socialtag_held_bytes",)] == 0


def test_choices_are_lines_of_a_file(strict: str, feedback: Path):
    before = feedback.read_text().splitlines() if feedback.exists() else []
    photo = hashlib.sha256(JPEG).hexdigest()
    choices = [
        {"photo": photo, "name": "a.jpg", "tag": "sun", "confidence": 0.731, "choice": "accepted"},
        {"photo": photo, "name": "a.jpg", "tag": "sea", "confidence": 0.5, "choice": "rejected"},
    ]
    assert httpx.post(f"{strict}/v1/feedback", json={"choices": choices}).json() == {"saved": 2}
    lines = [json.loads(line) for line in feedback.read_text().splitlines()[len(before) :]]
    assert [(one["photo"], one["tag"], one["choice"]) for one in lines] == [
        (photo, "sun", "accepted"),
        (photo, "sea", "rejected"),
    ]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", lines[0]["time"])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"tag": "unheard of"}, "unknown_tag"),
        ({"choice": "perhaps"}, "invalid_request"),
        ({"photo": "../../etc/passwd"}, "invalid_request"),
        ({"confidence": 2}, "invalid_request"),
        ({"more": 1}, "invalid_request"),
    ],
)
def test_choices_that_are_none(strict: str, feedback: Path, change: dict[str, Any], code: str):
    before = feedback.read_bytes()
    choice = {"photo": "0" * 64, "tag": "sun", "confidence": 0.5, "choice": "accepted", **change}
    assert error_of(httpx.post(f"{strict}/v1/feedback", json={"choices": [choice]})) == (422, code)
    assert feedback.read_bytes() == before


def test_choices_have_limits(strict: str):
    json_type = {"Content-Type": "application/json"}
    for content in (b"{", b"[]", b'{"choices": []}', b"", b"1" * 10_000, b"[" * 100_000):
        answer = httpx.post(f"{strict}/v1/feedback", content=content, headers=json_type)
        assert error_of(answer)[0] in (400, 422), content[:20]
    answer = httpx.post(f"{strict}/v1/feedback", content=b"\xff", headers=json_type)
    assert error_of(answer) == (400, "bad_request")
    for content in (b" " * (2**20 + 1), iter([b" " * 2**16] * 20)):
        assert error_of(httpx.post(f"{strict}/v1/feedback", content=content)) == (413, "body_too_large")


class SlowTagger:
    """A tagger whose model takes its time, and whose first photos wait until they are let go."""

    def __init__(self, tagger: Tagger) -> None:
        self._tagger = tagger
        self.go = threading.Event()
        self.batches: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tagger, name)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        if images.any():  # not the compilation's
            self.batches.append(len(images))
            assert self.go.wait(20)
        return self._tagger.probabilities(images)


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


def test_an_answer_that_takes_too_long(constant: Tagger, tmp_path: Path):
    slow = SlowTagger(constant)
    app = tagging_app(slow, Limits(seconds=0.5), FeedbackFile(tmp_path / "c"))  # pyright: ignore[reportArgumentType]
    with running(app) as address:
        answer = httpx.post(f"{address}/v1/tags", files=form(JPEG), timeout=30)
        assert error_of(answer) == (503, "overloaded")
        slow.go.set()
        assert httpx.post(f"{address}/v1/tags", files=form(JPEG)).status_code == 200


def test_requests_hold_no_more_memory_than_they_may(constant: Tagger, tmp_path: Path):
    limits = Limits(held_bytes=100_000)
    with running(tagging_app(constant, limits, FeedbackFile(tmp_path / "choices.jsonl"))) as address:
        answer = httpx.post(f"{address}/v1/tags", files=form(bytes(100_000)))
        assert error_of(answer) == (503, "overloaded")
        assert "retry-after" in answer.headers
        assert httpx.post(f"{address}/v1/tags", files=form(JPEG)).status_code == 200


def test_a_batch_that_fails_is_one_answer(constant: Tagger, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    class Failing(SlowTagger):
        def probabilities(self, images: np.ndarray) -> np.ndarray:
            if images.any() and not self.go.is_set():
                raise MemoryError("no room on the device")
            return super().probabilities(images)

    failing = Failing(constant)
    app = tagging_app(failing, Limits(), FeedbackFile(tmp_path / "c"))  # pyright: ignore[reportArgumentType]
    with running(app) as address:
        assert error_of(httpx.post(f"{address}/v1/tags", files=form(JPEG))) == (500, "internal_error")
        assert "no room on the device" in caplog.text
        failing.go.set()
        assert httpx.post(f"{address}/v1/tags", files=form(JPEG)).status_code == 200
        assert httpx.get(f"{address}/healthz").status_code == 200


def test_the_document_says_what_is_answered(strict: str):
    document = httpx.get(f"{strict}/openapi.json").json()
    assert set(document["paths"]) == {"/v1/tags", "/v1/feedback", "/v1/model", "/healthz", "/metrics"}
    tags = document["paths"]["/v1/tags"]["post"]
    assert set(tags["requestBody"]["content"]) == {"multipart/form-data", "image/*", "application/octet-stream"}
    assert set(tags["responses"]) == {"200", "4XX", "503", "5XX"}
    assert "Retry-After" in tags["responses"]["503"]["headers"]
