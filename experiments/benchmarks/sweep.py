"""How much faster do many tag heads train in one `socialtag sweep` than one after the other by `socialtag train`?

Corel5K (4,500 photos, a tenth of them for validation), only the head trains (512 hidden units, 371 tags), 10 epochs in
batches of 32 with a validation after each. Both train over the same cached features, which lie ready: of photos of
32 px, so that they are quickly made; what is trained from them does not depend on it, as features are 512 numbers at
any size. Every time is that of a whole process, its start and what it writes included. A first run of each, not
counted, leaves in the cache what of its compiled programs can be used again: with other numbers, such as the learning
rate, `train` compiles its step anew.

The sweep is measured whole. The seconds a head of training one after the other are those of one run of
`socialtag train`; that many of them would take as many times as long is computed.

Command:  python -m experiments.benchmarks.sweep [--corel5k data/corel5k.zip]     (4 minutes on 2 cores)
"""

import json
import shutil
from pathlib import Path

from experiments.benchmarks import corel5k_data, harness
from experiments.benchmarks.commands import socialtag
from experiments.benchmarks.harness import Answer, Context, Row
from socialtag_jax import files

FULL = {"train": 4050, "validation": 450}
HEADS, EPOCHS, TURNS = 64, 10, 3
GOAL, GOAL_SECONDS = 10.0, 300.0
SEARCH = ("optimizer.learning-rate=log:1e-4:1e-2", "loss.positive-weight=1,3,10", "model.dropout-rate=0.2:0.6")
ONE_BY_ONE, SWEEP = "socialtag train", "socialtag sweep"


class Runs:
    """Processes of `socialtag` on the photos, each with an output folder of its own.

    Args:
      context: of the question.
    """

    def __init__(self, context: Context) -> None:
        self._folder = context.scratch / "sweep"
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        dataset = corel5k_data.photos(context, "corel5k_full", FULL).dataset
        self._experiment = self._folder / "heads.py"
        files.write_text(
            self._experiment,
            f"""from socialtag_jax.config import Augmentation, Cache, Checkpoints, Experiment, Model, Optimizer, Stage

experiment = Experiment(
    name="heads",
    model=Model(input_size=32),
    augmentation=Augmentation(enabled=False),
    cache=Cache(views=1, folder={str(self._folder / "features")!r}),
    optimizer=Optimizer(learning_rate=1e-3),
    stages=(Stage(epochs={EPOCHS}),),
    checkpoints=Checkpoints(monitor="f1"),
)
""",
        )
        self._dataset, self._count = dataset.folder, 0

    def train(self) -> float:
        """Seconds of one head by `socialtag train`, with numbers that no run before had."""
        # In `train` they are constants of the compiled program, which is therefore another one for each head.
        return self._seconds("train", "--workdir", "--optimizer.learning-rate", f"{1e-3 + 1e-6 * self._count:g}")

    def sweep(self, heads: int) -> float:
        """Seconds of so many heads by `socialtag sweep`."""
        searches = [argument for one in SEARCH for argument in ("--search", one)]
        seconds = self._seconds(
            "sweep", "--output", *searches, "--strategy", "random", "--trials", str(heads), "--no-plot"
        )
        document = json.loads((self._output() / "sweep.json").read_text())
        assert [len(trial["curve"]["validation_f1"]) for trial in document["trials"]] == [EPOCHS] * heads
        return seconds

    def _output(self) -> Path:
        return self._folder / f"run{self._count}"

    def _seconds(self, command: str, flag: str, *arguments: str) -> float:
        self._count += 1
        return socialtag(command, self._experiment, "--dataset", self._dataset, flag, self._output(), *arguments)


def run(context: Context) -> Answer:
    runs = Runs(context)
    # The first one makes the features.
    runs.train()
    runs.sweep(4)
    contenders = {ONE_BY_ONE: runs.train, SWEEP: lambda: runs.sweep(HEADS) / HEADS}
    series = context.interleave(contenders, repeats=TURNS, unit="s a head", less_is_better=True)
    title = f"{HEADS} heads of 512 units and 371 tags, {EPOCHS} epochs over cached features of 4,050 photos"
    series.print(title, SWEEP)
    note = f"one by one computed: {HEADS} times one run's {harness.figure(series.median(ONE_BY_ONE))} s"
    rows = [
        series.row(f"sweep: {title}", SWEEP, ONE_BY_ONE, goal=GOAL, note=note),
        Row("the same, all heads", HEADS * series.median(SWEEP), "limit", GOAL_SECONDS, "s", 1.0, less_is_better=True),
    ]
    return Answer(rows, {"heads": HEADS, "epochs": EPOCHS, "photos": FULL, "search": SEARCH, "series": series})


if __name__ == "__main__":
    harness.main(run)
