"""A run costs no more memory after a thousand steps than after two hundred, and compiles once."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.launch.tiny_training import ROOT, metrics, write_start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = 1000
# What grew by 6 KiB a step would pass it. The records of metrics and checkpoints take 0.9 MiB in
# all, and a block of 3.3 MiB is there or not there when a checkpoint is due.
MARGIN_MIB = 5


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> list[list[float]]:
    """Returns what was measured at checkpoints: step, compilations, MiB allocated, arrays."""
    folder = tmp_path_factory.mktemp("steady")
    write_start(folder / "start", ("unet", "vae", "text_encoder", "local_fuser"))
    command = ["tests/launch/steady_run.py", folder / "run", folder / "start", str(STEPS)]
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert list(metrics(folder / "run")) == list(range(10, STEPS + 1, 10))
    assert list(metrics(folder / "run", "eval/loss")) == list(range(0, STEPS + 1, 100))
    saved = sorted(int(path.name) for path in (folder / "run" / "checkpoints").iterdir())
    assert saved == [STEPS - 200, STEPS - 100, STEPS]
    found = json.loads(done.stdout.splitlines()[-1])
    assert [row[0] for row in found] == list(range(100, STEPS + 1, 100))
    return found


def test_nothing_compiles_after_the_first_checkpoint(measured):
    """The first compiles its checksums."""
    compilations = [row[1] for row in measured]
    assert compilations[0] > 2
    assert compilations[1:] == [compilations[1]] * (len(compilations) - 1)


def test_the_number_of_arrays_stays(measured):
    assert len({row[3] for row in measured[1:]}) == 1, measured


def test_host_memory_stays(measured):
    assert measured[-1][2] - measured[1][2] < MARGIN_MIB, measured
