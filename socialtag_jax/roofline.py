"""How near a run comes to what its devices can do, and what keeps it from more: data, the host, or the devices.

Source: Williams, Waterman and Patterson, "Roofline", 2009; MFU as in Chowdhery et al., "PaLM", 2022, appendix B.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from socialtag_jax import flops
from socialtag_jax.device_peaks import known_peak
from socialtag_jax.parallel import CompiledStep

Bound = Literal["data", "host", "compute", "memory", "device"]
"""What bounds a run: waiting for data; the host, which starts steps too slowly; or the devices, by their arithmetic, by
their memory's bandwidth, or by either, where it is not known which."""


@dataclass(frozen=True)
class Roof:
    """What all devices of a run can do together.

    Attributes:
      flops: operations per second.
      bandwidth: bytes per second to and from their memories; None where it is not known.
      source: "datasheet", or "measured": with a matrix product.
    """

    flops: float
    bandwidth: float | None
    source: Literal["datasheet", "measured"]

    @property
    def ridge(self) -> float | None:
        """Operations per byte above which arithmetic is the limit, and below which bandwidth is."""
        return None if self.bandwidth is None else self.flops / self.bandwidth


def roof(
    devices: Sequence[Any],
    dtype: str,
    *,
    processes: int = 1,
    measure: Callable[[Any, Any], float] = flops.measured_matmul_flops,
) -> Roof:
    """The roof of `jax.Device`s of one kind, from their datasheet, or measured where they are in no table.

    Args:
      devices: of this process.
      dtype: "float32" or "bfloat16", that the convolutions compute in.
      processes: of the run, each with as many devices on a machine of its own.
      measure: operations per second of a matrix product, given a device and a dtype.
    """
    peak = known_peak(devices[0].device_kind)
    if peak is not None:
        count = processes * len(devices)
        return Roof(count * peak.flops(dtype), count * peak.bandwidth, "datasheet")
    # Simulated CPU devices share the same cores.
    count = processes * (1 if devices[0].platform == "cpu" else len(devices))
    return Roof(count * measure(devices[0], dtype), None, "measured")


def intensity(step: CompiledStep, counted_flops: float) -> float | None:
    """Operations per byte of memory traffic of a compiled step.

    Args:
      step: the compiled step.
      counted_flops: of its program on one device, with a loop's body counted once (`Devices.count_flops`).

    Returns:
      None where XLA does not see what most of the step does: on GPUs, inside of libraries.
    """
    if step.flops < 0.5 * counted_flops or step.bytes_accessed <= 0:
        return None
    return step.flops / step.bytes_accessed


@dataclass(frozen=True)
class Roofline:
    """A training step beside its devices' roof.

    Attributes:
      step_flops: operations of a step, over all devices.
      intensity: operations per byte of memory traffic; None if not known.
      roof: of all devices.
    """

    step_flops: float
    intensity: float | None
    roof: Roof

    def mfu(self, steps: int, seconds: float) -> float:
        """Model FLOPs utilization: the share of the devices' peak that so many steps in that time come to."""
        return steps * self.step_flops / seconds / self.roof.flops

    def device_bound(self) -> Bound:
        """What bounds the devices while they are at work."""
        if self.intensity is None or self.roof.ridge is None:
            return "device"
        return "compute" if self.intensity >= self.roof.ridge else "memory"

    def bound(self, data_wait_share: float, host_share: float) -> Bound:
        """Whatever takes the largest share of the time.

        Args:
          data_wait_share: share of the time in which the devices wait for data.
          host_share: share of the time in which they wait for the host to start the next step.
        """
        device_share = 1.0 - data_wait_share - host_share
        if device_share >= max(data_wait_share, host_share):
            return self.device_bound()
        return "data" if data_wait_share >= host_share else "host"
