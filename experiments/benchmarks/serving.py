"""How many photos a second does `socialtag serve` tag, how long does each wait, and what if there are too many?

VGG16 at 224 px with ImageNet's convolutions and a head for Corel5K's 371 tags; float32; photos of 288 px. The server is
a process of its own, with the command's defaults; clients share its cores. All take turns:

* 1, 4 and 16 clients, each on one connection, each sending its next photo when the last one is answered;
* the same tagger in this process: one photo after the other (`Tagger.suggest`), and as `socialtag predict` does it,
  where threads decode while batches of 32 are scored;
* overload: 48 clients on a server that lets 16 photos wait, each trying again a tenth of a second after it was refused.
  Every answer is looked at: tags, or 503 with Retry-After, and nothing else.

Command:  python -m experiments.benchmarks.serving [--corel5k data/corel5k.zip]     (4 minutes on 2 cores)
"""

import contextlib
import http.client
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from experiments.benchmarks import corel5k_data, harness
from experiments.benchmarks.harness import Answer, Context, Row, Series
from experiments.benchmarks.inference import SIZE, trained_model
from socialtag_jax.errors import UserError
from socialtag_jax.export import export_bundle
from socialtag_jax.predict import predict
from socialtag_jax.tagger import Tagger

PHOTOS, TURNS = 64, 5
REQUESTS = {1: 24, 4: 64, 16: 128}
"""Clients -> photos of a turn."""
OVERLOAD_CLIENTS, OVERLOAD_WAITING, OVERLOAD_SECONDS, AGAIN_SECONDS = 48, 16, 10.0, 0.1
ALONE, TOGETHER, OVERLOAD = "Tagger.suggest, one after the other", "predict, in this process", "overload"
PERCENTILES = (50, 95, 99)
START_SECONDS = 120.0


@dataclass
class Load:
    """What clients saw.

    Attributes:
      seconds: from the first request to the last answer.
      latencies: of tagged photos, in seconds.
      answers: what came -> how often: "tagged", "503 with Retry-After", or what it was instead.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Tagged photos a second."""
        return self.answers["tagged"] / self.seconds


def load(address: str, photos: Sequence[bytes], clients: int, go_on: Callable[[], bool]) -> Load:
    """Sends photos from as many connections as there are clients.

    Args:
      address: `http://HOST:PORT`.
      photos: JPEG files, sent in turn.
      clients: threads.
      go_on: whether to send one more; asked before each.
    """
    found, lock = Load(), threading.Lock()

    def client(number: int) -> None:
        with contextlib.closing(http.client.HTTPConnection(address.removeprefix("http://"), timeout=120)) as connection:
            place = number
            while go_on():
                start = time.perf_counter()
                answer = ask(connection, photos[place % len(photos)])
                seconds = time.perf_counter() - start
                place += clients
                with lock:
                    found.answers[answer] += 1
                    if answer == "tagged":
                        found.latencies.append(seconds)
                if answer != "tagged":
                    time.sleep(AGAIN_SECONDS)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.seconds = time.perf_counter() - start
    return found


def ask(connection: http.client.HTTPConnection, photo: bytes) -> str:
    """What a photo's answer was, in words."""
    try:
        connection.request("POST", "/v1/tags", body=photo, headers={"Content-Type": "image/jpeg"})
        response = connection.getresponse()
        body = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        connection.close()
        return type(error).__name__
    if response.status == 200 and body["photos"][0]["tags"] is not None:
        return "tagged"
    if response.status == 503 and (response.headers["Retry-After"] or "").isdecimal():
        return "503 with Retry-After"
    return str(response.status)


def so_many(count: int) -> Callable[[], bool]:
    """True that many times."""
    left, lock = iter(range(count)), threading.Lock()

    def go_on() -> bool:
        with lock:
            return next(left, None) is not None

    return go_on


