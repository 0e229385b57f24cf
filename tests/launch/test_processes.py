"""Processes find each other as their launcher or the settings say, or say what is missing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from launch.launchers import Place, check_alone, find_place, local_devices
from launch.processes import start_processes

ROOT = Path(__file__).parents[2]
HERE = {"JAX_COORDINATOR_ADDRESS": "node1:9000"}
PROGRAM = """
import sys
from launch.processes import is_main, start_processes
start_processes(True, **{settings})
start_processes(True)
import jax, numpy as np, signal, logging
from jax.experimental import multihost_utils
ranks = multihost_utils.process_allgather(np.int32(jax.process_index()))
print(jax.process_count(), jax.process_index(), is_main(), ranks.tolist(),
      signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
      logging.getLogger().isEnabledFor(logging.WARNING),
      logging.getLogger("x").manager.disable >= logging.INFO, flush=True)
multihost_utils.sync_global_devices("both have spoken")
if is_main():
    signal.raise_signal(signal.SIGTERM)
    print("outlived SIGTERM", flush=True)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def run_two(settings: list[str], environments: list[dict[str, str]]) -> tuple[int, list[str]]:
    """Exit status of process 0, and the output of both."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM.replace("{settings}", text)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
            text=True,
        )
        for text, environment in zip(settings, environments, strict=True)
    ]
    try:
        # The one that SIGTERM ends is first; the other would wait for it to say goodbye.
        first, _ = processes[0].communicate(timeout=300)
        processes[1].send_signal(signal.SIGKILL)
        second, _ = processes[1].communicate(timeout=300)
        return processes[0].returncode, [_without_gloo(text) for text in (first, second)]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _without_gloo(text: str) -> str:
    return "".join(line for line in text.splitlines(True) if not line.startswith("[Gloo]"))


def settings_of(launcher: str) -> tuple[list[str], list[dict[str, str]]]:
    port = free_port()
    address = f"localhost:{port}"
    ranks = ("0", "1")
    if launcher == "settings":
        return [f"dict(coordinator={address!r}, process_id={i}, num_processes=2)" for i in ranks], [
            {},
            {},
        ]
    common = {
        "variables": {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"},
        "torchrun": {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "2"},
        "SLURM": {
            "SLURM_JOB_ID": "7",
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_STEP_TASKS_PER_NODE": "2",
            "JAX_COORDINATOR_PORT": str(port),
        },
        "Open MPI 4": {
            "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
            "OMPI_COMM_WORLD_SIZE": "2",
            "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
            "JAX_COORDINATOR_PORT": str(port),
        },
    }[launcher]
    names = {
        "variables": ("JAX_PROCESS_ID",),
        "torchrun": ("RANK",),
        "SLURM": ("SLURM_PROCID", "SLURM_LOCALID"),
        "Open MPI 4": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
    }[launcher]
    return ["{}", "{}"], [{**common, **dict.fromkeys(names, rank)} for rank in ranks]


@pytest.mark.parametrize(
    "launcher",
    [
        "SLURM",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("settings", "variables", "torchrun", "Open MPI 4")
        ),
    ],
)
def test_two_processes_join(launcher: str) -> None:
    status, (first, second) = run_two(*settings_of(launcher))
    # World, rank, writer, all ranks; then SIGTERM's handler, warnings shown, information hidden.
    assert first == "2 0 True [0, 1] True True False\n"
    assert second == "2 1 False [0, 1] True True True\n"
    assert status == -signal.SIGTERM


def test_no_process_0_is_one_error(tmp_path: Path) -> None:
    del tmp_path
    with pytest.raises(ConnectionError, match=r"process 0 does not answer at localhost:\d+ after"):
        start_processes(True, f"localhost:{free_port()}", 1, 2, timeout_s=0)


def test_no_cluster_is_one_error() -> None:
    code = "from launch.processes import start_processes; start_processes(True)"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=clean, capture_output=True, text=True
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: several processes, but JAX says: coordinator_address")
    assert "JAX_PROCESS_ID=0 or 1" in last


def test_alone_is_the_default_and_changes_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    start_processes(False)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("given", "environ", "expected"),
    [
        (Place(), {}, Place()),
        (Place("a:1", 2, 1), HERE, Place("a:1", 2, 1)),
        (Place(), HERE, Place("node1:9000")),
        (Place(num_processes=4), {**HERE, "JAX_PROCESS_ID": "3"}, Place("node1:9000", 4, 3)),
        (Place(), {"PMI_SIZE": "4", "PMI_RANK": "1", **HERE}, Place("node1:9000", 4, 1)),
        # srun's own PMI variables are left to JAX, as it knows the coordinator too.
        (
            Place(),
            {
                "PMI_SIZE": "4",
                "PMI_RANK": "1",
                "SLURM_STEP_NODELIST": "n[1-4]",
                "SLURM_STEP_NUM_TASKS": "4",
            },
            Place(),
        ),
        # The coordinator is then the first node of the step, which JAX finds.
        (
            Place(),
            {"WORLD_SIZE": "8", "RANK": "5", "SLURM_STEP_NODELIST": "n[1-8]"},
            Place(None, 8, 5),
        ),
        # Open MPI 5 starts its daemons by srun, whose variables are then not this process's.
        (
            Place(),
            {
                "OMPI_COMM_WORLD_SIZE": "8",
                "OMPI_COMM_WORLD_RANK": "5",
                "SLURM_STEP_NODELIST": "n[1-2]",
                "SLURM_STEP_NUM_TASKS": "2",
                **HERE,
            },
            Place("node1:9000", 8, 5),
        ),
        (
            Place(),
            {
                "OMPI_COMM_WORLD_SIZE": "8",
                "OMPI_COMM_WORLD_RANK": "5",
                "OMPI_MCA_orte_hnp_uri": "1.0;tcp://127.0.0.1:1",
            },
            Place(),
        ),
    ],
)
def test_the_place_is_found(given: Place, environ: dict[str, str], expected: Place) -> None:
    assert find_place(given, environ) == expected


@pytest.mark.parametrize(
    ("given", "environ", "message"),
    [
        (Place("node1"), {}, "coordinator: got 'node1', expected host:port"),
        (Place("node1:99999"), {}, "coordinator: got 'node1:99999'"),
        (Place("a:1", 2, 2), {}, "process_id: got 2, expected 0 to 1, as there are 2"),
        (Place("a:1", 2, -3), {}, "process_id: got -3, expected 0 to 1"),
        (Place("a", -2, 0), {}, "coordinator: got 'a'.*num_processes: got -2"),
        (Place(), {**HERE, "JAX_PROCESS_ID": "one"}, "JAX_PROCESS_ID='one', expected a number"),
        (
            Place(),
            {"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "5"},
            "Open MPI does not tell where process 0 is; set JAX_COORDINATOR_ADDRESS",
        ),
    ],
)
def test_what_cannot_be_is_named(given: Place, environ: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_place(given, environ)


def slurm(tasks: str, node: int, local: int, **more: str) -> dict[str, str]:
    place = {"SLURM_NODEID": str(node), "SLURM_LOCALID": str(local)}
    return {"SLURM_STEP_TASKS_PER_NODE": tasks, **place, **more}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        (slurm("1(x2)", 1, 0, CUDA_VISIBLE_DEVICES="0,1,2,3"), [0, 1, 2, 3]),
        (slurm("1", 0, 0), []),
        (slurm("4(x2),2", 0, 3, CUDA_VISIBLE_DEVICES="0,1,2,3"), [3]),
        (slurm("4(x2),2", 2, 1, CUDA_VISIBLE_DEVICES="0,1,2,3"), [2, 3]),
        (slurm("4", 0, 3), [3]),
        # The scheduler shows each task its own.
        (slurm("4", 0, 3, CUDA_VISIBLE_DEVICES="0"), []),
        (slurm("2", 0, 1, CUDA_VISIBLE_DEVICES="0,1", SLURM_GPUS_PER_TASK="a100:2"), []),
        (slurm("8", 0, 5, CUDA_VISIBLE_DEVICES="0", SLURM_GPUS_PER_TASK="1"), []),
        (slurm("4", 0, 3, JAX_LOCAL_DEVICE_IDS="0,1"), None),
        (
            {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8"},
            [1],
        ),
        ({"PMI_RANK": "9", "PMI_SIZE": "16"}, None),
    ],
)
def test_the_gpus_of_a_machine_are_shared_out(
    environ: dict[str, str], expected: list[int] | None
) -> None:
    assert local_devices(environ) == expected


@pytest.mark.parametrize("name", ["SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"])
def test_one_of_several_processes_may_not_run_alone(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=8.*set --config.distributed=True"):
        check_alone(Place(), {name: "8"})
    check_alone(Place(), {name: "1"})


def test_settings_of_several_processes_need_the_flag() -> None:
    with pytest.raises(ValueError, match="distributed is False"):
        start_processes(False, coordinator="localhost:9000")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [("value", 2, "error: this process fails alone"), ("type", 1, "TypeError: this process fails")],
)
def test_a_process_that_fails_alone_ends_the_run(error, status, message):
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "tests/launch/failing_process.py"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "JAX_PLATFORMS": "cpu",
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(rank),
                "FAILS_BY": error,
            },
            text=True,
        )
        for rank in range(2)
    ]
    too_late = threading.Timer(90, processes[0].kill)
    too_late.start()
    told = None
    try:
        assert processes[0].stderr is not None
        for line in processes[0].stderr:
            if message in line:
                told = time.monotonic()
        processes[0].wait(timeout=300)
        ended = time.monotonic()
        processes[0].stderr.close()
        processes[1].communicate(timeout=300)
    finally:
        too_late.cancel()
        for process in processes:
            process.kill()
    # Its own message and status, and not when JAX has waited for the other one.
    assert told is not None
    assert ended - told < 20
    assert processes[0].returncode == status
    assert processes[1].returncode != 0
