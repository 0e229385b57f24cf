"""Signals are noted, answered alike by all processes, and have their usual effect afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from sd_jax.training.signals import EXIT_STOPPED, StopRequest

ROOT = Path(__file__).parents[3]

# A loop with a step that all processes take together; process 1 is the slower one on the host.
TWO_PROCESSES = """
import sys, time
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from sd_jax.training.signals import EXIT_STOPPED, StopRequest

port, process, every = map(int, sys.argv[1:])
jax.distributed.initialize(f"localhost:{port}", 2, process)
mesh = Mesh(np.array(jax.devices()), ("all",))
rows, whole = NamedSharding(mesh, P("all")), NamedSharding(mesh, P())
step_fn = jax.jit(lambda total, x: total + x.sum(), out_shardings=whole)
x = jax.make_array_from_process_local_data(rows, np.ones(jax.local_device_count(), np.float32))
total = jax.device_put(np.float32(0), whole)
asked_at = None
with StopRequest(every, notify=lambda name: print("noted", name, flush=True)) as stop:
    for step in range(2000):
        total = step_fn(total, x)
        time.sleep(0.005 * (1 + process))
        if stop.reason and asked_at is None:
            asked_at = step
        if stop.agreed(step):
            print("stopped", step, float(total), stop.reason, step - (asked_at or step), flush=True)
            sys.exit(EXIT_STOPPED)
        if step == 5:
            print("running", flush=True)
print("never stopped")
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def two_processes(every: int) -> Iterator[list[subprocess.Popen[str]]]:
    port = free_port()
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, str(port), str(index), str(every)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env=environment,
            text=True,
        )
        for index in range(2)
    ]
    # Ends the reading of their output should they never stop.
    watchdog = threading.Timer(120, lambda: [process.kill() for process in processes])
    watchdog.start()
    try:
        yield processes
    finally:
        watchdog.cancel()
        for process in processes:
            process.kill()
            process.communicate()


def line_starting(process: subprocess.Popen[str], word: str) -> list[str]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(word):
            return line.split(maxsplit=3)
    raise AssertionError(f"no line {word!r}; exit status {process.poll()}")


@pytest.mark.parametrize(
    ("number", "target", "every"),
    [(signal.SIGUSR1, 1, 1), (signal.SIGTERM, 0, 1), (signal.SIGINT, 1, 7)],
)
def test_a_signal_to_one_process_stops_both_after_the_same_step(
    number: signal.Signals, target: int, every: int
) -> None:
    with two_processes(every) as processes:
        for process in processes:
            line_starting(process, "running")
        processes[target].send_signal(number)
        stops = [line_starting(process, "stopped") for process in processes]
        assert [process.wait(60) for process in processes] == [EXIT_STOPPED] * 2
    (_, step, total, rest), other = stops
    assert other[1:3] == [step, total]
    assert float(total) == 4 * (int(step) + 1)  # no step more or less on either
    reason = f"{number.name} on process {target}"
    assert [stop[3].rsplit(maxsplit=1)[0] for stop in stops] == [reason, reason], rest
    waited = int(stops[target][3].rsplit(maxsplit=1)[1])
    assert waited <= 2 * every


def test_processes_check_no_more_often_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    checks = []

    def check(stop: StopRequest) -> jax.Array:
        checks.append(step)
        return jnp.int32(0 if step < 14 else signal.SIGTERM)

    monkeypatch.setattr(StopRequest, "_start_check", check)
    stop = StopRequest(every=7)
    answers = []
    for step in range(25):
        answers.append(stop.agreed(step))
    assert checks == [0, 7, 14, 21]
    # What the check at step 14 found is read by the next one.
    assert answers == [False] * 21 + [True] * 4
    assert stop.reason == "SIGTERM on process 0"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_one_process_answers_at_the_step_of_the_signal(number: signal.Signals) -> None:
    told = []
    with StopRequest(every=100, notify=told.append) as stop:
        assert not stop.agreed(1)
        assert stop.reason is None
        signal.raise_signal(number)
        assert stop.agreed(2)
        assert stop.agreed(3)
        assert stop.reason == number.name
    assert told == [number.name]


def test_a_second_interrupt_stops_at_once() -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.agreed(1)


def test_a_second_sigterm_changes_nothing() -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.agreed(1)


def test_old_handlers_come_back_also_after_an_error() -> None:
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    inside = []
    with contextlib.suppress(RuntimeError), StopRequest():
        inside = [signal.getsignal(number) for number in numbers]
        raise RuntimeError
    assert inside
    assert [signal.getsignal(number) for number in numbers] == before
    assert not set(inside) & set(before)


def test_an_interrupt_that_is_ignored_stays_ignored() -> None:
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop.agreed(1)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, old)


def test_steps_between_checks_are_positive() -> None:
    with pytest.raises(ValueError, match="every: got 0"):
        StopRequest(every=0)


def test_a_signal_between_two_instructions_does_not_disturb_a_run() -> None:
    """A process that gets many signals while it works ends with the status of a stopped run."""
    code = (
        "import sys, time\n"
        "from sd_jax.training.signals import EXIT_STOPPED, StopRequest\n"
        "with StopRequest() as stop:\n"
        "    print('ready', flush=True)\n"
        "    end = time.monotonic() + 0.5\n"
        "    while time.monotonic() < end: sum(range(100))\n"
        "    sys.exit(EXIT_STOPPED if stop.agreed(1) else 1)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(20):
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGUSR1)
            time.sleep(0.01)
        assert process.wait(30) == EXIT_STOPPED
