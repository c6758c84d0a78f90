"""The parts of the tagging server by themselves, and its command."""

import asyncio
import datetime
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from socialtag_jax.errors import UserError
from socialtag_jax.serve import feedback as feedback_room
from socialtag_jax.serve.batching import Batch, Batcher, batch_size
from socialtag_jax.serve.feedback import FeedbackFile
from socialtag_jax.serve.uploads import Memory
from socialtag_jax.web import hosting
from tests.bundles import constant_bundle
from tests.conftest import Socialtag
from tests.hostile_photos import encoded, picture
from tests.tagging_servers import wait_for


@pytest.mark.parametrize(
    ("waiting", "most", "expected"),
    [
        (0, 32, 0),
        (1, 32, 1),
        (2, 32, 2),
        (3, 32, 2),
        (7, 32, 4),
        (8, 32, 8),
        (31, 32, 16),
        (33, 32, 32),
        (1000, 32, 32),
    ],
)
def test_a_batch_is_a_power_of_two(waiting: int, most: int, expected: int):
    assert batch_size(waiting, most) == expected


HERE = socket.gethostname()


def row_sums(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).sum(1, dtype=np.float32)[:, None]


def test_who_waits_meanwhile_goes_together():
    """While the first photo is scored, nine more come: eight go together, and then the last."""
    batches: list[Batch] = []
    images = np.arange(10, dtype=np.uint8)[:, None, None, None]

    async def main() -> list[np.ndarray]:
        go = asyncio.Event()
        loop = asyncio.get_running_loop()

        def score(batch: np.ndarray) -> np.ndarray:
            asyncio.run_coroutine_threadsafe(go.wait(), loop).result(10)
            return row_sums(batch)

        batcher = Batcher(score, 32, batches.append)
        batcher.start()
        first = asyncio.create_task(batcher.scores(images[0]))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(batcher.scores(image)) for image in images[1:]]
        await asyncio.sleep(0.05)
        go.set()
        found = [await one for one in (first, *others)]
        await batcher.close()
        return found

    found = asyncio.run(main())
    assert [float(one[0]) for one in found] == [*range(10)]
    assert [batch.photos for batch in batches] == [1, 8, 1]


def test_who_sends_again_at_once_goes_with_those_who_wait():
    """Two senders, of three photos each: they do not take turns one by one."""
    batches: list[Batch] = []

    def score(images: np.ndarray) -> np.ndarray:
        time.sleep(0.2)
        return row_sums(images)

    async def main() -> None:
        batcher = Batcher(score, 32, batches.append)
        batcher.start()

        async def sender(delay: float) -> None:
            await asyncio.sleep(delay)
            for _ in range(3):
                await batcher.scores(np.zeros((1, 1, 1), np.uint8))

        await asyncio.gather(sender(0), sender(0.05))
        await batcher.close()

    asyncio.run(main())
    assert [batch.photos for batch in batches] == [1, 2, 2, 1]


def test_who_gives_up_is_not_scored():
    scored: list[int] = []

    async def main() -> None:
        go = asyncio.Event()
        loop = asyncio.get_running_loop()

        def score(batch: np.ndarray) -> np.ndarray:
            asyncio.run_coroutine_threadsafe(go.wait(), loop).result(10)
            scored.extend(batch.ravel().tolist())
            return row_sums(batch)

        batcher = Batcher(score, 32)
        batcher.start()
        tasks = [asyncio.create_task(batcher.scores(np.full((1, 1, 1), number, np.uint8))) for number in range(5)]
        await asyncio.sleep(0.05)
        tasks[4].cancel()
        extra = asyncio.create_task(batcher.scores(np.full((1, 1, 1), 9, np.uint8)))
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*tasks[:4], extra)
        await batcher.close()

    asyncio.run(main())
    assert scored == [0, 1, 2, 3, 9]


def test_scores_that_are_too_few_end_no_other_batch():
    async def main() -> float:
        answers = iter([np.zeros((0, 1), np.float32), np.ones((1, 1), np.float32)])
        batcher = Batcher(lambda _: next(answers), 32)
        batcher.start()
        image = np.zeros((1, 1, 1), np.uint8)
        with pytest.raises(ValueError, match="shorter"):
            await asyncio.wait_for(batcher.scores(image), 5)
        assert batcher.alive
        row = await asyncio.wait_for(batcher.scores(image), 5)
        await batcher.close()
        return float(row[0])

    assert asyncio.run(main()) == 1.0


