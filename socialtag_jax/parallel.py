"""The only file that knows devices, meshes, shardings and pmap.

The state is replicated, a batch's leading axis is the device. `jax.pmap` runs on `jit` and `shard_map`: arrays that
carry the right sharding go in and come out as they are, without copies.
"""

import collections
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from socialtag_jax.errors import UsageError

AXIS, HEADS = "batch", "heads"
Tree = TypeVar("Tree")


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

    def compile_train_step(self, step: Callable[[Any, Any], tuple[Any, Any]]) -> Callable[[Any, Any], tuple[Any, Any]]:
        """`(state, batch) -> (state, sums)` over all devices; donates the state; the sums are equal on every device."""
        return self._pmap(step, in_axes=(None, 0), out_axes=(None, None), donate_argnums=(0,))

    def compile_eval_step(self, step: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """`(params, batch) -> outputs`, each output with the device axis first."""
        return self._pmap(step, in_axes=(None, 0), out_axes=0, donate_argnums=())

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

    def _pmap(self, step: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        return jax.pmap(step, axis_name=AXIS, devices=self.devices, **options)

    def local_rows(self, batch_size: int, flag: str) -> int:
        """Rows a device gets of a batch.

        Raises:
          UsageError: the batch does not divide.
        """
        if batch_size % len(self):
            raise UsageError(
                f"{batch_size} images do not divide among {len(self)} devices",
                where=flag,
                hint=f"choose a multiple of {len(self)}",
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
    # XLA does not drop the reduction on one device: it would copy every gradient.
    return tree if jax.lax.axis_size(AXIS) == 1 else jax.lax.psum(tree, AXIS)


def device_index() -> jax.Array:
    """Inside a compiled step: this device's position, int32."""
    return jnp.zeros((), jnp.int32) if jax.lax.axis_size(AXIS) == 1 else jax.lax.axis_index(AXIS)
