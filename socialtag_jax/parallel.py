"""The only file that knows devices, meshes, shardings and pmap.

The state is replicated, a batch's leading axis is the device. `jax.pmap` runs on `jit` and `shard_map`: arrays that
carry the right sharding go in and come out as they are, without copies.
"""

import collections
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from socialtag_jax.errors import UsageError

AXIS, HEADS = "batch", "heads"
Tree = TypeVar("Tree")


@dataclass(frozen=True)
class StepMemory:
    """What a compiled step needs on each device, in bytes, as XLA has planned it before the first call.

    Attributes:
      arguments: of the state and of the batch.
      outputs: of the new state and of what else is returned.
      aliased: of the outputs that take the place of donated arguments.
      temporaries: in use while the step runs. On CPUs without the scratch memory inside of library calls.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int


@dataclass(frozen=True)
class CompiledStep:
    """A step function compiled ahead of time for one shape of its arguments.

    A call with another shape, dtype or structure is a TypeError: nothing is ever compiled again.

    Attributes:
      call: the compiled program.
      memory: what it needs.
      flops: operations on each device, as XLA counts the compiled program: a loop's body once; on GPUs without the
        matrix products and convolutions that libraries do (`Devices.count_flops` has them all).
      bytes_accessed: bytes that it moves to and from each device's memory, counted in the same way. Both are 0 where
        XLA has no such analysis.
    """

    call: Callable[..., Any]
    memory: StepMemory
    flops: float
    bytes_accessed: float

    def __call__(self, *arguments: Any) -> Any:
        """Runs the step; arguments must lie where `Devices.replicate` and `Devices.shard` put them."""
        return self.call(*arguments)


class Devices:
    """The devices of a run: places the state, shards batches, and compiles step functions for all of them.

    Args:
      devices: `jax.Device`s; None for all local ones.
    """

    def __init__(self, devices: Sequence[Any] | None = None) -> None:
        self.devices = tuple(jax.local_devices() if devices is None else devices)
        mesh = Mesh(np.array(self.devices), (AXIS,))
        self.replicated = NamedSharding(mesh, PartitionSpec())
        self._sharded = NamedSharding(mesh, PartitionSpec(AXIS))
        self._heads_mesh = Mesh(np.array(self.devices), (HEADS,))

    def __len__(self) -> int:
        return len(self.devices)

    @property
    def platform(self) -> str:
        """One of "cpu", "gpu" and "tpu"."""
        return self.devices[0].platform

    @property
    def kind(self) -> str:
        """The devices' model name."""
        return self.devices[0].device_kind

    def replicate(self, tree: Tree) -> Tree:
        """A copy of every leaf on every device."""
        return jax.device_put(tree, self.replicated)

    def shard(self, batch: Tree) -> Tree:
        """Row d of every leaf, [devices, ...], on device d."""
        return jax.device_put(batch, self._sharded)

    def prefetch(self, batches: Iterator[Tree], depth: int = 2) -> Iterator[Tree]:
        """Keeps `depth` batches on their way to the devices, ahead of the one in use."""
        queue: collections.deque[Tree] = collections.deque()
        for batch in itertools.chain(batches, itertools.repeat(None)):
            if batch is not None:
                queue.append(self.shard(batch))
                if len(queue) <= depth:
                    continue
            if not queue:
                return
            yield queue.popleft()

    def compile_train_step(self, step: Callable[[Any, Any], tuple[Any, Any]], state: Any, batch: Any) -> CompiledStep:
        """`(state, batch) -> (state, sums)` over all devices; donates the state; the sums are equal on every device.

        Args:
          step: of one device's state and rows.
          state: the arguments, or their shapes (`jax.ShapeDtypeStruct`).
          batch: likewise, the device axis first.
        """
        return self._compile(step, state, batch, out_axes=(None, None), donate_argnums=(0,))

    def compile_eval_step(self, step: Callable[[Any, Any], Any], params: Any, batch: Any) -> CompiledStep:
        """`(params, batch) -> outputs`, each output with the device axis first; arguments as `compile_train_step`."""
        return self._compile(step, params, batch, out_axes=0, donate_argnums=())

    def divide(self, tree: Tree) -> Tree:
        """The leading axis of every leaf, [heads, ...], divided among the devices."""
        return jax.device_put(tree, NamedSharding(self._heads_mesh, PartitionSpec(HEADS)))

    def compile_heads(self, step: Callable[..., Any], divided: Sequence[bool], *, donate: bool) -> Any:
        """A function over many heads, each device working on its own share of them.

        Args:
          step: of arrays with the heads on their leading axis, and of others that all heads share.
          divided: for each argument, whether it has the heads on its leading axis, as all outputs have.
          donate: the first argument.

        Returns:
          what `jax.jit` returns.
        """
        specs = tuple(PartitionSpec(HEADS) if one else PartitionSpec() for one in divided)
        mapped = jax.shard_map(
            step, mesh=self._heads_mesh, in_specs=specs, out_specs=PartitionSpec(HEADS), check_vma=False
        )
        return jax.jit(mapped, donate_argnums=(0,) if donate else ())

    def _compile(self, step: Callable[..., Any], state: Any, batch: Any, **options: Any) -> CompiledStep:
        program = jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), devices=self.devices, **options)
        compiled = program.lower(_shapes(state), _shapes(batch)).compile()
        memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
        return CompiledStep(
            compiled,
            StepMemory(
                arguments=memory.argument_size_in_bytes,
                outputs=memory.output_size_in_bytes,
                aliased=memory.alias_size_in_bytes,
                temporaries=memory.temp_size_in_bytes,
            ),
            flops=cost.get("flops", 0.0),
            bytes_accessed=cost.get("bytes accessed", 0.0),
        )

    def count_flops(self, step: Callable[[Any, Any], Any], state: Any, batch: Any) -> float:
        """Operations of one call of a step over all devices, as XLA counts them before it optimizes; nothing is run.

        They are those of the model as it is written down, whatever platform it runs on: on GPUs the analysis leaves out
        what libraries do, and on CPUs convolutions take fewer operations by Winograd's method. So the step is lowered
        for neither. A loop's body counts once.

        Args:
          step: as for `compile_train_step`, which may be one of either kind.
          state: the first argument, or its shapes.
          batch: the second one.
        """
        program = jax.jit(jax.vmap(step, in_axes=(None, 0), axis_name=AXIS))
        row = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), batch)
        cost = program.trace(_shapes(state), row).lower(lowering_platforms=("tpu",)).cost_analysis()
        assert cost is not None
        return cost["flops"] * len(self)

    def local_rows(self, batch_size: int, flag: str, *, parts: int = 1) -> int:
        """Rows a device gets of a batch.

        Args:
          batch_size: rows over all devices.
          flag: where the batch size was chosen.
          parts: of equal size, that a device takes its rows in (`Input.accumulation_steps`).

        Raises:
          UsageError: the batch does not divide.
        """
        multiple = len(self) * parts
        if batch_size % multiple:
            among = f"{len(self)} devices" + (f" x {parts} accumulation steps" if parts > 1 else "")
            raise UsageError(
                f"{batch_size} images do not divide among {among}",
                where=flag,
                hint=f"choose a multiple of {multiple}",
            )
        return batch_size // len(self)


def on_one_device(step: Callable[[Any, Any], tuple[Any, Any]]) -> Callable[[Any, Any], tuple[Any, Any]]:
    """A training step, `(state, batch) -> (state, sums)`, as one device runs it alone: for use in a larger program.

    The batch has no device axis.
    """
    # Nothing is mapped: the axis is there for the step to look up its size, which is 1.
    return jax.vmap(step, in_axes=None, out_axes=None, axis_name=AXIS, axis_size=1)


def sum_over_devices(tree: Tree) -> Tree:
    """Inside a compiled step: sums over all devices, equal on each."""
    # One device has nothing to add, but XLA would copy every gradient all the same.
    return tree if jax.lax.axis_size(AXIS) == 1 else jax.lax.psum(tree, AXIS)


def device_index() -> jax.Array:
    """Inside a compiled step: this device's position, int32."""
    return jnp.zeros((), jnp.int32) if jax.lax.axis_size(AXIS) == 1 else jax.lax.axis_index(AXIS)


def _shapes(tree: Any) -> Any:
    """Shapes and dtypes alone: where the arrays lie decides nothing about the program."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
