"""Files on Google Cloud Storage, against an emulator in a process of its own, with faults."""

import os
import random
import sys
import time
from pathlib import Path

import google.cloud
import pytest

from socialtag_jax import files, gcs, storage
from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.gcs import ChangedError, RemotePath
from socialtag_jax.storage import local_path, location
from tests.conftest import Bucket
from tests.gcs_emulator import Fault, Kind

CONTENT = random.Random(0).randbytes(100_000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gs://my-bucket/runs/holiday", RemotePath("my-bucket", "runs/holiday")),
        ("gs://my-bucket/runs/holiday/", RemotePath("my-bucket", "runs/holiday")),
        ("gs://my-bucket", RemotePath("my-bucket", "")),
        ("runs/holiday", Path("runs/holiday")),
        ("/runs/gs://x", Path("/runs/gs:/x")),
    ],
)
def test_locations(text: str, expected: storage.Location):
    assert location(text) == expected


@pytest.mark.parametrize(
    "text", ["gs://", "gs:///x", "gs://ab/x", "gs://bucket//x", "gs://bucket/../x", "gs://bucket/a#b"]
)
def test_bad_addresses(text: str):
    with pytest.raises(UsageError, match="expected gs://BUCKET/FOLDER"):
        location(text)


def test_an_address_in_a_path_is_refused():
    with pytest.raises(UsageError, match=r"a pathlib\.Path cannot hold a gs:// address"):
        location(Path("gs://my-bucket/x"))
    with pytest.raises(UsageError, match="must be on this computer"):
        local_path("gs://my-bucket/x")
    with pytest.raises(TypeError):
        open(RemotePath("my-bucket", "x"))  # type: ignore[call-overload]  # noqa: PTH123, SIM115


def test_parts_of_an_address():
    path = RemotePath("bucket", "") / "runs" / "holiday/metrics.jsonl"
    assert str(path) == "gs://bucket/runs/holiday/metrics.jsonl"
    assert (path.name, str(path.parent)) == ("metrics.jsonl", "gs://bucket/runs/holiday")
    assert str(path.with_name("config.json")) == "gs://bucket/runs/holiday/config.json"


def test_reads_what_another_client_wrote_and_the_reverse(bucket: Bucket):
    """The other client is gcsfs."""
    from gcsfs.core import GCSFileSystem

    other = GCSFileSystem(token="anon", endpoint_url=bucket.emulator.url, use_listings_cache=False)
    ours = bucket.root / "ours.bin"
    files.write_bytes(ours, CONTENT)
    assert other.cat(str(ours)) == CONTENT
    other.pipe(str(bucket.root / "theirs.bin"), CONTENT[::-1])
    assert (bucket.root / "theirs.bin").read_bytes() == CONTENT[::-1]
    files.write_text(bucket.root / "text", "Zürich\r\n\n")
    assert other.cat(str(bucket.root / "text")) == "Zürich\r\n\n".encode()


def test_large_files_are_uploaded_whole(bucket: Bucket, folder: Path):
    """Over 8 MB, the client uploads in several requests."""
    content = CONTENT * 101
    (folder / "large").write_bytes(content)
    (bucket.root / "large").upload(folder / "large")
    assert (bucket.root / "large").read_bytes() == content


def test_folders(bucket: Bucket):
    for key in ("data/holiday/1.0.0/dataset_info.json", "data/holiday/1.0.0/x/y", "data/beach/2.0.0/other", "datax"):
        (bucket.root / key).write_bytes(b"1")
    data = bucket.root / "data"
    assert data.exists()
    assert data.is_dir()
    assert not (bucket.root / "datax").is_dir()
    assert not (bucket.root / "dat").exists()
    assert [path.name for path in data.iterdir()] == ["beach", "holiday"]
    assert [stored.name for stored in (data / "holiday/1.0.0").objects()] == ["dataset_info.json"]
    assert list(data.glob("*/*/dataset_info.json")) == [data / "holiday/1.0.0/dataset_info.json"]
    assert list(data.glob("*")) == [data / "beach", data / "holiday"]


@pytest.mark.parametrize("kind", ["503", "429", "drop", "short", "truncate", "corrupt"])
def test_faults_while_reading(bucket: Bucket, kind: Kind):
    path = bucket.root / "x"
    generation = path.write_bytes(CONTENT)
    bucket.emulator.inject(Fault(kind, part="alt=media", times=3))
    assert path.read_bytes() == CONTENT
    if kind != "corrupt":  # a range has no checksum: who reads one checks the whole
        bucket.emulator.inject(Fault(kind, part="alt=media", times=3))
        assert path.read_range(500, 90_000, generation) == CONTENT[500:90_000]
    struck = [one for one in bucket.emulator.requests if one["fault"] == kind]
    assert len(struck) == (3 if kind == "corrupt" else 6)


