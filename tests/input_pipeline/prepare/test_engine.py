"""Shards do not depend on who makes them, when, or how often they were stopped."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from input_pipeline.prepare.engine import Engine, StepReport, run_steps, unfinished
from input_pipeline.prepare.masks import Coverage, LabelMask
from input_pipeline.prepare.pipeline import Pipeline
from input_pipeline.prepare.resize import Resize
from input_pipeline.prepare.run import _run, make_shard
from input_pipeline.prepare.sketches import Edges
from input_pipeline.schema import RecordError
from input_pipeline.shards.manifest import ManifestError, read_manifest
from input_pipeline.shards.records import ShardedRecords
from tests.input_pipeline.prepare.raw_records import Drawings

ROOT = Path(__file__).parents[3]


def build(folder: str) -> Pipeline:
    source = Drawings()
    steps = (Resize(((64, 64), (64, 128)), source.fields), LabelMask(), Edges())
    return Pipeline(source, {"seed": 0}, steps, Path(folder) / "work", Path(folder) / "shards", 3)


def run(pipeline: Pipeline, engine: Engine | None = None) -> list[StepReport]:
    return list(run_steps(lambda: pipeline, engine or Engine()))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Returns all files of one run in one process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    pipeline = build(str(folder))
    run(pipeline)
    pipeline.finish()
    return contents(folder)


def test_the_data_set_is_complete(tmp_path, pipeline_in):
    pipeline = pipeline_in(tmp_path)
    reports = run(pipeline)
    assert [report.step for report in reports] == ["raw", "image", "mask", "edges", "shards"]
    assert [report.shards_made for report in reports] == [3] * 5
    assert pipeline.summary()["mask"] == {"mask empty": 4}
    assert pipeline.finish() is not None
    records = ShardedRecords(tmp_path / "shards")
    assert len(records) == 16
    assert records.fields == pipeline.fields
    assert records[0]["id"] == "x1"
    assert records[0]["captions"] == ["drawing: 1"]
    manifest = read_manifest(tmp_path / "shards")
    assert manifest.palette == "coco"
    assert manifest.settings["edges"]["low"] == 100
    assert manifest.sources["left_out"]["mask"] == {"mask empty": 4}


def test_processes_make_the_same_bytes(tmp_path, undisturbed):
    list(run_steps(functools.partial(build, str(tmp_path)), Engine(workers=2, threads=1)))
    build(str(tmp_path)).finish()
    assert contents(tmp_path) == undisturbed


def test_tasks_share_the_work(tmp_path, undisturbed):
    pipeline = build(str(tmp_path))
    for index in (1, 0):
        assert pipeline.finish() is None
        reports = run(pipeline, Engine(task_index=index, task_count=2))
        assert {report.shards_made for report in reports} == {2 - index}
    assert unfinished(pipeline) == {}
    pipeline.finish()
    assert contents(tmp_path) == undisturbed


def test_what_is_finished_is_kept(tmp_path, pipeline_in):
    run(pipeline_in(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert {report.shards_made for report in run(pipeline_in(tmp_path))} == {0}
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_other_settings_make_only_what_depends_on_them(tmp_path, pipeline_in):
    source = Drawings()
    resize = Resize(((64, 64),), source.fields)
    run(pipeline_in(tmp_path, resize, LabelMask(), Edges()))
    reports = run(pipeline_in(tmp_path, resize, LabelMask(), Edges(low=50)))
    made = {report.step: report.shards_made for report in reports}
    assert made == {"raw": 0, "image": 0, "mask": 0, "edges": 3, "shards": 3}
    reports = run(pipeline_in(tmp_path, resize, LabelMask(classes=(0, 1)), Edges(low=50)))
    made = {report.step: report.shards_made for report in reports}
    assert made == {"raw": 0, "image": 0, "mask": 3, "edges": 3, "shards": 3}


@pytest.mark.parametrize("source", [Drawings(bad=(3, 7)), Drawings(broken=(3, 7))])
def test_unreadable_records(source, tmp_path, pipeline_in):
    pipeline = pipeline_in(tmp_path, source=source, max_unreadable=1)
    with pytest.raises(RecordError, match=r"2 records are unreadable, allowed are 1 ") as e:
        run(pipeline)
    assert "drawings" in str(e.value)
    assert "3" in str(e.value)
    assert "7" in str(e.value)
    pipeline = pipeline_in(tmp_path, source=source, max_unreadable=2)
    run(pipeline)
    assert sum(reasons.get("unreadable", 0) for reasons in pipeline.summary().values()) == 2
    pipeline.finish()
    ids = {record["id"] for record in ShardedRecords(tmp_path / "shards")}
    assert len(ids) == 14
    assert not {"x3", "x7"} & ids


def test_problems_are_listed_before_anything_starts(tmp_path, pipeline_in):
    source = Drawings(count=0)
    pipeline = pipeline_in(tmp_path, Edges(), Edges(), source=source)
    with pytest.raises(ValueError, match="has no records") as error:
        run(pipeline)
    assert "step 'edges' is there twice" in str(error.value)
    assert not (tmp_path / "work").exists()


KILLER = """
import os, pathlib, random, signal, sys, time
from input_pipeline.prepare.engine import Engine, run_steps
from tests.input_pipeline.prepare.test_engine import build

