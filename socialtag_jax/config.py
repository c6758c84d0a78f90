"""An experiment: everything that decides a run, as frozen dataclasses. `experiment_files.py` reads and overrides it."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from socialtag_jax.errors import UsageError

VGG16_LAYER_COUNT = 19


def is_zero(value: Any) -> bool:
    """Whether a setting is the number 0; not of one that a sweep traces, as it may become any number."""
    return isinstance(value, int | float) and value == 0


def _require(condition: bool, where: str, found: object, expected: str) -> None:
    if not condition:
        raise UsageError(f"{found!r}: expected {expected}", where=where)


def _require_default(part: Any, name: str, prefix: str, when: str) -> None:
    """Refuses a setting that would do nothing."""
    (default,) = (one.default for one in dataclasses.fields(part) if one.name == name)
    found = getattr(part, name)
    _require(found == default, f"{prefix}{name}", found, f"{default!r}, as it does nothing {when}")


@dataclass(frozen=True)
class Model:
    """VGG16's convolutional part, average pooling, and the tag head."""

    input_size: int = 224
    """Height and width of the network's input, in pixels; at least 32."""
    hidden_units: int = 512
    """Width of the head's hidden layer."""
    dropout_rate: float = 0.5
    """Share of hidden activations dropped in training, 0 to below 1."""
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the convolutions; auto is bfloat16 on GPU and TPU, float32 on CPU. Parameters, head and loss are float32."""

    def __post_init__(self) -> None:
        _require(self.input_size >= 32, "model.input_size", self.input_size, "at least 32 pixels")
        _require(self.hidden_units >= 1, "model.hidden_units", self.hidden_units, "at least 1")
        _require(0 <= self.dropout_rate < 1, "model.dropout_rate", self.dropout_rate, "0 to below 1")


@dataclass(frozen=True)
class Augmentation:
    """Random affine transformations of training images, as Keras's ImageDataGenerator defines them."""

    enabled: bool = True
    """Off: training images are only resized, as validation and test images are."""
    rotation: float = 30.0
    """Largest rotation either way, in degrees."""
    width_shift: float = 0.2
    """Largest horizontal shift either way, as a share of the width."""
    height_shift: float = 0.2
    """Largest vertical shift either way, as a share of the height."""
    shear: float = 0.2
    """Largest shear angle either way, in degrees."""
    zoom_low: float = 0.8
    """Smallest zoom factor, drawn for each axis on its own; below 1 enlarges."""
    zoom_high: float = 1.2
    """Largest zoom factor."""
    horizontal_flip: bool = True
    """Mirror every other image, at random."""

    def __post_init__(self) -> None:
        for name in ("rotation", "width_shift", "height_shift", "shear"):
            _require(getattr(self, name) >= 0, f"augmentation.{name}", getattr(self, name), "0 or more")
        zoom = (self.zoom_low, self.zoom_high)
        _require(0 < zoom[0] <= zoom[1], "augmentation.zoom", zoom, "0 < zoom_low <= zoom_high")


@dataclass(frozen=True)
class Input:
    """How records become batches."""

    batch_size: int = 32
    """Images in a training step, over all devices; a multiple of the number of devices."""
    eval_batch_size: int = 64
    """Images in an evaluation step, over all devices; changes no score."""
    accumulation_steps: int = 1
    """Equal parts that every device takes its share of a batch in, one after the other, adding up their gradients: the
    same training in less memory."""
    threads: int = 0
    """Threads that decode and warp images; 0 for one a core."""
    max_bad_records: int = 0
    """Damaged records, of training and validation together, that a run may skip, counting and listing them; at one more
    it stops. 0 stops at the first one."""

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, "input.batch_size", self.batch_size, "at least 1")
        _require(self.eval_batch_size >= 1, "input.eval_batch_size", self.eval_batch_size, "at least 1")
        _require(self.accumulation_steps >= 1, "input.accumulation_steps", self.accumulation_steps, "at least 1")
        _require(self.threads >= 0, "input.threads", self.threads, "0 or more")
        _require(self.max_bad_records >= 0, "input.max_bad_records", self.max_bad_records, "0 or more")


