"""What a sweep searches: fields of an experiment, the values that each may take, and how configurations are chosen.

A field is named by its path, as on the command line of `socialtag train`: `optimizer.learning-rate`.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from socialtag_jax import experiment_files
from socialtag_jax.config import VGG16_LAYER_COUNT, Experiment
from socialtag_jax.errors import UsageError, UserError

NUMBERS = (
    "loss.l1",
    "loss.l2",
    "loss.positive_weight",
    "model.dropout_rate",
    "optimizer.clip_norm",
    "optimizer.learning_rate",
    "optimizer.max_norm",
    "optimizer.schedule.final_share",
    "optimizer.weight_decay",
    "stages.0.learning_rate",
)
"""Fields that enter a compiled program as numbers: heads that differ in them alone train in one program."""

SEED = "seed"
"""Enters as a number as well, but has no range."""

STRUCTURE = (
    "input.batch_size",
    "model.hidden_units",
    "optimizer.beta1",
    "optimizer.beta2",
    "optimizer.ema_decay",
    "optimizer.epsilon",
    "optimizer.kind",
    "optimizer.momentum",
    "optimizer.nesterov",
    "optimizer.schedule.kind",
    "optimizer.schedule.warmup_epochs",
)
"""Fields of which every value is a program of its own."""

FLAG = "--search"
Configuration = Mapping[str, Any]
"""Field path -> value."""


@dataclass(frozen=True)
class Values:
    """Some values, all as good as each other before the sweep."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, uniform, or uniform in their logarithm."""

    low: float
    high: float
    logarithmic: bool


Space = Mapping[str, Values | Range]
"""Field path -> what it may be."""


def parse_space(texts: Sequence[str]) -> Space:
    """Reads `FIELD=VALUES` texts, see `parse_domain`.

    Raises:
      UsageError: not of this form, an unknown field, one given twice, or wrong values.
    """
    space: dict[str, Values | Range] = {}
    for text in texts:
        name, equals, domain = text.partition("=")
        field = name.strip().replace("-", "_")
        if not equals:
            raise UsageError(
                f"{text!r}: expected FIELD=VALUES, such as optimizer.learning-rate=log:1e-4:1e-2", where=FLAG
            )
        known = sorted((*NUMBERS, SEED, *STRUCTURE))
        if field not in known:
            names = ", ".join(map(shown, known))
            raise UsageError(f"{name!r} is no field that can be searched", where=FLAG, hint=f"these can: {names}")
        if field in space:
            raise UsageError(f"{name} is given twice", where=FLAG)
        space[field] = parse_domain(field, domain)
    return space


def parse_domain(field: str, text: str) -> Values | Range:
    """Reads what a field may be.

    `1,3,10`: these values. `0.2:0.6`: any number between. `log:1e-4:1e-2`: the same, uniform in its logarithm.
    `0.2:0.6:5` and `log:1e-4:1e-2:5`: so many values, evenly spaced, both ends among them.

    Raises:
      UsageError: none of these, an empty range, or a range for a field whose values must be listed.
    """
    where = f"{FLAG} {shown(field)}"
    if ":" not in text:
        values = [_value(one.strip()) for one in text.split(",") if one.strip()]
        if not values:
            raise UsageError(f"{text!r}: no values", where=where)
        if len(set(values)) < len(values):
            raise UsageError(f"{text!r}: a value is given twice", where=where)
        return Values(tuple(values))
    if field not in NUMBERS:
        raise UsageError(f"{text!r}: its values must be listed, such as {shown(field)}=A,B,C", where=where)
    logarithmic = text.startswith("log:")
    parts = text.removeprefix("log:").split(":")
    try:
        low, high = (float(part) for part in parts[:2])
        count = int(parts[2]) if len(parts) == 3 else None
        if len(parts) > 3 or not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError
    except ValueError:
        form = "[log:]LOW:HIGH or [log:]LOW:HIGH:COUNT"
        raise UsageError(f"{text!r}: expected {form}", where=where) from None
    if low >= high:
        raise UsageError(f"{text!r}: an empty range, {low:g} is not below {high:g}", where=where)
    if logarithmic and low <= 0:
        raise UsageError(f"{text!r}: a logarithmic range begins above 0, not at {low:g}", where=where)
    if count is None:
        return Range(low, high, logarithmic)
    if count < 2:
        raise UsageError(f"{text!r}: {count} values, expected at least 2", where=where)
    points = np.geomspace(low, high, count) if logarithmic else np.linspace(low, high, count)
    return Values(tuple(_rounded(point, 6) for point in points))


def shown(field: str) -> str:
    """A field's path as users write it."""
    return field.replace("_", "-")


def grid(space: Space) -> list[Configuration]:
    """All combinations of values.

    Raises:
      UsageError: a range, which has no end of values.
    """
    lists = []
    for field, domain in space.items():
        if isinstance(domain, Range):
            text = f"{'log:' if domain.logarithmic else ''}{domain.low:g}:{domain.high:g}"
            hint = f"say how many: {shown(field)}={text}:5; or use --strategy random"
            raise UsageError("a grid needs values, not a range", where=f"{FLAG} {shown(field)}", hint=hint)
        lists.append(domain.values)
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*lists)]


