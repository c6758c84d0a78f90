"""`socialtag sweep`: many tag heads over the same cached features, each scored on the validation split alone."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

import jax
import jax.numpy as jnp
import numpy as np

from socialtag_jax import config, feature_data, pretrained, search_space, sweep_report
from socialtag_jax.config import Experiment
from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.model import HEAD_LAYERS, Params
from socialtag_jax.parallel import Devices
from socialtag_jax.progress import format_duration
from socialtag_jax.run_start import initial_params
from socialtag_jax.search_space import Space
from socialtag_jax.shards.dataset import Dataset
from socialtag_jax.steps import build_model
from socialtag_jax.storage import local_path
from socialtag_jax.sweep_report import SweepResult
from socialtag_jax.sweep_training import Features, Sweep
from socialtag_jax.sweep_trials import Rung, halving_rungs, make_trials

Strategy = Literal["grid", "random", "halving"]


@dataclass(frozen=True)
class SweepOptions:
    """How to search.

    Attributes:
      space: what to search.
      strategy: grid, random or halving.
      trials: how many configurations are drawn; None for a grid.
      eta: halving: the share that goes on is 1 / eta.
      draw_seed: of the configurations that are drawn.
      heads_at_once: that a device trains; None for what suits it.
      plot: whether to draw one.
    """

    space: Space
    strategy: Strategy = "grid"
    trials: int | None = None
    eta: int = 3
    draw_seed: int = 0
    heads_at_once: int | None = None
    plot: bool = True


def load_features(
    experiment: Experiment, dataset: Dataset, devices: Devices, *, log: Callable[[str], None], stream: TextIO
) -> Features:
    """The features of the train and the validation split from the cache, after what is missing there was computed.

    Args:
      experiment: whose compute dtype is resolved, with `cache.views` of at least 1.
      dataset: with both splits.
      devices: where features are computed.
      log: takes one line of text at a time.
      stream: where progress is shown.
    """
    model = build_model(experiment, len(dataset.vocabulary))
    params = initial_params(model, experiment, dataset.vocabulary.sha256, log)
    (stage,) = experiment.stages
    data = feature_data.FeatureData(experiment, stage, dataset, model, devices, params, first_epoch=0, stream=stream)
    feature_data.check_disk(data.needed_views(0), feature_data.cache_folder(experiment), log)
    views = [data.complete("train", number).all() for number in range(data.views)]
    validation, validation_tags = data.complete("validation", 0).all()
    train = [features.astype(np.float32, copy=False) for features, _ in views]
    return Features(train, views[0][1], validation.astype(np.float32, copy=False), validation_tags)


def run_sweep(
    experiment: Experiment,
    dataset: Dataset,
    options: SweepOptions,
    output: Path,
    *,
    devices: Devices,
    log: Callable[[str], None],
    stream: TextIO,
) -> SweepResult:
    """Trains all configurations, and writes what came of them to the folder `output`.

    Interrupted from the keyboard, it writes what there is so far.

    Raises:
      UserError: an experiment, a search or a folder that will not do; no head could be trained to the end of an epoch.
    """
    search_space.check(experiment, options.space)
    if experiment.input.max_bad_records:
        raise UsageError("a sweep skips no damaged records", where="--input.max-bad-records", hint="leave it at 0")
    experiment = _with_cache(experiment)
    resolved = config.resolve(experiment, devices.platform)
    trials = make_trials(resolved, _configurations(options))
    epochs = experiment.stages[0].epochs
    rungs = [Rung(len(trials), epochs)]
    if options.strategy == "halving":
        rungs = halving_rungs(len(trials), epochs, options.eta)
    if options.plot:
        sweep_report.require_matplotlib()
    if (output / sweep_report.SWEEP).exists():
        raise UsageError("the folder holds a sweep already", where=output, hint="choose another --output")
    output.mkdir(parents=True, exist_ok=True)
    features = load_features(resolved, dataset, devices, log=log, stream=stream)
    log(
        f"data: {dataset.name}, {len(features.train_tags):,} training and {len(features.validation_tags):,} validation "
        f"images, {len(dataset.vocabulary):,} tags, views of each training image: {len(features.train)}"
    )
    log(f"search: {len(trials)} heads, {options.strategy}, up to {epochs} epochs; scored on the validation split alone")
    sweep = Sweep(
        trials,
        features,
        len(dataset.vocabulary),
        devices=devices,
        head_of=functools.partial(_starting_head, experiment, dataset, log=log),
        heads_at_once=options.heads_at_once,
        log=log,
        stream=stream,
    )
    start, interrupted = time.perf_counter(), False
    try:
        sweep.run(rungs)
    except KeyboardInterrupt:
        interrupted = True
    seconds = time.perf_counter() - start
    result = SweepResult(experiment, dataset, options.space, options.strategy, trials, rungs, seconds, interrupted)
    trained = sum(len(trial.curve) for trial in trials)
    log(f"{'interrupted after ' if interrupted else ''}{trained:,} head epochs in {format_duration(seconds)}")
    sweep_report.write(result, output, plot=options.plot)
    log(f"written to {output}")
    return result


def _with_cache(experiment: Experiment) -> Experiment:
    """Without augmentation, one view of each photo is all there is to see."""
    if experiment.cache.views:
        return experiment
    return dataclasses.replace(experiment, cache=dataclasses.replace(experiment.cache, views=1))


def _configurations(options: SweepOptions) -> list[search_space.Configuration]:
    if options.strategy == "grid":
        if options.trials is not None:
            hint = "use --strategy random or halving"
            raise UsageError("a grid has as many as its values give", where="--trials", hint=hint)
        return search_space.grid(options.space)
    if options.trials is None:
        raise UsageError(f"--strategy {options.strategy} needs it", where="--trials", hint="for example --trials 64")
    return search_space.draw(options.space, options.trials, options.draw_seed)


def _starting_head(
    experiment: Experiment, dataset: Dataset, hidden_units: int, log: Callable[[str], None]
) -> Params | None:
    """The head that the experiment's weight file holds, where its sizes and tags fit; else None: it is drawn."""
    if experiment.weights in ("imagenet", "random"):
        return None
    loaded: Mapping[str, Mapping[str, np.ndarray]] = pretrained.load_starting_weights(
        local_path(experiment.weights),
        hidden_units=hidden_units,
        n_tags=len(dataset.vocabulary),
        vocabulary_sha256=dataset.vocabulary.sha256,
        log=log,
    )
    if not set(HEAD_LAYERS) <= set(loaded):
        return None
    return {layer: jax.tree.map(jnp.asarray, dict(loaded[layer])) for layer in HEAD_LAYERS}


def require_trained(result: SweepResult) -> None:
    """Refuses a sweep without a winner.

    Raises:
      UserError: all heads diverged.
    """
    if result.best is None:
        raise UserError(
            f"all {len(result.trials)} heads diverged: their losses became no finite number",
            where="sweep",
            hint="search lower learning rates",
        )
