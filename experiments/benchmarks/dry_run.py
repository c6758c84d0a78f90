"""Do the thesis's two experiments, and the evaluation of the larger one, fit into a machine's memory?

On generated records, since neither data set is at hand: random photos with 997 (HARRISON) and 12,234 (MIRFLICKR) tags,
written by the code that `socialtag prepare` writes with. Every measurement is a fresh process, which reports the peak
of its own resident memory:

* training: the compiled training step of `experiments/harrison.py` and `experiments/mirflickr.py`, at the batch size,
  input size, augmentation and frozen layers of each stage. The convolutions start from random values: neither time nor
  memory depends on them.
* evaluation: `evaluate()` and its files over 91,001 test images and 12,234 tags, as MIRFLICKR has them. Photos are
  small, and in place of VGG16 stands a light model (pixels averaged to 8 x 8, a random dense layer, sigmoid): what is
  asked is the memory of the evaluation itself, and VGG16's speed is what training measures.

Command:  python experiments/benchmarks/dry_run.py --output experiments/benchmarks/results/dry_run.json
Needs:    5 GB of free disk space in --scratch (default: the system's folder of temporary files); about 10 minutes on
          two CPU cores
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Nothing that is large is imported here: on Linux, a process starts with the peak memory of the one that started it.

EXPERIMENTS = Path(__file__).resolve().parents[1]
IMAGES, PHOTO_SIZE = 91_001, 48
TAGS = {"harrison": (997, 4.5, 10), "mirflickr": (12_234, 7.2, 72)}
"""Number of tags, mean tags of an image, most tags of an image: as published."""

LIMIT_BYTES = 2_000_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--steps", type=int, default=3, help="timed training steps, after one that is not (default 3)")
    parser.add_argument("--images", type=int, default=IMAGES, help=f"of the evaluated split (default {IMAGES})")
    parser.add_argument("--scratch", type=Path, help="a folder on a disk with 5 GB to spare")
    parser.add_argument("--note", help="goes into the JSON file: what else the machine did")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        training = []
        for name in TAGS:
            data = f"{folder}/{name}"
            measure("generate_training", name, data, options.steps + 1)
            training += [measure("train", name, data, options.steps, stage) for stage in (0, 1)]
        data = f"{folder}/evaluation"
        measure("generate_evaluation", data, options.images)
        evaluation = measure("evaluation", data)
    print(f"{'':46}{'peak memory':>14}{'time':>26}")
    for one in training:
        label = f"{one['experiment']}, {one['tags']:,} tags, {one['frozen_layers']} layers frozen"
        row(label, one, f"{one['median_step_seconds']:.2f} s a step of {one['batch_size']}")
    label = f"evaluation, {evaluation['images']:,} images x {evaluation['tags']:,} tags"
    row(label, evaluation, f"{evaluation['wall_seconds']:.0f} s in all")
    content = {
        "command": shlex.join(["python", *sys.argv]),
        "note": options.note,
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average_at_end": os.getloadavg(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy", "grain")},
        "training": training,
        "evaluation": evaluation,
    }
    options.output.write_text(json.dumps(content, indent=1) + "\n")
    if evaluation["peak_bytes"] >= LIMIT_BYTES:
        sys.exit(f"dry_run: the evaluation took {evaluation['peak_bytes'] / 1e9:.2f} GB, 2 GB are allowed")


def row(label: str, measured: dict[str, Any], time_text: str) -> None:
    print(f"{label:46}{measured['peak_bytes'] / 1e9:11.2f} GB{time_text:>26}")


def measure(part: str, *arguments: object) -> Any:
    """Runs one of `PARTS` in a fresh process, and returns what it prints as JSON, with the peak of its memory."""
    command = [sys.executable, __file__, "--part", part, *map(str, arguments)]
    print(f"{part} {' '.join(map(str, arguments))}", file=sys.stderr, flush=True)
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout)


def run_part(part: str, *arguments: str) -> None:
    """One measurement, in this process."""
    result = PARTS[part](*arguments)
    # Linux counts kilobytes.
    print(json.dumps({**result, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def random_photos(count: int, size: int, seed: int) -> list[bytes]:
    """JPEG files of soft random colours, about as large as photos are at this size."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(seed)
    photos = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (size // 8, size // 8, 3), np.uint8)
        pixels = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        pixels = np.clip(pixels + rng.integers(-8, 9, pixels.shape), 0, 255).astype(np.uint8)
        _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])
        photos.append(data.tobytes())
    return photos


