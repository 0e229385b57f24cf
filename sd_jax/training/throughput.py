"""How fast a run is: images a second, operations a second and device, and waiting for the input."""

from __future__ import annotations

import re

import jax.numpy as jnp

from sd_jax.typing import Dtype

# Pattern of the device's kind; peak in TFLOP/s as the makers state it, without sparsity and with
# float32 accumulation: float16, bfloat16, float32. The last is TF32 where there is such a unit; on
# TPUs it is what a float32 product costs by default, one pass in bfloat16.
_PEAKS: tuple[tuple[str, float | None, float | None, float | None], ...] = (
    (r"H100 PCIe", 756, 756, 378),
    (r"H[12]00 NVL", 835, 835, 418),
    (r"GH200|H[12]00", 989, 989, 495),
    (r"G?B[23]00", 2250, 2250, 1125),
    (r"A100", 312, 312, 156),
    (r"V100.*PCIE", 112, None, 14),
    (r"V100", 125, None, 15.7),
    (r"L40S", 362, 362, 183),
    (r"L40", 181, 181, 90.5),
    (r"L4", 121, 121, 60),
    (r"T4", 65, None, 8.1),
    (r"A40", 150, 150, 74.8),
    (r"A30", 165, 165, 82),
    (r"A10G", 70, 70, 35),
    (r"A10", 125, 125, 62.5),
    (r"RTX A6000", 155, 155, 77.4),
    (r"RTX 4090(?! Laptop)", 165, 165, 82.6),
    (r"RTX 3090(?! Ti)", 71, 71, 35.6),
    (r"TPU v4(?! lite)", 275, 275, 275),
    (r"TPU v5 ?(lite|e)", 197, 197, 197),
    (r"TPU v5p?", 459, 459, 459),
    (r"TPU v6 ?(lite|e)", 918, 918, 918),
)


def peak_flops(device_kind: str, dtype: Dtype = jnp.bfloat16) -> float | None:
    """Returns the operations a second that a device can do at best; None if it is not in the table.

    Args:
      device_kind: `device.device_kind` ("NVIDIA H100 80GB HBM3", "TPU v4").
      dtype: of the computation: float16, bfloat16 or float32.
    """
    name = jnp.dtype(dtype).name
    for pattern, float16, bfloat16, float32 in _PEAKS:
        if re.search(rf"(?<!\w)({pattern})(?!\w)", device_kind):
            peaks = {"float16": float16, "bfloat16": bfloat16, "float32": float32}
            peak = peaks.get(name)
            return None if peak is None else peak * 1e12
    return None


class Throughput:
    """Speed since the last summary, without the first step.

        speed = Throughput(32, device_kind=device.device_kind)
        speed.update(seconds, seconds_for_the_batch, flops_of(traced))
        writer.scalars(step, speed.summary())

    The first step prepares much that the others find, and is left out. Devices run behind the
    program: measure up to a value that was fetched, or the seconds are those of handing over.

    Args:
      batch_size: rows of the global batch.
      num_devices: of the run.
      device_kind: of these, for the peak.
      dtype: of the computation, for the peak.
    """

    def __init__(
        self,
        batch_size: int,
        *,
        num_devices: int = 1,
        device_kind: str = "",
        dtype: Dtype = jnp.bfloat16,
    ) -> None:
        self._batch_size = batch_size
        self._num_devices, self._peak = num_devices, peak_flops(device_kind, dtype)
        self._started = False
        self._clear()

    def update(self, seconds: float, input_seconds: float, flops: float) -> None:
        """Counts a step.

        Args:
          seconds: that it took, waiting for its batch included.
          input_seconds: of these, spent waiting for batches.
          flops: of the step, on all devices, see `sd_jax.training.flops`.
        """
        if not self._started:
            self._started = True
            return
        self._steps += 1
        self._seconds += seconds
        self._input_seconds += input_seconds
        self._flops += flops

    def summary(self) -> dict[str, float]:
        """Returns the figures of the steps since the last call; none if there were none.

        images_per_second, seconds_per_step, tflops_per_device; input_wait, the fraction of the time
        spent waiting for batches; mfu, the fraction of the devices' peak where that is known.
        """
        if not self._steps or self._seconds <= 0:
            return {}
        flops_per_second = self._flops / self._seconds / self._num_devices
        figures = {
            "images_per_second": self._batch_size * self._steps / self._seconds,
            "seconds_per_step": self._seconds / self._steps,
            "input_wait": self._input_seconds / self._seconds,
            "tflops_per_device": flops_per_second / 1e12,
        }
        if self._peak is not None:
            figures["mfu"] = flops_per_second / self._peak
        self._clear()
        return figures

    def _clear(self) -> None:
        self._steps = 0
        self._seconds = self._input_seconds = self._flops = 0.0
