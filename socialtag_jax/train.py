"""The training loop: stages of epochs, each followed by validation and a checkpoint."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import jax
import jax.numpy as jnp
import numpy as np
import optax

from socialtag_jax import checkpoints, config, files, flops, parallel, pretrained, run_folder
from socialtag_jax.config import Experiment, Stage
from socialtag_jax.epoch import Epoch, diverged
from socialtag_jax.input_pipeline import BatchShape, batch_count, eval_batches, train_batches
from socialtag_jax.model import Params, TagPredictor, init_params, param_shapes
from socialtag_jax.optimizer import ParamsLike, count, learning_rate, make_optimizer
from socialtag_jax.progress import format_duration
from socialtag_jax.roofline import Roofline, intensity, roof
from socialtag_jax.shards.dataset import Dataset
from socialtag_jax.steps import TrainState, batch_shapes, build_model, eval_step, make_train_step, stage_start


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


@dataclass(frozen=True)
class TrainResult:
    """Where a run ended: its position, and the last epoch's training and validation numbers (empty if none was run)."""

    position: Position
    summary: Mapping[str, float]


def initial_params(
    model: TagPredictor, experiment: Experiment, vocabulary_sha256: str, log: Callable[[str], None]
) -> Params:
    """Fresh parameters, and in their place what `experiment.weights` has: convolutions, and perhaps a head."""
    params = init_params(model, jax.random.key(experiment.seed), experiment.model.input_size)
    if experiment.weights == "random":
        log("weights: random (no pretrained convolutions)")
        return params
    path = pretrained.imagenet_weights(log=log) if experiment.weights == "imagenet" else Path(experiment.weights)
    loaded = pretrained.load_starting_weights(
        path, hidden_units=model.hidden_units, n_tags=model.n_tags, vocabulary_sha256=vocabulary_sha256, log=log
    )
    return {**params, **jax.tree.map(jnp.asarray, loaded)}


def _rate_text(experiment: Experiment, stage: Stage) -> str:
    schedule, highest = experiment.optimizer.schedule, experiment.learning_rate(stage)
    changes = [] if schedule.kind == "constant" else [f"{schedule.kind} to {schedule.final_share * highest:g}"]
    if schedule.warmup_epochs:
        changes.append(f"{schedule.warmup_epochs:g} epochs of warm-up")
    return f"{highest:g}" + (f" ({', '.join(changes)})" if changes else "")


