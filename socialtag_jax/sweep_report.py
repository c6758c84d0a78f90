"""What a sweep leaves behind: a table, `sweep.json`, the winner as an experiment file, and a plot."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from socialtag_jax import experiment_files, files, sweep_plot
from socialtag_jax.config import Experiment
from socialtag_jax.errors import UsageError
from socialtag_jax.search_space import Space, configure, shown
from socialtag_jax.shards.dataset import Dataset
from socialtag_jax.sweep_trials import Outcome, Rung, Trial, ranked

SWEEP, BEST, PLOT = "sweep.json", "best.py", "sweep.png"
FORMAT = 1


@dataclass(frozen=True)
class SweepResult:
    """A sweep and what came of it.

    Attributes:
      experiment: that was searched around, its compute dtype not resolved.
      dataset: whose splits were used.
      space: what was searched.
      strategy: how.
      trials: in the order of the search.
      rungs: how many heads were trained up to which epoch.
      seconds: that training took.
      interrupted: from the keyboard.
    """

    experiment: Experiment
    dataset: Dataset
    space: Space
    strategy: str
    trials: Sequence[Trial]
    rungs: Sequence[Rung]
    seconds: float
    interrupted: bool

    @property
    def best(self) -> Trial | None:
        """The best trial; None where none trained an epoch without diverging."""
        first = ranked(self.trials)[0]
        return first if first.outcome.status == "trained" else None


def require_matplotlib() -> None:
    """Refuses to plot without matplotlib.

    Raises:
      UsageError: it is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        hint = "pip install 'socialtag-jax[report]', or go without a plot: --no-plot"
        raise UsageError("the plot needs matplotlib, which is not installed", where="socialtag sweep", hint=hint)


def write(result: SweepResult, output: Path, *, plot: bool) -> None:
    """Writes all files to the folder `output`, each whole or not at all; the winner only where there is one."""
    files.write_text(output / SWEEP, json.dumps(as_json(result), ensure_ascii=False, indent=1) + "\n")
    if result.best is None:
        return
    files.write_text(output / BEST, best_experiment(result, result.best))
    if plot:
        with files.atomic_path(output / PLOT) as temporary:
            sweep_plot.draw(result.trials, result.space, result.experiment.checkpoints.monitor, temporary)


def as_json(result: SweepResult) -> dict[str, Any]:
    """The whole sweep as one JSON document; trials are ranked, and what is no finite number is null."""
    experiment = result.experiment
    return {
        "format": FORMAT,
        "experiment": dataclasses.asdict(experiment),
        "dataset": {"name": result.dataset.name, "fingerprint": result.dataset.fingerprint},
        "versions": {name: importlib.metadata.version(name) for name in ("socialtag-jax", "jax", "numpy")},
        "space": {shown(field): dataclasses.asdict(domain) for field, domain in result.space.items()},
        "strategy": result.strategy,
        "rungs": [dataclasses.asdict(rung) for rung in result.rungs],
        "monitor": f"validation {experiment.checkpoints.monitor}",
        "seconds": round(result.seconds, 3),
        "interrupted": result.interrupted,
        "trials": [_trial_json(rank, trial) for rank, trial in enumerate(ranked(result.trials), start=1)],
    }


def _trial_json(rank: int, trial: Trial) -> dict[str, Any]:
    outcome = trial.outcome
    return {
        "rank": rank,
        "number": trial.number,
        "configuration": {shown(field): value for field, value in trial.configuration.items()},
        "status": outcome.status,
        "best_epoch": outcome.epoch,
        "validation_loss": _finite(outcome.loss),
        "validation_f1": _finite(outcome.f1),
        "curve": {
            "training_loss": [_finite(scores.training_loss) for scores in trial.curve],
            "validation_loss": [_finite(scores.loss) for scores in trial.curve],
            "validation_f1": [_finite(scores.f1) for scores in trial.curve],
        },
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def table(result: SweepResult, top: int) -> str:
    """The best trials, best first, in columns."""
    fields = list(result.space)
    rows = [["rank", "F1", "loss", "epoch", "of", *map(shown, fields)]]
    for rank, trial in enumerate(ranked(result.trials)[:top], start=1):
        values = [_text(trial.configuration[field]) for field in fields]
        rows.append([str(rank), *_outcome_columns(trial.outcome), str(len(trial.curve)), *values])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    left = len(result.trials) - top
    return "\n".join([*lines, f"and {left:,} more in {SWEEP}"] if left > 0 else lines)


def _outcome_columns(outcome: Outcome) -> list[str]:
    if outcome.status == "trained":
        return [f"{outcome.f1:.4f}", f"{outcome.loss:.4f}", str(outcome.epoch)]
    return ["-", outcome.status, str(outcome.epoch)]


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def best_experiment(result: SweepResult, best: Trial) -> str:
    """The winner as the text of an experiment file."""
    outcome, searched, epochs = best.outcome, result.experiment, best.experiment.stages[0].epochs
    values = ", ".join(f"{shown(field)} {_text(value)}" for field, value in best.configuration.items())
    monitor = {"f1": "F1", "loss": "loss"}[searched.checkpoints.monitor]
    docstring = f"""The best of {len(result.trials)} heads of a sweep around {searched.name!r}, by validation {monitor}.

Found:      {values}
Searched:   {result.strategy} over {", ".join(map(shown, result.space))}; on {result.dataset.name}
Validation: F1 {outcome.f1:.4f}, loss {outcome.loss:.4f} after epoch {outcome.epoch} of {epochs}
Command:    socialtag train {BEST} --dataset DATASET --workdir RUN
"""
    # As the experiment was given: what the machine resolved is for each machine to resolve.
    found = configure(searched, best.configuration)
    return experiment_files.to_text(dataclasses.replace(found, name=f"{searched.name}_best"), docstring)
