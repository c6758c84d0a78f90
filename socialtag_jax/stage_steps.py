"""A stage's steps, compiled, measured against the devices' memory and their peak, before the first one runs."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import optax

from socialtag_jax import config, memory_check
from socialtag_jax.config import Experiment, Stage
from socialtag_jax.input_pipeline import batches_ahead
from socialtag_jax.memory_check import Need
from socialtag_jax.model import VGG16_LAYERS, TagPredictor
from socialtag_jax.parallel import CompiledStep, Devices
from socialtag_jax.roofline import Roof, Roofline, intensity
from socialtag_jax.steps import TrainState, TrainStep, eval_step, make_train_step

Shapes = Mapping[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True)
class StageSteps:
    """What a stage runs.

    Attributes:
      train: the training step.
      evaluate: the evaluation step.
      roofline: of the training step.
    """

    train: CompiledStep
    evaluate: CompiledStep
    roofline: Roofline


@dataclass(frozen=True)
class StageCompiler:
    """Compiles a stage's steps.

    Attributes:
      experiment: whose compute dtype is resolved.
      stage: with the frozen layers.
      model: the network.
      optimizer: of this stage.
      devices: of the run.
      state: arrays or shapes.
      first_layer: 0 for batches of images; else of the features that this layer takes.
    """

    experiment: Experiment
    stage: Stage
    model: TagPredictor
    optimizer: optax.GradientTransformation
    devices: Devices
    state: TrainState
    first_layer: int

    def compile(
        self, train_shapes: Shapes, eval_shapes: Shapes, *, roof: Roof, log: Callable[[str], None]
    ) -> StageSteps:
        """Both steps.

        Args:
          train_shapes: of a training batch.
          eval_shapes: of a validation batch.
          roof: of the devices.
          log: takes a line on the memory that each step needs.

        Raises:
          UserError: one of them does not fit into memory.
        """
        train = self.compile_train(train_shapes)
        self._check(train, train_shapes, self.compile_train, "training", "--input.batch-size", log)
        evaluate = self.compile_eval(eval_shapes)
        self._check(evaluate, eval_shapes, self.compile_eval, "validation", "--input.eval-batch-size", log)
        return StageSteps(train, evaluate, self.roofline(train, train_shapes, roof))

    def compile_train(self, batch: Shapes) -> CompiledStep:
        """The training step for batches of this shape."""
        return self.devices.compile_train_step(self._train_step(self.experiment), self.state, batch)

    def compile_eval(self, batch: Shapes) -> CompiledStep:
        """The evaluation step for batches of this shape."""
        step = functools.partial(
            eval_step,
            model=self.model,
            positive_weight=self.experiment.loss.positive_weight,
            suggestion=self.experiment.suggestion,
            first_layer=self.first_layer,
        )
        return self.devices.compile_eval_step(step, self.state.params, batch)

    def roofline(self, train: CompiledStep, batch: Shapes, roof: Roof) -> Roofline:
        """Of the compiled training step."""
        parts, count = self.experiment.input.accumulation_steps, len(self.devices)
        # XLA counts a loop's body once: the same step without accumulation has all the operations in sight.
        operations = self.devices.count_flops(
            self._train_step(config.unaccumulated(self.experiment)), self.state, batch
        )
        return Roofline(operations, intensity(train, operations / count / parts), roof)

    def need(self, step: CompiledStep, batch: Shapes, *, training: bool) -> Need:
        """What a compiled step needs of memory."""
        _, rows = batch["weight"].shape
        batch_bytes = self.devices.local_share(memory_check.array_bytes(batch))
        waiting = batches_ahead(batch_bytes, self.experiment.input.threads)
        return memory_check.step_need(
            step,
            self.state,
            batch,
            devices=self.devices,
            queued_batches=waiting,
            scratch=memory_check.library_scratch(
                self.devices.platform,
                rows=rows // self.experiment.input.accumulation_steps if training else rows,
                input_size=self.experiment.model.input_size,
                freeze_layers=self.stage.freeze_layers if training else len(VGG16_LAYERS),
                first_layer=self.first_layer,
            ),
        )

    def _train_step(self, experiment: Experiment) -> TrainStep:
        return make_train_step(experiment, self.stage, self.model, self.optimizer, first_layer=self.first_layer)

    def _check(
        self,
        step: CompiledStep,
        batch: Shapes,
        compile_for: Callable[[Shapes], CompiledStep],
        name: str,
        flag: str,
        log: Callable[[str], None],
    ) -> None:
        training = name == "training"
        count = len(self.devices)

        def need_at(batch_size: int) -> Need:
            other = with_rows(batch, batch_size // count)
            return self.need(compile_for(other), other, training=training)

        line = memory_check.check(
            self.need(step, batch, training=training),
            need_at,
            batch_size=count * batch["weight"].shape[1],
            multiple=count * (self.experiment.input.accumulation_steps if training else 1),
            limit=memory_check.memory_limit(self.devices, self.state),
            where=flag,
            hint="--input.accumulation-steps takes a batch in parts" if training else None,
        )
        log(f"memory of {name}: {line}")


def with_rows(batch: Shapes, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The same batch with so many rows on each device."""
    return {
        name: jax.ShapeDtypeStruct((leaf.shape[0], rows, *leaf.shape[2:]), leaf.dtype) for name, leaf in batch.items()
    }
