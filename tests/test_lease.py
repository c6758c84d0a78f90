"""One process at a time in a folder on Google Cloud Storage."""

import json
import subprocess
import sys
import time

import pytest

from socialtag_jax import lease
from socialtag_jax.errors import UserError
from tests.conftest import Bucket
from tests.gcs_emulator import Fault

HOLD = """
import sys, time
from socialtag_jax import lease, storage
with lease.held(storage.location(sys.argv[1]), print, renewed=0.1, expires=1.0, look=0.1):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""
QUICK = {"renewed": 0.1, "expires": 1.0, "look": 0.1}


def holder(bucket: Bucket, seconds: float) -> subprocess.Popen[str]:
    """Another process that holds the folder."""
    command = [sys.executable, "-c", HOLD, str(bucket.root / "run"), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_free_folder_is_held_at_once_and_let_go(bucket: Bucket):
    lines: list[str] = []
    for _ in range(2):
        with lease.held(bucket.root / "run", lines.append, **QUICK):
            first = (bucket.root / "run/.lock").stat().generation
            time.sleep(0.5)
            assert (bucket.root / "run/.lock").stat().generation > first
        assert not (bucket.root / "run/.lock").exists()
    assert lines == []


def test_a_living_holder_is_not_disturbed(bucket: Bucket):
    lines: list[str] = []
    with holder(bucket, 60) as process:
        with (
            pytest.raises(UserError, match=rf"run: another process is at work here \(process {process.pid} on "),
            lease.held(bucket.root / "run", lines.append, **QUICK),
        ):
            pass
        process.kill()
    assert "waiting 1 s for a sign of life" in lines[0]


def test_a_killed_holders_folder_is_taken_over(bucket: Bucket):
    lines: list[str] = []
    with holder(bucket, 60) as process:
        process.kill()
        process.wait()
        killed = time.monotonic()
        with lease.held(bucket.root / "run", lines.append, **QUICK):
            assert time.monotonic() - killed > 0.9
    assert len(lines) == 1


def test_who_lost_the_folder_is_told(bucket: Bucket):
    lock = bucket.root / "run/.lock"
    with lease.held(bucket.root / "run", print, **QUICK) as check:
        check()
        lock.write_bytes(json.dumps({"host": "other", "pid": 1}).encode())
        time.sleep(0.5)
        with pytest.raises(UserError, match=r"run: another process has taken the folder over \(process 1 on other\)"):
            check()
    # It is the other's, and stays.
    assert json.loads(lock.read_bytes())["host"] == "other"


def test_who_has_slept_is_told_at_once(bucket: Bucket):
    """No renewal has come to find out: the check does, before anything is written."""
    lock = bucket.root / "run/.lock"
    with lease.held(bucket.root / "run", print, renewed=60, expires=0.6, look=0.1) as check:
        for _ in range(2):
            time.sleep(0.3)
            before = lock.stat().generation
            check()
            assert lock.stat().generation > before
        time.sleep(0.3)
        lock.write_bytes(json.dumps({"host": "other", "pid": 1}).encode())
        for _ in range(2):
            with pytest.raises(UserError, match=r"another process has taken the folder over \(process 1 on other\)"):
                check()
    assert json.loads(lock.read_bytes())["host"] == "other"


def test_the_check_costs_no_request_soon_after_a_sign_of_life(bucket: Bucket):
    with lease.held(bucket.root / "run", print, renewed=60) as check:
        check()
        before = len(bucket.emulator.requests)
        check()
        assert len(bucket.emulator.requests) == before


def test_a_check_waits_for_the_end_of_an_outage(bucket: Bucket):
    """And then finds out who has the folder."""
    with lease.held(bucket.root / "run", print, renewed=60, expires=0.6, look=0.1) as check:
        time.sleep(0.3)
        bucket.emulator.inject(Fault("503", method="POST", part="/upload/", times=3))
        check()
        assert sum(one["fault"] == "503" for one in bucket.emulator.requests) == 3


def test_a_sign_of_life_gives_up_before_it_would_come_too_late(bucket: Bucket):
    bucket.emulator.inject(Fault("503", method="POST", part="/upload/", times=1000))
    start = time.monotonic()
    with pytest.raises(UserError, match="the storage does not answer"):
        (bucket.root / "run/.lock").write_bytes(b"x", seconds=0.5)
    assert time.monotonic() - start < 3
    bucket.emulator.reset()
    bucket.emulator.inject(Fault("slow", method="POST", part="/upload/", times=1000, seconds=1.5))
    start = time.monotonic()
    with pytest.raises(UserError, match="the storage does not answer"):
        (bucket.root / "run/.lock").write_bytes(b"x", seconds=0.5)
    assert time.monotonic() - start < 3


def test_a_lost_answer_is_not_taken_for_another_process(bucket: Bucket):
    """The write was done, its repetition is refused: the lock is this process's own nonetheless."""
    bucket.emulator.inject(Fault("lost", method="POST", part="/upload/", times=1))
    bucket.emulator.inject(Fault("lost", method="POST", part="/upload/", times=1, after=1))
    with lease.held(bucket.root / "run", print, **QUICK):
        time.sleep(0.6)
    assert sum(one["fault"] == "lost" for one in bucket.emulator.requests) == 2
    assert not (bucket.root / "run/.lock").exists()


def test_an_outage_does_not_end_the_hold(bucket: Bucket):
    with lease.held(bucket.root / "run", print, **QUICK):
        bucket.emulator.inject(Fault("503", method="POST", part="/upload/", times=5))
        time.sleep(0.8)
        first = (bucket.root / "run/.lock").stat().generation
        time.sleep(0.4)
        assert (bucket.root / "run/.lock").stat().generation > first
