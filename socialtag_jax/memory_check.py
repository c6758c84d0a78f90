"""Does a step fit into memory? Asked before the first one, of the compiled program; if not, what would fit.

Bytes are those of XLA's own plan for the compiled step, and of the arrays that lie beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax

from socialtag_jax.errors import UserError
from socialtag_jax.machine import available_memory
from socialtag_jax.model import VGG16_LAYERS
from socialtag_jax.parallel import CompiledStep, Devices
from socialtag_jax.progress import format_bytes

BATCHES_ON_DEVICE = 4
"""The batch in use, the next one, and those that `Devices.prefetch` has on their way."""


@dataclass(frozen=True)
class Need:
    """What a step needs, in bytes.

    Attributes:
      state: parameters, optimizer state and average, on each device.
      batches: on each device.
      temporaries: on each device, while the step runs.
      queue: batches that wait on the host.
    """

    state: int
    batches: int
    temporaries: int
    queue: int

    @property
    def device(self) -> int:
        """Bytes on each device."""
        return self.state + self.batches + self.temporaries

    def text(self) -> str:
        """The parts on each device."""
        parts = {"state": self.state, "batches": self.batches, "temporaries": self.temporaries}
        return ", ".join(f"{format_bytes(count)} {name}" for name, count in parts.items())


@dataclass(frozen=True)
class Limit:
    """What there is, in bytes.

    Attributes:
      device: for the run on each device.
      host: for the run on the host; None where the devices take their memory from it, and queue and devices share it.
      count: devices of this host.
    """

    device: int
    host: int | None
    count: int

    def fits(self, need: Need) -> bool:
        """Whether there is room for it."""
        if self.host is None:
            return need.device * self.count + need.queue <= self.device * self.count
        return need.device <= self.device and need.queue <= self.host


def array_bytes(tree: Any) -> int:
    """Bytes of all arrays, or of what shapes describe."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def step_need(
    step: CompiledStep, state: Any, batch: Any, *, devices: Devices, queued_batches: int, scratch: int = 0
) -> Need:
    """What a compiled step needs.

    Args:
      step: of training or evaluation.
      state: all that stays on the devices, whether or not the step takes it; arrays or shapes.
      batch: the step's batch, arrays or shapes, the device axis first.
      devices: of the run.
      queued_batches: that wait on the host.
      scratch: bytes on each device that XLA's plan does not show (`library_scratch`).
    """
    fresh_outputs = step.memory.outputs - step.memory.aliased
    batch_bytes = array_bytes(batch)
    return Need(
        state=array_bytes(state),
        batches=BATCHES_ON_DEVICE * batch_bytes // len(devices),
        temporaries=step.memory.temporaries + fresh_outputs + scratch,
        queue=queued_batches * devices.local_share(batch_bytes),
    )


def library_scratch(platform: str, *, rows: int, input_size: int, freeze_layers: int, first_layer: int = 0) -> int:
    """Bytes that a step takes on a CPU beyond XLA's plan, which shows nothing inside of library calls.

    XLA hands the whole chain of frozen layers to one such call. It holds the input and the output of one layer at a
    time, in float32.

    Args:
      platform: "cpu", "gpu" or "tpu".
      rows: images a device takes at a time.
      input_size: height and width in pixels.
      freeze_layers: layers without a backward pass; all 19 in evaluation.
      first_layer: layers that the step leaves out.
    """
    if platform != "cpu":
        return 0
    side, largest = input_size, 0
    for index, layer in enumerate(VGG16_LAYERS[:freeze_layers]):
        features = layer.features_in + layer.features
        if first_layer <= index:
            largest = max(largest, 4 * rows * side * side * features)
        if layer.kind == "pool":
            side //= 2
    return largest


def memory_limit(devices: Devices, held: Any) -> Limit | None:
    """What the devices and the host have for a run; None where the devices do not say.

    Args:
      devices: of the run.
      held: the run's arrays that lie on every device already.
    """
    if devices.platform == "cpu":
        count = len(devices.local)
        return Limit(available_memory() // count + array_bytes(held), None, count)
    # XLA's platform allocator, and some plugins, keep no account.
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in devices.local]
    return Limit(min(limits), available_memory(), len(limits)) if min(limits) else None


def check(
    need: Need,
    need_at: Callable[[int], Need],
    *,
    batch_size: int,
    multiple: int,
    limit: Limit | None,
    where: str,
    hint: str | None = None,
) -> str:
    """A line on what a run needs, if it fits, or if it is not known whether it does.

    Args:
      need: at `batch_size`.
      need_at: what it would be at another batch size; compiles.
      batch_size: images a step, over all devices.
      multiple: that every batch size is of.
      limit: what there is, if that is known.
      where: the flag that chose the batch size.
      hint: what else helps.

    Raises:
      UserError: it does not fit; with the largest batch size that does.
    """
    if limit is None:
        return f"{format_bytes(need.device)} on each device ({need.text()}), which does not say how much it has"
    if limit.fits(need):
        return (
            f"{format_bytes(need.device)} of {format_bytes(limit.device)} on each device ({need.text()}), "
            f"{format_bytes(need.queue)} for queued batches on the host"
        )
    largest = largest_batch(need, need_at, batch_size=batch_size, multiple=multiple, limit=limit)
    if limit.host is not None and need.device <= limit.device:
        what = f"{batch_size} images a step need {format_bytes(need.queue)} of the host's memory for queued batches"
        room = f"it has {format_bytes(limit.host)}"
    else:
        what = f"{batch_size} images a step need {format_bytes(need.device)} on each device ({need.text()})"
        if limit.host is None:
            what += f" and {format_bytes(need.queue)} for queued batches"
        room = f"there are {format_bytes(limit.device)}" + (" for both" if limit.host is None else "")
    if largest is None:
        remedy = f"even {multiple} images do not fit: a smaller --model.input-size, or a larger machine"
    else:
        remedy = f"the largest batch size that fits is {largest}"
        remedy += f"; {hint}" if hint else ""
    raise UserError(f"{what}, {room}", where=where, hint=remedy)


def largest_batch(
    need: Need, need_at: Callable[[int], Need], *, batch_size: int, multiple: int, limit: Limit
) -> int | None:
    """The largest multiple below a batch size that fits; None if not even one multiple does.

    What a step needs grows about linearly: a line through two sizes proposes one, and only a size whose own program
    fits is returned, with the next one's not fitting.

    Args:
      need: at `batch_size`, which does not fit.
      need_at: what it is at another size; compiles.
      batch_size: a multiple.
      multiple: of which every size is.
      limit: what there is.
    """
    low, high = 1, batch_size // multiple
    if low == high:
        return None
    needs = {low: need_at(multiple), high: need}
    if not limit.fits(needs[low]):
        return None
    # `low` fits, `high` does not.
    while high - low > 1:
        guess = min(max(_last_fit(low, needs[low], high, needs[high], limit), low + 1), high - 1)
        needs[guess] = need_at(guess * multiple)
        if limit.fits(needs[guess]):
            low = guess
        else:
            high = guess
    return low * multiple


def _last_fit(low: int, need_low: Need, high: int, need_high: Need, limit: Limit) -> int:
    """Where the line through two sizes crosses the limit; rounded down, and again up to the same size if it fits."""

    def between(share: float) -> Need:
        names = ("state", "batches", "temporaries", "queue")
        ends = ((getattr(need_low, name), getattr(need_high, name)) for name in names)
        return replace(need_low, **dict(zip(names, (int(a + share * (b - a)) for a, b in ends), strict=True)))

    fitting = [size for size in range(low, high) if limit.fits(between((size - low) / (high - low)))]
    return fitting[-1]
