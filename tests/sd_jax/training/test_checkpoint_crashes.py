"""Saves that are killed or run out of space, other meshes, and several processes."""

from __future__ import annotations

import os
import random
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("checkpoint_process.py")
ROOT = Path(__file__).parents[3]


def process(task, folder, devices=1, arguments=()):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), task, str(folder), *arguments],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output_of(task, folder, devices=1):
    running = process(task, folder, devices)
    output, errors = running.communicate(timeout=900)
    assert running.returncode == 0, errors
    return output


@pytest.mark.slow
def test_a_killed_save_harms_nothing_and_leaves_nothing(tmp_path):
    """Killed at random moments, of writing and of removing; each run goes on from there."""
    moments = random.Random(0)
    committed, unfinished = [], 0
    for _ in range(5):
        running = process("save_for_ever", tmp_path)
        assert running.stdout is not None
        for _ in range(moments.randint(1, 4)):
            line = running.stdout.readline()
            assert line, running.communicate()[1]
            committed += [int(line.split()[1])] if line.startswith("committed") else []
        time.sleep(moments.uniform(0.0, 0.1))
        running.kill()
        rest = running.communicate()[0]
        committed += [int(step) for step in re.findall(r"committed (\d+)\n", rest)]
        names = [path.name for path in tmp_path.iterdir()]
        unfinished += any(not name.isdecimal() for name in names)
        assert not committed or str(committed[-1]) in names
    assert unfinished, "no kill came in the middle of a save"
    assert output_of("check", tmp_path).startswith("steps ")
    assert all(path.name.isdecimal() for path in tmp_path.iterdir())


def test_a_full_disk_is_told_and_the_old_checkpoint_stays(tmp_path):
    lines = output_of("disk_full", tmp_path).splitlines()
    for step, (error, left) in zip((2, 3), (lines[0:2], lines[2:4]), strict=True):
        assert error.startswith(f"step {step} was not saved in {tmp_path} (")
        assert "File too large" in error
        assert "GB are free there; make room" in error
        assert left == "left 1"
    assert lines[4:] == ["steps 4"]


def test_a_read_only_folder_is_told(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    from sd_jax.training.checkpoints import Checkpoints

    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OSError, match="cannot hold checkpoints"):
            Checkpoints(tmp_path / "checkpoints")
    finally:
        tmp_path.chmod(0o700)


def test_any_mesh_reads_what_another_wrote(tmp_path):
    output = output_of("meshes", tmp_path, devices=8)
    assert output.split("\n") == [*(f"read on {devices}" for devices in (8, 4, 2, 1, 8)), ""]


@pytest.mark.slow
def test_two_processes_agree(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    running = [process("two_processes", tmp_path, 2, (address, str(rank))) for rank in (0, 1)]
    # What only one of them fails to read, neither uses.
    for each, reason in zip(running, ("CheckpointDamaged", "Exception"), strict=True):
        output, errors = each.communicate(timeout=900)
        assert each.returncode == 0, errors
        lines = [line for line in output.splitlines() if not line.startswith("[Gloo]")]
        assert lines == ["True", "2 True", f"1 {reason} 1 True", "steps 1 2"]
    assert (tmp_path / "2.damaged").is_dir()