@dataclass(frozen=True)
class Cache:
    """What the frozen layers make of the photos, computed once, kept on disk, and trained from.

    Features are those of a data set, weights, input size, device kind, compute dtype and augmentation: where any of it
    differs, others are computed. Stages that freeze no convolution train from the photos.
    """

    views: int = 0
    """Augmented views of each training photo, over which the epochs of a stage go in turn; 0 for no cache. As many as
    the stage has epochs train exactly as without a cache; without augmentation 1 does."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the features on disk; float16 halves them, and rounds each by at most 1 in 2,048."""
    folder: str | None = None
    """Where they are kept; None for `features` in the cache folder (`~/.cache/socialtag-jax`, or `SOCIALTAG_CACHE`)."""

    def __post_init__(self) -> None:
        _require(self.views >= 0, "cache.views", self.views, "0 or more")
        if self.views == 0:
            for name in ("dtype", "folder"):
                _require_default(self, name, "cache.", "with cache.views = 0")


@dataclass(frozen=True)
class Loss:
    """Binary cross-entropy with a weight on the positive term, and penalties on the kernels of trainable layers.

    The penalties are Keras's `L1` and `L2` regularizers. They are trained on, but not reported: every loss that is
    shown is that of the data, so that training and validation compare.
    """

    positive_weight: float = 10.0
    """Weight of a tag that an image has, against 1 for one that it has not."""
    l1: float = 0.0
    """Times the sum of absolute weights."""
    l2: float = 0.0
    """Times the sum of squared weights."""

    def __post_init__(self) -> None:
        _require(self.positive_weight > 0, "loss.positive_weight", self.positive_weight, "more than 0")
        _require(self.l1 >= 0, "loss.l1", self.l1, "0 or more")
        _require(self.l2 >= 0, "loss.l2", self.l2, "0 or more")


@dataclass(frozen=True)
class Schedule:
    """How the learning rate changes within a stage, from step to step; every stage starts it anew."""

    kind: Literal["constant", "linear", "cosine"] = "constant"
    """After the warm-up: constant, or falling until the stage's last epoch ends (cosine: Loshchilov and Hutter, 2017,
    without restarts)."""
    final_share: float = 0.0
    """Share of the learning rate that linear and cosine fall to, 0 to 1."""
    warmup_epochs: float = 0.0
    """The learning rate first rises linearly from 0 for so many epochs; fewer than the stage has."""

    def __post_init__(self) -> None:
        _require(0 <= self.final_share <= 1, "optimizer.schedule.final_share", self.final_share, "0 to 1")
        _require(self.warmup_epochs >= 0, "optimizer.schedule.warmup_epochs", self.warmup_epochs, "0 or more")
        if self.kind == "constant":
            _require_default(self, "final_share", "optimizer.schedule.", "without linear or cosine")


