"""What can be evaluated: a checkpoint of a run on all devices, or an exported bundle."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from socialtag_jax import trained
from socialtag_jax.config import Suggestion
from socialtag_jax.evaluate import Scorer
from socialtag_jax.model import Params, tag_logits
from socialtag_jax.parallel import Devices
from socialtag_jax.tagger import Tagger


def run_scorer(run: Path, checkpoint: str, devices: Devices, *, log: Callable[[str], None]) -> Scorer:
    """A run's checkpoint ("best", "latest" or a step), replicated over the devices.

    Raises:
      UserError: as `trained.load`.
    """
    loaded = trained.load(run, checkpoint, devices, log=log)

    def probabilities(params: Params, images: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(tag_logits(loaded.model, params, images))

    step = devices.compile_eval_step(probabilities)

    def score(images: np.ndarray) -> np.ndarray:
        outputs = jax.device_get(step(loaded.params, devices.shard(images)))
        return outputs.reshape(-1, outputs.shape[-1])

    experiment = loaded.config.experiment
    return Scorer(
        name=f"run {run}, step {loaded.step}",
        vocabulary=loaded.vocabulary,
        input_size=experiment.model.input_size,
        suggestion=experiment.suggestion,
        devices=len(devices),
        score=score,
    )


def bundle_scorer(bundle: Path) -> Scorer:
    """An exported bundle, on the default device.

    Raises:
      UserError: as `Tagger.load`.
    """
    tagger = Tagger.load(bundle)
    return Scorer(
        name=f"bundle {bundle}",
        vocabulary=tagger.vocabulary,
        input_size=tagger.input_size,
        suggestion=Suggestion(tagger.threshold, tagger.max_tags),
        devices=1,
        score=lambda images: tagger.probabilities(images[0]),
    )
