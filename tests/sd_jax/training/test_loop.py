"""The loop: order of tasks, reports, stopping, and giving up."""

from __future__ import annotations

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sd_jax.training.loop import DivergedError, Task, _Pending, fit
from sd_jax.training.state import make_state
from sd_jax.training.step import make_train_step

OPTIMIZER = optax.sgd(0.1)


def loss_fn(params, frozen, batch, keys, step):
    return jnp.mean((params["w"][None] - batch["x"]) ** 2), {}


STEP = jax.jit(make_train_step(loss_fn, OPTIMIZER), donate_argnums=0)


class Loop:
    """A run of the loop whose events are written down."""

    def __init__(self, first=0, broken=(), stop_after=None):
        self.events, self.reports = [], []
        self.first, self.broken, self.stop_after = first, broken, stop_after
        self.state = make_state({"w": jnp.ones(2)}, OPTIMIZER)
        for _ in range(first):
            self.state, _ = STEP(self.state, {}, {"x": jnp.zeros((4, 1))}, jax.random.key(0))

    def agreed(self, step):
        return self.stop_after is not None and step >= self.stop_after

    def batches(self):
        for step in itertools.count(self.first):
            self.events.append(f"batch {step}")
            value = np.nan if step in self.broken else 0.0
            yield {"x": np.full((4, 1), value, np.float32), "names": [f"record {step}"]}

    def place(self, batch):
        return {"x": jnp.asarray(batch["x"])}

    def report(self, report):
        self.events.append(f"report {report.step}")
        self.reports.append(report)

    def task(self, name, every, **options):
        def run(step, state):
            assert int(state.step) == step
            self.events.append(f"{name} {step}")

        return Task(every, run, **options)

    def run(self, num_steps, *tasks, **options):
        return fit(
            self.state,
            STEP,
            {},
            self.batches(),
            jax.random.key(0),
            num_steps=num_steps,
            place=self.place,
            report=self.report,
            tasks=tasks,
            stopper=self,
            **options,
        )


def test_every_step_is_reported_once_and_in_order():
    loop = Loop()
    state, is_done = loop.run(5)
    assert is_done
    assert int(state.step) == 5
    assert [report.step for report in loop.reports] == [1, 2, 3, 4, 5]
    assert loop.reports[2].names == ["record 2"]
    assert all(report.seconds > 0 for report in loop.reports)
    losses = [report.metrics["loss"] for report in loop.reports]
    assert losses == sorted(losses, reverse=True)


def test_the_next_batch_is_taken_before_the_last_step_is_waited_for(monkeypatch):
    monkeypatch.setattr(_Pending, "is_ready", lambda self: False)
    loop = Loop()
    loop.run(3)
    assert loop.events == ["batch 0", "batch 1", "report 1", "batch 2", "report 2", "report 3"]


def test_a_step_that_is_done_is_reported_at_once(monkeypatch):
    monkeypatch.setattr(_Pending, "is_ready", lambda self: True)
    loop = Loop()
    loop.run(2)
    assert loop.events == ["batch 0", "report 1", "batch 1", "report 2"]


def test_waiting_for_batches_is_part_of_the_time_in_which_it_happened(monkeypatch):
    monkeypatch.setattr(_Pending, "is_ready", lambda self: False)
    loop, take = Loop(), Loop.batches

    def slow_batches(self):
        for number, batch in enumerate(take(self)):
            time.sleep(0.2 if number == 2 else 0)
            yield batch

    monkeypatch.setattr(Loop, "batches", slow_batches)
    loop.run(4, loop.task("look", 4))
    # The third batch is taken while the second step runs.
    assert [report.input_seconds >= 0.2 for report in loop.reports] == [False, True, False, False]
    assert all(report.input_seconds <= report.seconds for report in loop.reports)


def test_tasks_run_after_the_report_of_their_step():
    loop = Loop()
    loop.run(5, loop.task("save", 2), loop.task("look", 4, at_start=True, at_end=False))
    tasks = [e for e in loop.events if e.startswith(("save", "look"))]
    assert tasks == ["look 0", "save 2", "save 4", "look 4", "save 5"]
    assert loop.events.index("report 2") < loop.events.index("save 2")


def test_tasks_of_every_0_steps_never_run():
    loop = Loop()
    loop.run(2, loop.task("save", 0, at_start=True))
    assert not [e for e in loop.events if e.startswith("save")]


def test_a_run_goes_on_from_its_state():
    loop = Loop(first=3)
    state, _ = loop.run(5, loop.task("look", 4, at_start=True))
    assert [report.step for report in loop.reports] == [4, 5]
    assert [e for e in loop.events if "look" in e] == ["look 4", "look 5"]
    assert int(state.step) == 5


def test_a_stop_ends_after_the_step_and_still_saves():
    loop = Loop(stop_after=3)
    state, is_done = loop.run(10, loop.task("look", 7), loop.task("save", 100, at_stop=True))
    assert not is_done
    assert int(state.step) == 3
    assert loop.events[-2:] == ["report 3", "save 3"]


def test_a_stop_before_the_first_step_does_nothing():
    loop = Loop(stop_after=0)
    state, is_done = loop.run(10, loop.task("save", 1, at_start=True, at_stop=True))
    assert not is_done
    assert int(state.step) == 0
    assert loop.events == []


def test_a_stop_saves_before_it_does_what_is_due():
    loop = Loop(stop_after=3)
    loop.run(10, loop.task("look", 3), loop.task("save", 3, at_stop=True))
    assert loop.events[-3:] == ["report 3", "save 3", "look 3"]


def test_bad_steps_in_a_row_end_the_run_with_the_last_good_state():
    loop = Loop(broken=range(2, 100))
    with pytest.raises(DivergedError, match=r"3 steps in a row.*loss nan"):
        loop.run(50, loop.task("save", 100), max_skipped=2)
    assert [report.metrics["skipped"] for report in loop.reports] == [0, 0, 1, 1, 1]
    assert not [e for e in loop.events if e.startswith("save")]


def test_bad_steps_here_and_there_are_counted_and_survived():
    loop = Loop(broken=(1, 3, 5))
    state, is_done = loop.run(8, max_skipped=1)
    assert is_done
    assert int(state.skipped) == 3
    assert np.isfinite(np.asarray(state.params["w"])).all()
