"""What a sweep tries, and how good each try is: pure functions of the epochs' scores."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from socialtag_jax import checkpoints, search_space
from socialtag_jax.config import Experiment
from socialtag_jax.position import Position
from socialtag_jax.search_space import Configuration


@dataclass(frozen=True)
class EpochScores:
    """One head after one epoch: its training loss, and its validation split's loss and F1."""

    training_loss: float
    loss: float
    f1: float


@dataclass
class Trial:
    """A configuration and what became of it.

    Attributes:
      number: from 1, in the order of the search.
      configuration: the searched fields' values.
      experiment: with these values.
      curve: an entry for each epoch that was trained.
    """

    number: int
    configuration: Configuration
    experiment: Experiment
    curve: list[EpochScores] = field(default_factory=list)

    @property
    def outcome(self) -> "Outcome":
        """What `socialtag train` would have kept as the best checkpoint."""
        (stage,) = self.experiment.stages
        limits = self.experiment.checkpoints
        position, best = Position(), Outcome("untrained")
        for epoch, scores in enumerate(self.curve, start=1):
            if not (math.isfinite(scores.training_loss) and math.isfinite(scores.loss)):
                return Outcome("diverged", epoch)
            position = position.after_epoch(checkpoints.score({"loss": scores.loss, "f1": scores.f1}, limits.monitor))
            if position.stale_epochs == 0:
                assert position.best_score is not None
                best = Outcome("trained", epoch, scores.loss, scores.f1, position.best_score)
            if position.ended(stage, limits.patience):
                break
        return best


@dataclass(frozen=True)
class Outcome:
    """How good a trial is.

    Attributes:
      status: "diverged" where `socialtag train` would end with an error, as a loss was no finite number.
      epoch: the best one, from 1; of a diverged trial the one that diverged.
      loss: of the validation split after that epoch.
      f1: of the validation split after that epoch.
      score: higher is better.
    """

    status: Literal["untrained", "trained", "diverged"]
    epoch: int = 0
    loss: float = math.nan
    f1: float = math.nan
    score: float = -math.inf


@dataclass(frozen=True)
class Rung:
    """A part of a sweep: so many of the best heads so far are trained up to so many epochs."""

    heads: int
    epochs: int


def halving_rungs(heads: int, epochs: int, eta: int) -> list[Rung]:
    """Successive halving: only the best 1 / eta of the heads go on, for eta times as many epochs, up to all of them.

    Source: Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", 2016.
    """
    halvings = 0
    while eta ** (halvings + 1) <= min(heads, epochs):
        halvings += 1
    return [
        Rung(max(1, heads // eta**number), round(epochs / eta ** (halvings - number))) for number in range(halvings + 1)
    ]


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Best first; equal ones in the order of the search."""
    return sorted(trials, key=lambda trial: (-trial.outcome.score, trial.number))


def make_trials(experiment: Experiment, configurations: Sequence[Configuration]) -> list[Trial]:
    """Numbered trials, every configuration checked.

    Raises:
      UsageError: a value that its field cannot have.
    """
    return [
        Trial(number, configuration, search_space.configure(experiment, configuration))
        for number, configuration in enumerate(configurations, start=1)
    ]
