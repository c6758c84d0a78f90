"""The tagging server's API, over real sockets."""

import contextlib
import hashlib
import http.client
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from socialtag_jax import Tagger
from socialtag_jax.serve import app as app_room
from socialtag_jax.serve.app import tagging_app
from socialtag_jax.serve.feedback import FeedbackFile
from socialtag_jax.serve.limits import Limits
from tests.bundles import TAGS, random_bundle
from tests.hostile_photos import encoded
from tests.servers import running
from tests.tagging_servers import JPEG, LIMITS, constant_tagger, error_of, form


@pytest.fixture(scope="module")
def constant(tmp_path_factory: pytest.TempPathFactory) -> Tagger:
    return constant_tagger(tmp_path_factory.mktemp("bundles"))


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


def test_a_photo_as_the_body(strict: str):
    """0.881, 0.269, 0.5, 0.047 and 0.731 are the sigmoids of the logits."""
    answer = httpx.post(f"{strict}/v1/tags", content=JPEG, headers={"Content-Type": "image/jpeg"})
    body = answer.json()
    assert answer.status_code == 200
    assert (body["threshold"], body["max_tags"]) == (0.3, 15)
    (photo,) = body["photos"]
    assert photo["sha256"] == hashlib.sha256(JPEG).hexdigest()
    assert [tuple(one.values()) for one in photo["tags"]] == [
        ("beach", "Beach", "#Beach", pytest.approx(0.881, abs=0.001)),
        ("sun", "Sun", "#Sun", pytest.approx(0.731, abs=0.001)),
        ("sea", "Sea", "#Sea", 0.5),
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


def test_an_answer_has_an_end(constant: Tagger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """However many tags the model knows."""
    monkeypatch.setattr(app_room, "_MOST_TAGS", 2)
    app = tagging_app(constant, LIMITS, FeedbackFile(tmp_path / "choices.jsonl"))
    with running(app) as address:
        answer = httpx.post(f"{address}/v1/tags?max_tags=2", files=form(JPEG))
        assert [one["tag"] for one in answer.json()["photos"][0]["tags"]] == ["beach", "sun"]
        answer = httpx.post(f"{address}/v1/tags?max_tags=3", files=form(JPEG))
        assert error_of(answer) == (422, "invalid_request")


def test_answers_are_those_of_the_tagger(server: str, tagger: Tagger, tmp_path: Path):
    """Of many photos that are sent at once, alone or together: each has its own, in the order in which it was sent."""
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (40 + number, 50, 3), np.uint8) for number in range(20)]
    photos = [encoded(Image.fromarray(array), "PNG") for array in arrays]
    expected = [[(one.tag, one.confidence) for one in tags] for tags in tagger.suggest(arrays, threshold=0)]
    assert len({str(one) for one in expected}) == 20

    def ask(numbers: range) -> list[Any]:
        found = httpx.post(
            f"{server}/v1/tags?threshold=0", files=form(*(photos[number] for number in numbers)), timeout=60
        )
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


def test_names_are_only_shown(strict: str):
    name = "../../etc/pass\u2028wd<script>.jpg"
    answer = httpx.post(f"{strict}/v1/tags", files=[("photos", (name, JPEG))])
    assert answer.json()["photos"][0]["name"] == "pass\u2028wd<script>.jpg"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_other_sites_cannot_use_it(strict: str, choice: dict[str, Any]):
    """Neither by a name that they point here, nor by a page of theirs."""
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "", "[::1", "a@localhost"):
        answer = httpx.get(f"{strict}/v1/model", headers={"Host": host})
        assert error_of(answer) == (421, "unknown_host"), host
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]:8000", "192.168.1.7", "tagger.example:80"):
        assert httpx.get(f"{strict}/v1/model", headers={"Host": host}).status_code == 200, host
    for origin in ("http://evil.example", "null", "http://localhost:1"):
        answer = httpx.post(f"{strict}/v1/feedback", json={"choices": [choice]}, headers={"Origin": origin})
        assert error_of(answer) == (403, "other_origin")
    # As nginx asks, unless it is told to pass on what the browser called it.
    answer = httpx.post(f"{strict}/v1/feedback", json={}, headers={"Origin": "https://tagger.example"})
    assert "a proxy that does not pass on the header Host" in answer.json()["error"]["message"]
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
    assert grown("socialtag_requests_total", "404", "other", "other") == 1
    assert grown("socialtag_photos_total", "tagged") == 1
    assert grown("socialtag_photos_total", "unsupported_image") == 1
    assert grown("socialtag_batch_photos_sum") == 1
    assert grown("socialtag_request_seconds_count", "/v1/tags") == 1
    assert after[("socialtag_photos_waiting",)] == 0
    assert after[("socialtag_held_bytes",)] == 0


@pytest.fixture
def choice(constant: Tagger) -> dict[str, Any]:
    model = constant.description["files"]["params.safetensors"]
    return {"model": model, "photo": "0" * 64, "tag": "sun", "confidence": 0.5, "choice": "accepted"}


def test_choices_are_lines_of_a_file(strict: str, feedback: Path, choice: dict[str, Any]):
    before = feedback.read_text().splitlines() if feedback.exists() else []
    answer = httpx.post(f"{strict}/v1/tags", files=form(JPEG)).json()
    photo = answer["photos"][0]["sha256"]
    choice |= {"model": answer["model"], "photo": photo, "name": "a.jpg"}
    choices = [choice, {**choice, "tag": "sea", "choice": "rejected"}]
    assert httpx.post(f"{strict}/v1/feedback", json={"choices": choices}).json() == {"saved": 2}
    lines = [json.loads(line) for line in feedback.read_text().splitlines()[len(before) :]]
    assert [(one["photo"], one["tag"], one["choice"]) for one in lines] == [
        (photo, "sun", "accepted"),
        (photo, "sea", "rejected"),
    ]
    assert lines[0]["model"] == answer["model"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", lines[0]["time"])


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"tag": "unheard of"}, 409, "unknown_tag"),
        ({"model": "0" * 64}, 409, "other_model"),
        ({"model": None}, 422, "invalid_request"),
        ({"choice": "perhaps"}, 422, "invalid_request"),
        ({"photo": "../../etc/passwd"}, 422, "invalid_request"),
        ({"confidence": 2}, 422, "invalid_request"),
        ({"more": 1}, 422, "invalid_request"),
    ],
)
def test_choices_that_are_none(
    strict: str, feedback: Path, choice: dict[str, Any], change: dict[str, Any], status: int, code: str
):
    before = feedback.read_bytes()
    answer = httpx.post(f"{strict}/v1/feedback", json={"choices": [choice, {**choice, **change}]})
    assert error_of(answer) == (status, code)
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


def test_the_document_says_what_is_answered(strict: str):
    document = httpx.get(f"{strict}/openapi.json").json()
    assert set(document["paths"]) == {"/v1/tags", "/v1/feedback", "/v1/model", "/healthz", "/metrics"}
    tags = document["paths"]["/v1/tags"]["post"]
    assert set(tags["requestBody"]["content"]) == {"multipart/form-data", "image/*", "application/octet-stream"}
    assert set(tags["responses"]) == {"200", "4XX", "503", "5XX"}
    assert "Retry-After" in tags["responses"]["503"]["headers"]