def test_how_long_photos_take_is_learnt():
    """Batches of 1, 1 and 2 photos in 2, 4 and 4 seconds: 2 a photo, then 2 + 0.2 (4 - 2) = 2.4, and 2.32."""
    ticks = iter([0.0, 2.0, 10.0, 14.0, 20.0, 24.0])

    async def main() -> list[float]:
        batcher = Batcher(row_sums, 32, clock=lambda: next(ticks))
        assert batcher.seconds_for(100) == 1.0
        batcher.start()
        image, found = np.zeros((1, 1, 1), np.uint8), []
        for count in (1, 1, 2):
            await asyncio.gather(*(batcher.scores(image) for _ in range(count)))
            await asyncio.sleep(0)
            found.append(batcher.seconds_for(10))
        assert batcher.seconds_for(1000) == 60.0
        await batcher.close()
        return found

    assert asyncio.run(main()) == pytest.approx([20.0, 24.0, 23.2])


def test_memory_is_given_back():
    memory = Memory(100)
    with memory.share() as one, memory.share() as other:
        assert one.take(60)
        assert not other.take(41)
        assert other.take(40)
        assert memory.held == 100
    assert memory.held == 0


CHOICE = {"photo": "0" * 64, "name": "a\nb\u2028c\x85 \N{SNOWFLAKE}.jpg", "tag": "sun", "choice": "accepted"}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_feedback_is_one_line_a_choice(tmp_path: Path):
    """Whatever is in a name."""
    noon = datetime.datetime(2026, 11, 26, 12, tzinfo=datetime.UTC)
    path = tmp_path / "new" / "choices.jsonl"
    file = FeedbackFile(path, clock=lambda: noon)
    assert path.read_bytes() == b""
    file.append([CHOICE, {**CHOICE, "choice": "rejected"}])
    first, second = read(path)
    assert first == {**CHOICE, "time": "2026-11-26T12:00:00.000+00:00"}
    assert (second["choice"], next(iter(second))) == ("rejected", "time")


def test_feedback_after_a_power_cut(tmp_path: Path):
    """A line without an end stays as it is, and spoils no other."""
    path = tmp_path / "choices.jsonl"
    path.write_bytes(b'{"time": "2026-11-2')
    FeedbackFile(path).append([CHOICE])
    broken, whole = path.read_text().splitlines()
    assert broken == '{"time": "2026-11-2'
    assert json.loads(whole)["tag"] == "sun"


APPENDING = """
import pathlib, sys
from socialtag_jax.serve.feedback import FeedbackFile
file, writer = FeedbackFile(pathlib.Path(sys.argv[1])), int(sys.argv[2])
for number in range(50):
    file.append([{"writer": writer, "number": number, "more": "x" * 500}, {"writer": writer, "number": -1}])
"""


def test_several_servers_append_to_one_file(tmp_path: Path):
    """Every line whole, each writer's in order, and two that are appended together stay together."""
    path = tmp_path / "choices.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", APPENDING, path, str(writer)]) for writer in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    lines = read(path)
    assert len(lines) == 400
    for writer in range(4):
        assert [one["number"] for one in lines if one["writer"] == writer and one["number"] >= 0] == [*range(50)]
    assert all(lines[place + 1]["writer"] == lines[place]["writer"] for place in range(0, 400, 2))


