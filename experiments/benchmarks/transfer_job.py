"""How long does a whole transfer-learning job take, beside Keras on TensorFlow and torchvision in float32?

The job: Corel5K (4,500 photos, a tenth of them for validation), VGG16 at 224 px, only the head trains, 10 epochs with a
validation after each, float32, Adam 1e-3, batches of 32. Ours caches what the frozen layers make of the photos: once
without augmentation (`cache.views` 1), or of four augmented views a photo. The peers, as they are used, put every photo
through VGG16 in every epoch.

On two cores the peers' jobs take hours. So a whole job is run on 64 and 16 of the photos, by all from the same weights,
which compares the validation losses and gives the rates; and the full job is computed:

* a peer's: its start, and 10 epochs at its images a second, of training and of validation;
* ours: features at our images a second, of all photos and views, and, measured whole, a run on the full data set whose
  features lie ready. Its photos are of 32 px, so that its features are quickly made: what is trained from them does not
  depend on it, as features are 512 numbers at any size.

The peers' epochs take turns; our runs are between them, as `socialtag train` in processes of their own. How far the
loss depends on the seed (the order, and what is dropped) is found by `socialtag sweep`, which trains as `train` does.

Command:  python -m experiments.benchmarks.transfer_job [--corel5k data/corel5k.zip]     (10 minutes on 2 cores)
"""

import json
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.benchmarks import corel5k_data, harness
from experiments.benchmarks.commands import metrics, socialtag
from experiments.benchmarks.corel5k_data import TAGS, Photos
from experiments.benchmarks.harness import Answer, Context, Peer, Row
from socialtag_jax import files
from socialtag_jax.machine import usable_cores

SIZE, BATCH, EPOCHS, LEARNING_RATE = 224, 32, 10, 1e-3
FULL = {"train": 4050, "validation": 450}
PART = {"train": 64, "validation": 16}
SEEDS = 12
GOALS = {1: 5.0, 4: 2.0}
EXPERIMENT = f"""from socialtag_jax.config import Experiment, Optimizer, Stage

experiment = Experiment(
    name="transfer_job", optimizer=Optimizer(learning_rate={LEARNING_RATE}), stages=(Stage(epochs={EPOCHS}),)
)
"""


class OurJob:
    """`socialtag train` on the photos, each run in a run folder of its own.

    Args:
      context: of the question.
      weights: that it starts from.
    """

    def __init__(self, context: Context, weights: Path) -> None:
        self._weights, self._folder = weights, context.scratch / "transfer_job"
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self._experiment = self._folder / "transfer_job.py"
        files.write_text(self._experiment, EXPERIMENT)
        self._runs = 0

    def forget_features(self) -> None:
        """The next run computes them anew."""
        shutil.rmtree(self._folder / "features")

    def run(self, photos: Photos, *, views: int, size: int = SIZE) -> float:
        """Seconds of one run, of whose features a former one with the same views may have left some."""
        folder, seconds = self._command("train", "--workdir", photos, views=views, size=size)
        loss = metrics(folder, "validation")[-1]["loss"]
        print(f"ours, {views} views, {size} px: {seconds:.1f} s, loss {loss:.4f}", file=sys.stderr)
        return seconds

    def final_losses(self, photos: Photos) -> list[float]:
        """Validation losses after the last epoch of runs with one view and another seed each."""
        seeds = ",".join(map(str, range(SEEDS)))
        search = ("--search", f"seed={seeds}", "--no-plot")
        folder, _ = self._command("sweep", "--output", photos, *search, views=1, size=SIZE)
        trials = json.loads((folder / "sweep.json").read_text())["trials"]
        return [trial["curve"]["validation_loss"][-1] for trial in trials]

    def _command(
        self, command: str, folder_flag: str, photos: Photos, *arguments: str, views: int, size: int
    ) -> tuple[Path, float]:
        """Runs a `socialtag` command: its output folder, and the seconds of the whole process."""
        self._runs += 1
        folder = self._folder / f"run{self._runs}"
        line = ["--dataset", str(photos.dataset.folder), folder_flag, str(folder), "--weights", str(self._weights)]
        line += ["--cache.views", str(views), "--cache.folder", str(self._folder / "features")]
        # A batch of features is padded: this size pads none of the part.
        line += ["--model.input-size", str(size), "--input.eval-batch-size", str(BATCH), *arguments]
        if views == 1:
            line += ["--augmentation.no-enabled"]
        return folder, socialtag(command, self._experiment, *line)


class PeerJob:
    """A peer's epochs, and what the full job would take."""

    def __init__(self, peer: Peer, start_seconds: float) -> None:
        self.peer, self.start_seconds = peer, start_seconds
        self.epochs: list[Mapping[str, float]] = []

    def epoch(self) -> None:
        """Trains and validates once."""
        self.epochs.append(self.peer.measure())

    @property
    def full_seconds(self) -> float:
        """Computed: start, compilation and `EPOCHS` epochs of the full data set at the later epochs' median rates."""
        train, validation = (
            statistics.median(epoch[f"{split}_seconds"] for epoch in self.epochs[1:]) for split in PART
        )
        first = self.epochs[0]["train_seconds"] + self.epochs[0]["validation_seconds"] - train - validation
        epoch = train * FULL["train"] / PART["train"] + validation * FULL["validation"] / PART["validation"]
        return self.start_seconds + max(0.0, first) + EPOCHS * epoch

    @property
    def part_seconds(self) -> float:
        """Measured: the job on the part."""
        return self.start_seconds + sum(one["train_seconds"] + one["validation_seconds"] for one in self.epochs)

    @property
    def final_loss(self) -> float:
        """On the part's validation split."""
        return self.epochs[-1]["validation_loss"]


