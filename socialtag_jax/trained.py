"""A trained model from a run folder, ready to score images or to be exported."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from socialtag_jax import checkpoints, run_folder
from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.evaluate import Scorer
from socialtag_jax.model import Params, TagPredictor, param_shapes, tag_logits
from socialtag_jax.optimizer import Average
from socialtag_jax.parallel import CompiledStep, Devices
from socialtag_jax.position import Position
from socialtag_jax.run_folder import RunConfig
from socialtag_jax.steps import build_model
from socialtag_jax.storage import Location
from socialtag_jax.tags import TagVocabulary

_ANOTHER = "take another one, with --checkpoint STEP"


@dataclass(frozen=True)
class TrainedModel:
    """Parameters of one checkpoint, with all that is needed to use them.

    Attributes:
      config: of the run.
      step: of the checkpoint.
      vocabulary: the tags of the outputs, as saved with the checkpoint.
      model: the network.
      params: replicated over the devices; averaged over steps, where the run averages.
    """

    config: RunConfig
    step: int
    vocabulary: TagVocabulary
    model: TagPredictor
    params: Params


def load(run: Location, checkpoint: str, devices: Devices, *, log: Callable[[str], None]) -> TrainedModel:
    """Loads a checkpoint of a run.

    Args:
      run: the run folder.
      checkpoint: "best" (by the run's monitor), "latest", or a step.
      devices: where to put the parameters.
      log: takes one line of text at a time.

    Raises:
      UserError: no such run or checkpoint, or one whose vocabulary is damaged.
    """
    config = run_folder.load_run(run)
    folder = run / run_folder.CHECKPOINTS
    if not folder.is_dir():
        raise UserError("no checkpoint yet", where=folder, hint="train at least one epoch first")
    with checkpoints.RunCheckpoints(folder, config.experiment.checkpoints, log=log, read_only=True) as saved:
        step = _step(saved, checkpoint)
        meta = saved.meta(step)
        try:
            vocabulary = TagVocabulary(tuple(meta.content["tags"]), tuple(meta.content["displays"]))
            sha256 = vocabulary.sha256, meta.content["vocabulary_sha256"]
        except (KeyError, TypeError, ValueError) as error:
            what = f"the checkpoint's tags are damaged: {error}"
            raise UserError(what, where=folder / str(step), hint=_ANOTHER) from error
        if not sha256 == (config.dataset["vocabulary_sha256"],) * 2:
            raise UserError("the checkpoint's tags are not those of the run", where=folder / str(step), hint=_ANOTHER)
        experiment = config.experiment
        model = build_model(experiment, len(vocabulary))
        shapes = param_shapes(model, experiment.model.input_size)
        params = saved.restore_params(step, checkpoints.like(shapes, devices.replicated))
        decay = experiment.optimizer.ema_decay
        if decay is not None:
            position = Position.from_json(meta.fields("position"))
            freeze_layers = experiment.stages[position.stage].freeze_layers
            average = jax.eval_shape(lambda params: Average.start(params, freeze_layers, decay), shapes)
            average = saved.restore_average(step, checkpoints.like(average, devices.replicated))
            params = {**params, **average.params}
    return TrainedModel(config, step, vocabulary, model, params)


def _step(saved: checkpoints.RunCheckpoints, checkpoint: str) -> int:
    if checkpoint == "best":
        return saved.best_step()
    if checkpoint == "latest":
        return saved.latest_step()
    if checkpoint.isdecimal() and int(checkpoint) in saved.steps:
        return int(checkpoint)
    known = ", ".join(map(str, saved.steps))
    raise UsageError(f"{checkpoint!r}: expected best, latest or one of the steps {known}", where="--checkpoint")


def inference(trained: TrainedModel) -> Callable[[Params, jax.Array], jax.Array]:
    """(params, uint8 [batch, size, size, 3]) -> probabilities, float32 [batch, n_tags].

    Evaluation and export share it: whatever the training computed in, scores are those of float32 at full precision,
    so that a bundle says the same on every kind of device.
    """
    model = trained.model.clone(compute_dtype=jnp.float32)

    def probabilities(params: Params, images: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return jax.nn.sigmoid(tag_logits(model, params, images))

    return probabilities


def run_scorer(run: Location, checkpoint: str, devices: Devices, *, log: Callable[[str], None]) -> Scorer:
    """A run's checkpoint ("best", "latest" or a step) for evaluation, replicated over the devices.

    Raises:
      UserError: as `load`.
    """
    loaded = load(run, checkpoint, devices, log=log)
    probabilities = inference(loaded)

    @functools.cache
    def compiled(shape: tuple[int, ...]) -> CompiledStep:
        return devices.compile_eval_step(probabilities, loaded.params, jax.ShapeDtypeStruct(shape, np.uint8))

    def score(images: np.ndarray) -> jax.Array:
        outputs = compiled(images.shape)(loaded.params, devices.shard(images))
        return outputs.reshape(-1, outputs.shape[-1])

    experiment = loaded.config.experiment
    return Scorer(
        name=f"run {run}, step {loaded.step}",
        vocabulary=loaded.vocabulary,
        input_size=experiment.model.input_size,
        suggestion=experiment.suggestion,
        devices=len(devices),
        score=score,
        trained_on=loaded.config.dataset["fingerprint"],
    )
