"""How far a run has come: stages, epochs, steps, and how long validation has not got better."""

import dataclasses
from dataclasses import dataclass

from socialtag_jax.config import Stage


@dataclass(frozen=True)
class Position:
    """How far a run has come; saved with every checkpoint.

    Attributes:
      stage: index of the current stage.
      stage_epoch: epochs done in it.
      epoch: epochs done in all.
      step: training steps done in all.
      best_score: highest `checkpoints.score` of the current stage so far.
      stale_epochs: epochs since then.
    """

    stage: int = 0
    stage_epoch: int = 0
    epoch: int = 0
    step: int = 0
    best_score: float | None = None
    stale_epochs: int = 0

    def after_epoch(self, step: int, score: float) -> "Position":
        """The position one epoch on, given the validation split's score."""
        better = self.best_score is None or score > self.best_score
        return dataclasses.replace(
            self,
            stage_epoch=self.stage_epoch + 1,
            epoch=self.epoch + 1,
            step=step,
            best_score=score if better else self.best_score,
            stale_epochs=0 if better else self.stale_epochs + 1,
        )

    def ended(self, stage: Stage, patience: int) -> bool:
        """Whether the stage has had its epochs, or too many of them without getting better."""
        return self.stage_epoch >= stage.epochs or 0 < patience <= self.stale_epochs

    def next_stage(self) -> "Position":
        """The start of the next stage."""
        return Position(stage=self.stage + 1, epoch=self.epoch, step=self.step)
