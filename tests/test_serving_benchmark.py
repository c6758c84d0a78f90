"""The load test of the server: its clients, on a server that answers as it is told."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI, Request, Response

from experiments.benchmarks.harness import Series
from experiments.benchmarks.serving import (
    ALONE,
    OVERLOAD,
    TOGETHER,
    for_seconds,
    load,
    percentiles,
    rows,
    so_many,
)
from tests.servers import running

ANSWERS = {
    b"good": (200, {}, '{"photos": [{"tags": []}]}'),
    b"busy": (503, {"Retry-After": "3"}, "{}"),
    b"rude": (503, {}, "{}"),
    b"lost": (500, {}, "{}"),
    b"page": (200, {}, "<html>"),
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    app = FastAPI()

    @app.post("/v1/tags")
    async def tags(request: Request) -> Response:
        status, headers, text = ANSWERS[await request.body()]
        return Response(text, status, headers, "application/json")

    with running(app) as address:
        yield address


def test_every_answer_is_told_apart(address: str):
    """Six photos in turn from two clients: each client sends every second one."""
    found = load(address, [b"good", b"good", b"busy", b"rude", b"lost", b"page"], 2, so_many(12))
    assert sum(found.answers.values()) == 12
    assert set(found.answers) <= {"tagged", "503 with Retry-After", "503", "500", "JSONDecodeError"}
    assert len(found.latencies) == found.answers["tagged"]
    assert found.rate == found.answers["tagged"] / found.seconds


def test_one_client_sends_all_in_turn(address: str):
    found = load(address, [b"good", b"busy", b"rude", b"lost", b"page"], 1, so_many(10))
    assert found.answers == {"tagged": 2, "503 with Retry-After": 2, "503": 2, "500": 2, "JSONDecodeError": 2}


def test_a_server_that_is_not_there(tmp_path: Path):
    found = load("http://127.0.0.1:1", [b"good"], 1, for_seconds(0.05))
    assert set(found.answers) == {"ConnectionRefusedError"}


def test_percentiles_are_milliseconds():
    assert percentiles([number / 1000 for number in range(101)]) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}


def test_any_other_answer_misses_the_goal():
    series = Series(
        {name: [10.0] for name in ("1 client", "4 clients", "16 clients", OVERLOAD, ALONE, TOGETHER)}, "photos/s"
    )
    waits = {"p50": 1.0, "p95": 2.0, "p99": 3.0}
    latencies: dict[str, dict[str, float]] = dict.fromkeys(("1 client", "4 clients", "16 clients", OVERLOAD), waits)
    good = {"1 client": {"tagged": 5}, OVERLOAD: {"tagged": 5, "503 with Retry-After": 90}}
    *_, last = rows(series, latencies, good)
    assert (last.ours, last.verdict) == (0, "met")
    for bad in (
        {**good, "1 client": {"tagged": 4, "503 with Retry-After": 1}},
        {**good, OVERLOAD: {"tagged": 5, "ConnectionResetError": 1}},
        {**good, OVERLOAD: {"tagged": 5, "503": 1}},
    ):
        *_, last = rows(series, latencies, bad)
        assert (last.ours, last.verdict) == (1, "missed")
