"""Utilization and bounds from closed forms; the table of devices against device kinds as JAX reports them."""

import dataclasses
from types import SimpleNamespace

import jax
import pytest

from socialtag_jax.device_peaks import known_peak
from socialtag_jax.parallel import CompiledStep, StepMemory
from socialtag_jax.roofline import Roof, Roofline, intensity, roof

ROOF = Roof(flops=100e12, bandwidth=1e12, source="datasheet")


@pytest.mark.parametrize(
    ("kind", "float32", "bfloat16", "bandwidth"),
    [
        ("NVIDIA H100 80GB HBM3", 494.5, 989, 3350),
        ("NVIDIA H100 PCIe", 378, 756, 2000),
        ("NVIDIA H200", 494.5, 989, 4800),
        ("NVIDIA B200", 1125, 2250, 8000),
        ("NVIDIA A100-SXM4-40GB", 156, 312, 1555),
        ("NVIDIA A100-PCIE-40GB", 156, 312, 1555),
        ("NVIDIA A100-SXM4-80GB", 156, 312, 2039),
        ("NVIDIA A100 80GB PCIe", 156, 312, 1935),
        ("NVIDIA A10", 62.5, 125, 600),
        ("NVIDIA A10G", 35, 70, 600),
        ("NVIDIA L4", 60, 121, 300),
        ("NVIDIA L40S", 183, 362, 864),
        ("NVIDIA GeForce RTX 3090", 35.6, 71, 936),
        ("NVIDIA GeForce RTX 4090", 82.6, 165.2, 1008),
        ("Tesla T4", 8.1, 8.1, 320),
        ("Tesla V100-SXM2-16GB", 15.7, 15.7, 900),
        ("Tesla V100-PCIE-32GB", 14, 14, 900),
        ("Tesla P100-PCIE-16GB", 9.3, 9.3, 732),
        ("Quadro P4000", 5.3, 5.3, 243),
        ("TPU v2", 22.5, 22.5, 350),
        ("TPU v3", 61.5, 61.5, 450),
        ("TPU v4", 275, 275, 1228),
        ("TPU v5 lite", 197, 197, 819),
        ("TPU v5", 459, 459, 2765),
        ("TPU v5p", 459, 459, 2765),
        ("TPU v6 lite", 918, 918, 1640),
    ],
)
def test_known_devices(kind: str, float32: float, bfloat16: float, bandwidth: float):
    peak = known_peak(kind)
    assert peak is not None
    assert peak.flops("float32") == pytest.approx(float32 * 1e12)
    assert peak.flops("bfloat16") == pytest.approx(bfloat16 * 1e12)
    assert peak.bandwidth == pytest.approx(bandwidth * 1e9)


@pytest.mark.parametrize(
    "kind",
    [
        "cpu",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA H100 NVL",
        "Tesla V100S-PCIE-32GB",
        "TPU v5x",
        "Quadro RTX 4000",
    ],
)
def test_variants_and_unknown_devices_are_not_taken_for_known_ones(kind: str):
    assert known_peak(kind) is None


def test_roof_of_several_devices():
    gpus = [SimpleNamespace(device_kind="Tesla T4", platform="gpu")] * 4
    found = roof(gpus, "float32", measure=lambda device, dtype: 0.0)
    assert found == Roof(4 * 8.1e12, 4 * 320e9, "datasheet")
    unknown = [SimpleNamespace(device_kind="Graphics 9000", platform="gpu")] * 4
    assert roof(unknown, "bfloat16", measure=lambda device, dtype: 7e12) == Roof(28e12, None, "measured")


def test_simulated_cpu_devices_share_their_peak():
    devices = jax.local_devices()
    assert len(devices) == 4
    assert roof(devices, "float32", measure=lambda device, dtype: 7e9) == Roof(7e9, None, "measured")
    assert roof(devices, "float32").flops > 1e8


def test_mfu_by_hand():
    """Ten steps of 20 TFLOP in 4 s on 100 TFLOP/s: 50 TFLOP/s."""
    assert Roofline(20e12, None, ROOF).mfu(10, 4.0) == pytest.approx(0.5)


def test_ridge_point():
    """At 100 operations a byte, arithmetic and bandwidth take equally long."""
    assert ROOF.ridge == 100
    assert Roofline(1.0, 100.0, ROOF).device_bound() == "compute"
    assert Roofline(1.0, 99.0, ROOF).device_bound() == "memory"
    assert Roofline(1.0, None, ROOF).device_bound() == "device"
    measured = dataclasses.replace(ROOF, bandwidth=None, source="measured")
    assert Roofline(1.0, 99.0, measured).device_bound() == "device"


@pytest.mark.parametrize(
    ("data", "host", "expected"),
    [
        (0.0, 0.0, "compute"),
        (0.4, 0.1, "compute"),
        (0.5, 0.0, "compute"),
        (0.6, 0.1, "data"),
        (0.3, 0.5, "host"),
        (0.4, 0.3, "data"),
        (0.0, 1.0, "host"),
    ],
)
def test_the_largest_share_bounds(data: float, host: float, expected: str):
    assert Roofline(1.0, 200.0, ROOF).bound(data, host) == expected


def test_intensity_is_unknown_where_libraries_hide_the_arithmetic():
    memory = StepMemory(0, 0, 0, 0)
    assert intensity(CompiledStep(print, memory, flops=200.0, bytes_accessed=4.0), 210.0) == 50.0
    assert intensity(CompiledStep(print, memory, flops=20.0, bytes_accessed=4.0), 210.0) is None
    assert intensity(CompiledStep(print, memory, flops=200.0, bytes_accessed=-1.0), 210.0) is None