def test_feedback_is_synced_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And what could not be written whole is taken back."""
    path = tmp_path / "choices.jsonl"
    file = FeedbackFile(path)
    file.append([CHOICE])
    before = path.read_bytes()

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        file.append([CHOICE])
    assert path.read_bytes() == before
    monkeypatch.undo()
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:10]))
    with pytest.raises(OSError, match="No space left"):
        file.append([CHOICE])
    assert path.read_bytes() == before


def test_feedback_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(feedback_room, "LARGEST", 300)
    file = FeedbackFile(tmp_path / "choices.jsonl")
    file.append([CHOICE])
    with pytest.raises(OSError, match="has reached 300 bytes"):
        file.append([CHOICE])
    assert len(read(file.path)) == 1


def test_feedback_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"choices.jsonl: cannot be written: .+ -- .*--feedback"):
        FeedbackFile(tmp_path / "file" / "choices.jsonl")
    with pytest.raises(UserError, match="cannot be written: Is a directory"):
        FeedbackFile(tmp_path)


def test_ports():
    with hosting.listen("127.0.0.1", 0) as one:
        port = one.getsockname()[1]
        assert hosting.address(one) == f"http://127.0.0.1:{port}"
        assert hosting.is_loopback(one)
        with pytest.raises(UserError, match=rf"127.0.0.1:{port}: the port is in use -- .*--port 0"):
            hosting.listen("127.0.0.1", port)
    with hosting.listen("0.0.0.0", 0) as everywhere:
        assert hosting.address(everywhere).startswith("http://127.0.0.1:")
        assert not hosting.is_loopback(everywhere)
    with pytest.raises(UserError, match=r"192\.0\.2\.1:0: not an address of this computer"):
        hosting.listen("192.0.2.1", 0)
    with pytest.raises(UserError, match="not a host"):
        hosting.listen("no.such.host.invalid", 0)
    assert hosting.names_of(["tagger"], "127.0.0.1") == ["tagger", "127.0.0.1"]
    assert hosting.names_of([], "0.0.0.0") == ["0.0.0.0", socket.gethostname()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "--port: '70000' is not a whole number from 0 to 65535"),
        (["--max-waiting", "8"], "--max-waiting: 8: expected at least --max-photos"),
        (["--max-megapixels", "500"], "--max-megapixels: 500: expected at most 178"),
    ],
)
def test_options_that_make_no_sense(arguments: list[str], message: str, tmp_path: Path, socialtag: Socialtag):
    result = socialtag("serve", tmp_path, *arguments)
    assert result.code == 2
    assert message in result.err


def test_no_bundle(tmp_path: Path, socialtag: Socialtag):
    result = socialtag("serve", tmp_path, "--port", "0")
    assert (result.code, result.out) == (1, "")
    assert "not a bundle" in result.err


def test_a_missing_package_is_one_line(tmp_path: Path):
    program = (
        "import sys; sys.modules['fastapi'] = None\nfrom socialtag_jax.cli import main; main(['serve', sys.argv[1]])"
    )
    result = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == (
        "socialtag: error: the packages that host pages are missing (fastapi) -- "
        "install them: pip install 'socialtag-jax[serve]'\n"
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return constant_bundle(tmp_path_factory.mktemp("bundles") / "holiday", np.array([2, -1, 0, -3, 1], np.float32))


SERVER = """
import os, sys
from socialtag_jax.web import hosting
from socialtag_jax.web.application import application
app, make, number = application("nothing", description=""), hosting.server, int(sys.argv[1])
def asked_meanwhile(*arguments, **options):
    os.kill(os.getpid(), number)
    return make(*arguments, **options)
if number:
    hosting.server = asked_meanwhile
with hosting.listen("127.0.0.1", 0) as listener:
    sys.exit(hosting.run(app, listener, log=lambda line: print(line, file=sys.stderr)))
"""


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_server_can_be_stopped_as_soon_as_it_says_its_address(number: signal.Signals, code: int, early: bool):
    """And before."""
    command = [sys.executable, "-c", SERVER, str(int(number) if early else 0)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        if not early:
            process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (code, f"stopped by {number.name}\n")


@pytest.mark.parametrize(
    ("number", "code", "host"), [(signal.SIGTERM, 0, "127.0.0.1"), (signal.SIGINT, 130, "0.0.0.0")]
)
def test_the_command_ends_when_what_it_accepted_is_done(bundle: Path, number: signal.Signals, code: int, host: str):
    """A request whose body is still on its way when the signal comes is answered."""
    command = [sys.executable, "-m", "socialtag_jax.cli", "serve", bundle, "--port", "0", "--host", host]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        photo = encoded(picture(), "JPEG")
        wait_for(lambda: httpx.get(f"{address}/healthz").status_code == 200)

        def slowly():
            yield photo[:100]
            process.send_signal(number)
            time.sleep(0.5)
            yield photo[100:]

        answer = httpx.post(f"{address}/v1/tags", content=slowly(), headers={"Content-Type": "image/jpeg"}, timeout=20)
        assert answer.status_code == 200
        assert [one["tag"] for one in answer.json()["photos"][0]["tags"]] == ["beach", "sun", "sea"]
        out, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert out == ""
    port = address.rpartition(":")[2]
    warning = f"warning: every computer that reaches this one can use the page and the API, as http://{HERE}:{port}"
    assert (warning in err) == (host == "0.0.0.0")
    assert "serving holiday (5 tags) until Ctrl-C" in err
    assert f"choices are appended to {bundle}-feedback.jsonl" in err
    assert err.endswith(f"stopped by {number.name}\n")
    assert "Traceback" not in err
