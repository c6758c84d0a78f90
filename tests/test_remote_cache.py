"""Local copies of remote folders: fetched in pieces, resumed, checked, bounded and shared."""

import hashlib
import io
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from socialtag_jax import remote_cache
from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.remote_cache import RemoteCopy
from tests.conftest import Bucket
from tests.gcs_emulator import Fault, Kind

PIECE = 10_000
CONTENTS = {f"shard-{number}": random.Random(number).randbytes(35_000 + number) for number in range(4)} | {"empty": b""}
FETCH = """
import io, sys
from socialtag_jax import remote_cache, storage
remote_cache._PIECE = 10_000
copy = remote_cache.RemoteCopy(storage.location(sys.argv[1]), stream=io.StringIO())
print("open", flush=True)
copy.fetch(list(copy.objects))
print(copy.folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_cache, "_PIECE", PIECE)


def fill(bucket: Bucket, name: str, contents: dict[str, bytes] = CONTENTS) -> None:
    for key, content in contents.items():
        (bucket.root / name / key).write_bytes(content)


def copy_of(bucket: Bucket, name: str) -> RemoteCopy:
    return RemoteCopy(bucket.root / name, stream=io.StringIO())


def fetched(copy: RemoteCopy) -> dict[str, bytes]:
    copy.fetch(list(copy.objects))
    return {path.name: path.read_bytes() for path in copy.folder.iterdir()}


def fetching(bucket: Bucket, name: str) -> subprocess.Popen[str]:
    """Another process that opens a copy, fetches all of it, and keeps it open until its standard input ends."""
    command = [sys.executable, "-c", FETCH, str(bucket.root / name)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def contents_asked_for(bucket: Bucket) -> list[tuple[str, str]]:
    """(object, range) of every request for content, those that a fault struck left out."""
    return [
        (one["target"].partition("?")[0].rpartition("/")[2], one["range"])
        for one in bucket.emulator.requests
        if "alt=media" in one["target"] and one["fault"] in (None, "slow")
    ]


def test_content_arrives_and_is_fetched_once(bucket: Bucket):
    fill(bucket, "data")
    (bucket.root / "data/shard-0.index").write_bytes(b"made from the shard")
    stream = io.StringIO()
    copy = RemoteCopy(bucket.root / "data", stream=stream)
    assert fetched(copy) == CONTENTS
    assert re.fullmatch(rf"fetching {bucket.root}/data 1/1 \(100%\), .*MB/s, in 0s\n", stream.getvalue())
    pieces = contents_asked_for(bucket)
    assert len(pieces) == len(set(pieces)) == 4 * 4
    copy.close()
    bucket.emulator.reset()
    assert fetched(copy_of(bucket, "data")) == CONTENTS
    assert contents_asked_for(bucket) == []


def test_only_what_is_asked_for(bucket: Bucket):
    fill(bucket, "data")
    copy = copy_of(bucket, "data")
    copy.fetch(["shard-2"])
    assert [path.name for path in copy.folder.iterdir()] == ["shard-2"]
    with pytest.raises(UserError, match="data/shard-9: no such object"):
        copy.fetch(["shard-9"])


@pytest.mark.parametrize("kind", ["503", "drop", "short", "truncate"])
def test_faults_on_the_way(bucket: Bucket, kind: Kind):
    fill(bucket, "data")
    bucket.emulator.inject(Fault(kind, part="alt=media", times=10), Fault("503", part="delimiter", times=2))
    assert fetched(copy_of(bucket, "data")) == CONTENTS
    assert sum(one["fault"] == kind for one in bucket.emulator.requests) >= 10


def test_transfers_run_side_by_side(bucket: Bucket):
    """Every request takes 0.2 s: 16 of them, one after the other, would take 3.2 s; the four of the longest, 0.8 s."""
    fill(bucket, "data")
    copy = copy_of(bucket, "data")
    bucket.emulator.inject(Fault("slow", part="alt=media", times=100, seconds=0.2))
    start = time.monotonic()
    assert fetched(copy) == CONTENTS
    assert time.monotonic() - start < 2.0


def test_a_killed_process_is_gone_on_from(bucket: Bucket):
    fill(bucket, "data")
    # The first two pieces of each come at once, the others not before the kill.
    bucket.emulator.inject(
        *(Fault("slow", part=f"shard-{number}?", times=9, after=2, seconds=60) for number in range(4))
    )
    with fetching(bucket, "data") as process:
        parts = Path(os.environ["SOCIALTAG_CACHE"]) / "shards"
        limit = time.monotonic() + 10
        while [path.stat().st_size for path in parts.glob("*/parts/*")] != [2 * PIECE] * 4:
            assert time.monotonic() < limit
            time.sleep(0.05)
        process.kill()
    bucket.emulator.reset()
    assert fetched(copy_of(bucket, "data")) == CONTENTS
    asked = contents_asked_for(bucket)
    assert len(asked) == 4 * 2
    assert all(int(asked_range.removeprefix("bytes=").split("-")[0]) >= 2 * PIECE for _, asked_range in asked)


def test_a_spoilt_part_is_fetched_anew(bucket: Bucket):
    """As a power cut leaves it: of the right length, without the content."""
    fill(bucket, "data")
    copy = copy_of(bucket, "data")
    (copy.folder.parent / "parts/shard-1").write_bytes(bytes(20_000))
    assert fetched(copy) == CONTENTS
    (copy.folder / "shard-2").unlink()
    (copy.folder.parent / "parts/shard-2").write_bytes(bytes(50_000))  # longer than the whole
    assert fetched(copy) == CONTENTS


def test_content_that_never_fits_its_checksum(bucket: Bucket):
    fill(bucket, "data")
    bucket.emulator.inject(Fault("corrupt", part="shard-1?", times=100))
    copy = copy_of(bucket, "data")
    with pytest.raises(
        UserError, match=r"data/shard-1: its CRC-32C is [0-9a-f]{8}, the bucket says [0-9a-f]{8}, twice"
    ):
        copy.fetch(list(copy.objects))
    assert not (copy.folder / "shard-1").exists()
    bucket.emulator.reset()
    assert fetched(copy) == CONTENTS


def test_content_that_is_not_what_its_list_says(bucket: Bucket):
    fill(bucket, "data")
    copy = copy_of(bucket, "data")
    right = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    copy.fetch(["shard-0"], right)
    with pytest.raises(UserError, match=r"data/shard-1: the content is not what .*SHA-256"):
        copy.fetch(["shard-1"], right | {"shard-1": right["shard-0"]})
    assert not (copy.folder / "shard-1").exists()


def test_an_object_that_changes_meanwhile(bucket: Bucket):
    """Not two halves of two files: an error, and the next start has another copy."""
    fill(bucket, "data")
    copy = copy_of(bucket, "data")
    copy.fetch(["shard-0"])
    fill(bucket, "data", {"shard-1": CONTENTS["shard-2"]})
    with pytest.raises(UserError, match="data/shard-1: the object was changed meanwhile"):
        copy.fetch(["shard-1"])
    other = copy_of(bucket, "data")
    assert other.folder != copy.folder
    assert fetched(other) == CONTENTS | {"shard-1": CONTENTS["shard-2"]}


def test_two_processes_share_one_copy(bucket: Bucket):
    fill(bucket, "data")
    bucket.emulator.inject(Fault("slow", part="alt=media", times=1000, seconds=0.05))
    with fetching(bucket, "data") as one, fetching(bucket, "data") as other:
        assert one.stdout is not None
        assert other.stdout is not None
        assert one.stdout.readline() == other.stdout.readline() != ""
        for process in (one, other):
            assert process.stdin is not None
            process.stdin.close()
    pieces = contents_asked_for(bucket)
    assert len(pieces) == len(set(pieces)) == 4 * 4
    assert fetched(copy_of(bucket, "data")) == CONTENTS


def test_the_copies_used_least_recently_go(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    size = sum(map(len, CONTENTS.values()))
    folders = {}
    for name in ("a", "b", "c"):
        fill(bucket, name)
        copy = copy_of(bucket, name)
        assert fetched(copy) == CONTENTS
        folders[name] = copy.folder
        copy.close()
    copy_of(bucket, "a").close()  # used, though nothing is fetched
    monkeypatch.setenv(remote_cache.LIMIT, str(3.1 * size / 1e9))
    fill(bucket, "d")
    assert fetched(copy_of(bucket, "d")) == CONTENTS
    assert {name: folder.exists() for name, folder in folders.items()} == {"a": True, "b": False, "c": True}
    assert fetched(copy_of(bucket, "b")) == CONTENTS


def test_copies_in_use_stay(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    size = sum(map(len, CONTENTS.values()))
    monkeypatch.setenv(remote_cache.LIMIT, str(1.5 * size / 1e9))
    fill(bucket, "a")
    fill(bucket, "b")
    with fetching(bucket, "a") as other:
        assert other.stdout is not None
        folder = Path(other.stdout.readline().strip())
        copy = copy_of(bucket, "b")
        words = r"0\.1 MB are to be kept locally, beside 0\.1 MB in use by other processes, but .* 0\.2 MB \(SOCIALTAG"
        with pytest.raises(UserError, match=words):
            copy.fetch(list(copy.objects))
        assert {path.name for path in folder.iterdir()} == set(CONTENTS)
        assert other.stdin is not None
        other.stdin.close()
    assert fetched(copy) == CONTENTS
    assert not folder.exists()


def test_a_full_disk(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote_cache, "_FREE", 10**18)
    fill(bucket, "a")
    copy = copy_of(bucket, "a")
    with pytest.raises(UserError, match=r"the cache may hold 0\.0 MB \(what the disk has room for\)"):
        copy.fetch(["shard-0"])


@pytest.mark.parametrize("text", ["0", "-1", "much", "nan", "inf"])
def test_a_bad_limit(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, text: str):
    monkeypatch.setenv(remote_cache.LIMIT, text)
    fill(bucket, "a")
    copy = copy_of(bucket, "a")
    with pytest.raises(UsageError, match=r"SOCIALTAG_SHARD_CACHE_GB: .* expected a number of gigabytes over 0"):
        copy.fetch(["shard-0"])


def test_what_a_copy_says_of_itself(bucket: Bucket):
    fill(bucket, "data")
    copy = copy_of(bucket, "data")
    copy.fetch(["shard-1", "shard-2"])
    content = json.loads((copy.folder.parent / "copy.json").read_text())
    assert content == {"address": f"{bucket.root}/data", "wanted": {"shard-1": 35_001, "shard-2": 35_002}}