def random_tags(count: int, n_tags: int, mean: float, most: int, seed: int) -> Iterator[tuple[int, ...]]:
    """Ascending tag indices of each image: frequent tags first, as 1 / rank; the first image has the most tags."""
    import numpy as np

    rng = np.random.default_rng(seed)
    cumulated = np.cumsum(1.0 / np.arange(1, n_tags + 1))
    for number in range(count):
        wanted = most if number == 0 else int(np.clip(rng.geometric(1.0 / mean), 1, most))
        tags: set[int] = set()
        while len(tags) < wanted:
            tags.update(np.searchsorted(cumulated, rng.random(wanted - len(tags)) * cumulated[-1]).tolist())
        yield tuple(sorted(tags))


def write_dataset(folder: Path, name: str, splits: dict[str, int], image_size: int, photos: list[bytes]) -> None:
    """A data set as `socialtag prepare` lays it out; photos recur, ids do not."""
    from socialtag_jax import files
    from socialtag_jax.shards import metadata
    from socialtag_jax.shards.dataset import LABELS, STATISTICS, SplitShards
    from socialtag_jax.shards.example import Record, encode_example
    from socialtag_jax.shards.tfrecord import write_shard
    from socialtag_jax.tag_statistics import tag_statistics
    from socialtag_jax.tags import TagVocabulary

    n_tags, mean, most = TAGS[name]
    names = tuple(f"tag{number:05d}" for number in range(n_tags))
    vocabulary = TagVocabulary(names, names)
    folder.mkdir(parents=True)
    shards, counts = {}, {}
    for seed, (split, images) in enumerate(splits.items()):
        tags = list(random_tags(images, n_tags, mean, most, seed))
        records = (
            encode_example(Record(photo, f"{split}/{number:07d}.jpg", its_tags))
            for number, (photo, its_tags) in enumerate(zip(itertools.cycle(photos), tags, strict=False))
        )
        shard = folder / f"{name}-{split}.tfrecord-00000-of-00001"
        write_shard(shard, records)
        shards[split] = SplitShards([images], shard.stat().st_size)
        counts[split] = tag_statistics(tags, n_tags).to_json()
    vocabulary.save(folder / LABELS)
    metadata.write_tfds(folder, name, "1.0.0", vocabulary, shards)
    content = {"image_size": image_size, "vocabulary_sha256": vocabulary.sha256, "splits": counts}
    files.write_text(folder / STATISTICS, json.dumps(content) + "\n")
    total = sum(splits.values())
    metadata.write_manifest(folder, "generated", {"photos": total, "written": total, "rejected": 0, "left_out": 0})


def generate_training(name: str, folder: str, batches: str) -> dict[str, Any]:
    from socialtag_jax.experiment_files import load_experiment
    from socialtag_jax.shards.images import IMAGE_SIZE

    images = int(batches) * load_experiment(EXPERIMENTS / f"{name}.py").input.batch_size
    write_dataset(Path(folder), name, {"train": images}, IMAGE_SIZE, random_photos(64, IMAGE_SIZE, seed=0))
    return {}


