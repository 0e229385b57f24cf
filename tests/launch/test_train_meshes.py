"""A run makes the same steps on any mesh and any number of processes, and goes on on any other.

The order in which float32 numbers are summed differs from mesh to mesh, and rounds by some 1e-7 of
the sum; in six steps, on all meshes here, that grew to no more than 4e-7 of a loss.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sd_jax.training.signals import EXIT_STOPPED
from tests.launch.mesh_runs import continue_from
from tests.launch.tiny_training import ROOT, TIMEOUT_S, arguments, metrics, write_start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = 6
# Of the run of one device, which the others are compared with: a signal takes some steps to arrive.
MORE_STEPS = 40
PARTS = ("unet", "vae", "text_encoder", "image_encoder", "local_fuser", "global_fuser")
# Large updates from the first step on, so that a wrong gradient shows in the losses that follow.
SETTINGS = {
    "global_batch_size": 8,
    "num_steps": STEPS,
    "save_every": 2,
    "warmup_steps": 0,
    "learning_rate": 1e-3,
}
TOLERANCE = 5e-6
GLOO = re.compile(r"\[Gloo\]|peer ranks|^$")
# Programs run a few times only: they compile in a third of the time.
QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false "
    # On a busy machine it may take long until all devices have had their turn.
    "--xla_cpu_collective_call_terminate_timeout_seconds=300"
)
# data, fsdp, tensor; with the frozen parameters split, or whole on each device.
MESHES: dict[str, tuple[tuple[int, int, int], str]] = {
    "all": ((2, 2, 2), "sharded"),
}
MORE_MESHES: dict[str, tuple[tuple[int, int, int], str]] = {
    "fsdp 4": ((1, 4, 1), "sharded"),
    "data 2": ((2, 1, 1), "replicated"),
    "data 8": ((8, 1, 1), "sharded"),
    "fsdp 8": ((1, 8, 1), "replicated"),
    "tensor 2": ((1, 1, 2), "replicated"),
    "tensor 8": ((1, 1, 8), "sharded"),
    "data x fsdp": ((4, 2, 1), "sharded"),
}


def start(command: list[str], devices: int, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            # Without the compiler's warnings.
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {QUICK}",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_two(command: list[str], devices: int = 2) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    common = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    return [start(command, devices, **common, JAX_PROCESS_ID=str(rank)) for rank in range(2)]


def outputs(processes: list[subprocess.Popen[str]], status: int = 0) -> list[list[str]]:
    """Returns the lines of each, without those of Gloo; all must end with the status."""
    try:
        texts = [process.communicate(timeout=2 * TIMEOUT_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [status] * len(processes), texts
    # Threads of Gloo tell of their peers all at once, in the midst of each other's lines.
    return [[line for line in text.splitlines() if not GLOO.search(line)] for text in texts]


def script(runs: list[dict[str, Any]]) -> list[str]:
    return ["tests/launch/mesh_runs.py", json.dumps(runs)]


def a_run(
    folder: Path, name: str, mesh: Any, after: int | None = None, **settings: Any
) -> dict[str, Any]:
    """Returns a run for `mesh_runs.py`, which goes on from the run of one device after a step."""
    return {
        "workdir": str(folder / name),
        "mesh": mesh,
        "settings": {**SETTINGS, "init": str(folder / "start"), **settings},
        "after": None if after is None else [str(folder / "one"), after],
    }


def meshes_of(folder: Path, meshes: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns runs that start where the run of one device did."""
    return [
        a_run(folder, name, mesh, after=0, frozen=frozen) for name, (mesh, frozen) in meshes.items()
    ]


def difference(ours: Path, theirs: Path, last: int = STEPS) -> float:
    """Returns the largest relative difference of losses and norms of gradients, over all steps."""
    differences = []
    for name in ("train/loss", "train/grad_norm"):
        found, expected = metrics(ours, name), metrics(theirs, name)
        assert list(found) == list(range(1, last + 1))
        differences += [abs(value / expected[step] - 1) for step, value in found.items()]
    return max(differences)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("meshes")
    write_start(folder / "start", PARTS)
    return folder


