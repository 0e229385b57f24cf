"""python -m launch.demo: help, and what is wrong before it serves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launch.commands import launch
from tests.launch.demo.server_process import ROOT


def test_help_needs_no_gradio(tmp_path):
    (tmp_path / "gradio.py").write_text("raise ImportError('not here')")
    said = run(tmp_path, "--help")
    assert said.returncode == 0, said.stderr
    assert "--depth_estimator" in said.stdout


def test_a_missing_gradio_is_told(tmp_path, checkpoint):
    (tmp_path / "gradio.py").write_text("raise ImportError('not here')")
    said = run(tmp_path, f"--checkpoint={checkpoint}", f"--workdir={tmp_path / 'work'}")
    assert said.returncode == 2
    assert 'the demo needs Gradio: pip install -e ".[demo]"' in said.stderr
    assert "Traceback" not in said.stderr


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "launch.demo", *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=480,
        check=False,
    )


@pytest.mark.parametrize("flag", ["--size=100", "--max_size=1000"])
def test_sizes_that_no_request_could_have_are_told(tmp_path, flag):
    said = launch("demo", flag, "--checkpoint=nowhere.ckpt", f"--workdir={tmp_path / 'work'}")
    assert said.returncode == 2
    assert f"flag {flag}: expected a multiple of 64" in said.stderr
    assert "Traceback" not in said.stderr
    assert not (tmp_path / "work").exists()


def test_a_port_that_is_taken_is_told(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = launch("demo", f"--port={port}", f"--workdir={tmp_path / 'work'}")
    assert said.returncode == 2
    assert f"port {port} cannot be had" in said.stderr
    assert "--port=" in said.stderr
    assert "Traceback" not in said.stderr


def test_a_checkpoint_that_is_not_there_is_told(tmp_path):
    start = time.monotonic()
    said = launch("demo", "--checkpoint=nowhere.ckpt", f"--workdir={tmp_path / 'work'}")
    assert said.returncode == 2
    assert "nowhere.ckpt" in said.stderr
    assert "Traceback" not in said.stderr
    assert not (tmp_path / "work").exists()
    assert time.monotonic() - start < 60