@pytest.mark.parametrize("kind", ["503", "429", "drop", "lost"])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_faults_while_writing_and_listing(bucket: Bucket, kind: Kind, method: str):
    bucket.emulator.inject(Fault(kind, method=method, part=bucket.root.bucket, times=2))
    (bucket.root / "a/x").write_bytes(CONTENT)
    assert [stored.size for stored in (bucket.root / "a").objects()] == [len(CONTENT)]
    assert (bucket.root / "a/x").read_bytes() == CONTENT
    assert sum(one["fault"] == kind for one in bucket.emulator.requests) == 2


def test_slow_answers_are_asked_for_again(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gcs, "_TIMEOUT", (1.0, 0.2))
    (bucket.root / "x").write_bytes(CONTENT)
    bucket.emulator.inject(Fault("slow", part="alt=media", times=2, seconds=1.0))
    start = time.monotonic()
    assert (bucket.root / "x").read_bytes() == CONTENT
    assert time.monotonic() - start < 0.9
    assert bucket.count("GET", "alt=media") == 3


def test_what_lasts_too_long_is_an_error(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gcs, "_GIVE_UP", 0.3)
    gcs._retry.cache_clear()
    bucket.emulator.inject(Fault("503", part="/o/x", times=1000))
    with pytest.raises(
        UserError, match=rf"{bucket.root.bucket}/x: the storage does not answer as it should: .*Timeout"
    ):
        (bucket.root / "x").read_bytes()


def test_conditional_writes(bucket: Bucket):
    path = bucket.root / "x"
    first = path.write_bytes(b"1", generation=0)
    with pytest.raises(ChangedError, match="changed meanwhile"):
        path.write_bytes(b"2", generation=0)
    second = path.write_bytes(b"3", generation=first)
    with pytest.raises(ChangedError):
        path.read_range(0, 1, first)
    path.unlink(generation=first)
    assert path.read_bytes() == b"3"
    path.unlink(generation=second)
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        path.read_bytes()


def test_a_bucket_that_is_not_there(bucket: Bucket):
    with pytest.raises(UserError, match="gs://not-there: no such bucket -- check its name"):
        (RemotePath("not-there", "data")).exists()


def test_no_permission(bucket: Bucket):
    bucket.emulator.inject(Fault("403", part="/o/x"))
    with pytest.raises(UserError, match=r"/x: no permission: .*403.* -- your account needs roles on the bucket"):
        (bucket.root / "x").read_bytes()


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv(gcs.EMULATOR, raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    # Not asking whether this is a machine of Google's, which takes seconds.
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    with pytest.raises(UserError, match=r"no credentials for Google Cloud .* `gcloud auth application-default login`"):
        RemotePath("my-bucket", "x").exists()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(google.cloud, "storage")
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    with pytest.raises(
        UserError, match=r"gs://my-bucket/x: google-cloud-storage is missing -- pip install '\.\[gcs\]'"
    ):
        RemotePath("my-bucket", "x").exists()


def test_checkpoints_need_gcsfs(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"gcsfs is missing -- pip install '\.\[gcs\]'"):
        storage.checkpoint_folder(bucket.root / "run")


def test_staged_files_appear_together_and_the_last_one_last(bucket: Bucket):
    bucket.emulator.inject(Fault("503", method="POST", times=2))
    with storage.staged(bucket.root / "out", last="a.json") as local:
        for name in ("a.json", "b.bin", "sub/c.bin"):
            (local / name).parent.mkdir(exist_ok=True)
            (local / name).write_text(name)
        assert not (bucket.root / "out").exists()
    assert (bucket.root / "out/sub/c.bin").read_text("utf-8") == "sub/c.bin"
    times = {path.name: path.stat().generation for path in (bucket.root / "out").iterdir() if path.name != "sub"}
    assert times["a.json"] > times["b.bin"]


def test_a_failure_uploads_nothing(bucket: Bucket):
    def fail() -> None:
        with storage.staged(bucket.root / "failed") as local:
            (local / "x").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not (bucket.root / "failed").exists()


def test_a_local_folder_is_staged_in_place(tmp_path: Path):
    with storage.staged(tmp_path / "out") as local:
        assert local == tmp_path / "out"
    assert os.listdir(tmp_path) == ["out"]  # noqa: PTH208