@pytest.fixture(scope="module")
def shares(folder) -> dict[str, float]:
    """Runs of one device and of eight."""
    runs = [a_run(folder, "one", (1, 1, 1), num_steps=MORE_STEPS, save_every=STEPS)]
    runs += meshes_of(folder, MESHES)
    ((*_, last),) = outputs([start(script(runs), 8)])
    return dict(zip(["one", *MESHES], json.loads(last), strict=True))


@pytest.fixture(scope="module")
def two_processes(folder, shares) -> list[list[str]]:
    """The command as it is started on two machines."""
    settings = {**SETTINGS, "init": folder / "start", "fsdp": 2, "tensor": 2, "distributed": True}
    settings |= {"frozen": "sharded", "eval_every": STEPS, "eval_examples": 8}
    command = ["-m", "launch.train", *arguments(folder / "two", "joint", **settings)]
    return outputs(start_two(command))


@pytest.fixture(scope="module")
def stopped(folder, shares) -> tuple[int, list[list[str]]]:
    """A run of eight devices goes on in two processes, until one of these gets a signal.

    Returns the step and what both said.
    """
    workdir = folder / "stopped"
    chosen = {"distributed": True, "num_steps": 10_000, "save_every": 10_000}
    ours = a_run(folder, "stopped", (1, 2, 2), frozen="sharded", **chosen)
    continue_from(folder / "all", 2, workdir)
    first, second = processes = start_two(script([ours]))
    assert first.stdout is not None
    lines = []
    for line in first.stdout:
        lines.append(line)
        if line.startswith("step 4/"):
            second.send_signal(signal.SIGTERM)
    rest = outputs(processes, EXIT_STOPPED)
    (saved,) = [path for path in (workdir / "checkpoints").iterdir() if path.name != "2"]
    return int(saved.name), [lines, rest[1]]


@pytest.mark.parametrize("name", MESHES)
def test_a_mesh_makes_the_steps_of_one_device(folder, shares, name):
    assert difference(folder / name, folder / "one") < TOLERANCE


def test_parameters_are_split(shares):
    assert shares == {"one": 1, "all": pytest.approx(1 / 4, rel=0.1)}


def test_two_processes_make_the_steps_of_one_device(folder, two_processes):
    assert difference(folder / "two", folder / "one") < TOLERANCE
    assert metrics(folder / "two", "eval/loss").keys() == {0, STEPS}


def test_only_the_main_process_speaks(two_processes):
    first, second = two_processes
    assert sum(line.startswith("step 6/6") for line in first) == 1
    assert not second


def test_a_signal_to_one_process_stops_both_at_the_same_step(folder, stopped):
    step, (first, second) = stopped
    assert step == max(metrics(folder / "stopped")) <= MORE_STEPS - 1
    assert f"stopped by SIGTERM on process 1 after step {step}, which is saved" in first[-1]
    assert not second


def test_a_run_goes_on_from_mesh_to_mesh(folder, stopped):
    """Eight devices, then two processes, then one device."""
    step, _ = stopped
    assert difference(folder / "stopped", folder / "one", step) < TOLERANCE
    continue_from(folder / "stopped", step, folder / "chain")
    outputs([start(script([a_run(folder, "chain", (1, 1, 1), num_steps=step + 1)]), 1)])
    assert difference(folder / "chain", folder / "one", step + 1) < TOLERANCE


def test_what_fails_on_one_process_ends_both(folder):
    workdir = folder / "failing"
    settings = {**SETTINGS, "init": folder / "start", "fsdp": 2, "distributed": True}
    workdir.mkdir()
    (workdir / "tensorboard").touch()
    command = ["-m", "launch.train", *arguments(workdir, "local", **settings)]
    first, second = outputs(start_two([*command, "--config.writers=json,tensorboard"]), 2)
    assert first[-1].startswith("error: ")
    assert "tensorboard" in first[-1]
    assert second == ["error: process 0 could not write its log, and tells why"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_other_meshes_make_the_steps_of_one_device(folder, shares):
    outputs([start(script(meshes_of(folder, MORE_MESHES)), 8)])
    for name in MORE_MESHES:
        assert difference(folder / name, folder / "one") < TOLERANCE, name
