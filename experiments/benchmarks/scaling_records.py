"""How long does it take to open a data set of ten thousand to ten million records, and how much memory?

The data sets are simulated: shards of 128 MiB as `socialtag prepare` would write them, but sparse files without a
record in them; their indexes, manifest and other metadata are real. Each is opened in a process of its own, which has
imported what it needs: `open_dataset`, the records of the train split, and the most tags of an image. Memory is the
growth of the process's peak (VmHWM, Linux). The order of the first epoch, which is drawn whole, comes after that and is
measured apart.

Command:  python -m experiments.benchmarks.scaling_records     (2 minutes on 2 cores, the first time)
"""

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from experiments.benchmarks import harness
from experiments.benchmarks.harness import Answer, Context, Row
from socialtag_jax import files
from socialtag_jax.input_pipeline import train_order
from socialtag_jax.shards import dataset, metadata, tfrecord
from socialtag_jax.shards.dataset import SplitShards, open_dataset
from socialtag_jax.tag_statistics import TagStatistics
from socialtag_jax.tags import TagVocabulary

RECORDS = (10_000, 100_000, 1_000_000, 10_000_000)
RECORD_BYTES, SHARD_RECORDS = 41_000, 128 * 2**20 // 41_000
"""A photo of 288 px takes about as much."""
TAGS, TAGS_OF_AN_IMAGE = 1000, 5
SECONDS, MEGABYTES = 2.0, 200.0
TURNS = 5


@dataclasses.dataclass(frozen=True)
class Opened:
    """What one process measured: seconds, and megabytes (10**6 bytes) of memory beyond what it had before."""

    open_seconds: float
    open_megabytes: float
    order_seconds: float
    order_megabytes: float


def simulate(folder: Path, records: int) -> None:
    """Writes such a data set, as DIR/NAME/VERSION."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    name, count = folder.parent.name, -(-records // SHARD_RECORDS)
    lengths = [min(SHARD_RECORDS, records - number * SHARD_RECORDS) for number in range(count)]
    entries = {}
    for number, length in enumerate(lengths):
        shard = folder / f"{name}-train.tfrecord-{number:05d}-of-{count:05d}"
        with shard.open("wb") as file:
            file.truncate(length * RECORD_BYTES)
        tfrecord.write_index(shard, np.arange(length, dtype=np.uint64) * RECORD_BYTES)
        entries[shard.name] = {"size": length * RECORD_BYTES, "sha256": "0" * 64}
    tags = [f"tag{number}" for number in range(TAGS)]
    vocabulary = TagVocabulary(tuple(tags), tuple(tags))
    vocabulary.save(folder / dataset.LABELS)
    shards = SplitShards(lengths, records * RECORD_BYTES)
    metadata.write_tfds(folder, name, folder.name, vocabulary, {"train": shards})
    with_tags = np.zeros(TAGS_OF_AN_IMAGE + 1, np.int64)
    with_tags[TAGS_OF_AN_IMAGE] = records
    statistics = TagStatistics(np.full(TAGS, records * TAGS_OF_AN_IMAGE // TAGS), with_tags)
    content = {"image_size": 288, "splits": {"train": statistics.to_json()}}
    files.write_text(folder / dataset.STATISTICS, json.dumps(content))
    for path in folder.iterdir():
        if ".tfrecord-" not in path.name:
            entries[path.name] = {"size": path.stat().st_size, "sha256": files.sha256(path)}
    # Last, as `prepare` does: an interrupted simulation is none.
    manifest = {"source": {"fingerprint": "", "photos": records, "written": records, "rejected": 0}, "files": entries}
    files.write_text(folder / dataset.MANIFEST, json.dumps(manifest))


def measure(folder: Path) -> Opened:
    """Opens the data set in this process."""
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    start = time.perf_counter()
    opened = open_dataset(folder)
    records = opened.records("train")
    assert opened.max_tags == TAGS_OF_AN_IMAGE
    open_seconds, open_peak = time.perf_counter() - start, _memory("VmHWM")
    start = time.perf_counter()
    order = train_order(len(records), seed=0, epoch=0)
    order_seconds, order_peak = time.perf_counter() - start, _memory("VmHWM")
    assert len(order) == len(records)
    return Opened(open_seconds, open_peak - before, order_seconds, order_peak - before)


def _memory(field: str) -> float:
    """Of this process, in megabytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(field)


def run(context: Context) -> Answer:
    measured: dict[int, list[Opened]] = {records: [] for records in RECORDS}
    folders = {records: context.scratch / f"records_{records}" / "1.0.0" for records in RECORDS}
    for records, folder in folders.items():
        if not (folder / dataset.MANIFEST).exists():
            print(f"simulating {records:,} records", file=sys.stderr)
            simulate(folder, records)
    for _ in range(TURNS):
        for records, folder in folders.items():
            command = [sys.executable, "-m", "experiments.benchmarks.scaling_records", "--open", str(folder)]
            result = subprocess.run(command, cwd=harness.PROJECT, stdout=subprocess.PIPE, text=True, check=True)
            measured[records].append(Opened(**json.loads(result.stdout)))
        if time.monotonic() > context.deadline:
            break
    rows: list[Row] = []
    print(f"\n{'records':>12}{'open, s':>10}{'open, MB':>10}{'order, s':>10}{'with order, MB':>16}")
    for records, turns in measured.items():
        names = [field.name for field in dataclasses.fields(Opened)]
        medians = Opened(*(float(np.median([getattr(turn, name) for turn in turns])) for name in names))
        opening = f"{records:12,}{medians.open_seconds:10.2f}{medians.open_megabytes:10.1f}"
        print(f"{opening}{medians.order_seconds:10.2f}{medians.order_megabytes:16.1f}")
        if records == RECORDS[-1]:
            question, note = f"opening a data set of {records:,} records", "simulated"
            rows = [
                Row(question, medians.open_seconds, "limit", SECONDS, "s", 1.0, less_is_better=True, note=note),
                Row("the same", medians.open_megabytes, "limit", MEGABYTES, "MB", 1.0, less_is_better=True),
            ]
    turns = {str(records): [dataclasses.asdict(turn) for turn in its] for records, its in measured.items()}
    return Answer(rows, {"record_bytes": RECORD_BYTES, "shard_records": SHARD_RECORDS, "turns": turns})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--open"]:
        print(json.dumps(dataclasses.asdict(measure(Path(sys.argv[2])))))
    else:
        harness.main(run)
