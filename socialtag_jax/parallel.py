"""The only file that knows devices, meshes, shardings and pmap; `processes.py` brings the devices of others in.

The state is replicated, a batch's leading axis is the device. `jax.pmap` runs on `jit` and `shard_map`: arrays that
carry the right sharding go in and come out as they are, without copies. Of an array over the devices of several
processes, each process holds the parts on its own.
"""

import collections
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from socialtag_jax.errors import UsageError, UserError

AXIS, HEADS = "batch", "heads"
_CHUNK_BYTES = 2**24
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
      devices: objects of `jax.Device`; None for all, those of other processes included.

    Attributes:
      devices: each process's side by side: its rows of a batch follow each other.
      local: those of this process.
      processes: how many processes have some.
      process: this one's number, from 0. Process 0 reads and writes the run folder, the others compute.

    Raises:
      UserError: some process has fewer devices than another.
    """

    def __init__(self, devices: Sequence[Any] | None = None) -> None:
        everywhere = sorted(jax.devices(), key=lambda device: device.process_index)
        self.devices = tuple(everywhere if devices is None else devices)
        by_process = collections.Counter(device.process_index for device in self.devices)
        if len(set(by_process.values())) > 1:
            counts = ", ".join(f"process {process} has {count}" for process, count in sorted(by_process.items()))
            raise UserError("all processes need the same number of devices", where="devices", hint=counts)
        self.local = tuple(device for device in self.devices if device.process_index == jax.process_index())
        self.processes = len(by_process)
        self.process = sorted(by_process).index(jax.process_index())
        mesh = Mesh(np.array(self.devices), (AXIS,))
        self.replicated = NamedSharding(mesh, PartitionSpec())
        self._sharded = NamedSharding(mesh, PartitionSpec(AXIS))
        self._heads_mesh = Mesh(np.array(self.devices), (HEADS,))
        self._gather = jax.jit(lambda tree: tree, out_shardings=self.replicated)
        self._sum = jax.jit(lambda rows: jnp.sum(rows, axis=0, dtype=rows.dtype), out_shardings=self.replicated)

    def __len__(self) -> int:
        return len(self.devices)

    @property
    def is_main(self) -> bool:
        """Whether this is process 0, which alone reads and writes the run folder."""
        return self.process == 0

    @property
    def platform(self) -> str:
        """One of "cpu", "gpu" and "tpu"."""
        return self.devices[0].platform

    @property
    def kind(self) -> str:
        """The devices' model name."""
        return self.devices[0].device_kind

    def replicate(self, tree: Tree) -> Tree:
        """A copy of every leaf on every device; every process must hand in the same values."""
        if self.processes == 1:
            return jax.device_put(tree, self.replicated)
        return jax.tree.map(self._replicate_leaf, tree)

    def _replicate_leaf(self, leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, self.replicated)
        # To put it onto other processes' devices, too, jax would gather all their values on each device, to compare.
        copies = [jax.device_put(leaf, device) for device in self.local]
        return jax.make_array_from_single_device_arrays(np.shape(leaf), self.replicated, copies)

    def shard(self, batch: Tree) -> Tree:
        """This process's rows, [local devices, ...], as its part of the batch, [devices, ...]: row d on device d."""
        if self.processes == 1:
            return jax.device_put(batch, self._sharded)
        return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(self._sharded, rows), batch)

    def gather(self, tree: Tree) -> Tree:
        """A step's outputs and its batch, [devices, ...], as arrays that every process can fetch; returns at once."""
        return tree if self.processes == 1 else self._gather(tree)

    def any_process(self, flags: Sequence[bool]) -> jax.Array:
        """How many processes say so, int32 [flags], on every process; returns at once."""
        rows = np.zeros((len(self.local), len(flags)), np.int32)
        rows[0] = flags
        return self._sum(self.shard(rows))

    def broadcast(self, data: bytes) -> bytes:
        """What process 0 hands in, on every process; what the others hand in is not looked at."""
        if self.processes == 1:
            return data
        (size,) = np.frombuffer(self._broadcast_chunk(np.int64(len(data)).tobytes()), np.int64)
        chunks = [
            self._broadcast_chunk(data[start : start + _CHUNK_BYTES], _CHUNK_BYTES)
            for start in range(0, int(size), _CHUNK_BYTES)
        ]
        return b"".join(chunks)[: int(size)]

    def _broadcast_chunk(self, data: bytes, size: int = 8) -> bytes:
        # A sum with zeros, of whole numbers: it keeps every bit, where one of floats would turn -0.0 into 0.0.
        rows = np.zeros((len(self.local), size // 4), np.uint32)
        if self.is_main:
            rows[0] = np.frombuffer(data.ljust(size, b"\0"), np.uint32)
        return np.asarray(self._sum(self.shard(rows))).tobytes()

    def broadcast_tree(self, tree: Tree) -> Tree:
        """Process 0's arrays, on every device; of the others' leaves, only shapes and dtypes are looked at."""
        leaves, structure = jax.tree.flatten(tree)
        data = self.broadcast(b"".join(np.asarray(leaf).tobytes() for leaf in leaves) if self.is_main else b"")
        arrays, start = [], 0
        for leaf in leaves:
            count = math.prod(leaf.shape)
            arrays.append(np.frombuffer(data, leaf.dtype, count, start).reshape(leaf.shape))
            start += count * leaf.dtype.itemsize
        return self.replicate(jax.tree.unflatten(structure, arrays))

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """Compares what all processes must agree on before they start.

        Args:
          facts: JSON values by what they are called.

        Raises:
          UserError: on every process, with what differs.
        """
        if self.processes == 1:
            return
        data = json.dumps(facts, sort_keys=True).encode()
        (longest,) = np.asarray(self._gather_rows(np.array([len(data)], np.int32))).max(axis=0)
        padded = np.frombuffer(data.ljust(int(longest)), np.uint8)
        every = [json.loads(row.tobytes()) for row in self._gather_rows(padded)]
        names = sorted({name for one in every for name in one})
        differing = [name for name in names if len({json.dumps(one.get(name)) for one in every}) > 1]
        if differing:
            name = differing[0]
            other = next(number for number, one in enumerate(every) if one.get(name) != every[0].get(name))
            more = f" (and they differ in {', '.join(differing[1:])})" if len(differing) > 1 else ""
            raise UserError(
                f"process 0 has {name} = {every[0].get(name)!r}, process {other} has {every[other].get(name)!r}{more}",
                where=f"process {self.process} of {self.processes}",
                hint="start all processes with the same command, data set and versions",
            )

    def _gather_rows(self, row: np.ndarray) -> np.ndarray:
        """Each process's row, [processes, ...]."""
        rows = np.broadcast_to(row, (len(self.local), *row.shape))
        return np.asarray(self.gather(self.shard(rows)))[:: len(self.local)]

    def local_share(self, count: int) -> int:
        """Of something that all devices share equally, what this process's have."""
        return count * len(self.local) // len(self)

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


class Agreement:
    """Has all processes do the same at the same step, as soon as one of them wants to.

    Where there are several, an answer is that of the step before: to wait for the others' would leave the devices
    without work.
    """

    def __init__(self, devices: Devices) -> None:
        self._devices = devices
        self._asked: jax.Array | None = None

    def __call__(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether this process or any other sets it.

        All of them must call it after the same steps, of training and of validation, with as many flags each time.
        """
        if self._devices.processes == 1:
            return flags
        before, self._asked = self._asked, self._devices.any_process(flags)
        return (False,) * len(flags) if before is None else tuple((np.asarray(before) > 0).tolist())


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
    # Not `ShapeDtypeStruct`: in several processes `pmap` takes that for an array of this process.
    return jax.tree.map(lambda leaf: ShapedArray(leaf.shape, leaf.dtype), tree)