def run(context: Context) -> Answer:
    weights = corel5k_data.initial_weights(context)
    part = corel5k_data.photos(context, "corel5k_part", PART)
    full = corel5k_data.photos(context, "corel5k_full", FULL)
    job = OurJob(context, weights)
    settings = {
        "folder": str(part.folder),
        "size": SIZE,
        "batch": BATCH,
        "tags": TAGS,
        "weights": str(weights),
        "workers": usable_cores(),
        "learning_rate": LEARNING_RATE,
        "dtype": "float32",
    }
    tensorflow = {"KERAS_BACKEND": "tensorflow"}
    start = time.perf_counter()
    with Peer("tensorflow", "keras_job", settings, log=context.log("job-keras"), variables=tensorflow) as keras_peer:
        keras = PeerJob(keras_peer, time.perf_counter() - start)
        start = time.perf_counter()
        with Peer("torch", "torch_job", settings, log=context.log("job-torch")) as torch_peer:
            torch = PeerJob(torch_peer, time.perf_counter() - start)
            peers = {"Keras on TensorFlow": keras, "torchvision, eager float32": torch}
            losses, views = our_runs(job, part, full, peers)
    versions = {"tensorflow": keras_peer.versions, "torch": torch_peer.versions}
    return report(peers, losses, views, versions)


def our_runs(
    job: OurJob, part: Photos, full: Photos, peers: Mapping[str, PeerJob]
) -> tuple[list[float], dict[int, dict[str, float]]]:
    """The peers' epochs with our runs between them: our final losses on the part by seeds, and seconds by views."""

    def epochs(count: int) -> None:
        for _ in range(count):
            for peer in peers.values():
                peer.epoch()
            said = ", ".join(f"{name} {peer.epochs[-1]['validation_loss']:.4f}" for name, peer in peers.items())
            print(f"epoch {len(next(iter(peers.values())).epochs)}: validation loss {said}", file=sys.stderr)

    epochs(EPOCHS // 2)
    job.run(part, views=1)
    ready_seconds = statistics.median(job.run(part, views=1) for _ in range(3))
    losses = job.final_losses(part)
    epochs(EPOCHS - EPOCHS // 2)
    # Two runs that differ in how many features they compute, and in nothing that they find compiled.
    job.forget_features()
    part_seconds = {views: job.run(part, views=views) for views in GOALS}
    job.run(full, views=1, size=32)
    full_cached_seconds = job.run(full, views=1, size=32)
    return losses, our_times(part_seconds, ready_seconds, full_cached_seconds)


def our_times(
    part_seconds: Mapping[int, float], ready_seconds: float, full_cached_seconds: float
) -> dict[int, dict[str, float]]:
    """Our full job by views, computed.

    Args:
      part_seconds: of a run on the part that computes its features, by views.
      ready_seconds: of one that finds them.
      full_cached_seconds: of a run on the full data set that finds its features.
    """

    def images(counts: Mapping[str, int], views: int) -> int:
        return views * counts["train"] + counts["validation"]

    few, many = min(part_seconds), max(part_seconds)
    rate = (images(PART, many) - images(PART, few)) / (part_seconds[many] - part_seconds[few])
    # What a run that computes features does besides, once: it compiles.
    once = max(0.0, part_seconds[few] - ready_seconds - images(PART, few) / rate)
    return {
        views: {
            "part_seconds": seconds,
            "feature_images_per_second": rate,
            "full_cached_run_seconds": full_cached_seconds,
            "full_seconds": images(FULL, views) / rate + once + full_cached_seconds,
        }
        for views, seconds in part_seconds.items()
    }


def report(
    peers: Mapping[str, PeerJob],
    losses: Sequence[float],
    views: Mapping[int, Mapping[str, float]],
    versions: Mapping[str, Mapping[str, str]],
) -> Answer:
    rows = []
    for count, found in views.items():
        how = "1 view a photo, no augmentation" if count == 1 else f"{count} augmented views a photo"
        question = f"transfer learning, Corel5K, {EPOCHS} epochs, {SIZE} px, {how}"
        for name, peer in peers.items():
            times = (found["full_seconds"], name, peer.full_seconds)
            rows.append(Row(question, *times, "s", GOALS[count], less_is_better=True, note="computed from rates"))
            question = "the same"
    question = f"a whole such job on {PART['train']} + {PART['validation']} photos, 1 view"
    for name, peer in peers.items():
        rows.append(
            Row(question, views[1]["part_seconds"], name, peer.part_seconds, "s", less_is_better=True, note="measured")
        )
        question = "the same"
    mean, noise = statistics.mean(losses), 3 * statistics.stdev(losses)
    for name, peer in peers.items():
        note = f"ours {mean:.4f}, theirs {peer.final_loss:.4f}"
        question = f"its validation loss, from that of {name}"
        limit = f"3 standard deviations of {SEEDS} seeds"
        away = abs(mean - peer.final_loss)
        rows.append(Row(question, away, limit, noise, "away", 1.0, less_is_better=True, note=note))
    details = {
        "full": FULL,
        "part": PART,
        "our_final_losses_by_seed": losses,
        "ours_by_views": views,
        "peers": {
            name: {
                "start_seconds": peer.start_seconds,
                "epochs": peer.epochs,
                "part_seconds": peer.part_seconds,
                "full_seconds": peer.full_seconds,
            }
            for name, peer in peers.items()
        },
    }
    return Answer(rows, details, versions)


if __name__ == "__main__":
    harness.main(run)
