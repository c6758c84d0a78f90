"""What fits into memory: the search for the largest batch by hand, and on compiled steps with small limits."""

import functools
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from socialtag_jax import memory_check
from socialtag_jax.config import Experiment, Input, Model, Stage
from socialtag_jax.errors import UserError
from socialtag_jax.machine import available_memory
from socialtag_jax.memory_check import Limit, Need, check, largest_batch
from socialtag_jax.model import param_shapes
from socialtag_jax.optimizer import make_optimizer
from socialtag_jax.parallel import Devices
from socialtag_jax.roofline import Roof
from socialtag_jax.stage_steps import StageCompiler, with_rows
from socialtag_jax.steps import batch_shapes, build_model, stage_start


def linear(batch_size: int) -> Need:
    return Need(state=1000, batches=10 * batch_size, temporaries=90 * batch_size, queue=5 * batch_size)


def curved(batch_size: int) -> Need:
    """Kernels of other kinds come in from 40 images on."""
    return Need(state=1000, batches=0, temporaries=100 * batch_size + (3000 if batch_size >= 40 else 0), queue=0)


def test_the_largest_batch_of_a_linear_need():
    """1000 + 100 b <= 4321 for b up to 33; the line is met at once, and checked: 4, 32, 36 of 64 are compiled."""
    asked = []

    def need_at(batch_size: int) -> Need:
        asked.append(batch_size)
        return linear(batch_size)

    limit = Limit(device=4321, host=10_000, count=1)
    assert largest_batch(linear(64), need_at, batch_size=64, multiple=4, limit=limit) == 32
    assert asked == [4, 32, 36]
    assert largest_batch(linear(64), linear, batch_size=64, multiple=1, limit=limit) == 33


@pytest.mark.parametrize(("room", "expected"), [(4899, 38), (4900, 39), (7999, 39), (8000, 40), (1099, None)])
def test_the_answer_fits_and_the_next_does_not_where_the_need_jumps(room: int, expected: int | None):
    limit = Limit(device=room, host=0, count=1)
    assert largest_batch(curved(100), curved, batch_size=100, multiple=1, limit=limit) == expected


def test_devices_that_share_the_hosts_memory():
    """Two devices and the queue in 10,000 bytes: 2 (1000 + 100 b) + 5 b <= 10,000 for b up to 39."""
    limit = Limit(device=5000, host=None, count=2)
    assert limit.fits(linear(39))
    assert not limit.fits(linear(40))
    assert largest_batch(linear(64), linear, batch_size=64, multiple=1, limit=limit) == 39


def test_what_fits_is_said():
    line = check(
        Need(2 * 10**9, 10**7, 5 * 10**8, 3 * 10**6),
        linear,
        batch_size=8,
        multiple=1,
        limit=Limit(4 * 10**9, 10**9, 1),
        where="--input.batch-size",
    )
    assert line == (
        "2.51 GB of 4.00 GB on each device (2.00 GB state, 10.0 MB batches, 500.0 MB temporaries), "
        "3.0 MB for queued batches on the host"
    )


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (Limit(43 * 10**8, 10**10, 1), r"need 7\.40 GB on each device .*, there are 4\.30 GB -- .* fits is 33; do x"),
        (
            Limit(10**10, 16 * 10**7, 1),
            r"need 320\.0 MB of the host's memory .*, it has 160\.0 MB -- .* fits is 32; do x",
        ),
        (Limit(10**9, 10**10, 1), r"there are 1\.00 GB -- even 1 images do not fit: a smaller --model\.input-size"),
        (Limit(5 * 10**9, None, 1), r"320\.0 MB for queued batches, there are 5\.00 GB for both -- .* fits is 38"),
    ],
)
def test_what_does_not_fit_is_refused(limit: Limit, words: str):
    def need_at(batch_size: int) -> Need:
        return Need(10**9, 10**7 * batch_size, 9 * 10**7 * batch_size, 5 * 10**6 * batch_size)

    with pytest.raises(UserError, match=f"--input.batch-size: 64 images a step .*{words}") as error:
        check(need_at(64), need_at, batch_size=64, multiple=1, limit=limit, where="--input.batch-size", hint="do x")
    assert error.value.exit_code == 1


SIZE, N_TAGS = 64, 20