@dataclass(frozen=True)
class Optimizer:
    """How the trainable layers move; frozen ones take part in nothing of this."""

    kind: Literal["adam", "sgd"] = "adam"
    """Adam (Kingma and Ba, 2015), or stochastic gradient descent."""
    learning_rate: float = 1e-4
    """Of every stage that does not set its own; the highest one, where there is a schedule."""
    schedule: Schedule = field(default_factory=Schedule)
    """How the learning rate changes within a stage."""
    beta1: float = 0.9
    """Adam: decay of the mean of gradients."""
    beta2: float = 0.999
    """Adam: decay of the mean of squared gradients."""
    epsilon: float = 1e-7
    """Adam: added to the root of the mean of squared gradients, before its bias is corrected; where and as large as in
    Keras."""
    momentum: float = 0.0
    """SGD: decay of the sum of gradients, 0 to below 1. The learning rate multiplies that sum."""
    nesterov: bool = False
    """SGD: Nesterov's momentum (Sutskever et al., 2013)."""
    weight_decay: float = 0.0
    """Decoupled from the gradient (Loshchilov and Hutter, 2019): every step takes learning rate x this x the weight off
    every weight; of kernels, not of biases."""
    clip_norm: float | None = None
    """Largest L2 norm of the gradient, over all trainable layers together; longer ones are scaled down to it."""
    max_norm: float | None = None
    """Largest L2 norm of a unit's incoming weights (Srivastava et al., 2014): longer ones are scaled down to it after
    every step. In a convolution a unit is an output feature."""
    ema_decay: float | None = None
    """Averages the parameters over the steps of a stage: a step weighs so much less than the one after it. The averaged
    parameters are validated, evaluated and exported; training goes on from the others. 0.99 averages over about 100
    steps, 0.999 over 1,000."""

    def __post_init__(self) -> None:
        adam = self.kind == "adam"
        for name in ("momentum", "nesterov") if adam else ("beta1", "beta2", "epsilon"):
            _require_default(self, name, "optimizer.", f"with {self.kind}")
        if self.momentum == 0:
            _require_default(self, "nesterov", "optimizer.", "without momentum")
        _require(self.learning_rate > 0, "optimizer.learning_rate", self.learning_rate, "more than 0")
        _require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "0 to below 1")
        _require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "0 or more")
        for name in ("clip_norm", "max_norm"):
            norm = getattr(self, name)
            _require(norm is None or norm > 0, f"optimizer.{name}", norm, "more than 0, or none")
        decay = self.ema_decay
        _require(decay is None or 0 < decay < 1, "optimizer.ema_decay", decay, "between 0 and 1, or none")
        _require(0 <= self.beta1 < 1, "optimizer.beta1", self.beta1, "0 to below 1")
        _require(0 <= self.beta2 < 1, "optimizer.beta2", self.beta2, "0 to below 1")
        _require(self.epsilon > 0, "optimizer.epsilon", self.epsilon, "more than 0")


@dataclass(frozen=True)
class Stage:
    """Some epochs with the same frozen layers; every stage starts with a fresh optimizer state."""

    epochs: int = 5
    """How often the training split is seen."""
    freeze_layers: int = VGG16_LAYER_COUNT
    """How many of VGG16's 19 layers are frozen, counted from the input as Keras counts them: 19 is transfer learning
    (only the head trains), 16 is fine tuning (block5_conv2, block5_conv3 and the head train)."""
    learning_rate: float | None = None
    """None for the optimizer's."""

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "stage.epochs", self.epochs, "at least 1")
        _require(0 <= self.freeze_layers <= VGG16_LAYER_COUNT, "stage.freeze_layers", self.freeze_layers, "0 to 19")
        rate = self.learning_rate
        _require(rate is None or rate > 0, "stage.learning_rate", rate, "more than 0, or none")


@dataclass(frozen=True)
class Suggestion:
    """Which tags count as predicted."""

    threshold: float = 0.3
    """A tag is predicted where its probability is over this."""
    max_tags: int = 15
    """At most so many tags, the most confident ones."""

    def __post_init__(self) -> None:
        _require(0 <= self.threshold < 1, "suggestion.threshold", self.threshold, "0 to below 1")
        _require(self.max_tags >= 1, "suggestion.max_tags", self.max_tags, "at least 1")


@dataclass(frozen=True)
class Checkpoints:
    """Which checkpoints are kept, and when a stage stops early. One is saved after every epoch.

    Of those saved within an epoch, only the newest is kept, besides the others.
    """

    keep_latest: int = 2
    """How many of the newest are kept."""
    keep_best: int = 1
    """How many of the best are kept besides."""
    every_minutes: float = 10.0
    """Saves within an epoch too, so often: what a machine that fails loses at most; 0 for only after every epoch."""
    monitor: Literal["loss", "f1"] = "loss"
    """What makes a checkpoint better: a lower loss, or a higher F1 of the suggested tags, on the validation split."""
    patience: int = 0
    """Ends a stage after so many epochs that were no better than the best before; 0 never does."""

    def __post_init__(self) -> None:
        _require(self.keep_latest >= 1, "checkpoints.keep_latest", self.keep_latest, "at least 1")
        _require(self.keep_best >= 1, "checkpoints.keep_best", self.keep_best, "at least 1")
        _require(self.every_minutes >= 0, "checkpoints.every_minutes", self.every_minutes, "0 or more")
        _require(self.patience >= 0, "checkpoints.patience", self.patience, "0 or more")


