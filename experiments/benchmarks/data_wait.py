"""Which share of the time does training on a CPU wait for data?

`socialtag train` in processes of its own, at batches of 32, and what it writes to `metrics.jsonl`, as a mean over its
epochs: fine tuning (16 frozen layers) from Corel5K's photos at 224 px, and transfer learning from cached features of
4,050 photos, where a step takes 2 ms. The features are of photos of 32 px, so that they are quickly made.

Command:  python -m experiments.benchmarks.data_wait [--corel5k data/corel5k.zip]     (3 minutes on 2 cores)
"""

import shutil
import statistics
from typing import Any

from experiments.benchmarks import corel5k_data, harness
from experiments.benchmarks.commands import metrics, socialtag
from experiments.benchmarks.harness import Answer, Context, Row
from socialtag_jax import files

FULL = {"train": 4050, "validation": 450}
GOAL_PERCENT = 2.0
RUNS = {
    "fine tuning from photos, 224 px": """from socialtag_jax.config import Experiment, Stage

experiment = Experiment(name="photos", stages=(Stage(epochs=2, freeze_layers=16),), debug_batches=4)
""",
    "transfer learning from cached features": """
from socialtag_jax.config import Augmentation, Cache, Experiment, Model, Stage

experiment = Experiment(
    name="features",
    model=Model(input_size=32),
    augmentation=Augmentation(enabled=False),
    cache=Cache(views=1),
    stages=(Stage(epochs=10),),
)
""",
}


def epochs(context: Context, name: str, number: int) -> list[dict[str, Any]]:
    """What `socialtag train` writes of each epoch of the run of that name."""
    folder = context.scratch / "data_wait" / str(number)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    experiment = folder / "experiment.py"
    files.write_text(experiment, RUNS[name])
    dataset = corel5k_data.photos(context, "corel5k_full", FULL).dataset.folder
    arguments = ["--dataset", dataset, "--workdir", folder / "run", "--weights", corel5k_data.initial_weights(context)]
    if "features" in name:
        arguments += ["--cache.folder", folder / "features"]
    socialtag("train", experiment, *arguments)
    return metrics(folder / "run", "epoch")


def run(context: Context) -> Answer:
    found = {name: epochs(context, name, number) for number, name in enumerate(RUNS)}
    rows = []
    for name, its in found.items():
        percent = 100 * statistics.mean(epoch["data_wait_share"] for epoch in its)
        rate = statistics.median(epoch["images_per_second"] for epoch in its)
        question, note = f"waiting for data: {name}", f"at {harness.figure(rate)} images/s"
        rows.append(Row(question, percent, "limit", GOAL_PERCENT, "%", 1.0, less_is_better=True, note=note))
    return Answer(rows, {"epochs": found})


if __name__ == "__main__":
    harness.main(run)
