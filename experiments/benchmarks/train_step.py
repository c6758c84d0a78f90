"""How fast is one training step, beside Keras 3 and torchvision?

VGG16 at 224 px with the head for Corel5K's 371 tags, the weighted loss, dropout and Adam; ImageNet's convolutions and
the same head everywhere. 19 frozen layers are transfer learning (only the head trains), 16 are fine tuning. A batch
lies ready on the device; the peers' is preprocessed already, while our step preprocesses it. All take turns.

On a CPU: float32 (torchvision in bfloat16 as well), and batches of 8 for the sake of time. On a GPU: ours in bfloat16
at batch 128, 256 and 512, beside torchvision compiled, in bfloat16, channels last.
Beside them stands what a step would reach if all its products, forward and backward, ran at the rate of a large matrix
product, which is measured in turn with the rest: our share of it is the MFU. On a CPU it can be more than 1, as our
convolutions need fewer products.

Command:  python -m experiments.benchmarks.train_step     (7 minutes on 2 cores; a GPU needs jax[cuda12])
"""

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import harness
from experiments.benchmarks.corel5k_data import TAGS, initial_weights
from experiments.benchmarks.harness import Answer, Context, Peer, Row
from socialtag_jax import config, flops
from socialtag_jax.config import Experiment, Stage
from socialtag_jax.optimizer import make_optimizer
from socialtag_jax.parallel import Devices
from socialtag_jax.run_start import initial_params
from socialtag_jax.steps import build_model, make_train_step, stage_start

SIZE, MAX_TAGS = 224, 5
CEILING = "all at a matrix product's rate"
FROZEN = {19: "transfer learning", 16: "fine tuning"}


@dataclass(frozen=True)
class Setting:
    """What is measured on a kind of device.

    Attributes:
      batches: images in a step.
      steps: in a turn.
      turns: at most.
      keras: backends of Keras to compare with.
      torch: variants of torchvision.
      rivals: goal of each contender that has one; of `CEILING`, it is the least MFU.
    """

    batches: Sequence[int]
    steps: int
    turns: int
    keras: Sequence[str]
    torch: Sequence[str]
    rivals: Mapping[str, float]


CPU = Setting(
    batches=(8,),
    steps=2,
    turns=7,
    keras=("jax", "tensorflow"),
    torch=(
        "eager float32",
        "eager float32, channels last",
        "compiled float32, channels last",
        "compiled bfloat16, channels last",
    ),
    rivals={"Keras on jax": 1.0},
)
GPU = Setting(
    batches=(128, 256, 512),
    steps=20,
    turns=5,
    keras=("jax",),
    torch=("compiled bfloat16, channels last",),
    rivals={CEILING: 0.55, "torchvision, compiled bfloat16, channels last": 1.1},
)


def ours(freeze_layers: int, batch: int, devices: Devices, weights: Path, steps: int) -> Callable[[], float]:
    """Images a second of our compiled step, on one device."""
    experiment = config.resolve(Experiment(name="train_step", weights=str(weights)), devices.platform)
    stage = Stage(freeze_layers=freeze_layers)
    model = build_model(experiment, TAGS)
    params = initial_params(model, experiment, "", log=lambda _: None)
    optimizer = make_optimizer(experiment, stage, params, steps_per_epoch=1)
    state = devices.replicate(stage_start(experiment, stage, optimizer, params, jnp.zeros((), jnp.int32)))
    rng = np.random.default_rng(0)
    ready = devices.shard(
        {
            "images": rng.integers(0, 256, (1, batch, SIZE, SIZE, 3), np.uint8),
            "tag_ids": np.sort(rng.integers(0, TAGS, (1, batch, MAX_TAGS), np.int32)),
            "weight": np.ones((1, batch), np.float32),
        }
    )
    step = devices.compile_train_step(make_train_step(experiment, stage, model, optimizer), state, ready)
    state, sums = step(state, ready)
    jax.block_until_ready(sums)

    def measure() -> float:
        nonlocal state
        start = time.perf_counter()
        for _ in range(steps):
            state, _ = step(state, ready)
        jax.block_until_ready(state)
        return batch * steps / (time.perf_counter() - start)

    return measure


