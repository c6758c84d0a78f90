"""How do a step's time and memory grow with the number of tags?

The head alone, trained on features of 32 images, with 1,000, 12,000 and 100,000 tags; beside the same step in plain
JAX: one `jit`, a dense multi-hot target made on the host, optax's Adam, no masks. Memory is what XLA has planned for
the compiled step on one device: its arguments and temporaries; also of the whole network at 224 px, with 19 and with
16 layers frozen, which is compiled and not run.

Command:  python -m experiments.benchmarks.scaling_tags     (2 minutes on 2 cores)
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import harness
from experiments.benchmarks.harness import Answer, Context, Row
from socialtag_jax import config
from socialtag_jax.config import Experiment, Stage
from socialtag_jax.losses import image_losses
from socialtag_jax.model import HEAD_LAYERS, VGG16_LAYERS, init_params, param_shapes, tag_logits
from socialtag_jax.optimizer import make_optimizer
from socialtag_jax.parallel import CompiledStep, Devices
from socialtag_jax.steps import batch_shapes, build_model, make_train_step, stage_start

TAG_COUNTS = (1_000, 12_000, 100_000)
BATCH, MAX_TAGS, TAGS_OF_AN_IMAGE, TURNS = 32, 75, 8, 9
ALL_LAYERS = len(VGG16_LAYERS)
HEAD = Experiment(name="scaling_tags", weights="random")


def parts(n_tags: int, devices: Devices, freeze_layers: int) -> tuple[Any, Any, Any, Any]:
    """Experiment, stage, model and optimizer."""
    experiment = config.resolve(HEAD, devices.platform)
    model = build_model(experiment, n_tags)
    stage = Stage(freeze_layers=freeze_layers)
    shapes = param_shapes(model, experiment.model.input_size)
    return experiment, stage, model, make_optimizer(experiment, stage, shapes, steps_per_epoch=1)


def planned_bytes(step: CompiledStep) -> int:
    """Of one device."""
    return step.memory.arguments + step.memory.outputs - step.memory.aliased + step.memory.temporaries


def whole_model(n_tags: int, devices: Devices, freeze_layers: int) -> CompiledStep:
    """The training step from photos, compiled from shapes alone."""
    experiment, stage, model, optimizer = parts(n_tags, devices, freeze_layers)
    size = experiment.model.input_size
    state = jax.eval_shape(
        lambda params: stage_start(experiment, stage, optimizer, params, jnp.zeros((), jnp.int32)),
        param_shapes(model, size),
    )
    image = jax.ShapeDtypeStruct((size, size, 3), jnp.uint8)
    batch = batch_shapes(image, devices=1, rows=BATCH, max_tags=MAX_TAGS)
    return devices.compile_train_step(make_train_step(experiment, stage, model, optimizer), state, batch)


def batch_of(n_tags: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tag_ids = np.full((1, BATCH, MAX_TAGS), -1, np.int32)
    for row in range(BATCH):
        tag_ids[0, row, :TAGS_OF_AN_IMAGE] = np.sort(rng.choice(n_tags, TAGS_OF_AN_IMAGE, replace=False))
    features = rng.exponential(1.0, (1, BATCH, VGG16_LAYERS[-1].features)).astype(np.float32)
    return {"features": features, "tag_ids": tag_ids, "weight": np.ones((1, BATCH), np.float32)}


def ours(n_tags: int, devices: Devices) -> tuple[Callable[[], float], CompiledStep]:
    """Milliseconds of a step on features."""
    experiment, stage, model, optimizer = parts(n_tags, devices, ALL_LAYERS)
    params = init_params(model, jax.random.key(0), experiment.model.input_size)
    state = devices.replicate(stage_start(experiment, stage, optimizer, params, jnp.zeros((), jnp.int32)))
    host = batch_of(n_tags)
    train = make_train_step(experiment, stage, model, optimizer, first_layer=ALL_LAYERS)
    step = devices.compile_train_step(train, state, host)

    def measure() -> float:
        nonlocal state
        start = time.perf_counter()
        state, sums = step(state, devices.shard(host))
        jax.block_until_ready((state, sums))
        return 1e3 * (time.perf_counter() - start)

    measure()
    return measure, step


def plain(n_tags: int, devices: Devices) -> Callable[[], float]:
    """Likewise, in plain JAX."""
    experiment, _, model, _ = parts(n_tags, devices, ALL_LAYERS)
    adam = optax.adam(experiment.optimizer.learning_rate)
    params = init_params(model, jax.random.key(0), experiment.model.input_size)
    head = {layer: params[layer] for layer in HEAD_LAYERS}
    state = (head, adam.init(head))
    host = {name: value[0] for name, value in batch_of(n_tags).items()}

    def step(state: Any, features: jax.Array, targets: jax.Array, keys: jax.Array) -> tuple[Any, jax.Array]:
        def loss(head: Mapping[str, Any]) -> jax.Array:
            logits = tag_logits(model, dict(head), features, first_layer=ALL_LAYERS, dropout_keys=keys)
            return jnp.mean(image_losses(logits, targets, experiment.loss.positive_weight))

        head, moments = state
        value, gradients = jax.value_and_grad(loss)(head)
        updates, moments = adam.update(gradients, moments, head)
        return (optax.apply_updates(head, updates), moments), value

    compiled = jax.jit(step, donate_argnums=0)
    keys = jax.random.split(jax.random.key(1), BATCH)

    def measure() -> float:
        nonlocal state
        start = time.perf_counter()
        targets = np.zeros((BATCH, n_tags), np.float32)
        targets[np.arange(BATCH)[:, None], host["tag_ids"][:, :TAGS_OF_AN_IMAGE]] = 1.0
        state, value = compiled(state, jnp.asarray(host["features"]), jnp.asarray(targets), keys)
        jax.block_until_ready((state, value))
        return 1e3 * (time.perf_counter() - start)

    measure()
    return measure


def run(context: Context) -> Answer:
    devices = Devices(jax.local_devices()[:1])
    rows: list[Row] = []
    details: dict[str, Any] = {"batch": BATCH, "device": devices.kind, "room_for_tags": MAX_TAGS}
    for n_tags in TAG_COUNTS:
        measure, step = ours(n_tags, devices)
        contenders = {"ours": measure, "plain JAX": plain(n_tags, devices)}
        series = context.interleave(contenders, repeats=TURNS, unit="ms", less_is_better=True)
        series.print(f"head-only step of {BATCH} on features, {n_tags:,} tags", "ours")
        memory = {"head only, on features": planned_bytes(step)}
        for freeze in (19, 16):
            memory[f"from photos, {freeze} frozen"] = planned_bytes(whole_model(n_tags, devices, freeze))
        said = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in memory.items())
        print(f"planned memory: {said}", flush=True)
        title = f"head-only step of {BATCH} on features, {n_tags:,} tags"
        rows.append(series.row(title, "ours", "plain JAX", note=f"planned memory: {said}"))
        details[f"{n_tags} tags"] = {"milliseconds": series.repeats, "planned_bytes": memory}
    return Answer(rows, details)


if __name__ == "__main__":
    harness.main(run)
