"""How far a run has come: stages, epochs, steps, and how long validation has not got better."""

import dataclasses
import math
from dataclasses import dataclass

from socialtag_jax.config import Stage
from socialtag_jax.json_files import Fields


@dataclass(frozen=True)
class EpochSums:
    """What was done of an epoch.

    Attributes:
      steps: training steps.
      loss: sum over their images.
      images: their number.
    """

    steps: int = 0
    loss: float = 0.0
    images: float = 0.0


@dataclass(frozen=True)
class Position:
    """How far a run has come; saved with every checkpoint.

    Attributes:
      stage: index of the current stage.
      stage_epoch: epochs done in it.
      epoch: epochs done in all.
      step: training steps done in all, those of the current epoch included.
      best_score: highest `checkpoints.score` of the current stage so far.
      stale_epochs: epochs since then.
      current: what was done of the current epoch, which is the one after `epoch`.
    """

    stage: int = 0
    stage_epoch: int = 0
    epoch: int = 0
    step: int = 0
    best_score: float | None = None
    stale_epochs: int = 0
    current: EpochSums = EpochSums()

    @classmethod
    def from_json(cls, fields: Fields) -> "Position":
        """From what `dataclasses.asdict` made of a position.

        Raises:
          UserError: it is none.
        """
        counts = {name: fields.count(name) for name in ("stage", "stage_epoch", "epoch", "step", "stale_epochs")}
        current = fields.fields("current")
        done = EpochSums(current.count("steps"), current.number("loss"), current.number("images"))
        best = fields.content.get("best_score")
        # The score of a metric that is no number is minus infinity.
        if best is not None and best != -math.inf:
            best = fields.number("best_score")
        if done.steps > counts["step"] or counts["stage_epoch"] > counts["epoch"]:
            raise fields.refuse(f"position {dict(fields.content)}: more was done of a part than of the whole")
        return cls(**counts, best_score=best, current=done)

    @property
    def epoch_start(self) -> int:
        """Training steps done before the current epoch."""
        return self.step - self.current.steps

    def within_epoch(self, done: EpochSums) -> "Position":
        """The position in the same epoch when so much of it is done."""
        return dataclasses.replace(self, step=self.epoch_start + done.steps, current=done)

    def after_epoch(self, score: float) -> "Position":
        """The position when the current epoch, of which all steps are done, is validated with that score."""
        better = self.best_score is None or score > self.best_score
        return dataclasses.replace(
            self,
            stage_epoch=self.stage_epoch + 1,
            epoch=self.epoch + 1,
            best_score=score if better else self.best_score,
            stale_epochs=0 if better else self.stale_epochs + 1,
            current=EpochSums(),
        )

    def ended(self, stage: Stage, patience: int) -> bool:
        """Whether the stage has had its epochs, or too many of them without getting better."""
        return self.stage_epoch >= stage.epochs or 0 < patience <= self.stale_epochs

    def next_stage(self) -> "Position":
        """The start of the next stage."""
        return Position(stage=self.stage + 1, epoch=self.epoch, step=self.step)
