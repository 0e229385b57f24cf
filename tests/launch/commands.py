"""Starts the commands of launch as a user does, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def launch(name: str, *arguments: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    """Runs `python -m launch.<name>` in the project's folder to its end, whatever its status."""
    return subprocess.run(
        [sys.executable, "-m", f"launch.{name}", *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def launched(name: str, *arguments: str, timeout: float = 900) -> str:
    """Runs it as `launch` does and expects success; returns what it said."""
    done = launch(name, *arguments, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr
