"""The training loop: stages of epochs, each followed by validation and a checkpoint."""

import dataclasses
import functools
import math
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

import jax
import numpy as np

from socialtag_jax import announcement, checkpoints, feature_data, parallel, run_folder
from socialtag_jax.bad_records import BAD_RECORDS, BadRecords
from socialtag_jax.config import Experiment, Stage
from socialtag_jax.dispatch import one_ahead
from socialtag_jax.divergence import DivergedError
from socialtag_jax.epoch import Epoch
from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.feature_data import FeatureData
from socialtag_jax.input_pipeline import train_order
from socialtag_jax.model import Params
from socialtag_jax.optimizer import learning_rate
from socialtag_jax.position import EpochSums, Position
from socialtag_jax.roofline import Roof, roof
from socialtag_jax.run_start import RunStart, resolved
from socialtag_jax.shards.dataset import Dataset
from socialtag_jax.stage_steps import StageCompiler, StageSteps
from socialtag_jax.steps import TrainState, all_finite, build_model
from socialtag_jax.stopping import Stopped, StopRequest
from socialtag_jax.storage import Location
from socialtag_jax.training_data import ImageData, TrainingData


@dataclass(frozen=True)
class TrainResult:
    """Where a run ended: its position, and the last epoch's training and validation numbers (empty if none was run)."""

    position: Position
    summary: Mapping[str, float]


@dataclass
class RunFiles:
    """What a run writes to, and when it last saved, in seconds."""

    checkpoints: checkpoints.RunCheckpoints
    log: run_folder.RunLog
    saved_at: float


