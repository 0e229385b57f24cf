"""Worker processes of the engine."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from input_pipeline.prepare.engine import Engine, run_steps
from input_pipeline.prepare.pipeline import Pipeline
from tests.input_pipeline.prepare.pipelines import resized
from tests.input_pipeline.prepare.raw_records import Drawings

ROOT = Path(__file__).parents[3]


def build_noting(folder: str) -> Pipeline:
    """Returns a pipeline and notes which process made it."""
    with (Path(folder) / "built").open("a") as file:
        file.write(f"{os.getpid()}\n")
    return resized(Path(folder))


def test_a_worker_makes_the_pipeline_once_for_all_shards(tmp_path):
    reports = list(run_steps(functools.partial(build_noting, str(tmp_path)), Engine(workers=1)))
    assert [report.shards_made for report in reports] == [3, 3, 3]
    built = (tmp_path / "built").read_text().split()
    assert built[0] == str(os.getpid())
    assert len(built) == 2
    assert built[1] != built[0]


class Deadly(Drawings):
    """Records that end a worker that reads them."""

    def __getitem__(self, index):
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def build_deadly(folder: str) -> Pipeline:
    return resized(Path(folder), source=Deadly())


def test_a_killed_worker_is_named(tmp_path):
    build = functools.partial(build_deadly, str(tmp_path))
    with pytest.raises(ChildProcessError, match=r"a worker was killed in step 'raw', .* memory"):
        list(run_steps(build, Engine(workers=1)))


ORPHAN = """
import functools, sys, time
import tests.input_pipeline.prepare.test_workers as here
from input_pipeline.prepare.engine import Engine, run_steps

if __name__ == "__main__":
    build = functools.partial(here.build_slow, sys.argv[1])
    for _ in run_steps(build, Engine(workers=2)):
        pass
"""


class Slow(Drawings):
    """Records that take their time."""

    def __getitem__(self, index):
        time.sleep(1)
        return super().__getitem__(index)


def build_slow(folder: str) -> Pipeline:
    return resized(Path(folder), source=Slow())


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "orphan.py").write_text(ORPHAN)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "orphan.py"), str(tmp_path / "data")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        children: list[psutil.Process] = []
        # Two workers and the tracker of resources.
        while len(children) < 3 and time.monotonic() < deadline:
            time.sleep(0.2)
            children = psutil.Process(parent.pid).children(recursive=True)
    finally:
        parent.kill()
        parent.wait(timeout=60)
    assert len(children) >= 3
    _, alive = psutil.wait_procs(children, timeout=90)
    assert alive == []