def compiler(n: int = 1, *, freeze_layers: int = 15) -> StageCompiler:
    experiment = Experiment(
        name="test",
        model=Model(input_size=SIZE, compute_dtype="float32"),
        input=Input(threads=2),
    )
    model = build_model(experiment, N_TAGS)
    params, stage = param_shapes(model, SIZE), Stage(freeze_layers=freeze_layers)
    optimizer = make_optimizer(experiment, stage, params, steps_per_epoch=1)
    start = functools.partial(stage_start, experiment, stage, optimizer)
    state = jax.eval_shape(start, params, jax.ShapeDtypeStruct((), jnp.int32))
    return StageCompiler(experiment, stage, model, optimizer, Devices(jax.local_devices()[:n]), state, 0)


def image_batch(n: int, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    image = jax.ShapeDtypeStruct((SIZE, SIZE, 3), jnp.uint8)
    return batch_shapes(image, devices=n, rows=batch_size // n, max_tags=4)


def test_the_need_of_a_compiled_step():
    """State and batches are counted by hand; four batches wait for two threads."""
    stage = compiler(2)
    batch = image_batch(2, 16)
    need = stage.need(stage.compile_train(batch), batch, training=True)
    rows = 8 * (SIZE * SIZE * 3 + 4 * 4 + 4)
    assert (need.batches, need.queue) == (4 * rows, 4 * 2 * rows)
    head = 512 * 512 + 512 + 512 * N_TAGS + N_TAGS
    # Block 5 and the head, with two moments; the counts of steps.
    trainable = 3 * (512 * 512 * 9 + 512) + head
    assert need.state == pytest.approx(4 * (14_714_688 + head + 2 * trainable), abs=16)


def test_a_step_that_does_not_fit_is_refused_with_one_that_does(monkeypatch: pytest.MonkeyPatch):
    """Batches of 64 images in the room that 24 need: what is named was compiled; 24 fit and 25 do not."""
    stage, batch = compiler(), image_batch(1, 64)

    def need(batch_size: int) -> Need:
        shapes = with_rows(batch, batch_size)
        return stage.need(stage.compile_train(shapes), shapes, training=True)

    limit = Limit(need(24).device, 2**40, 1)
    assert not limit.fits(need(25))
    monkeypatch.setattr(memory_check, "memory_limit", lambda devices, held: limit)
    words = r"--input\.batch-size: 64 images .* largest batch size that fits is 24; --input\.accumulation-steps"
    with pytest.raises(UserError, match=words):
        stage.compile(batch, batch, roof=Roof(1.0, None, "measured"), log=print)


def test_the_limit_of_cpus_is_shared():
    """What the run holds already is counted as its own."""
    held = {"kernel": jax.ShapeDtypeStruct((2**30, 2**10), jnp.float32)}
    limit = memory_check.memory_limit(Devices(), held)
    assert limit is not None
    assert (limit.host, limit.count) == (None, 4)
    assert 2**42 < limit.device < 2**42 + available_memory()


def test_devices_that_do_not_say_what_they_have():
    devices: Any = SimpleNamespace(platform="gpu", local=[SimpleNamespace(memory_stats=lambda: None)])
    assert memory_check.memory_limit(devices, {}) is None
    need = Need(2 * 10**9, 10**7, 5 * 10**8, 3 * 10**6)
    line = memory_check.check(need, lambda _: need, batch_size=8, multiple=1, limit=None, where="x")
    assert line.startswith("2.51 GB on each device (2.00 GB state, ")
    assert line.endswith("which does not say how much it has")


MEASURE = """
import resource, sys
import jax, numpy as np
jax.config.update("jax_platforms", "cpu")
from tests.test_memory_check import compiler, image_batch
rows = int(sys.argv[1])
stage, batch = compiler(freeze_layers=19), image_batch(1, rows)
step = stage.compile_eval(batch)
zeros = lambda tree: jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree)
params, images = stage.devices.replicate(zeros(stage.state.params)), stage.devices.shard(zeros(batch))
jax.block_until_ready(step(params, images))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, stage.need(step, batch, training=False).temporaries)
"""


@pytest.mark.slow
def test_scratch_memory_inside_of_libraries_is_as_much_as_is_taken():
    """72 images more, measured by the system; XLA's own plan grows by nothing."""

    def measure(rows: int) -> tuple[int, int]:
        result = subprocess.run([sys.executable, "-c", MEASURE, str(rows)], capture_output=True, text=True, check=True)
        taken, planned = map(int, result.stdout.split())
        return taken, planned

    few, many = measure(8), measure(80)
    taken, planned = many[0] - few[0], many[1] - few[1]
    assert planned == pytest.approx(72 * 4 * SIZE * SIZE * 128, rel=0.01)
    assert 0.5 * planned < taken < 2 * planned
