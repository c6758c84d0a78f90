"""What XLA says of the compiled steps: their arithmetic and their memory, without running them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from socialtag_jax import convolution, flops
from socialtag_jax.config import Experiment, Input, Model, Optimizer, Stage
from socialtag_jax.model import HEAD_LAYERS, VGG16_LAYERS, param_shapes, trainable_layers
from socialtag_jax.optimizer import make_optimizer
from socialtag_jax.parallel import CompiledStep, Devices
from socialtag_jax.steps import batch_shapes, build_model, make_train_step, stage_start

N_TAGS, SIZE, BATCH, MAX_TAGS = 100, 96, 32, 5
PARAM_BYTES = 4 * (14_714_688 + 512 * 512 + 512 + 512 * N_TAGS + N_TAGS)


class Program:
    """A training step and the shapes that it takes, on the first `n` devices."""

    def __init__(self, freeze_layers: int, n: int = 1, *, parts: int = 1) -> None:
        experiment = Experiment(
            name="test",
            model=Model(input_size=SIZE, compute_dtype="float32"),
            input=Input(batch_size=BATCH, accumulation_steps=parts),
            optimizer=Optimizer(kind="adam"),
        )
        model = build_model(experiment, N_TAGS)
        self.params = param_shapes(model, SIZE)
        stage = Stage(freeze_layers=freeze_layers)
        optimizer = make_optimizer(experiment, stage, self.params, steps_per_epoch=1)
        start = functools.partial(stage_start, experiment, stage, optimizer)
        self.devices = Devices(jax.local_devices()[:n])
        self.step = make_train_step(experiment, stage, model, optimizer)
        self.state = jax.eval_shape(start, self.params, jax.ShapeDtypeStruct((), jnp.int32))
        image = jax.ShapeDtypeStruct((SIZE, SIZE, 3), jnp.uint8)
        self.batch = batch_shapes(image, devices=n, rows=BATCH // n, max_tags=MAX_TAGS)

    def compile(self) -> CompiledStep:
        return self.devices.compile_train_step(self.step, self.state, self.batch)

    def count_flops(self) -> float:
        return self.devices.count_flops(self.step, self.state, self.batch)

    def batch_bytes(self) -> int:
        return array_bytes(self.batch) // len(self.devices)


def array_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def inner_flops() -> list[int]:
    """`flops.layer_flops` less the products with the zeros around an image, which XLA does not count."""
    per_layer = flops.layer_flops(N_TAGS, 512, SIZE)
    side = SIZE
    for index, layer in enumerate(VGG16_LAYERS):
        if layer.kind == "pool":
            side //= 2
        # Of the 3 x 3 taps at each position, two columns and two rows of positions miss one in three.
        per_layer[index] = round(per_layer[index] * ((3 * side - 2) / (3 * side)) ** 2)
    return per_layer


@pytest.fixture(scope="module")
def head_only() -> Program:
    return Program(19)


@pytest.fixture(scope="module")
def compiled_head_only(head_only: Program) -> CompiledStep:
    return head_only.compile()


@pytest.fixture(scope="module")
def compiled_whole() -> CompiledStep:
    return Program(0).compile()


@pytest.mark.parametrize("freeze_layers", [19, 16, 0])
def test_flops_are_those_of_the_closed_form(freeze_layers: int):
    """A forward pass, and two more of each trainable layer; on 4 devices as many as on 1."""
    per_layer = inner_flops()
    expected = BATCH * flops.training_flops(per_layer, freeze_layers)
    if freeze_layers < 19:
        # The lowest trainable layer hands no gradient on.
        lowest = next(layer for layer in VGG16_LAYERS[freeze_layers:] if layer.kind == "convolution")
        expected -= BATCH * per_layer[VGG16_LAYERS.index(lowest)]
    assert Program(freeze_layers).count_flops() == pytest.approx(expected, rel=0.005)
    assert Program(freeze_layers, 4).count_flops() == pytest.approx(expected, rel=0.005)


def test_the_compiled_step_does_what_was_counted(monkeypatch: pytest.MonkeyPatch):
    """A head-only step: a forward pass and three times the head. Nothing of a frozen layer's backward pass is left."""
    # With XLA's convolutions: Winograd's take fewer operations, and are loops, whose bodies count once.
    monkeypatch.setattr(convolution, "_LEAST_TILES", 10**9)
    head_only = Program(19)
    counted, compiled = head_only.count_flops(), head_only.compile()
    assert compiled.flops == pytest.approx(counted, rel=0.005)
    forward = BATCH * sum(inner_flops())
    assert compiled.flops == pytest.approx(forward, rel=0.01)
    on_four = Program(19, 4)
    assert 4 * on_four.compile().flops == pytest.approx(counted, rel=0.005)


def test_frozen_layers_have_no_optimizer_state_and_no_gradients(
    head_only: Program, compiled_head_only: CompiledStep, compiled_whole: CompiledStep
):
    moments = 2 * array_bytes({layer: head_only.params[layer] for layer in HEAD_LAYERS})
    arguments = PARAM_BYTES + moments + head_only.batch_bytes()
    assert compiled_head_only.memory.arguments == pytest.approx(arguments, abs=1000)
    assert compiled_whole.memory.arguments == pytest.approx(3 * PARAM_BYTES + head_only.batch_bytes(), abs=1000)
    assert trainable_layers(0) == set(head_only.params)
    # Less than the gradients of all layers, to say nothing of the activations that they are made from.
    saved = compiled_whole.memory.temporaries - compiled_head_only.memory.temporaries
    assert saved > PARAM_BYTES + 2 * BATCH * 4 * (SIZE * SIZE * 64)


def test_the_state_is_donated(compiled_head_only: CompiledStep, compiled_whole: CompiledStep, head_only: Program):
    """All of it: no second copy of the parameters is ever made, frozen or not."""
    assert compiled_head_only.memory.aliased == pytest.approx(array_bytes(head_only.state), abs=1000)
    for step in (compiled_head_only, compiled_whole):
        assert step.memory.outputs - step.memory.aliased < 1000


def test_accumulation_needs_less_memory(compiled_whole: CompiledStep):
    """With all layers trained, most temporaries are activations kept for the backward pass: of a quarter at a time."""
    parts = Program(0, parts=4).compile()
    assert compiled_whole.memory.temporaries > 10 * PARAM_BYTES
    # Gradients are there twice: of a part, and the sum.
    activations = compiled_whole.memory.temporaries - PARAM_BYTES
    assert parts.memory.temporaries < activations / 4 + 2.2 * PARAM_BYTES


def test_another_shape_is_refused(head_only: Program, compiled_head_only: CompiledStep):
    """A compiled step never compiles again."""
    zeros = functools.partial(jax.tree.map, lambda leaf: jnp.zeros(leaf.shape, leaf.dtype))
    batch = {**zeros(head_only.batch), "weight": jnp.zeros((1, BATCH + 1))}
    with pytest.raises(TypeError, match=r"compiled with .* called with"):
        compiled_head_only(zeros(head_only.state), batch)
