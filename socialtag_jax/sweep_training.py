"""Trains the heads of a sweep, a few at once, over features that all share."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import jax
import numpy as np

from socialtag_jax import search_space
from socialtag_jax.config import Experiment
from socialtag_jax.input_pipeline import batch_count, train_order
from socialtag_jax.metrics import Array
from socialtag_jax.model import Params
from socialtag_jax.parallel import Devices
from socialtag_jax.progress import Progress, format_bytes
from socialtag_jax.search_space import NUMBERS, SEED
from socialtag_jax.steps import TrainState
from socialtag_jax.sweep_heads import HeadPrograms
from socialtag_jax.sweep_trials import EpochScores, Rung, Trial, ranked

_CPU_HEADS, _ACCELERATOR_HEADS = 2, 32
"""Heads that a device trains at once. On a CPU more are slower: their states leave its cache."""


@dataclass(frozen=True)
class Features:
    """What all heads train from.

    Attributes:
      train: float32 [records, 512] for each view, over which epochs go in turn.
      train_tags: int32 [records, most tags of an image], padded with -1.
      validation: float32 [records, 512].
      validation_tags: int32 [records, most tags of an image], padded with -1.
    """

    train: Sequence[np.ndarray]
    train_tags: np.ndarray
    validation: np.ndarray
    validation_tags: np.ndarray

    @property
    def nbytes(self) -> int:
        """What a device holds of them: one view, and the validation split."""
        return self.train[0].nbytes + self.train_tags.nbytes + self.validation.nbytes + self.validation_tags.nbytes


class Sweep:
    """Trains the heads of trials, a few at once.

    Args:
      trials: what to train; their experiments differ in searched fields alone.
      features: what all heads train from.
      n_tags: size of the vocabulary.
      devices: among which the heads are divided.
      head_of: the head that all of a hidden size start from; None for drawn ones.
      heads_at_once: that a device trains; None for what suits it.
      log: takes one line of text at a time.
      stream: where progress is shown.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        features: Features,
        n_tags: int,
        *,
        devices: Devices,
        head_of: Callable[[int], Params | None],
        heads_at_once: int | None,
        log: Callable[[str], None],
        stream: TextIO,
    ) -> None:
        self._trials, self._features, self._n_tags, self._devices = trials, features, n_tags, devices
        self._head_of, self._log, self._stream = head_of, log, stream
        suited = _CPU_HEADS if devices.platform == "cpu" else _ACCELERATOR_HEADS
        self._most = (heads_at_once or suited) * len(devices)
        searched = {name for trial in trials for name in trial.configuration}
        self._numbers = sorted(searched & {*NUMBERS, SEED})
        self._programs: dict[tuple[Any, ...], HeadPrograms] = {}
        self._states: dict[int, TrainState] = {}
        # Heads of one seed share their orders; those of many seeds would fill the memory.
        self._orders = functools.lru_cache(maxsize=64)(self._shuffled)
        self._view: tuple[int, Array] | None = None
        self._train_tags = devices.replicate(features.train_tags)
        self._kept = 0

    def run(self, rungs: Sequence[Rung]) -> None:
        """Fills the trials' curves."""
        total = sum(rung.heads * (rung.epochs - done) for rung, done in _with_epochs_done(rungs))
        progress, trained = Progress("sweep", total, "head epochs", self._stream), 0
        alive = list(self._trials)
        for number, (rung, done) in enumerate(_with_epochs_done(rungs)):
            # Of those that came this far: a head that was left out, or has diverged, cannot go on.
            alive = [trial for trial in ranked(alive) if trial.outcome.status != "diverged"][: rung.heads]
            if len(rungs) > 1:
                progress.clear()
                self._log(f"rung {number + 1} of {len(rungs)}: {rung.heads} heads, up to epoch {rung.epochs}")
            later = self._kept = rungs[number + 1].heads if number + 1 < len(rungs) else 0
            finished: list[Trial] = []
            for key, chunk in self._chunks(alive):
                for _ in self._train(key, chunk, done, rung.epochs):
                    trained += len(chunk)
                    best = max(trial.outcome.score for trial in self._trials)
                    progress.update(trained, f"best {self._score_text(best)}")
                finished += chunk
                # The best of all are among the best of those so far: no other state will be needed.
                for trial in ranked(finished)[later:]:
                    self._states.pop(trial.number, None)
        progress.finish(trained)

    def _score_text(self, score: float) -> str:
        monitor = self._trials[0].experiment.checkpoints.monitor
        return f"validation {monitor} {score if monitor == 'f1' else -score:.4f}"

    def _chunks(self, trials: Sequence[Trial]) -> Iterator[tuple[tuple[Any, ...], list[Trial]]]:
        """(program, trials that it trains at once)."""
        groups: dict[tuple[Any, ...], list[Trial]] = {}
        for trial in trials:
            groups.setdefault(self._key(trial), []).append(trial)
        for key, group in groups.items():
            count = -(-len(group) // self._most)
            # Chunks of nearly equal size, so that one compiled program does for all of them.
            size = -(-len(group) // count)
            for first in range(0, len(group), size):
                yield key, group[first : first + size]

    def _key(self, trial: Trial) -> tuple[Any, ...]:
        """What decides a compiled program: all values but the numbers in it."""
        return tuple(
            (name, value)
            for name, value in sorted(trial.configuration.items())
            if name not in self._numbers or value is None
        )

    def _train(self, key: tuple[Any, ...], trials: Sequence[Trial], done: int, epochs: int) -> Iterator[None]:
        """Trains some heads at once, a step of the iterator an epoch."""
        devices, experiment = self._devices, trials[0].experiment
        # Every device has as many heads: the last trial fills the room that is left.
        padded = [*trials, *[trials[-1]] * (-len(trials) % len(devices))]
        programs = self._program(key, experiment)
        numbers = devices.divide({name: _column(name, padded) for name in programs.fields})
        if done:
            states = [self._states[trial.number] for trial in padded]
            state = devices.divide(jax.tree.map(lambda *leaves: np.stack(leaves), *states))
        else:
            state = programs.start(numbers)
        validation = self._validation(experiment)
        for epoch in range(done, epochs):
            orders = [self._order(trial.experiment, epoch) for trial in padded]
            images = int(np.count_nonzero(orders[0] >= 0))
            inputs = (
                devices.replicate(np.array(epoch * len(orders[0]), np.int32)),
                devices.divide(np.stack(orders)) if SEED in programs.fields else devices.replicate(orders[0]),
                self._epoch_view(epoch),
                self._train_tags,
            )
            if (needed := programs.compile(state, numbers, *inputs)) is not None:
                self._announce_memory(needed, state, len(padded))
            state, losses = programs.train(state, numbers, *inputs)
            scores = jax.device_get(programs.validate(state, numbers, *validation))
            self._append(trials, np.asarray(losses, np.float64) / images, scores)
            yield
        if self._kept:
            fetched = jax.device_get(state)
            for index, trial in enumerate(trials):
                self._states[trial.number] = jax.tree.map(lambda leaf, at=index: np.array(leaf[at]), fetched)

    def _append(self, trials: Sequence[Trial], training: np.ndarray, scores: Mapping[str, np.ndarray]) -> None:
        tag_ids = self._features.validation_tags
        for index, trial in enumerate(trials):
            records = len(tag_ids[: self._validation_limit(trial.experiment)])
            loss, f1 = (scores[name][index].reshape(-1)[:records].astype(np.float64) for name in ("loss", "f1"))
            tagged = tag_ids[:records, 0] >= 0
            mean_f1 = float(np.sum(f1[tagged])) / max(int(np.sum(tagged)), 1)
            trial.curve.append(EpochScores(float(training[index]), float(np.mean(loss)), mean_f1))

    def _program(self, key: tuple[Any, ...], experiment: Experiment) -> HeadPrograms:
        if key not in self._programs:
            structure = {name for name, _ in key}
            # One number at least, for the heads to have something to differ in.
            fields = {"loss.positive_weight", *self._numbers} - structure
            self._programs[key] = HeadPrograms(
                experiment,
                sorted(fields),
                n_tags=self._n_tags,
                steps=self._steps(experiment),
                head=self._head_of(experiment.model.hidden_units),
                devices=self._devices,
            )
        return self._programs[key]

    def _steps(self, experiment: Experiment) -> int:
        return batch_count(len(self._features.train_tags), experiment.input.batch_size, experiment.debug_batches)

    def _order(self, experiment: Experiment, epoch: int) -> np.ndarray:
        """int32 [steps, batch]: an epoch's records, -1 where the last batch has none."""
        return self._orders(experiment.seed, epoch, self._steps(experiment), experiment.input.batch_size)

    def _shuffled(self, seed: int, epoch: int, steps: int, batch: int) -> np.ndarray:
        records = len(self._features.train_tags)
        shuffled = train_order(records, seed, epoch)
        order = np.full(steps * batch, -1, np.int32)
        order[: min(records, len(order))] = shuffled[: len(order)]
        return order.reshape(steps, batch)

    def _epoch_view(self, epoch: int) -> Array:
        number = epoch % len(self._features.train)
        if self._view is None or self._view[0] != number:
            self._view = None
            self._view = number, self._devices.replicate(self._features.train[number])
        _, features = self._view
        return features

    def _validation_limit(self, experiment: Experiment) -> int | None:
        batches = experiment.debug_batches
        return None if batches is None else batches * experiment.input.eval_batch_size

    def _validation(self, experiment: Experiment) -> tuple[Array, Array]:
        """Features and tags in batches, [batches, rows, ...]."""
        limit, rows = self._validation_limit(experiment), experiment.input.eval_batch_size
        features, tag_ids = self._features.validation[:limit], self._features.validation_tags[:limit]
        batches = batch_count(len(features), rows)
        missing = batches * rows - len(features)
        features = np.pad(features, ((0, missing), (0, 0))).reshape(batches, rows, -1)
        tag_ids = np.pad(tag_ids, ((0, missing), (0, 0)), constant_values=-1).reshape(batches, rows, -1)
        return self._devices.replicate((features, tag_ids))

    def _announce_memory(self, needed: int, state: TrainState, heads: int) -> None:
        parts = [
            f"{format_bytes(needed)} for {heads} heads at once on {len(self._devices)} device(s)",
            f"{format_bytes(self._features.nbytes)} for features",
        ]
        if self._kept:
            one = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) // heads
            parts.append(f"{format_bytes(self._kept * one)} for heads that are kept for the next rung")
        self._log(f"memory: {', '.join(parts)}")


def _with_epochs_done(rungs: Sequence[Rung]) -> list[tuple[Rung, int]]:
    return list(zip(rungs, [0, *(rung.epochs for rung in rungs)], strict=False))


def _column(name: str, trials: Sequence[Trial]) -> np.ndarray:
    """One number of each trial, as its experiment has it: [trials], uint32 for the seed, else float32."""
    values = [search_space.value_of(trial.experiment, name) for trial in trials]
    return np.array(values, np.uint32 if name == SEED else np.float32)