def train(name: str, folder: str, steps: str, stage_number: str) -> dict[str, Any]:
    """One stage's compiled training step, fed by the input pipeline."""
    import jax
    import jax.numpy as jnp

    from socialtag_jax import config
    from socialtag_jax.experiment_files import load_experiment
    from socialtag_jax.input_pipeline import BatchShape, train_batches
    from socialtag_jax.model import init_params
    from socialtag_jax.optimizer import make_optimizer
    from socialtag_jax.parallel import Devices
    from socialtag_jax.shards.dataset import open_dataset
    from socialtag_jax.steps import batch_shapes, build_model, make_train_step, stage_start

    devices = Devices()
    experiment = config.resolve(load_experiment(EXPERIMENTS / f"{name}.py"), devices.platform)
    stage = experiment.stages[int(stage_number)]
    dataset = open_dataset(Path(folder))
    batch_size, size = experiment.input.batch_size, experiment.model.input_size
    shape = BatchShape(len(devices), devices.local_rows(batch_size, "input.batch_size"), size, dataset.max_tags)
    model = build_model(experiment, len(dataset.vocabulary))
    params = init_params(model, jax.random.key(experiment.seed), size)
    optimizer = make_optimizer(experiment, stage, params, steps_per_epoch=int(steps))
    state = devices.replicate(stage_start(experiment, stage, optimizer, params, jnp.zeros((), jnp.int32)))
    image = jax.ShapeDtypeStruct((size, size, 3), jnp.uint8)
    shapes = batch_shapes(image, devices=len(devices), rows=shape.rows, max_tags=shape.max_tags)
    step = devices.compile_train_step(make_train_step(experiment, stage, model, optimizer), state, shapes)
    del params
    batches = train_batches(
        dataset.records("train"), shape, seed=experiment.seed, epoch=0, augmentation=experiment.augmentation
    )
    times, cpu_times, losses = [], [], []
    for batch in itertools.islice(devices.prefetch(batches), int(steps) + 1):
        start, cpu_start = time.perf_counter(), time.process_time()
        state, sums = step(state, batch)
        losses.append(float(sums["loss"]) / float(sums["images"]))
        times.append(time.perf_counter() - start)
        # Of all threads: what a step costs, whoever else is at work on the machine.
        cpu_times.append(time.process_time() - cpu_start)
    return {
        "experiment": name,
        "tags": len(dataset.vocabulary),
        "input_size": size,
        "batch_size": batch_size,
        "frozen_layers": stage.freeze_layers,
        "compute_dtype": experiment.model.compute_dtype,
        "device": f"{len(devices)} x {devices.kind}",
        "first_step_seconds": times[0],
        "step_seconds": times[1:],
        "median_step_seconds": statistics.median(times[1:]),
        "median_step_cpu_seconds": statistics.median(cpu_times[1:]),
        "losses": losses,
    }


def generate_evaluation(folder: str, images: str) -> dict[str, Any]:
    # The train split gives the baselines' frequencies: most tags occur in so many images.
    splits = {"train": 20_000, "test": int(images)}
    write_dataset(Path(folder), "mirflickr", splits, PHOTO_SIZE, random_photos(500, PHOTO_SIZE, seed=0))
    return {}


def evaluation(folder: str) -> dict[str, Any]:
    """`evaluate` and its files, with a light model."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from socialtag_jax.evaluate import Scorer, evaluate
    from socialtag_jax.evaluation_report import write_results
    from socialtag_jax.experiment_files import load_experiment
    from socialtag_jax.shards.dataset import open_dataset

    dataset = open_dataset(Path(folder))
    experiment = load_experiment(EXPERIMENTS / "mirflickr.py")
    n_tags, side = len(dataset.vocabulary), 8
    kernel = jax.random.normal(jax.random.key(0), (side * side * 3, n_tags))

    @jax.jit
    def probabilities(images: jax.Array) -> jax.Array:
        rows, cell = images.shape[0], PHOTO_SIZE // side
        cells = images.astype(jnp.float32).reshape(rows, side, cell, side, cell, 3) / 255.0 - 0.5
        return jax.nn.sigmoid(jnp.mean(cells, axis=(2, 4)).reshape(rows, -1) @ kernel - 2.0)

    scorer = Scorer(
        name="light model",
        vocabulary=dataset.vocabulary,
        input_size=PHOTO_SIZE,
        suggestion=experiment.suggestion,
        devices=1,
        score=lambda images: np.asarray(probabilities(images[0])),
        trained_on="",
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    output = Path(folder) / "results"
    output.mkdir()
    start = time.perf_counter()
    result = evaluate(
        scorer,
        dataset,
        "test",
        batch_size=experiment.input.eval_batch_size,
        threads=experiment.input.threads,
        stream=sys.stderr,
        scratch=output,
    )
    write_results(result, dataset, scorer, output)
    return {
        "images": result.summary["images"],
        "tags": n_tags,
        "photo_size": PHOTO_SIZE,
        "batch_size": experiment.input.eval_batch_size,
        "model": "pixels averaged to 8 x 8, random dense layer, sigmoid (VGG16 replaced: only memory is asked)",
        "bytes_of_all_probabilities": 4 * n_tags * result.summary["images"],
        "wall_seconds": time.perf_counter() - start,
        "peak_bytes_before": before,
        "tags_per_image_predicted": result.summary["scores"]["model"]["tags_per_image"],
    }


PARTS = {part.__name__: part for part in (generate_training, train, generate_evaluation, evaluation)}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        run_part(*sys.argv[2:])
    else:
        main()