def run(context: Context) -> Answer:
    # Several frameworks share a GPU here: none may take all of its memory at the start.
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    os.environ.update(shared)
    devices = Devices(jax.local_devices()[:1])
    setting = CPU if devices.platform == "cpu" else GPU
    dtype = config.resolve(Experiment(name="step"), devices.platform).model.compute_dtype
    weights = initial_weights(context)
    rows: list[Row] = []
    details: dict[str, Any] = {"size": SIZE, "tags": TAGS, "device": devices.kind, "steps_in_a_turn": setting.steps}
    versions: dict[str, Mapping[str, str]] = {}
    for batch in setting.batches:
        with contextlib.ExitStack() as stack:
            contenders, found = prepare(context, stack, setting, batch, devices, weights, shared, dtype)
            versions |= found
            names = {f"{name}|{freeze}": measure for (name, freeze), measure in contenders.items()}
            series = context.interleave(names, repeats=setting.turns, unit="images/s")
        for freeze, label in FROZEN.items():
            repeats = {name: series.repeats[f"{name}|{freeze}"] for name, its in contenders if its == freeze}
            part = harness.Series(repeats, "images/s")
            title = f"training step, {label}, batch {batch}, {SIZE} px, {dtype}"
            part.print(title, "ours", ceiling=CEILING)
            goals = {**dict.fromkeys(repeats), **setting.rivals}
            del goals["ours"]
            rows += [
                part.row("the same" if number else title, "ours", name, goal=goal)
                for number, (name, goal) in enumerate(goals.items())
            ]
            details[f"{label}, batch {batch}"] = part
    return Answer(rows, details, versions)


def prepare(
    context: Context,
    stack: contextlib.ExitStack,
    setting: Setting,
    batch: int,
    devices: Devices,
    weights: Path,
    variables: Mapping[str, str],
    dtype: str,
) -> tuple[dict[tuple[str, int], Callable[[], float]], dict[str, Mapping[str, str]]]:
    """Contender and frozen layers -> measurement; and the peers' versions."""
    settings = {
        "batch": batch,
        "size": SIZE,
        "tags": TAGS,
        "weights": str(weights),
        "freeze_layers": [*FROZEN],
        "learning_rate": 1e-4,
    }
    contenders: dict[tuple[str, int], Callable[[], float]] = {
        ("ours", freeze): ours(freeze, batch, devices, weights, setting.steps) for freeze in FROZEN
    }
    contenders |= {(CEILING, freeze): at_matmul_rate(freeze, devices, dtype) for freeze in FROZEN}
    versions = {}
    for backend in setting.keras:
        environment = {"jax": "keras-jax", "tensorflow": "tensorflow"}[backend]
        peer = stack.enter_context(
            Peer(
                environment,
                "keras_step",
                {**settings, "dtype": "mixed_bfloat16" if dtype == "bfloat16" else dtype},
                log=context.log(f"step-{environment}"),
                variables={**variables, "KERAS_BACKEND": backend},
            )
        )
        versions[environment] = peer.versions
        for freeze in FROZEN:
            contenders[f"Keras on {backend}", freeze] = rate(peer, freeze_layers=freeze, count=setting.steps)
    peer = stack.enter_context(
        Peer("torch", "torch_step", {**settings, "variants": setting.torch}, log=context.log("step-torch"))
    )
    versions["torch"] = peer.versions
    for variant in setting.torch:
        for freeze in FROZEN:
            contenders[f"torchvision, {variant}", freeze] = rate(
                peer, variant=variant, freeze_layers=freeze, count=setting.steps
            )
    return contenders, versions


def rate(peer: Peer, **request: Any) -> Callable[[], float]:
    return lambda: peer.measure(**request)["images_per_second"]


def at_matmul_rate(freeze_layers: int, devices: Devices, dtype: str) -> Callable[[], float]:
    """Images a second, if all of a step's products ran at the rate of a large matrix product."""
    operations = flops.training_flops(flops.layer_flops(TAGS, 512, SIZE), freeze_layers)
    return lambda: flops.measured_matmul_flops(devices.devices[0], jnp.dtype(dtype)) / operations


if __name__ == "__main__":
    harness.main(run)
