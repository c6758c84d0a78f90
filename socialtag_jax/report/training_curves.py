"""A run's loss and F1 from epoch to epoch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from socialtag_jax import run_folder
from socialtag_jax.errors import UserError
from socialtag_jax.storage import Location


@dataclass(frozen=True)
class TrainingCurves:
    """Of a run; lists have an item an epoch, counted over all stages, NaN where nothing was written.

    Attributes:
      training_loss: mean over the epoch.
      validation_loss: after the epoch.
      validation_f1: mean over images, after the epoch.
    """

    training_loss: Sequence[float]
    validation_loss: Sequence[float]
    validation_f1: Sequence[float]

    def __len__(self) -> int:
        return len(self.training_loss)

    @property
    def best(self) -> tuple[int, float]:
        """The epoch with the highest validation F1, from 1, and that F1; (0, NaN) where there was no validation."""
        known = [(f1, -epoch) for epoch, f1 in enumerate(self.validation_f1, start=1) if not math.isnan(f1)]
        f1, epoch = max(known, default=(math.nan, 0))
        return -epoch, f1

    @property
    def validated(self) -> bool:
        """Whether the F1 of any epoch is known: a run may have been stopped before."""
        return self.best[0] > 0


def training_curves(lines: Sequence[Mapping[str, Any]]) -> TrainingCurves:
    """The curves in the lines of a run's `metrics.jsonl`.

    Raises:
      KeyError: a line lacks what `RunLog` writes.
      TypeError: one has something else than a number.
      ValueError: as before.
    """
    training = {int(line["step"]): _number(line["loss"]) for line in lines if line["kind"] == "epoch"}
    validation = {int(line["step"]): line for line in lines if line["kind"] == "validation"}
    # An epoch ends where it is validated; its own line may lack where a run was stopped after its last step.
    steps = sorted(set(training) | set(validation))
    columns = [[training.get(step, math.nan) for step in steps]]
    columns += [[_number(validation.get(step, {}).get(name)) for step in steps] for name in ("loss", "f1")]
    return TrainingCurves(*columns)


def _number(value: Any) -> float:
    """What is no finite number was written as null."""
    return math.nan if value is None else float(value)


def read(run: Location) -> TrainingCurves:
    """The curves of a run folder; empty where it has no metrics.

    Raises:
      UserError: `metrics.jsonl` is damaged.
    """
    try:
        return training_curves(run_folder.read_metrics(run))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"a line is not what a run writes: {error!r}",
            where=run / run_folder.METRICS,
            hint="restore the file from a copy, or delete it to go without the curves",
        ) from error