class Trainer:
    """Runs an experiment on a data set, in a run folder.

    Args:
      experiment: what to run.
      dataset: with a train and a validation split.
      workdir: the run folder; a run that it holds is continued.
      devices: where to run.
      log: takes one line of text at a time.
      stream: where progress is shown.
    """

    def __init__(
        self,
        experiment: Experiment,
        dataset: Dataset,
        workdir: Path,
        *,
        devices: parallel.Devices,
        log: Callable[[str], None],
        stream: TextIO,
    ) -> None:
        experiment = config.resolve(experiment, devices.platform)
        self._experiment, self._dataset, self._workdir = experiment, dataset, workdir
        self._devices, self._log, self._stream = devices, log, stream
        self._train_records = dataset.records("train")
        self._validation_records = dataset.records("validation")
        parts = experiment.input.accumulation_steps
        self._train_shape = self._shape(experiment.input.batch_size, "--input.batch-size", parts)
        self._eval_shape = self._shape(experiment.input.eval_batch_size, "--input.eval-batch-size")
        self._model = build_model(experiment, len(dataset.vocabulary))
        self._roof = roof(devices.devices, experiment.model.compute_dtype)
        self._eval_step = devices.compile_eval_step(
            functools.partial(
                eval_step,
                model=self._model,
                positive_weight=experiment.loss.positive_weight,
                suggestion=experiment.suggestion,
            ),
            param_shapes(self._model, experiment.model.input_size),
            self._batch_shapes(self._eval_shape),
        )
        self._steps = batch_count(len(self._train_records), self._train_shape.size, experiment.debug_batches)

    def _shape(self, batch_size: int, flag: str, parts: int = 1) -> BatchShape:
        rows = self._devices.local_rows(batch_size, flag, parts=parts)
        return BatchShape(len(self._devices), rows, self._experiment.model.input_size, self._dataset.max_tags)

    def _batch_shapes(self, shape: BatchShape) -> dict[str, jax.ShapeDtypeStruct]:
        image = jax.ShapeDtypeStruct((shape.input_size, shape.input_size, 3), jnp.uint8)
        return batch_shapes(image, devices=shape.devices, rows=shape.rows, max_tags=shape.max_tags)

    def run(self) -> TrainResult:
        """Trains all stages, from where the run folder's newest checkpoint stands.

        Raises:
          UserError: the folder holds a run with another experiment or data set, or other things; another process is at
            work in it; the loss is no finite number.
        """
        experiment = self._experiment
        device = {"platform": self._devices.platform, "kind": self._devices.kind, "count": len(self._devices)}
        run_folder.check_free(self._workdir)
        with files.exclusive(self._workdir):
            folder = self._workdir / run_folder.CHECKPOINTS
            with checkpoints.RunCheckpoints(folder, experiment.checkpoints, log=self._log) as saved:
                current = run_folder.describe(experiment, self._dataset, device)
                run_folder.record_start(self._workdir, current, has_checkpoint=bool(saved.steps))
                position, state = self._start(saved)
                with run_folder.RunLog(self._workdir, position.step) as run_log:
                    return self._run_stages(position, state, saved, run_log)

    def _run_stages(
        self,
        position: Position,
        state: TrainState,
        saved: checkpoints.RunCheckpoints,
        run_log: run_folder.RunLog,
    ) -> TrainResult:
        experiment = self._experiment
        patience = experiment.checkpoints.patience
        self._announce(position, state.params)
        monitor = experiment.checkpoints.monitor
        summary: dict[str, float] = {}
        while True:
            stage = experiment.stages[position.stage]
            if not position.ended(stage, patience):
                train, work = self._compile_train_step(stage, state)
                while not position.ended(stage, patience):
                    state, train_summary = self._train_epoch(train, work, state, position, run_log)
                    step = position.step + self._steps
                    validation = self._validate(state.scored_params)
                    run_log.write("validation", step, {"epoch": position.epoch + 1, **validation})
                    if not math.isfinite(validation["loss"]):
                        raise diverged(f"the validation loss after epoch {position.epoch + 1}", validation["loss"])
                    position = position.after_epoch(step, checkpoints.score(validation, monitor))
                    meta = self._meta(position)
                    saved.save(step, state.params, state.opt_state, meta, validation, average=state.average)
                    summary = {**train_summary, **{f"validation_{name}": value for name, value in validation.items()}}
                    self._log(self._epoch_line(position, summary))
                if position.stage_epoch < stage.epochs:
                    self._log(f"stage {position.stage + 1}: stopped early, {patience} epochs no better than the best")
            if position.stage + 1 == len(experiment.stages):
                return TrainResult(position, summary)
            position = position.next_stage()
            state = self._devices.replicate(self._stage_start(position, state.step, state.params))

    def _start(self, saved: checkpoints.RunCheckpoints) -> tuple[Position, TrainState]:
        """The state that training starts from: the newest checkpoint's, or a fresh one."""
        shapes = param_shapes(self._model, self._experiment.model.input_size)

        def likes(meta: Mapping[str, Any]) -> tuple[Any, Any, Any]:
            start = functools.partial(self._stage_start, Position(**meta["position"]))
            state = jax.eval_shape(start, jax.ShapeDtypeStruct((), jnp.int32), shapes)
            like = checkpoints.like(state, self._devices.replicated)
            return like.params, like.opt_state, like.average

        restored = saved.restore_newest(likes)
        if restored is None:
            params = initial_params(self._model, self._experiment, self._dataset.vocabulary.sha256, self._log)
            return Position(), self._devices.replicate(self._stage_start(Position(), jnp.zeros((), jnp.int32), params))
        position = Position(**restored.meta["position"])
        self._log(f"continuing after epoch {position.epoch}, step {position.step}")
        step = self._devices.replicate(jnp.int32(position.step))
        return position, TrainState(step, restored.params, restored.optimizer_state, restored.average)

    def _stage_start(self, position: Position, step: jax.Array, params: Params) -> TrainState:
        """The state before the first step of a position's stage."""
        stage = self._experiment.stages[position.stage]
        return stage_start(self._experiment, stage, self._optimizer(stage, params), params, step)

    def _optimizer(self, stage: Stage, params: ParamsLike) -> optax.GradientTransformation:
        return make_optimizer(self._experiment, stage, params, steps_per_epoch=self._steps)

    def _meta(self, position: Position) -> dict[str, Any]:
        vocabulary = self._dataset.vocabulary
        return {
            "position": dataclasses.asdict(position),
            "dataset_fingerprint": self._dataset.fingerprint,
            "tags": list(vocabulary.tags),
            "displays": list(vocabulary.displays),
            "vocabulary_sha256": vocabulary.sha256,
        }

    def _compile_train_step(self, stage: Stage, state: TrainState) -> tuple[parallel.CompiledStep, Roofline]:
        optimizer = self._optimizer(stage, state.params)
        batch = self._batch_shapes(self._train_shape)
        step = make_train_step(self._experiment, stage, self._model, optimizer)
        compiled = self._devices.compile_train_step(step, state, batch)
        # XLA counts a loop's body once: the same step without accumulation has all the operations in sight.
        whole = make_train_step(config.unaccumulated(self._experiment), stage, self._model, optimizer)
        counted = self._devices.count_flops(whole, state, batch)
        one_body = counted / len(self._devices) / self._experiment.input.accumulation_steps
        return compiled, Roofline(counted, intensity(compiled, one_body), self._roof)

    def _train_epoch(
        self,
        train: parallel.CompiledStep,
        work: Roofline,
        state: TrainState,
        position: Position,
        run_log: run_folder.RunLog,
    ) -> tuple[TrainState, dict[str, float]]:
        batches = train_batches(
            self._train_records,
            self._train_shape,
            seed=self._experiment.seed,
            epoch=position.epoch,
            augmentation=self._experiment.augmentation,
            threads=self._experiment.input.threads,
            limit=self._experiment.debug_batches,
        )
        epoch = Epoch(
            self._epoch_label(position),
            number=position.epoch + 1,
            steps_before=position.step,
            images=self._epoch_images(),
            images_after=self._remaining_images(position),
            learning_rate=self._last_learning_rate(position),
            roofline=work,
            stream=self._stream,
            run_log=run_log,
        )
        for batch in epoch.timed(self._devices.prefetch(batches)):
            state, sums = train(state, batch)
            epoch.launched(sums)
        return state, epoch.finish()

    def _validate(self, params: Params) -> dict[str, float]:
        """Mean loss over all validation images, and mean F1 over those that have tags."""
        batches = eval_batches(
            self._validation_records,
            self._eval_shape,
            threads=self._experiment.input.threads,
            limit=self._experiment.debug_batches,
        )
        total = images = f1 = tagged = 0.0
        for batch in self._devices.prefetch(batches):
            outputs = self._eval_step(params, batch)
            loss, scores, weight, tag_ids = jax.device_get(
                (outputs["loss"], outputs["f1"], batch["weight"], batch["tag_ids"])
            )
            has_tags = tag_ids[..., 0] >= 0
            total += float(np.sum(loss * weight, dtype=np.float64))
            images += float(np.sum(weight))
            f1 += float(np.sum(scores[has_tags], dtype=np.float64))
            tagged += float(np.sum(has_tags))
        return {"loss": total / images, "f1": f1 / max(tagged, 1.0)}

    def _last_learning_rate(self, position: Position) -> float:
        """The learning rate of the current epoch's last step."""
        schedule = learning_rate(self._experiment, self._experiment.stages[position.stage], self._steps)
        return np.asarray(schedule((position.stage_epoch + 1) * self._steps - 1)).item()

    def _epoch_images(self) -> int:
        return min(self._steps * self._train_shape.size, len(self._train_records))

    def _validation_images(self) -> int:
        batches = batch_count(len(self._validation_records), self._eval_shape.size, self._experiment.debug_batches)
        return min(batches * self._eval_shape.size, len(self._validation_records))

    def _remaining_images(self, position: Position) -> int:
        """Training images of the epochs after the current one."""
        return (self._total_epochs(position) - position.epoch - 1) * self._epoch_images()

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
        flop_list = flops.layer_flops(self._model.n_tags, self._model.hidden_units, experiment.model.input_size)
        log(f"devices: {len(self._devices)} x {self._devices.kind} ({self._devices.platform})")
        log(
            f"data: {self._dataset.name}, {len(self._train_records):,} training and {len(self._validation_records):,} "
            f"validation images, {self._model.n_tags:,} tags"
        )
        for number, stage in enumerate(experiment.stages, start=1):
            total, trainable = count(params, stage.freeze_layers)
            log(
                f"stage {number}: {stage.epochs} epochs, first {stage.freeze_layers} of 19 layers frozen, "
                f"learning rate {_rate_text(experiment, stage)}, "
                f"{trainable:,} of {total:,} parameters train"
            )
        log(
            f"forward pass: {sum(flop_list) / 1e9:.2f} GFLOPs an image at {experiment.model.input_size} px, "
            f"{jnp.dtype(self._model.compute_dtype).name}"
        )
        if position.stage + 1 == len(experiment.stages) and position.ended(experiment.stages[-1], 0):
            return
        operations = 0.0
        for number, stage in enumerate(experiment.stages[position.stage :]):
            epochs = stage.epochs - (position.stage_epoch if number == 0 else 0)
            per_image = flops.training_flops(flop_list, stage.freeze_layers)
            operations += epochs * (self._epoch_images() * per_image + self._validation_images() * sum(flop_list))
        rate = self._roof.flops
        log(
            f"estimated time: {format_duration(operations / rate)} and compilation, at the devices' peak of "
            f"{rate / 1e12:.2f} TFLOP/s ({self._roof.source})"
        )
