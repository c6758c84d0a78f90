"""The model's own speed, without the input pipeline: is it the data or the model that a run waits for?

Nothing is trained that anybody keeps: no run folder is read or written.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from socialtag_jax import config
from socialtag_jax.config import Experiment, Stage
from socialtag_jax.model import init_params
from socialtag_jax.optimizer import make_optimizer
from socialtag_jax.parallel import Devices
from socialtag_jax.shards.dataset import Dataset
from socialtag_jax.steps import build_model, make_train_step, stage_start
from socialtag_jax.training_data import ImageData

Batches = Literal["synthetic", "reuse"]
_SECONDS, _MOST_STEPS = 20.0, 200


@dataclass(frozen=True)
class StepRate:
    """The speed of a stage's training step.

    Attributes:
      stage: its number, from 1.
      freeze_layers: as the stage has it.
      step_milliseconds: median over the steps.
      images_per_second: the batch size over that time.
      steps: how many were timed.
    """

    stage: int
    freeze_layers: int
    step_milliseconds: float
    images_per_second: float
    steps: int


def step_rates(
    experiment: Experiment,
    dataset: Dataset,
    devices: Devices,
    batches: Batches,
    *,
    log: Callable[[str], None],
    seconds: float = _SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> list[StepRate]:
    """Times the training step of each stage that freezes other layers than those before, on images.

    Args:
      experiment: what would be trained; its weights are drawn at random, which changes no speed.
      dataset: gives the number of tags, and the batch that is used again and again.
      devices: where to run.
      batches: "synthetic" moves another batch of random pixels to the devices for each step, so that only reading,
        decoding and augmentation are left out; "reuse" has one batch of photos there from the start.
      log: takes one line of text at a time.
      seconds: how long each stage is timed, at least three steps.
      clock: seconds, monotonic.
    """
    experiment = config.resolve(experiment, devices.platform)
    model = build_model(experiment, len(dataset.vocabulary))
    params = init_params(model, jax.random.key(experiment.seed), experiment.model.input_size)
    data = ImageData(experiment, dataset, devices)
    rates, seen = [], set()
    for number, stage in enumerate(experiment.stages, start=1):
        if stage.freeze_layers in seen:
            continue
        seen.add(stage.freeze_layers)
        optimizer = make_optimizer(experiment, stage, params, steps_per_epoch=1)
        # A copy: the step donates its state's arrays.
        start_params = jax.tree.map(jnp.copy, params)
        start = stage_start(experiment, stage, optimizer, start_params, jnp.zeros((), jnp.int32))
        state = devices.replicate(start)
        step = devices.compile_train_step(
            make_train_step(experiment, stage, model, optimizer), state, data.train_shapes
        )
        source = _synthetic(data, model.n_tags, experiment.seed) if batches == "synthetic" else _reused(data, devices)
        times, in_flight = [], None
        stage_began = began = clock()
        for batch in devices.prefetch(source):
            state, sums = step(state, batch)
            # One step late, as in training: the time from one end to the next one has all that a step takes.
            if in_flight is not None:
                jax.block_until_ready(in_flight)
                now = clock()
                times.append(now - began)
                began = now
                if len(times) >= _MOST_STEPS or (len(times) > 3 and now - stage_began > seconds):
                    break
            in_flight = sums
        rates.append(_rate(number, stage, experiment.input.batch_size, times[1:]))
        log(_line(rates[-1]))
    return rates


def _rate(number: int, stage: Stage, batch_size: int, times: list[float]) -> StepRate:
    # The first step finds cold caches.
    median = float(np.median(times))
    return StepRate(number, stage.freeze_layers, 1e3 * median, batch_size / median, len(times))


def _line(rate: StepRate) -> str:
    return (
        f"stage {rate.stage}, first {rate.freeze_layers} of 19 layers frozen: {rate.step_milliseconds:.1f} ms a step, "
        f"{rate.images_per_second:.1f} images/s (median of {rate.steps} steps)"
    )


def _synthetic(data: ImageData, n_tags: int, seed: int) -> Iterator[Any]:
    """Random pixels, two batches in turn; three tags an image at most."""
    rng = np.random.default_rng(seed)
    shapes = data.train_shapes
    pair = []
    for _ in range(2):
        tag_ids = np.full(shapes["tag_ids"].shape, -1, np.int32)
        used = min(3, tag_ids.shape[-1], n_tags)
        tag_ids[..., :used] = np.arange(used)
        images = rng.integers(0, 256, shapes["images"].shape, np.uint8)
        pair.append({"images": images, "tag_ids": tag_ids, "weight": np.ones(shapes["weight"].shape, np.float32)})
    return itertools.cycle(pair)


def _reused(data: ImageData, devices: Devices) -> Iterator[Any]:
    batches = data.train(0, 0)
    batch = devices.shard(next(batches))
    return itertools.repeat(batch)