def for_seconds(seconds: float) -> Callable[[], bool]:
    """True so long."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end


@contextlib.contextmanager
def server(bundle: Path, log: Path, environment: Mapping[str, str], *options: str) -> Iterator[str]:
    """`socialtag serve`, on a free port; yields its address.

    Raises:
      UserError: it did not start.
    """
    command = [sys.executable, "-m", "socialtag_jax.cli", "serve", bundle, "--port", "0", *options]
    command += ["--feedback", log.with_suffix(".jsonl")]
    with (
        log.open("ab") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, env=environment, text=True) as process,
    ):
        assert process.stdout is not None
        timer = threading.Timer(START_SECONDS, process.kill)
        timer.start()
        address = process.stdout.readline().strip()
        timer.cancel()
        if not address:
            raise UserError(f"did not start: {log.read_text()[-500:]}", where="socialtag serve")
        try:
            yield address
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def run(context: Context) -> Answer:
    source = corel5k_data.photos(context, "corel5k_288", {"train": 1024}, enlarged_to=288)
    folder = context.scratch / "serving"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    bundle = folder / "bundle"
    export_bundle(trained_model(corel5k_data.initial_weights(context), source.dataset.vocabulary), bundle)
    paths = sorted((source.folder / "train").iterdir())[:PHOTOS]
    photos = [path.read_bytes() for path in paths]
    tagger = Tagger.load(bundle)
    environment = {**os.environ, "SOCIALTAG_CACHE": str(folder / "cache"), "PYTHONPATH": str(harness.PROJECT)}
    loads: dict[str, list[Load]] = {}

    def clients(address: str, count: int) -> Callable[[], float]:
        def measure() -> float:
            found = load(address, photos, count, so_many(REQUESTS[count]))
            loads.setdefault(name_of(count), []).append(found)
            return found.rate

        return measure

    def overloaded(address: str) -> Callable[[], float]:
        def measure() -> float:
            found = load(address, photos, OVERLOAD_CLIENTS, for_seconds(OVERLOAD_SECONDS))
            loads.setdefault(OVERLOAD, []).append(found)
            return found.rate

        return measure

    def alone() -> float:
        count = REQUESTS[1]
        start = time.perf_counter()
        for path in paths[:count]:
            tagger.suggest(path)
        return count / (time.perf_counter() - start)

    def together() -> float:
        start = time.perf_counter()
        found = predict(tagger, paths, threshold=None, max_tags=None, log=print, stream=io.StringIO())
        assert len(list(found)) == PHOTOS
        return PHOTOS / (time.perf_counter() - start)

    small = ("--max-photos", "1", "--max-waiting", str(OVERLOAD_WAITING))
    with (
        server(bundle, context.log("serving"), environment) as address,
        server(bundle, context.log("serving-overload"), environment, *small) as overload_address,
    ):
        contenders = {
            **{name_of(count): clients(address, count) for count in REQUESTS},
            OVERLOAD: overloaded(overload_address),
            ALONE: alone,
            TOGETHER: together,
        }
        for name in (ALONE, TOGETHER):
            print(f"not counted, as it compiles: {name} {harness.figure(contenders[name]())}", file=sys.stderr)
        series = context.interleave(contenders, repeats=TURNS, unit="photos/s")
    latencies = {name: percentiles([one for load in found for one in load.latencies]) for name, found in loads.items()}
    answers = {name: dict(sum((load.answers for load in found), Counter[str]())) for name, found in loads.items()}
    print_table(series, latencies)
    return Answer(
        rows(series, latencies, answers),
        {"photo_bytes": sum(map(len, photos)) // len(photos), "latencies_ms": latencies, "answers": answers}
        | {"series": series},
    )


def name_of(clients: int) -> str:
    return "1 client" if clients == 1 else f"{clients} clients"


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99, in milliseconds."""
    return {f"p{one}": round(1000 * float(np.percentile(seconds, one)), 1) for one in PERCENTILES}


def print_table(series: Series, latencies: Mapping[str, Mapping[str, float]]) -> None:
    print(f"\n{'':12}{'photos/s':>10}" + "".join(f"{f'p{one} ms':>10}" for one in PERCENTILES))
    for name, found in latencies.items():
        print(f"{name:12}{harness.figure(series.median(name)):>10}" + "".join(f"{ms:>10,.0f}" for ms in found.values()))


def rows(
    series: Series, latencies: Mapping[str, Mapping[str, float]], answers: Mapping[str, Mapping[str, int]]
) -> list[Row]:
    def waits(name: str) -> str:
        return ", ".join(f"{percentile} {ms:,.0f} ms" for percentile, ms in latencies[name].items())

    one, few, many = (name_of(count) for count in REQUESTS)
    refused = answers[OVERLOAD].get("503 with Retry-After", 0)
    wrong = (
        sum(count for found in answers.values() for answer, count in found.items() if answer not in ("tagged",))
        - refused
    )
    title = f"serve over loopback, {SIZE} px, float32"
    return [
        series.row(f"{title}: 1 client", one, ALONE, goal=0.9, note=waits(one)),
        series.row(f"{title}: 4 clients", few, TOGETHER, note=waits(few)),
        series.row(f"{title}: 16 clients", many, TOGETHER, goal=0.9, note=waits(many)),
        series.row(
            f"{title}: {OVERLOAD_CLIENTS} clients where {OVERLOAD_WAITING} photos may wait",
            OVERLOAD,
            many,
            goal=0.8,
            note=f"{refused:,} answers of 503 with Retry-After; {waits(OVERLOAD)}",
        ),
        Row(
            f"answers of all {sum(sum(found.values()) for found in answers.values()):,} requests that are neither tags "
            "nor, under overload, 503 with Retry-After",
            float(wrong),
            "limit",
            0.0,
            "answers",
            goal=1.0,
            less_is_better=True,
        ),
    ]


if __name__ == "__main__":
    harness.main(run)