@dataclass(frozen=True)
class Experiment:
    """Everything that decides a run, besides the data set and the machine."""

    name: str
    """Of the experiment; goes to logs and exports."""
    seed: int = 0
    """Of initial parameters, data order, augmentation and dropout."""
    weights: str = "imagenet"
    """Where the convolutions start from: `imagenet` (fetched once), `random`, or a weight file, whose tag head is taken
    over too where its sizes fit."""
    stages: tuple[Stage, ...] = (Stage(),)
    """Run one after the other."""
    model: Model = field(default_factory=Model)
    augmentation: Augmentation = field(default_factory=Augmentation)
    input: Input = field(default_factory=Input)
    cache: Cache = field(default_factory=Cache)
    loss: Loss = field(default_factory=Loss)
    optimizer: Optimizer = field(default_factory=Optimizer)
    suggestion: Suggestion = field(default_factory=Suggestion)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    debug_batches: int | None = None
    """Cuts every epoch, of training and of evaluation, to so many batches; for trying things out."""

    def __post_init__(self) -> None:
        _require(len(self.stages) >= 1, "stages", self.stages, "at least one stage")
        _require(0 <= self.seed < 2**32, "seed", self.seed, "0 to 2**32 - 1")
        cut = self.debug_batches
        _require(cut is None or cut >= 1, "debug_batches", cut, "at least 1, or none")
        if not self.augmentation.enabled:
            _require(
                self.cache.views <= 1, "cache.views", self.cache.views, "0 or 1, as all views of a photo are equal"
            )
        warmup, shortest = self.optimizer.schedule.warmup_epochs, min(stage.epochs for stage in self.stages)
        where = "optimizer.schedule.warmup_epochs"
        _require(warmup < shortest, where, warmup, f"fewer than the {shortest} epochs of the shortest stage")

    def learning_rate(self, stage: Stage) -> float:
        """The stage's learning rate, or else the optimizer's."""
        return self.optimizer.learning_rate if stage.learning_rate is None else stage.learning_rate


def resolve(experiment: Experiment, platform: str) -> Experiment:
    """The same experiment with "auto" replaced by what it means on "cpu", "gpu" or "tpu"."""
    if experiment.model.compute_dtype != "auto":
        return experiment
    dtype: Literal["float32", "bfloat16"] = "float32" if platform == "cpu" else "bfloat16"
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, compute_dtype=dtype))


def unaccumulated(experiment: Experiment) -> Experiment:
    """The same experiment with every batch taken whole."""
    return dataclasses.replace(experiment, input=dataclasses.replace(experiment.input, accumulation_steps=1))


DEBUG_DEVICES = 4
"""Simulated CPU devices of a `--debug` run."""


def debug(experiment: Experiment) -> Experiment:
    """The same experiment, shrunk to under a minute on a laptop: for trying a file before its real launch.

    It has no feature cache, for which all photos would have to go through the network.
    """
    # Two epochs in all, in which the first two stages are tried.
    stages = experiment.stages[:2]
    schedule = experiment.optimizer.schedule
    # Half an epoch of warm-up, where there is one: no stage is left with less than one epoch.
    schedule = dataclasses.replace(schedule, warmup_epochs=min(schedule.warmup_epochs, 0.5))
    return dataclasses.replace(
        experiment,
        optimizer=dataclasses.replace(experiment.optimizer, schedule=schedule),
        model=dataclasses.replace(experiment.model, input_size=48),
        input=dataclasses.replace(experiment.input, batch_size=8, eval_batch_size=8),
        cache=Cache(),
        stages=tuple(dataclasses.replace(stage, epochs=2 // len(stages)) for stage in stages),
        debug_batches=4,
    )
