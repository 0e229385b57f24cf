"""Runs a script of this folder in processes of its own, on several fake devices each."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


def run_on_devices(script: str, *args: Any, devices: int = 8, processes: int = 1) -> list[Any]:
    """Returns what each process printed last, read as JSON.

    Args:
      script: name of a file beside this one; gets `[args, process, coordinator]` as JSON.
      *args: for the script.
      devices: of each process.
      processes: how many.
    """
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    path = str(Path(__file__).with_name(script))
    coordinator = f"localhost:{_free_port()}"
    running = [
        subprocess.Popen(
            [sys.executable, path, json.dumps([args, process, coordinator])],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(processes)
    ]
    try:
        outputs = [process.communicate(timeout=900) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, errors) in zip(running, outputs, strict=True):
        if process.returncode:
            raise AssertionError(errors[-4000:])
    return [json.loads(printed.splitlines()[-1]) for printed, _ in outputs]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]
