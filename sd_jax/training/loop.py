"""The loop of every run: batches through the step, with whatever is done every so many steps.

    next batch -> step (asynchronous) -> metrics of the step before -> log, evaluate, save, stop

The host is one step ahead of the device, so that it loads a batch while the device computes.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from sd_jax.training.state import TrainState
from sd_jax.training.step import StepFn
from sd_jax.typing import KeyArray, Params


@runtime_checkable
class Stopper(Protocol):
    """Says when to stop early (`sd_jax.training.signals`)."""

    def agreed(self, step: int) -> bool:
        """Returns whether to stop after this many steps; the same on all processes."""
        ...


@dataclasses.dataclass(frozen=True)
class Task:
    """Something that is done every so many steps, after the step.

    Attributes:
      every: steps; 0 for never.
      run: called with the number of steps done and the state, which it must not keep.
      at_start: also before the first step of a new run, with 0 steps done.
      at_end: also after the last step.
      at_stop: also when the run is stopped early, and then before all else, as there may not be
        much time.
    """

    every: int
    run: Callable[[int, TrainState], object]
    at_start: bool = False
    at_end: bool = True
    at_stop: bool = False


@dataclasses.dataclass(frozen=True)
class StepReport:
    """What is known of a step once its results are there.

    Attributes:
      step: number of steps done with it.
      metrics: of the step, as numbers.
      seconds: since the report before.
      input_seconds: of these, spent waiting for batches; while one step runs, for the next one's.
      names: of the batch's records, as far as this process knows.
    """

    step: int
    metrics: Mapping[str, float]
    seconds: float
    input_seconds: float
    names: Sequence[str]


class DivergedError(FloatingPointError):
    """Too many steps in a row without a finite loss; the state is still the last good one."""


def fit(
    state: TrainState,
    step_fn: StepFn,
    frozen: Params,
    batches: Iterator[Mapping[str, Any]],
    key: KeyArray,
    *,
    num_steps: int,
    place: Callable[[Mapping[str, Any]], Any],
    report: Callable[[StepReport], object],
    tasks: Sequence[Task] = (),
    stopper: Stopper | None = None,
    max_skipped: int = 10,
) -> tuple[TrainState, bool]:
    """Returns the state after the last step, and whether all steps were done.

    Args:
      state: to start from; its buffers are given up.
      step_fn: the compiled step.
      frozen: frozen parameters.
      batches: from step `state.step` on.
      key: of the run; the same for all steps and restarts.
      num_steps: of the whole run.
      place: local batch -> arrays on the devices.
      report: called once for each step, in order, one step late.
      tasks: done after steps, in this order.
      stopper: ends the run early.
      max_skipped: steps in a row whose loss or gradient may not be finite; one more ends the run.

    Raises:
      DivergedError: the loss stays away from finite numbers.
    """
    done = int(state.step)
    # Before the first step there is nothing to save.
    stopped = stopper is not None and stopper.agreed(done)
    for task in tasks:
        if done == 0 and not stopped and task.at_start and task.every > 0:
            task.run(0, state)
    pending: _Pending | None = None
    clock, waited = time.perf_counter(), 0.0
    while done < num_steps and not stopped:
        started = time.perf_counter()
        batch = next(batches)
        placed = place(batch)
        waited += time.perf_counter() - started
        with jax.profiler.StepTraceAnnotation("train", step_num=done):
            state, metrics = step_fn(state, frozen, placed, key)
        done += 1
        if pending is not None:
            clock, waited = pending.finish(report, clock, waited, max_skipped), 0.0
        pending = _Pending(done, metrics, batch.get("names", ()))
        stopped = stopper is not None and stopper.agreed(done)
        is_last = done == num_steps or stopped
        is_due = is_last or any(_is_due(task, done) for task in tasks)
        # Whoever saves or looks at the state should find the log complete. And a device that has
        # finished already computes on this thread: there is nothing to overlap, only to measure.
        if is_due or pending.is_ready():
            clock, waited = pending.finish(report, clock, waited, max_skipped), 0.0
            pending = None
        if is_due:
            _run_tasks(tasks, done, state, is_stopped=stopped, is_last=done == num_steps)
            clock, waited = time.perf_counter(), 0.0
    return state, done >= num_steps


@dataclasses.dataclass
class _Pending:
    """A step that was started and whose results nobody has looked at yet."""

    step: int
    metrics: Mapping[str, Any]
    names: Sequence[str]

    def is_ready(self) -> bool:
        """Returns whether the step is done."""
        questions = (getattr(value, "is_ready", None) for value in self.metrics.values())
        return all(question is None or question() for question in questions)

    def finish(
        self,
        report: Callable[[StepReport], object],
        clock: float,
        waited: float,
        max_skipped: int,
    ) -> float:
        """Waits for the step, reports it, and returns the time."""
        values = {name: float(np.asarray(value)) for name, value in self.metrics.items()}
        now = time.perf_counter()
        report(StepReport(self.step, values, now - clock, waited, self.names))
        if values["skipped_in_a_row"] > max_skipped:
            raise DivergedError(
                f"step {self.step}: {max_skipped + 1} steps in a row had a loss or gradient that "
                f"is not finite (loss {values['loss']}, gradient norm {values['grad_norm']}); the "
                "last checkpoint holds the state before. Try a smaller --config.learning_rate, "
                "--config.max_grad_norm=1 or --config.dtype=float32"
            )
        return now


def _is_due(task: Task, step: int) -> bool:
    return task.every > 0 and step % task.every == 0


def _run_tasks(
    tasks: Sequence[Task], step: int, state: TrainState, *, is_stopped: bool, is_last: bool
) -> None:
    first = [task for task in tasks if is_stopped and task.at_stop]
    for task in first:
        task.run(step, state)
    for task in tasks:
        at_end = is_last and task.at_end and task.every > 0
        if task not in first and (_is_due(task, step) or at_end):
            task.run(step, state)
