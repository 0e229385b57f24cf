from __future__ import annotations

import jax.numpy as jnp
import pytest

from sd_jax.training.throughput import Throughput, peak_flops


@pytest.mark.parametrize(
    ("kind", "dtype", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", jnp.bfloat16, 989e12),
        ("NVIDIA H200", jnp.float32, 495e12),
        ("NVIDIA H100 PCIe", jnp.bfloat16, 756e12),
        ("NVIDIA H100 NVL", jnp.bfloat16, 835e12),
        ("NVIDIA GH200 480GB", jnp.bfloat16, 989e12),
        ("NVIDIA A100-SXM4-80GB", jnp.bfloat16, 312e12),
        ("NVIDIA A100-PCIE-40GB", jnp.float32, 156e12),
        ("Tesla V100-SXM2-16GB", jnp.float16, 125e12),
        ("Tesla V100-PCIE-32GB", jnp.float16, 112e12),
        ("Tesla V100-SXM2-16GB", jnp.bfloat16, None),
        ("Tesla T4", "float16", 65e12),
        ("NVIDIA L4", jnp.bfloat16, 121e12),
        ("NVIDIA L40S", jnp.bfloat16, 362e12),
        ("NVIDIA A10G", jnp.bfloat16, 70e12),
        ("NVIDIA A10", jnp.bfloat16, 125e12),
        ("NVIDIA GeForce RTX 4090", jnp.bfloat16, 165e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", jnp.bfloat16, None),
        ("TPU v4", jnp.bfloat16, 275e12),
        ("TPU v5 lite", jnp.bfloat16, 197e12),
        ("TPU v5e", jnp.bfloat16, 197e12),
        ("TPU v5p", jnp.bfloat16, 459e12),
        ("TPU v5", jnp.bfloat16, 459e12),
        ("TPU v6 lite", jnp.bfloat16, 918e12),
        ("NVIDIA H1000", jnp.bfloat16, None),
        ("cpu", jnp.float32, None),
    ],
)
def test_peaks_of_known_devices(kind, dtype, peak) -> None:
    assert peak_flops(kind, dtype) == peak


def test_speed_leaves_the_first_step_out() -> None:
    speed = Throughput(32, num_devices=8, device_kind="NVIDIA A100-SXM4-80GB")
    flops = 4 * 312e12
    speed.update(100.0, 50.0, flops)
    assert speed.summary() == {}
    for seconds, waited in ((0.5, 0.25), (0.5, 0.0), (0.25, 0.125), (0.75, 0.125)):
        speed.update(seconds, waited, flops)
    assert speed.summary() == pytest.approx(
        {
            "images_per_second": 64.0,
            "seconds_per_step": 0.5,
            "input_wait": 0.25,
            "tflops_per_device": 312.0,
            "mfu": 1.0,
        }
    )


def test_each_summary_is_of_the_steps_since_the_last() -> None:
    speed = Throughput(10)
    speed.update(9.0, 0.0, 1e12)
    speed.update(1.0, 0.0, 1e12)
    assert speed.summary()["images_per_second"] == 10
    speed.update(4.0, 0.0, 1e12)
    assert speed.summary()["images_per_second"] == 2.5
    assert speed.summary() == {}


def test_steps_may_differ_in_their_operations() -> None:
    speed = Throughput(10)
    speed.update(9.0, 0.0, 1e12)
    speed.update(1.0, 0.0, 1e12)
    speed.update(3.0, 0.0, 5e12)
    # No MFU either, as the device is not known.
    assert speed.summary() == pytest.approx(
        {
            "images_per_second": 5.0,
            "seconds_per_step": 2.0,
            "input_wait": 0.0,
            "tflops_per_device": 1.5,
        }
    )


def test_the_peak_is_that_of_the_type() -> None:
    found = {}
    for dtype in ("bfloat16", "float32"):
        speed = Throughput(1, device_kind="NVIDIA A100", dtype=dtype)
        speed.update(1.0, 0.0, 1e12)
        speed.update(1.0, 0.0, 1e12)
        found[dtype] = speed.summary()["mfu"]
    assert found["float32"] == pytest.approx(2 * found["bfloat16"])
