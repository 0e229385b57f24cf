"""A full-size model converts and predicts noise within the memory of a small machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_full_size_within_20_gib(tmp_path):
    done = subprocess.run(
        [sys.executable, "benchmarks/full_size.py", f"--folder={tmp_path}"],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1700,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["write"]["parameters"] == 1_365_755_204
    assert max(part["peak_GiB"] for part in report.values()) < 20
