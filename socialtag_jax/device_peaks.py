"""What known accelerators can do at most, from their vendors' datasheets.

Operations per second are those of dense matrix products with results in float32, a multiply-add counting as two,
without sparsity. "float32" is the arithmetic that XLA uses for float32 operands by default: TensorFloat-32 on NVIDIA
GPUs since Ampere, one pass of bfloat16 on TPUs, else float32. A graphics card's boost clock is assumed, as in its
datasheet.

Figures are those of one `jax.Device`: of one core of a TPU v2 or v3 chip (half of the chip), of a whole chip since v4.

Sources: NVIDIA's datasheets and architecture whitepapers of each product (P100, V100, T4, Turing, Ampere GA102, A10,
A100, Ada, L4, L40S, Hopper H100, H200; B200: an eighth of DGX B200's, without sparsity; A10G: published by AWS); Google
Cloud's "TPU system architecture" pages of v2 to v6e.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Peak:
    """The most that one device does.

    Attributes:
      float32: operations per second with float32 operands, as XLA computes by default.
      bfloat16: with bfloat16 operands; those of float32 where the device has no faster arithmetic for them.
      bandwidth: bytes per second to and from the device's memory.
    """

    float32: float
    bfloat16: float
    bandwidth: float

    def flops(self, dtype: str) -> float:
        """Operations per second with operands of "float32" or "bfloat16"."""
        return {"float32": self.float32, "bfloat16": self.bfloat16}[dtype]


def _peak(float32: float, bfloat16: float, bandwidth: float) -> Peak:
    """From TFLOP/s and GB/s, as datasheets give them."""
    return Peak(float32 * 1e12, bfloat16 * 1e12, bandwidth * 1e9)


# How JAX's `device_kind` ends: "NVIDIA A100-SXM4-80GB", "Tesla T4", "TPU v5 lite". Variants of a product (a laptop's
# GPU, an NVL card) differ, and match nothing. GPUs before Ampere have no bfloat16 in their matrix units.
_PEAKS: tuple[tuple[str, Peak], ...] = (
    (r"B200$", _peak(1125, 2250, 8000)),
    (r"H200$", _peak(494.5, 989, 4800)),
    (r"H100 PCIe$", _peak(378, 756, 2000)),
    (r"H100 80GB HBM3$", _peak(494.5, 989, 3350)),
    (r"A100 80GB PCIe$", _peak(156, 312, 1935)),
    (r"A100-SXM4-80GB$", _peak(156, 312, 2039)),
    (r"A100-(SXM4|PCIE)-40GB$", _peak(156, 312, 1555)),
    (r"L40S$", _peak(183, 362, 864)),
    (r"L4$", _peak(60, 121, 300)),
    (r"A10G$", _peak(35, 70, 600)),
    (r"A10$", _peak(62.5, 125, 600)),
    (r"RTX 4090$", _peak(82.6, 165.2, 1008)),
    (r"RTX 3090$", _peak(35.6, 71, 936)),
    (r"T4$", _peak(8.1, 8.1, 320)),
    (r"V100-PCIE-\d+GB$", _peak(14.0, 14.0, 900)),
    (r"V100-SXM2-\d+GB", _peak(15.7, 15.7, 900)),
    (r"P100-PCIE-16GB$", _peak(9.3, 9.3, 732)),
    (r"P100-SXM2-16GB$", _peak(10.6, 10.6, 732)),
    (r"P4000$", _peak(5.3, 5.3, 243)),
    (r"TPU v6( lite|e)$", _peak(918, 918, 1640)),
    (r"TPU v5( lite|e)$", _peak(197, 197, 819)),
    (r"TPU v5p?$", _peak(459, 459, 2765)),
    (r"TPU v4$", _peak(275, 275, 1228)),
    (r"TPU v3$", _peak(61.5, 61.5, 450)),
    (r"TPU v2$", _peak(22.5, 22.5, 350)),
)


def known_peak(device_kind: str) -> Peak | None:
    """The peak of a `jax.Device.device_kind`; None for one that is not in the table, such as a CPU."""
    return next((peak for pattern, peak in _PEAKS if re.search(rf"(^|\s){pattern}", device_kind)), None)