def draw(space: Space, count: int, seed: int) -> list[Configuration]:
    """Different configurations at random, the same for equal arguments; numbers of ranges have four digits.

    Raises:
      UsageError: there are not as many.
    """
    if not any(isinstance(domain, Range) for domain in space.values()):
        combinations = math.prod(len(domain.values) for domain in space.values() if isinstance(domain, Values))
        if count > combinations:
            hint = "use --strategy grid for all of them"
            raise UsageError(f"{count}, but there are only {combinations} configurations", where="--trials", hint=hint)
    rng = np.random.default_rng(seed)
    found: dict[tuple[Any, ...], Configuration] = {}
    # Ranges have ten thousand numbers and more: only lists repeat themselves often.
    for _ in range(1000 * count):
        drawn = {field: _drawn(domain, rng) for field, domain in space.items()}
        found.setdefault(tuple(drawn.values()), drawn)
        if len(found) == count:
            return list(found.values())
    raise UsageError(f"only {len(found)} different configurations were found", where="--trials", hint="try fewer")


def configure(experiment: Experiment, configuration: Configuration) -> Experiment:
    """The experiment with a configuration's values, checked as on the command line of `socialtag train`.

    Raises:
      UsageError: a value that the field cannot have.
    """
    content: Any = json.loads(json.dumps(dataclasses.asdict(experiment)))
    for field, value in configuration.items():
        *path, name = field.split(".")
        part = content
        for key in path:
            part = part[int(key)] if isinstance(part, list) else part[key]
        part[name] = value
    try:
        return experiment_files.from_dict(content, FLAG)
    except UserError as error:
        raise UsageError(error.what, where=FLAG if error.where == FLAG else f"{FLAG} {error.where}") from error


def value_of(experiment: Experiment, field: str) -> Any:
    """A field's value."""
    part: Any = experiment
    for name in field.split("."):
        part = part[int(name)] if isinstance(part, tuple) else getattr(part, name)
    return part


def check(experiment: Experiment, space: Space) -> None:
    """Refuses what cannot be swept, and searches whose results would not compare.

    Raises:
      UsageError: so it is.
    """
    only = "only a single stage that trains the head alone (transfer learning) can be swept"
    if len(experiment.stages) != 1:
        hint = "write an experiment file with its first stage alone"
        raise UsageError(f"{len(experiment.stages)} stages: {only}", where="stages", hint=hint)
    (stage,) = experiment.stages
    if stage.freeze_layers != VGG16_LAYER_COUNT:
        where = "stages.0.freeze-layers"
        raise UsageError(f"{stage.freeze_layers}: {only}", where=where, hint=f"set --{where} {VGG16_LAYER_COUNT}")
    if not space:
        raise UsageError("nothing to search", where=FLAG, hint="for example --search optimizer.learning-rate=1e-4,1e-3")
    if "optimizer.learning_rate" in space and stage.learning_rate is not None:
        hint = "search stages.0.learning-rate"
        raise UsageError("the stage has a learning rate of its own", where=f"{FLAG} optimizer.learning-rate", hint=hint)
    if "loss.positive_weight" in space and experiment.checkpoints.monitor == "loss":
        raise UsageError(
            "losses with different weights do not compare, but the loss decides which head is best",
            where=f"{FLAG} loss.positive-weight",
            hint="let F1 decide: --checkpoints.monitor f1",
        )
    if SEED in space and experiment.weights == "random":
        hint = "start from ImageNet's: --weights imagenet"
        raise UsageError("every seed would draw convolutions of its own", where=f"{FLAG} seed", hint=hint)
    if experiment.augmentation.enabled:
        if SEED in space:
            hint = "go without augmentation: --augmentation.no-enabled"
            raise UsageError("every seed would need features of its own", where=f"{FLAG} seed", hint=hint)
        if experiment.cache.views == 0:
            raise UsageError(
                "0: a sweep trains over cached features, and these photos are augmented",
                where="cache.views",
                hint=f"set --cache.views 4, or {stage.epochs} to train exactly as without a cache, or go without "
                "augmentation: --augmentation.no-enabled",
            )


def _value(text: str) -> Any:
    words: dict[str, Any] = {"none": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if math.isfinite(number):
            return number
    return text


def _drawn(domain: Values | Range, rng: np.random.Generator) -> Any:
    if isinstance(domain, Values):
        return domain.values[int(rng.integers(len(domain.values)))]
    if domain.logarithmic:
        number = math.exp(rng.uniform(math.log(domain.low), math.log(domain.high)))
    else:
        number = rng.uniform(domain.low, domain.high)
    return min(max(_rounded(number, 4), domain.low), domain.high)


def _rounded(number: float, digits: int) -> float:
    return float(f"{number:.{digits}g}")
