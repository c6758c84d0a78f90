"""What does a step cost beside its arithmetic, on 1, 2, 4 and 8 devices?

The training step of a head of 8 units and 8 tags, one image a device: nearly no arithmetic, but all 30 parameter arrays
of the real network, Adam's state, and the sums over devices, fetched one step late, as the loop does. Simulated CPU
devices, each number of them in a process of its own, turn by turn: all share the machine's cores, so that the figures
grow with the number of devices as they would not on real ones. On one device also through `pmap`'s own call and through
plain `jit`.

Command:  python -m experiments.benchmarks.device_overhead     (90 seconds on 2 cores)
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from experiments.benchmarks import harness
from experiments.benchmarks.harness import Answer, Context

DEVICES = (1, 2, 4, 8)
STEPS, ROUNDS, TURNS = 50, 6, 5


def measure(count: int) -> dict[str, float]:
    """Median microseconds of a step, in this process, which has used no device yet."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from socialtag_jax.config import Experiment, Model, Stage
    from socialtag_jax.model import VGG16_LAYERS, init_params
    from socialtag_jax.optimizer import make_optimizer
    from socialtag_jax.parallel import AXIS, Devices
    from socialtag_jax.steps import build_model, make_train_step, stage_start

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    model_config = Model(input_size=32, hidden_units=8, compute_dtype="float32")
    experiment, stage = Experiment(name="device_overhead", model=model_config), Stage(freeze_layers=len(VGG16_LAYERS))
    devices, model = Devices(), build_model(experiment, 8)
    params = init_params(model, jax.random.key(0), 32)
    optimizer = make_optimizer(experiment, stage, params, steps_per_epoch=1)
    train = make_train_step(experiment, stage, model, optimizer, first_layer=len(VGG16_LAYERS))
    host = {
        "features": np.ones((count, 1, 512), np.float32),
        "tag_ids": np.array([[[1, 3]]] * count, np.int32),
        "weight": np.ones((count, 1), np.float32),
    }
    batch = devices.shard(host)

    def fresh_state() -> Any:
        start = jax.tree.map(jnp.array, params)
        return devices.replicate(stage_start(experiment, stage, optimizer, start, jnp.zeros((), jnp.int32)))

    steps: dict[str, Callable[..., Any]] = {names(count): devices.compile_train_step(train, fresh_state(), host)}
    if count == 1:
        axes: dict[str, Any] = {"in_axes": (None, 0), "axis_name": AXIS}
        steps["1 device, pmap's own call"] = jax.pmap(train, donate_argnums=0, out_axes=(None, None), **axes)

        def first(state: Any, batch: Any) -> Any:
            return jax.tree.map(lambda leaf: leaf[0], jax.vmap(train, **axes)(state, batch))

        steps["1 device, plain jit"] = jax.jit(first, donate_argnums=0)
    times: dict[str, list[float]] = {name: [] for name in steps}
    # The first round compiles, and is left out.
    for turn in range(ROUNDS + 1):
        for name, step in steps.items():
            state, sums = fresh_state(), None
            for _ in range(STEPS):
                start = time.perf_counter()
                state, next_sums = step(state, batch)
                jax.device_get(sums)
                sums = next_sums
                if turn:
                    times[name].append(1e6 * (time.perf_counter() - start))
            jax.block_until_ready(state)
    return {name: statistics.median(values) for name, values in times.items()}


def names(count: int) -> str:
    return f"{count} devices" if count > 1 else "1 device"


def run(context: Context) -> Answer:
    repeats: dict[str, list[float]] = {}
    for turn in range(TURNS):
        start = time.monotonic()
        for count in DEVICES:
            command = [sys.executable, "-m", "experiments.benchmarks.device_overhead", "measure", str(count)]
            result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=harness.PROJECT)
            for name, value in json.loads(result.stdout).items():
                repeats.setdefault(name, []).append(value)
        said = ", ".join(f"{name} {harness.figure(values[-1])}" for name, values in repeats.items())
        print(f"turn {turn + 1}: {said} us", file=sys.stderr, flush=True)
        if 2 * time.monotonic() - start > context.deadline:
            break
    series = harness.Series(repeats, "us", less_is_better=True)
    series.print("one step without arithmetic", "1 device")
    title = "a step without arithmetic, 1 device"
    rows = [
        series.row(title, "1 device", "1 device, plain jit"),
        series.row("the same", "1 device", "1 device, pmap's own call", goal=1.0),
        *(
            series.row(f"the same on {count} simulated devices", f"{count} devices", "1 device, plain jit")
            for count in DEVICES[1:]
        ),
    ]
    return Answer(rows, {"steps": STEPS * ROUNDS, "overhead": series})


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(measure(int(sys.argv[2]))))
    else:
        harness.main(run)
