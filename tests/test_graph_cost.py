"""What graphs of factors cost at full size, counted: prompt compliance, and one factor more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "benchmarks/graph_cost.py", "--parts=compliance,factors"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_ten_maps_and_an_image_cost_a_quarter_of_ten_images(rows):
    found = [row for row in rows if row["part"] == "compliance"]
    assert len(found) == 2
    for row in found:
        assert row["draws"] == 10
        assert 0.1 < row["share_of_images_from_maps"] <= 0.25


def test_a_factor_more_costs_its_adapter_and_its_pass(rows):
    one, *others = [row for row in rows if row["part"] == "factors"]
    assert len(others) == 3
    for number, row in enumerate(others, start=2):
        assert row["mib_prior"] == one["mib_prior"]
        assert row["mib_adapters"] == pytest.approx(number * one["mib_adapters"], rel=1e-3)
        assert row["tflop"] == pytest.approx(number * one["tflop"], rel=2e-3)
