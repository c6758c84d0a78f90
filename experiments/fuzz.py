"""Coverage-guided fuzzing of the record parser and of the CSV reader, with Atheris (libFuzzer).

Command:  pip install atheris; python experiments/fuzz.py records --minutes 10  (or csv)
Hardware: one CPU core.
Expected: some thousand inputs a second, and no finding; libFuzzer's last lines say how many inputs it ran.

Any exception but an error that a user can act on is a finding, and so is a broken promise: a record that does not come
back as it was read, a record of a shard that is not one of those written, a photo outside of the CSV file's folder.
"""

import argparse
import contextlib
import importlib
import os
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Target = Callable[[bytes, Path], None]

N_TAGS = 5
SEEDS: dict[str, list[bytes]] = {
    "records": [],
    "csv": [
        b"path,tags\na.jpg,sea sky\n",
        b"path,tags,split\na.jpg,sea,train\nb.jpg,sky,test\n",
        'a.jpg,#Sea 🏖️\n"b,c.jpg","new\nyork"\n./a.jpg,sun\n'.encode(),
        b"\xef\xbb\xbffile;keywords\r\nx\\y.jpg;sea\r\n",
        "path,tags\na.jpg,sea\n".encode("utf-16"),
        b"../a.jpg,sea\n/etc/passwd,sky\nC:\\a.jpg,sun\n",
        b"train/a.jpg,sea\nval/b.jpg,sky\n",
    ],
}


def records_target(data: bytes, folder: Path) -> None:
    """The first byte says what the rest is: a shard, a record, an index, or an index that gets the right checksum."""
    from socialtag_jax.errors import UserError
    from socialtag_jax.shards import tfrecord
    from socialtag_jax.shards.dataset import ParsedRecords
    from socialtag_jax.shards.example import encode_example, parse_example

    if not data:
        return
    kind, rest = data[0] % 4, data[1:]
    shard = folder / "fuzz.tfrecord-00000-of-00001"
    with contextlib.suppress(UserError):
        if kind == 0:
            shard.write_bytes(rest)
            tfrecord.index_path(shard).unlink(missing_ok=True)
            source = tfrecord.RecordSource([shard], keep_indexes=False)
            parsed = ParsedRecords(source, N_TAGS)
            for index in range(len(parsed)):
                check_record(parsed[index])
        elif kind == 1:
            record = parse_example(rest, n_tags=N_TAGS)
            assert parse_example(encode_example(record), n_tags=N_TAGS) == record
            check_record(record)
        else:
            written = [encode_example(record) for record in good_records()]
            shard = folder / "good.tfrecord-00000-of-00001"
            if not shard.exists():
                tfrecord.write_records(shard, iter(written))
            checksum = b"" if kind == 2 else struct.pack("<I", tfrecord.google_crc32c.value(rest))
            tfrecord.index_path(shard).write_bytes(rest + checksum)
            source = tfrecord.RecordSource([shard])
            # An index that opens is right, or the reader of all records meets an error.
            assert [source[index] for index in range(len(source))] == written


def good_records() -> list[Any]:
    """Some that are as they should be."""
    from socialtag_jax.shards.example import Record

    return [Record(b"\xff\xd8\xff\xd9", "a/b.jpg", (0, 2)), Record(b"x", "é.png", ())]


def check_record(record: Any) -> None:
    """What every reader of records relies on."""
    assert isinstance(record.image, bytes)
    assert isinstance(record.image_id, str)
    assert list(record.tags) == sorted(set(record.tags))
    assert all(0 <= tag < N_TAGS for tag in record.tags)


def csv_target(data: bytes, folder: Path) -> None:
    """The bytes are the file; the photos' tags go on into a vocabulary."""
    from socialtag_jax.errors import UserError
    from socialtag_jax.labels import build_vocabulary
    from socialtag_jax.sources import tags_csv
    from socialtag_jax.tags import TagVocabulary

    path = folder / "tags.csv"
    path.write_bytes(data)
    photos, where = [], ""
    try:
        photos = tags_csv.read(path, warn=lambda _: None)
    except UserError as error:
        where = str(error.where)
    # There is no file without photos that is not refused, by its name.
    assert photos or str(path) in where
    assert len({photo.image_id for photo in photos}) == len(photos)
    for photo in photos:
        assert Path(os.path.normpath(photo.path)).is_relative_to(folder)
    if not photos:
        return
    vocabulary = build_vocabulary(photo.tags for photo in photos)
    vocabulary.save(folder / "tags.labels.txt")
    assert TagVocabulary.load(folder / "tags.labels.txt") == vocabulary


TARGETS: dict[str, Target] = {"records": records_target, "csv": csv_target}


def record_seeds(folder: Path) -> list[bytes]:
    """Good inputs of each kind."""
    from socialtag_jax.shards import tfrecord
    from socialtag_jax.shards.example import encode_example

    encoded = [encode_example(record) for record in good_records()]
    shard = folder / "seed"
    tfrecord.write_shard(shard, iter(encoded))
    index = tfrecord.index_path(shard).read_bytes()
    return [b"\0" + shard.read_bytes(), *(b"\1" + one for one in encoded), b"\2" + index, b"\3" + index[:-4]]


def main() -> None:
    """Fuzzes until the time is over; libFuzzer ends the process, and writes a finding's input beside the corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--corpus", type=Path, help="a folder that is kept, and gone on with (default: a new one)")
    options = parser.parse_args()
    atheris: Any = importlib.import_module("atheris")
    # Before anything else imports them.
    with atheris.instrument_imports(include=["socialtag_jax"]):
        for name in ("shards.dataset", "shards.example", "shards.tfrecord", "sources.tags_csv", "labels", "tags"):
            importlib.import_module(f"socialtag_jax.{name}")
    # In memory, where the system has a folder there: every input becomes a file.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as scratch:
        folder = Path(scratch)
        corpus = options.corpus or folder / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        seeds = record_seeds(folder) if options.target == "records" else SEEDS[options.target]
        for number, seed in enumerate(seeds):
            (corpus / f"seed-{number}").write_bytes(seed)
        target = TARGETS[options.target]
        limits = (f"-max_total_time={round(60 * options.minutes)}", "-max_len=4096", "-print_final_stats=1")
        findings = f"-artifact_prefix={corpus.parent}/finding-" if options.corpus else "-artifact_prefix=finding-"
        atheris.Setup([sys.argv[0], str(corpus), *limits, findings], lambda data: target(data, folder))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
