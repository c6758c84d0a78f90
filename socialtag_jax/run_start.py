"""What a run starts from: drawn parameters, converted weights, or the newest checkpoint of its folder."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from socialtag_jax import config, pretrained, run_folder
from socialtag_jax.checkpoint_folder import MisfitError
from socialtag_jax.checkpoints import RunCheckpoints, like
from socialtag_jax.config import Experiment, Stage
from socialtag_jax.json_files import Fields
from socialtag_jax.model import Params, TagPredictor, init_params, param_shapes
from socialtag_jax.optimizer import ParamsLike, make_optimizer
from socialtag_jax.parallel import Devices
from socialtag_jax.position import Position
from socialtag_jax.shards.dataset import Dataset
from socialtag_jax.steps import TrainState, stage_start
from socialtag_jax.storage import Location, local_path


def initial_params(
    model: TagPredictor, experiment: Experiment, vocabulary_sha256: str, log: Callable[[str], None]
) -> Params:
    """Fresh parameters, and in their place what `experiment.weights` has: convolutions, and perhaps a head."""
    params = init_params(model, jax.random.key(experiment.seed), experiment.model.input_size)
    if experiment.weights == "random":
        log("weights: random (no pretrained convolutions)")
        return params
    path = pretrained.imagenet_weights(log=log) if experiment.weights == "imagenet" else local_path(experiment.weights)
    loaded = pretrained.load_starting_weights(
        path, hidden_units=model.hidden_units, n_tags=model.n_tags, vocabulary_sha256=vocabulary_sha256, log=log
    )
    return {**params, **jax.tree.map(jnp.asarray, loaded)}


def resolved(experiment: Experiment, workdir: Location, devices: Devices, log: Callable[[str], None]) -> Experiment:
    """With a compute dtype: where the user leaves it open, that of the run which is continued, on any devices."""
    usual = config.resolve(experiment, devices.platform)
    if usual == experiment:
        return experiment
    found = run_folder.compute_dtype(workdir) if devices.is_main else None
    found = json.loads(devices.broadcast(json.dumps(found).encode()))
    if found in (None, usual.model.compute_dtype):
        return usual
    log(f"compute dtype: {found}, in which the run was started")
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, compute_dtype=found))


class RunStart:
    """The state that training starts from: fresh, of a new stage, or that of a checkpoint.

    Args:
      experiment: with its compute dtype.
      dataset: that is trained on.
      model: the network.
      devices: where the state is placed.
      steps_per_epoch: training steps.
      log: takes one line of text at a time.
    """

    def __init__(
        self,
        experiment: Experiment,
        dataset: Dataset,
        model: TagPredictor,
        devices: Devices,
        *,
        steps_per_epoch: int,
        log: Callable[[str], None],
    ) -> None:
        self._experiment, self._dataset, self._model, self._devices = experiment, dataset, model, devices
        self._steps_per_epoch, self._log = steps_per_epoch, log

    def found(self, saved: RunCheckpoints) -> tuple[Position, TrainState]:
        """What training starts from, on every process: what process 0 has found in its run folder, or drawn.

        Raises:
          UserError: no checkpoint can be read, or the newest is of another model or data set.
        """
        devices = self._devices
        if devices.processes == 1:
            return self._found_or_fresh(saved)
        if devices.is_main:
            position, state = self._found_or_fresh(saved)
            devices.broadcast(json.dumps(dataclasses.asdict(position)).encode())
        else:
            sent = Fields(json.loads(devices.broadcast(b"")), Path("position"), "process 0 sent it")
            position = Position.from_json(sent)
            shapes = param_shapes(self._model, self._experiment.model.input_size)
            start = functools.partial(self.stage, position)
            state = jax.eval_shape(start, jax.ShapeDtypeStruct((), jnp.int32), shapes)
        return position, devices.broadcast_tree(state)

    def _found_or_fresh(self, saved: RunCheckpoints) -> tuple[Position, TrainState]:
        """The newest checkpoint's state, or a fresh one."""
        shapes = param_shapes(self._model, self._experiment.model.input_size)

        def likes(meta: Fields) -> tuple[Any, Any, Any]:
            self._require_same_data(meta)
            start = functools.partial(self.stage, self._position(meta))
            state = jax.eval_shape(start, jax.ShapeDtypeStruct((), jnp.int32), shapes)
            wanted = like(state, self._devices.replicated)
            return wanted.params, wanted.opt_state, wanted.average

        restored = saved.restore_newest(likes)
        if restored is None:
            params = initial_params(self._model, self._experiment, self._dataset.vocabulary.sha256, self._log)
            return Position(), self._devices.replicate(self.stage(Position(), jnp.zeros((), jnp.int32), params))
        position = self._position(restored.meta)
        self._log(f"continuing after epoch {position.epoch}, step {position.step}")
        step = self._devices.replicate(jnp.int32(position.step))
        return position, TrainState(step, restored.params, restored.optimizer_state, restored.average)

    def _require_same_data(self, meta: Fields) -> None:
        """The checkpoints may have been put there from another run."""
        dataset = self._dataset
        ours = {"dataset_fingerprint": dataset.fingerprint, "vocabulary_sha256": dataset.vocabulary.sha256}
        for name, expected in ours.items():
            if meta.text(name) != expected:
                hint = "restore this run's own checkpoints, or choose another --workdir"
                what = f"the checkpoint is of a run on another data set: its {name} differs"
                raise MisfitError(what, where=meta.path, hint=hint)

    def _position(self, meta: Fields) -> Position:
        position = Position.from_json(meta.fields("position"))
        if position.stage >= len(self._experiment.stages):
            raise meta.refuse(f"says stage {position.stage}, but the experiment has {len(self._experiment.stages)}")
        return position

    def stage(self, position: Position, step: jax.Array, params: Params) -> TrainState:
        """The state before the first step of a position's stage."""
        chosen = self._experiment.stages[position.stage]
        return stage_start(self._experiment, chosen, self.optimizer(chosen, params), params, step)

    def optimizer(self, stage: Stage, params: ParamsLike) -> optax.GradientTransformation:
        """That of a stage; see `make_optimizer`."""
        return make_optimizer(self._experiment, stage, params, steps_per_epoch=self._steps_per_epoch)