class Trainer:
    """Runs an experiment on a data set, in a run folder.

    Args:
      experiment: what to run.
      dataset: with a train and a validation split.
      workdir: the run folder; a run that it holds is continued.
      devices: where to run; of several processes, process 0 alone reads and writes the run folder.
      log: takes one line of text at a time.
      stream: where progress is shown.
      stop: looked at after every step; None where nobody asks.
      clock: seconds, for saving every so many minutes.

    Raises:
      UsageError: the batches do not divide among the devices; several processes are to do what one alone can.
    """

    def __init__(
        self,
        experiment: Experiment,
        dataset: Dataset,
        workdir: Location,
        *,
        devices: parallel.Devices,
        log: Callable[[str], None],
        stream: TextIO,
        stop: StopRequest | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        experiment = resolved(experiment, workdir, devices, log)
        if devices.processes > 1 and experiment.input.max_bad_records:
            raise UsageError(
                f"{experiment.input.max_bad_records}: one process counts them, and here are {devices.processes}",
                where="--input.max-bad-records",
                hint="restore the shards from a copy",
            )
        self._experiment, self._dataset, self._workdir = experiment, dataset, workdir
        self._devices, self._log, self._stream = devices, log, stream
        self._stop, self._clock, self._agreed = stop or StopRequest(), clock, parallel.Agreement(devices)
        self._model = build_model(experiment, len(dataset.vocabulary))
        self._size = announcement.EpochSize.of(experiment, dataset)
        self._begin = RunStart(experiment, dataset, self._model, devices, steps_per_epoch=self._size.steps, log=log)
        self._bad = BadRecords(experiment.input.max_bad_records, workdir / BAD_RECORDS, log=log)
        self._images = ImageData(experiment, dataset, devices, self._bad.of)

    def run(self) -> TrainResult:
        """Trains all stages, from where the run folder's newest checkpoint stands.

        Raises:
          UserError: the folder holds a run with another experiment or data set, or other things; another process is at
            work in it; the loss is no finite number; more records are damaged than may be skipped; the processes that
            train together do not agree on what to do.
          Stopped: so it was asked; the step that it was at is finished and saved.
        """
        experiment = self._experiment
        device = {"platform": self._devices.platform, "kind": self._devices.kind, "count": len(self._devices)}
        current = run_folder.describe(experiment, self._dataset, device)
        self._devices.check_same({**run_folder.facts(current), **dataclasses.asdict(self._size)})
        if not self._devices.is_main:
            position, state = self._begin.found(checkpoints.NoCheckpoints())
            nothing = RunFiles(checkpoints.NoCheckpoints(), run_folder.NoRunLog(), self._clock())
            return self._run_stages(position, state, nothing)
        run_folder.check_free(self._workdir)
        with run_folder.held(self._workdir, self._log) as check:
            folder = self._workdir / run_folder.CHECKPOINTS
            with checkpoints.RunCheckpoints(folder, experiment.checkpoints, log=self._log) as saved:
                run_folder.record_start(self._workdir, current, has_checkpoint=bool(saved.steps))
                self._bad.start(continued=bool(saved.steps))
                position, state = self._begin.found(saved)
                with run_folder.RunLog(self._workdir, position, check) as run_log:
                    result = self._run_stages(position, state, RunFiles(saved, run_log, self._clock()))
                    self._bad.report()
                    return result

    def _run_stages(
        self,
        position: Position,
        state: TrainState,
        run: RunFiles,
    ) -> TrainResult:
        experiment = self._experiment
        patience = experiment.checkpoints.patience
        self._announce(position, state.params)
        monitor = experiment.checkpoints.monitor
        summary: dict[str, float] = {}
        while True:
            stage = experiment.stages[position.stage]
            if not position.ended(stage, patience):
                data = self._training_data(position, state.params)
                steps = self._compile_steps(stage, state, data)
                while not position.ended(stage, patience):
                    state, position, train_summary = self._train_epoch(steps, data, state, position, run)
                    try:
                        validation = self._validate(steps.evaluate, data, state.scored_params)
                    except Stopped:
                        self._save(run, position, state)
                        raise
                    run.log.write("validation", position.step, {"epoch": position.epoch + 1, **validation})
                    if not math.isfinite(validation["loss"]):
                        raise DivergedError(f"the validation loss after epoch {position.epoch + 1}", validation["loss"])
                    position = position.after_epoch(checkpoints.score(validation, monitor))
                    self._save(run, position, state, validation)
                    summary = {**train_summary, **{f"validation_{name}": value for name, value in validation.items()}}
                    self._log(self._epoch_line(position, summary))
                if position.stage_epoch < stage.epochs:
                    self._log(f"stage {position.stage + 1}: stopped early, {patience} epochs no better than the best")
            if position.stage + 1 == len(experiment.stages):
                return TrainResult(position, summary)
            position = position.next_stage()
            state = self._devices.replicate(self._begin.stage(position, state.step, state.params))

    def _meta(self, position: Position) -> dict[str, Any]:
        vocabulary = self._dataset.vocabulary
        return {
            "position": dataclasses.asdict(position),
            "dataset_fingerprint": self._dataset.fingerprint,
            "tags": list(vocabulary.tags),
            "displays": list(vocabulary.displays),
            "vocabulary_sha256": vocabulary.sha256,
        }

    def _training_data(self, position: Position, params: Params) -> TrainingData:
        """Where the batches of a position's stage come from."""
        stage = self._experiment.stages[position.stage]
        if not feature_data.is_cached(self._experiment, stage):
            return self._images
        return FeatureData(
            self._experiment,
            stage,
            self._dataset,
            self._model,
            self._devices,
            params,
            first_epoch=position.epoch - position.stage_epoch,
            stop=self._stop,
            stream=self._stream,
            damaged_of=self._bad.of,
        )

    @functools.cached_property
    def _roof(self) -> Roof:
        devices = self._devices
        return roof(devices.local, self._experiment.model.compute_dtype, processes=devices.processes)

    def _compile_steps(self, stage: Stage, state: TrainState, data: TrainingData) -> StageSteps:
        optimizer = self._begin.optimizer(stage, state.params)
        compiler = StageCompiler(
            self._experiment, stage, self._model, optimizer, self._devices, state, data.first_layer
        )
        return compiler.compile(data.train_shapes, data.eval_shapes, roof=self._roof, log=self._log)

    def _train_epoch(
        self,
        steps: StageSteps,
        data: TrainingData,
        state: TrainState,
        position: Position,
        run: RunFiles,
    ) -> tuple[TrainState, Position, dict[str, float]]:
        """What is left of an epoch: the state and the position after it, and the epoch's numbers."""
        batches = data.train(position.epoch, position.stage_epoch, position.current.steps)
        epoch = Epoch(
            self._epoch_label(position),
            position=position,
            images=self._size.images,
            images_after=self._remaining_images(position),
            learning_rate=self._last_learning_rate(position),
            roofline=steps.roofline,
            stream=self._stream,
            run_log=run.log,
        )
        minutes, saved = self._experiment.checkpoints.every_minutes, False
        try:
            for batch in epoch.timed(self._devices.prefetch(batches)):
                state, sums = steps.train(state, batch)
                epoch.launched(sums)
                due = minutes > 0 and self._clock() - run.saved_at >= 60 * minutes
                due, stopped = self._agreed(due, self._stop.signal is not None)
                # Several processes agree a step late: that it was due is said once more, after the save.
                saved = (due and not (saved and self._devices.processes > 1)) or stopped
                if saved:
                    done = epoch.settle()
                    self._require_finite(state, position, done)
                    self._save(run, position.within_epoch(done), state)
                if stopped:
                    raise Stopped(self._stop.signal or signal.SIGTERM)
            summary = epoch.finish()
        except DivergedError as error:
            if not self._devices.is_main:
                raise
            order = train_order(len(self._dataset.split("train")), self._experiment.seed, position.epoch)
            path = self._workdir / run_folder.DIVERGED
            raise error.with_records(path, self._dataset, order, self._experiment.input.batch_size) from error
        return state, position.within_epoch(epoch.done), summary

    def _require_finite(self, state: TrainState, position: Position, done: EpochSums) -> None:
        """A step's loss is that before its update: the next one would find what it did, but after it was saved."""
        if not jax.device_get(all_finite((state.params, state.opt_state, state.average))):
            step = position.epoch_start + done.steps
            raise DivergedError(f"a parameter after step {step}, epoch {position.epoch + 1},", math.nan, done.steps - 1)

    def _save(
        self, run: RunFiles, position: Position, state: TrainState, validation: Mapping[str, float] | None = None
    ) -> None:
        """Saves the state; within an epoch, where there are no validation metrics yet, too."""
        run.log.publish()
        meta = self._meta(position)
        run.checkpoints.save(position.step, state.params, state.opt_state, meta, validation, average=state.average)
        run.saved_at = self._clock()

    def _validate(self, evaluate: parallel.CompiledStep, data: TrainingData, params: Params) -> dict[str, float]:
        """Mean loss over all validation images, and mean F1 over those that have tags."""
        total = images = f1 = tagged = 0.0

        def launch(batch: Any) -> Callable[[], Any]:
            outputs = evaluate(params, batch)
            every = self._devices.gather((outputs["loss"], outputs["f1"], batch["weight"], batch["tag_ids"]))
            return functools.partial(jax.device_get, every)

        for _, (loss, scores, weight, tag_ids) in one_ahead(self._devices.prefetch(data.validation()), launch):
            if self._agreed(False, self._stop.signal is not None)[1]:
                raise Stopped(self._stop.signal or signal.SIGTERM)
            has_tags = tag_ids[..., 0] >= 0
            total += float(np.sum(loss * weight, dtype=np.float64))
            images += float(np.sum(weight))
            f1 += float(np.sum(scores[has_tags], dtype=np.float64))
            tagged += float(np.sum(has_tags))
        if not images:
            raise UserError("no record of the validation split is whole: nothing to score", where=self._dataset.folder)
        return {"loss": total / images, "f1": f1 / max(tagged, 1.0)}

    def _last_learning_rate(self, position: Position) -> float:
        """The learning rate of the current epoch's last step."""
        steps = self._size.steps
        schedule = learning_rate(self._experiment, self._experiment.stages[position.stage], steps)
        return np.asarray(schedule((position.stage_epoch + 1) * steps - 1)).item()

    def _remaining_images(self, position: Position) -> int:
        """Training images of the epochs after the current one."""
        return (self._total_epochs(position) - position.epoch - 1) * self._size.images

    def _total_epochs(self, position: Position) -> int:
        """Epochs of the run, if no further stage stops early."""
        later = sum(stage.epochs for stage in self._experiment.stages[position.stage :])
        return position.epoch - position.stage_epoch + later

    def _epoch_label(self, position: Position) -> str:
        stages = len(self._experiment.stages)
        stage = f" (stage {position.stage + 1}/{stages})" if stages > 1 else ""
        return f"epoch {position.epoch + 1}/{self._total_epochs(position)}{stage}"

    def _epoch_line(self, position: Position, summary: Mapping[str, float]) -> str:
        return (
            f"epoch {position.epoch}: loss {summary['loss']:.4f}, validation loss {summary['validation_loss']:.4f}, "
            f"validation F1 {summary['validation_f1']:.3f}"
        )

    def _announce(self, position: Position, params: Params) -> None:
        experiment, log = self._experiment, self._log
        announcement.announce(experiment, self._dataset, self._model, params, self._devices, log)
        if position.stage + 1 == len(experiment.stages) and position.ended(experiment.stages[-1], 0):
            return
        # The features of a later stage whose frozen layers still train are others than those that are looked for here:
        # none of them are there yet, and none are found.
        data, start = {}, position
        for index in range(position.stage, len(experiment.stages)):
            data[index] = self._training_data(start, params)
            end = start.epoch - start.stage_epoch + experiment.stages[index].epochs
            start = Position(stage=index + 1, epoch=end)
        done = {position.stage: position.stage_epoch}
        views = {
            index: one.needed_views(done.get(index, 0)) for index, one in data.items() if isinstance(one, FeatureData)
        }
        if views:
            every = [view for one in views.values() for view in one]
            feature_data.check_disk(every, feature_data.cache_folder(experiment), log)
        uncached = {index: sum(len(rows) for view in one for rows in view.missing()) for index, one in views.items()}
        operations = announcement.run_flops(experiment, self._size, self._model.n_tags, position, uncached)
        announcement.announce_time(operations, self._roof, log)