folder, kills, rng = sys.argv[1], 0, random.Random(0)
while kills < 25:
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        for _ in run_steps(lambda: build(folder), Engine()):
            pass
        os._exit(0)
    time.sleep(rng.uniform(0.0, 0.12))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        kills += 1
    else:
        # It was done before: begin anew, so that all parts of the work get killed.
        for path in sorted(pathlib.Path(folder).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
for _ in run_steps(lambda: build(folder), Engine()):
    pass
build(folder).finish()
print("killed", kills)
"""


def test_killed_at_any_time_it_goes_on(tmp_path, undisturbed):
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "killed 25"
    left = contents(tmp_path)
    leftovers = [name for name in left if name.endswith(".tmp")]
    assert {name: data for name, data in left.items() if name not in leftovers} == undisturbed
    # A killed writer's file is removed by the next that writes the same shard.
    assert len(leftovers) <= 1


def test_a_recipe_does_not_depend_on_where_things_lie(tmp_path):
    first, second = build(str(tmp_path / "a")), build(str(tmp_path / "b"))
    assert first.recipes == second.recipes
    assert json.loads(first.recipes["raw"])["records"] == 20


def mask_pipeline(folder: Path, *steps, source=None, **options) -> Pipeline:
    source = source or Drawings()
    chosen = (Resize(((64, 64),), source.fields), *steps)
    return Pipeline(source, {"seed": 0}, chosen, folder / "work", folder / "shards", 3, **options)


def test_a_killed_run_of_other_settings_loses_no_record(tmp_path, monkeypatch):
    run(mask_pipeline(tmp_path, LabelMask()))
    other = mask_pipeline(tmp_path, LabelMask(coverage=Coverage(least=0.5)))

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("input_pipeline.prepare.pipeline.write_shard", killed)
        with pytest.raises(KeyboardInterrupt):
            run(other)
    again = mask_pipeline(tmp_path, LabelMask(), Edges())
    made = {report.step: report.shards_made for report in run(again)}
    assert made["mask"] == 0
    again.finish()
    assert len(ShardedRecords(tmp_path / "shards")) == 16


def test_no_manifest_stands_beside_shards_of_other_settings(tmp_path):
    first = mask_pipeline(tmp_path, LabelMask(), Edges())
    run(first)
    first.finish()
    second = mask_pipeline(tmp_path, LabelMask(), Edges(low=10, high=20))
    run(second, Engine(task_index=0, task_count=3))
    with pytest.raises(ManifestError):
        ShardedRecords(tmp_path / "shards")
    assert second.finish() is None
    run(second)
    second.finish()
    assert read_manifest(tmp_path / "shards").settings["edges"]["low"] == 10


def test_two_records_of_one_id(tmp_path):
    class Twins(Drawings):
        def __getitem__(self, index):
            return {**super().__getitem__(index), "id": f"x{index // 2}"}

    with pytest.raises(RecordError, match="its id is that of an earlier record"):
        run(mask_pipeline(tmp_path, source=Twins()))


def test_a_file_that_was_mended_comes_back(tmp_path):
    source = Drawings(bad=(3,))
    broken = mask_pipeline(tmp_path, LabelMask(), source=source, max_unreadable=1)
    run(broken)
    assert broken.finish().records == 15
    assert broken.unreadable() == ["drawings 3: file x3.jpg is cut short"]
    source.bad = ()
    mended = mask_pipeline(tmp_path, LabelMask(), source=source, max_unreadable=1)
    made = {report.step: report.shards_made for report in run(mended)}
    assert made == {"raw": 1, "image": 1, "mask": 1, "shards": 1}
    assert mended.finish().records == 16


def test_the_limit_is_of_all_steps_together(tmp_path):
    source = Drawings(bad=(3,), broken=(7,))
    with pytest.raises(RecordError, match="2 records are unreadable, allowed are 1"):
        run(mask_pipeline(tmp_path, LabelMask(), source=source, max_unreadable=1))
    run(mask_pipeline(tmp_path, LabelMask(), source=source, max_unreadable=2))
    strict = mask_pipeline(tmp_path, LabelMask(), source=source, max_unreadable=0)
    with pytest.raises(RecordError, match="allowed are 0"):
        strict.finish()


def test_what_would_be_replaced_is_told(tmp_path):
    run(mask_pipeline(tmp_path, LabelMask(), Edges()))
    assert mask_pipeline(tmp_path, LabelMask(), Edges()).stale() == []
    (text,) = mask_pipeline(tmp_path, LabelMask(), Edges(low=50)).stale()
    assert text == "3 of step 'edges': low was 100, is 50"


def test_shards_of_another_number_are_not_mixed(tmp_path):
    run(mask_pipeline(tmp_path, LabelMask()))
    other = dataclasses.replace(mask_pipeline(tmp_path, LabelMask()), num_shards=2)
    with pytest.raises(ValueError, match="holds 3 shards of another data set or number of shards"):
        run(other)


def test_only_a_few_records_are_in_memory(tmp_path):
    source = Drawings(count=200)
    pipeline = dataclasses.replace(mask_pipeline(tmp_path, source=source), num_shards=1)
    make_shard(pipeline, "raw", 0)
    alive, most = set(), 0
    step = pipeline.steps[0]

    class Counting:
        def __getattr__(self, name):
            return getattr(step, name)

        def decode(self, record):
            nonlocal most
            alive.add(record["id"])
            most = max(most, len(alive))
            return step.decode(record)

    joined = pipeline.join("image", 0, step.needs)
    for name, _ in _run(Counting(), joined, {}, threads=2):
        alive.discard(name)
    assert most < 30


ORPHAN = """
import functools, sys, time
import tests.input_pipeline.prepare.test_engine as here
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
    return mask_pipeline(Path(folder), source=Slow())


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
        parent.wait(timeout=10)
    assert len(children) >= 3
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
