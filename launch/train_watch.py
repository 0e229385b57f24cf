"""What a run tells while it runs: lines with progress and ETA, metrics to the writers, traces."""

from __future__ import annotations

import datetime
import math
import sys
from collections.abc import Mapping

import jax
import numpy as np
from tqdm import tqdm

from launch.processes import is_main
from launch.train_request import TrainRequest
from sd_jax.training.loop import StepReport
from sd_jax.training.optim import learning_rate
from sd_jax.training.preflight import check_memory, device_memory, memory_of, memory_report
from sd_jax.training.programs import Program
from sd_jax.training.run_folder import RunFolder
from sd_jax.training.throughput import Throughput
from sd_jax.training.writers import make_writers

_GIB = 2**30
# No mean is of more: a run that logs rarely, or never, must not collect them for ever.
_MANY_LOSSES = 10_000


class Watch:
    """Progress, metrics and profile of a run.

    Args:
      request: of the run.
      folder: of the run.
      num_steps: of the whole run.
      first_step: number of steps done before.
    """

    def __init__(
        self, request: TrainRequest, folder: RunFolder, num_steps: int, first_step: int
    ) -> None:
        config = request.config
        self._config, self._folder, self._num_steps = config, folder, num_steps
        self._profile_steps = request.profile_steps
        self._is_tracing = False
        self._losses: list[float] = []
        self._is_first = True
        self._preflight: list[str] = []
        self._writers = make_writers(
            list(request.writers),
            folder.path,
            config=config.to_dict(),
            # Of a new run, step 0 is looked at too.
            resume_step=first_step + 1 if first_step else 0,
            is_main=is_main(),
        )
        device = jax.local_devices()[0]
        self._throughput = Throughput(
            config.global_batch_size,
            num_devices=jax.device_count(),
            device_kind=device.device_kind,
            dtype=config.dtype,
        )
        self._limit = int(config.memory_limit_gb * _GIB) or device_memory(device)
        self._learning_rate = learning_rate(request.optimizer(num_steps))
        is_terminal = is_main() and sys.stderr.isatty()
        self._bar = tqdm(
            total=num_steps, initial=first_step, unit="step", disable=not is_terminal, leave=False
        )

    def preflight(self, name: str, program: Program, flops: float | None = None) -> None:
        """Tells what a program costs, and refuses one that does not fit the device.

        Args:
          name: of what it does.
          program: that was made ready.
          flops: of it on all devices, nothing counted twice; None leaves them out.

        Raises:
          ValueError: it needs more memory than the device has.
        """
        memory = memory_of(program.compiled)
        takes = "" if flops is None else f"; it takes {flops / 1e12:.3g} TFLOP"
        lines = [f"{name}: ready in {program.seconds:.0f} s{takes}"]
        if memory is not None:
            limit = {} if self._limit is None else {"this device": self._limit}
            lines.append(memory_report(memory, limit, usable=1.0))
            check_memory(memory, self._limit, self._config, name)
        say("\n".join(lines))
        self._preflight += lines
        self._writers.text("preflight", "\n".join(self._preflight))

    def begins(self, step: int) -> None:
        """Starts jax.profiler if this is the first of the steps to be traced.

        Args:
          step: that is about to begin.
        """
        if self._profile_steps is None or not is_main() or self._is_tracing:
            return
        first, last = self._profile_steps
        if first <= step <= last:
            jax.profiler.start_trace(str(self._folder.profile))
            self._is_tracing = True

    def report(self, report: StepReport, flops: float) -> None:
        """Takes in a step; writes and prints at intervals.

        Args:
          report: of the step.
          flops: of the step on all devices, nothing counted twice.
        """
        if self._is_tracing and self._profile_steps and report.step >= self._profile_steps[1]:
            self._stop_trace()
        self._bar.update()
        metrics, config = report.metrics, self._config
        if metrics["skipped"]:
            say(
                f"step {report.step}: skipped, as the loss ({metrics['loss']:.4g}) or the gradient "
                f"norm ({metrics['grad_norm']:.4g}) is not finite"
                + (f"; the batch held {', '.join(report.names[:8])}" if report.names else "")
            )
        if math.isfinite(metrics["loss"]):
            self._losses.append(metrics["loss"])
        self._throughput.update(report.seconds, report.input_seconds, flops)
        is_last = report.step == self._num_steps
        is_logged = config.log_every and (is_last or not report.step % config.log_every)
        if self._is_first and not is_logged:
            # Long before the first line of the log, which has figures of many steps.
            say(f"step {report.step}/{self._num_steps}: loss {metrics['loss']:.5f}")
        self._is_first = False
        if not is_logged:
            self._losses = self._losses[-_MANY_LOSSES:]
            return
        speed = self._throughput.summary()
        values = {f"train/{name}": value for name, value in metrics.items()}
        # The schedule counts the updates that were made, and this is the last one's rate.
        updates = max(report.step - 1 - int(metrics["skipped_in_all"]), 0)
        values["train/learning_rate"] = float(self._learning_rate(updates))
        if self._losses:
            values["train/loss_mean"] = float(np.mean(self._losses))
        values |= {f"speed/{name}": value for name, value in speed.items()}
        self._writers.scalars(report.step, values)
        say(self._line(report, values.get("train/loss_mean", math.nan), speed))
        self._losses = []

    def evaluated(self, step: int, values: Mapping[str, float]) -> None:
        """Writes and prints an evaluation.

        Args:
          step: number of steps done.
          values: losses by timestep.
        """
        self._writers.scalars(step, {f"eval/{name}": value for name, value in values.items()})
        say(f"step {step}: evaluation loss {values['loss']:.5f}")

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes pictures.

        Args:
          step: number of steps done.
          images: by name.
        """
        self._writers.images(step, images)

    def flush(self) -> None:
        """Brings everything to disk."""
        self._writers.flush()

    def close(self) -> None:
        """Ends the trace, the bar and the writers."""
        if self._is_tracing:
            self._stop_trace()
        self._bar.close()
        self._writers.close()

    def _line(self, report: StepReport, loss: float, speed: Mapping[str, float]) -> str:
        done = report.step / self._num_steps
        parts = [f"step {report.step}/{self._num_steps} ({done:.1%})", f"loss {loss:.5f}"]
        parts.append(f"grad norm {report.metrics['grad_norm']:.3g}")
        if speed:
            parts.append(f"{speed['images_per_second']:.3g} images/s")
            if "tflops_per_device" in speed:
                parts.append(f"{speed['tflops_per_device']:.3g} TFLOP/s per device")
            if "mfu" in speed:
                parts.append(f"MFU {speed['mfu']:.1%}")
            parts.append(f"input {speed['input_wait']:.0%}")
            left = (self._num_steps - report.step) * speed["seconds_per_step"]
            parts.append(f"{datetime.timedelta(seconds=round(left))} left")
        return ", ".join(parts)

    def _stop_trace(self) -> None:
        jax.profiler.stop_trace()
        self._is_tracing = False
        self._profile_steps = None
        say(f"wrote a trace to {self._folder.profile}; look at it with XProf or TensorBoard")


def say(text: str) -> None:
    """Prints a line above the progress bar, on the main process alone.

    Args:
      text: of the line.
    """
    if is_main():
        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()
