"""Shards do not depend on who makes them, when, or how often they were stopped."""

from __future__ import annotations

import dataclasses
import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from input_pipeline.prepare.engine import Engine, run_steps, unfinished
from input_pipeline.prepare.masks import Coverage, LabelMask
from input_pipeline.prepare.run import _run, make_shard
from input_pipeline.prepare.sketches import Edges
from input_pipeline.schema import RecordError
from input_pipeline.shards.manifest import read_manifest
from input_pipeline.shards.records import ShardedRecords
from tests.input_pipeline.prepare.pipelines import build, resized, run
from tests.input_pipeline.prepare.raw_records import Drawings

ROOT = Path(__file__).parents[3]


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
from input_pipeline.prepare.engine import Engine, run_steps, unfinished
from tests.input_pipeline.prepare.pipelines import build

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
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "killed 25"
    left = contents(tmp_path)
    leftovers = [name for name in left if name.endswith(".tmp")]
    assert {name: data for name, data in left.items() if name not in leftovers} == undisturbed
    # A killed writer's file is removed by the next that writes the same shard.
    assert len(leftovers) <= 1


def test_good_shards_are_not_replaced_by_empty_ones(tmp_path):
    first = resized(tmp_path, LabelMask())
    run(first)
    first.finish()
    nothing = resized(tmp_path, LabelMask(coverage=Coverage(least=0.99)))
    with pytest.raises(ValueError, match="every record was left out, so nothing is wri") as error:
        run(nothing)
    assert "{'mask': {'mask empty': 4, 'mask under 0.99': 16}}" in str(error.value)
    assert len(ShardedRecords(tmp_path / "shards")) == 16


def test_a_recipe_does_not_depend_on_where_things_lie(tmp_path):
    first, second = build(str(tmp_path / "a")), build(str(tmp_path / "b"))
    assert first.recipes == second.recipes
    assert json.loads(first.recipes["raw"])["records"] == 20


def test_two_records_of_one_id(tmp_path):
    class Twins(Drawings):
        def __getitem__(self, index):
            return {**super().__getitem__(index), "id": f"x{index // 2}"}

    with pytest.raises(RecordError, match="its id is that of an earlier record"):
        run(resized(tmp_path, source=Twins()))


def test_the_limit_is_of_all_steps_together(tmp_path):
    source = Drawings(bad=(3,), broken=(7,))
    with pytest.raises(RecordError, match="2 records are unreadable, allowed are 1"):
        run(resized(tmp_path, LabelMask(), source=source, max_unreadable=1))
    run(resized(tmp_path, LabelMask(), source=source, max_unreadable=2))
    strict = resized(tmp_path, LabelMask(), source=source, max_unreadable=0)
    with pytest.raises(RecordError, match="allowed are 0"):
        strict.finish()


def test_shards_of_another_number_are_not_mixed(tmp_path):
    run(resized(tmp_path, LabelMask()))
    other = dataclasses.replace(resized(tmp_path, LabelMask()), num_shards=2)
    with pytest.raises(ValueError, match="holds 3 shards of another data set or number of shards"):
        run(other)


def test_only_a_few_records_are_in_memory(tmp_path):
    source = Drawings(count=200)
    pipeline = dataclasses.replace(resized(tmp_path, source=source), num_shards=1)
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
