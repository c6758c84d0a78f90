"""How fast does an exported tagger answer, beside the model that it was exported from and beside onnxruntime?

VGG16 at 224 px with ImageNet's convolutions and a head for Corel5K's 371 tags; float32 everywhere. All take turns:

* a batch that lies ready, uint8 in and probabilities out: the bundle's StableHLO, the jitted model in the same process,
  and onnxruntime with the same weights, whose probabilities are compared with ours first;
* `socialtag predict FOLDER`, the whole command from its start to its end, beside decoding the same photos and then
  scoring them in this process, where everything is loaded and compiled;
* a fresh process with a warm compilation cache: from its start to the first suggestion, and to the first training step
  (with that step's own time taken off).

Command:  python -m experiments.benchmarks.inference [--corel5k data/corel5k.zip]     (4 minutes on 2 cores)
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import corel5k_data, harness
from experiments.benchmarks.harness import Answer, Context, Peer, Row, Series
from socialtag_jax import pretrained
from socialtag_jax.config import Experiment, Model
from socialtag_jax.export import export_bundle
from socialtag_jax.run_folder import RunConfig
from socialtag_jax.steps import build_model
from socialtag_jax.tagger import PARAMS, Tagger
from socialtag_jax.tags import TagVocabulary
from socialtag_jax.trained import TrainedModel, inference

SIZE, BATCH, PHOTOS, TURNS = 224, 8, 64, 5
TOLERANCE = 1e-3
START_LIMIT_SECONDS = 5.0
EXPORTED, JITTED, ONNX = "exported StableHLO", "jitted model", "onnxruntime"
FOLDER, ALONE = "predict FOLDER", "decoding, then scoring, in a warm process"
FIRST_SUGGESTION, FIRST_STEP = "first suggestion", "first training step"
EXPERIMENT = """
from socialtag_jax.config import Experiment, Input, Model
model = Model(compute_dtype="float32")
experiment = Experiment(name="start", weights={weights!r}, model=model, input=Input(batch_size=8))
"""


def trained_model(weights: Path, vocabulary: TagVocabulary) -> TrainedModel:
    """As loaded from a run folder."""
    experiment = Experiment(name="inference", model=Model(input_size=SIZE, compute_dtype="float32"))
    dataset = {
        "fingerprint": "",
        "vocabulary_sha256": vocabulary.sha256,
        "image_size": 288,
        "name": "corel5k",
        "path": "",
    }
    config = RunConfig(experiment, dataset, versions={}, device={})
    params: Any = jax.device_put(pretrained.load_weights(weights))
    return TrainedModel(config, 0, vocabulary, build_model(experiment, len(vocabulary)), params)


def scoring(score: Callable[[np.ndarray], jax.Array], images: np.ndarray) -> Callable[[], float]:
    """Images a second of a batch that lies ready on the host."""
    jax.block_until_ready(score(images))

    def measure() -> float:
        start = time.perf_counter()
        jax.block_until_ready(score(images))
        return len(images) / (time.perf_counter() - start)

    return measure


def one_after_the_other(tagger: Tagger, photos: Sequence[Path]) -> Callable[[], float]:
    """Photos a second when all are decoded first, by one thread, and scored then."""

    def measure() -> float:
        start = time.perf_counter()
        tagger.suggest([str(photo) for photo in photos])
        return len(photos) / (time.perf_counter() - start)

    return measure


def command(environment: Mapping[str, str], log: Path, *arguments: object) -> tuple[float, str]:
    """Seconds from the start of a fresh process to its end, and what it printed."""
    line = [sys.executable, "-m", *map(str, arguments)]
    with log.open("ab") as stderr:
        start = time.perf_counter()
        result = subprocess.run(
            line, stdout=subprocess.PIPE, stderr=stderr, env=environment, cwd=harness.PROJECT, text=True, check=True
        )
    return time.perf_counter() - start, result.stdout


def run(context: Context) -> Answer:
    photos = corel5k_data.photos(context, "corel5k_288", {"train": 1024}, enlarged_to=288)
    weights = corel5k_data.initial_weights(context)
    folder = context.scratch / "inference"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "photos").mkdir(parents=True)
    paths = [
        Path(shutil.copy(path, folder / "photos")) for path in sorted((photos.folder / "train").iterdir())[:PHOTOS]
    ]
    trained = trained_model(weights, photos.dataset.vocabulary)
    bundle = folder / "bundle"
    export_bundle(trained, bundle)
    tagger = Tagger.load(bundle)
    images = np.stack([tagger.pixels(path) for path in paths[:BATCH]])
    np.save(folder / "images.npy", images)
    environment = {**os.environ, "SOCIALTAG_CACHE": str(folder / "cache"), "PYTHONPATH": str(harness.PROJECT)}
    log = context.log("inference-commands")
    jitted = jax.jit(inference(trained))

    def predict_folder() -> float:
        seconds, printed = command(environment, log, "socialtag_jax.cli", "predict", bundle, folder / "photos")
        assert printed.count("\n") == PHOTOS
        return PHOTOS / seconds

    def first_suggestion() -> float:
        seconds, printed = command(environment, log, "socialtag_jax.cli", "predict", bundle, paths[0])
        assert printed.count("\n") == 1
        return seconds

    experiment = folder / "start.py"
    experiment.write_text(EXPERIMENT.format(weights=str(weights)))
    train = ["train", experiment, "--dataset", photos.dataset.folder, "--workdir", folder / "run"]

    def first_step() -> float:
        _, printed = command(environment, log, "experiments.benchmarks.first_step", time.time(), *train)
        found = json.loads(printed.splitlines()[-1])
        return found["first"] - found["step"]

    settings = {
        "weights": str(bundle / PARAMS),
        "images": str(folder / "images.npy"),
        "scores": str(folder / "scores.npy"),
    }
    with Peer("onnxruntime", "onnx_scores", settings, log=context.log("onnxruntime")) as onnx:
        difference = float(np.max(np.abs(np.load(folder / "scores.npy") - tagger.probabilities(images))))
        assert difference < TOLERANCE, f"onnxruntime's probabilities differ by {difference}: not the same model"
        contenders = {
            EXPORTED: scoring(tagger.launch, images),
            JITTED: scoring(lambda images: jitted(trained.params, images), images),
            ONNX: lambda: onnx.measure(batches=1)["images_per_second"],
            FOLDER: predict_folder,
            ALONE: one_after_the_other(tagger, paths),
            FIRST_SUGGESTION: first_suggestion,
            FIRST_STEP: first_step,
        }
        for name in (FOLDER, ALONE, FIRST_SUGGESTION, FIRST_STEP):
            print(f"not counted, as it compiles: {name} {harness.figure(contenders[name]())}", file=sys.stderr)
        series = context.interleave(contenders, repeats=TURNS, unit="images/s or s")
    return Answer(
        rows(series),
        {"photos": PHOTOS, "largest_difference": difference, "series": series},
        {"onnxruntime": onnx.versions},
    )


def rows(series: Series) -> list[Row]:
    rates = Series({name: series.repeats[name] for name in (EXPORTED, JITTED, ONNX)}, "images/s")
    folders = Series({name: series.repeats[name] for name in (FOLDER, ALONE)}, "images/s")
    title = f"inference: a batch of {BATCH} at {SIZE} px, float32"
    rates.print(title, EXPORTED)
    folders.print(f"predict FOLDER: {PHOTOS} photos, the start of the process included", FOLDER)
    starts = [
        Row(
            f"start to {name}, warm compilation cache",
            series.median(name),
            "limit",
            START_LIMIT_SECONDS,
            "s",
            goal=1.0,
            less_is_better=True,
        )
        for name in (FIRST_SUGGESTION, FIRST_STEP)
    ]
    return [
        rates.row(title, EXPORTED, JITTED, goal=0.95),
        rates.row("the same", EXPORTED, ONNX),
        folders.row(f"predict FOLDER: {PHOTOS} photos, whole command", FOLDER, ALONE),
        *starts,
    ]


if __name__ == "__main__":
    harness.main(run)
