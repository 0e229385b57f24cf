"""Writing a shard: the same bytes from everyone, and whole or not at all."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from input_pipeline.schema import RecordError
from input_pipeline.shards import (
    Shard,
    finished_shard,
    shard_name,
    shard_rows,
    write_shard,
)
from input_pipeline.shards.atomic import new_file, write_file
from input_pipeline.shards.shard import info_path

ROOT = Path(__file__).parents[3]
ROWS = 8
NAME = shard_name("zoo", 0, 1)

# Writes a shard of ROWS records and stops at a point until it is killed, or writes it on and on.
WRITER = """
import os, sys, time
import numpy as np
from input_pipeline.shards import atomic, write_shard

path, rows, point = sys.argv[1], int(sys.argv[2]), sys.argv[3]
renames = 0

def stop_at(name):
    if name == point:
        print("stopped", flush=True)
        time.sleep(600)

def records():
    for row in range(rows):
        stop_at(f"record {row}")
        values = np.random.default_rng(row).normal(size=20000).astype("f4")
        yield {"id": f"record {row}", "image_embedding": values}
    stop_at("end of records")

def replace(source, target):
    global renames
    renames += 1
    stop_at(f"before rename {renames}")
    rename(source, target)
    stop_at(f"after rename {renames}")

rename, os.replace = os.replace, replace
write_shard(path, records(), ["id", "image_embedding"], "recipe")
print("stopped", flush=True)
while point == "never":
    write_shard(path, records(), ["id", "image_embedding"], "recipe")
stop_at("done")
"""


def start_writer(path, point="done", environment=None):
    command = [sys.executable, "-c", WRITER, str(path), str(ROWS), point]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)


def kill(process):
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of the shard and of its note, as written by an undisturbed process."""
    path = tmp_path_factory.mktemp("whole") / NAME
    process = start_writer(path)
    assert process.stdout.readline() == "stopped\n"
    kill(process)
    assert sorted(path.parent.iterdir()) == [path, info_path(path)]
    return path.read_bytes(), info_path(path).read_bytes()


def test_note_tells_what_is_in_the_shard(tmp_path, record_of, small_fields):
    path = tmp_path / "made" / NAME
    info = write_shard(path, map(record_of_rows(record_of, small_fields), range(5)), small_fields)
    data = path.read_bytes()
    assert (info.file, info.bytes, info.records) == (NAME, len(data), 5)
    assert info.sha256 == hashlib.sha256(data).hexdigest()
    assert info.ids == tuple(f"id {row}" for row in range(5))
    assert info.heights == (16,) * 5
    assert info.widths == (24,) * 5
    assert info.fields == small_fields
    assert finished_shard(path) == info


def record_of_rows(record_of, fields):
    return lambda row: record_of(row, fields)


def test_same_bytes_again_and_with_fields_in_another_order(tmp_path, record_of, small_fields):
    records = [record_of(row, small_fields) for row in range(5)]
    first = write_shard(tmp_path / "a" / NAME, records, small_fields)
    again = write_shard(tmp_path / "b" / NAME, iter(records), reversed(small_fields))
    assert first == again
    for name in (NAME, info_path(Path(NAME)).name):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_same_bytes_from_another_process(tmp_path, whole):
    process = start_writer(tmp_path / NAME, environment={"PYTHONHASHSEED": "1"})
    assert process.stdout.readline() == "stopped\n"
    kill(process)
    assert (tmp_path / NAME).read_bytes() == whole[0]
    assert info_path(tmp_path / NAME).read_bytes() == whole[1]


@pytest.mark.parametrize(
    "point",
    [
        "record 0",
        "record 1",
        f"record {ROWS - 1}",
        "end of records",
        "before rename 1",
        "after rename 1",
        "before rename 2",
        "after rename 2",
    ],
)
def test_killed_writer_leaves_no_half_shard_and_is_repeated(point, tmp_path, whole):
    path = tmp_path / NAME
    process = start_writer(path, point)
    assert process.stdout.readline() == "stopped\n"
    kill(process)
    is_renamed = point.startswith("after") or point.endswith("2")
    assert path.exists() == is_renamed
    assert not is_renamed or path.read_bytes() == whole[0]
    assert (finished_shard(path, "recipe") is not None) == (point == "after rename 2")
    leftovers = [name for name in os.listdir(tmp_path) if name.startswith(".")]
    assert len(leftovers) == (not point.startswith("after"))

    process = start_writer(path)
    assert process.stdout.readline() == "stopped\n"
    kill(process)
    assert (path.read_bytes(), info_path(path).read_bytes()) == whole
    assert sorted(tmp_path.iterdir()) == [path, info_path(path)]


def test_old_note_never_stands_beside_a_new_shard(tmp_path, whole):
    path = tmp_path / NAME
    records = [
        {"id": f"record {row}", "image_embedding": np.zeros(20000, np.float32)}
        for row in range(ROWS)
    ]
    old = write_shard(path, records, records[0], "recipe")
    assert old.bytes == len(whole[0])
    process = start_writer(path, "after rename 1")
    assert process.stdout.readline() == "stopped\n"
    kill(process)
    assert path.read_bytes() == whole[0]
    assert finished_shard(path, "recipe") is None


def test_killed_at_any_time_the_shard_is_whole(tmp_path, whole):
    path = tmp_path / NAME
    delays = random.Random(0)
    for _ in range(6):
        process = start_writer(path, "never")
        assert process.stdout.readline() == "stopped\n"
        time.sleep(delays.uniform(0, 0.05))
        kill(process)
        assert path.read_bytes() == whole[0]
        if finished_shard(path, "recipe") is not None:
            assert info_path(path).read_bytes() == whole[1]


def test_old_shard_stays_until_the_next_is_whole(tmp_path, record_of, small_fields):
    path = tmp_path / NAME
    info = write_shard(path, [record_of(0, small_fields)], small_fields)
    before = path.read_bytes()

    def records():
        yield record_of(1, small_fields)
        assert path.read_bytes() == before
        assert finished_shard(path) == info
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(path, records(), small_fields)
    assert path.read_bytes() == before
    assert finished_shard(path) == info
    assert sorted(tmp_path.iterdir()) == [path, info_path(path)]


def test_shard_of_another_recipe_or_size_is_to_be_written(tmp_path, record_of, small_fields):
    path = tmp_path / NAME
    assert finished_shard(path) is None
    info = write_shard(path, [record_of(0, small_fields)], small_fields, "depth v1", inputs="of 5")
    assert finished_shard(path, "depth v1") == info
    assert info.inputs == "of 5"
    assert finished_shard(path, "depth v2") is None
    path.write_bytes(path.read_bytes()[:-1])
    assert finished_shard(path, "depth v1") is None
    path.unlink()
    assert finished_shard(path, "depth v1") is None


def test_damaged_note_is_named(tmp_path, record_of, small_fields):
    path = tmp_path / NAME
    write_shard(path, [record_of(0, small_fields)], small_fields)
    for text in ("", "[]", "{}", info_path(path).read_text().replace("sha256", "md5")):
        info_path(path).write_text(text)
        with pytest.raises(ValueError, match=f"{NAME}.json: is damaged"):
            finished_shard(path)


def test_all_problems_of_a_record_are_listed(tmp_path, record_of, small_fields):
    path = tmp_path / NAME
    wrong = {**record_of(1, small_fields), "height": "16", "colour": 1}
    del wrong["mask"]
    with pytest.raises(RecordError) as caught:
        write_shard(path, [record_of(0, small_fields), wrong], small_fields)
    for part in (NAME, "record 1", "'id 1'", "'mask' is missing", "'colour' is", "'height' is"):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"id": "id 0"}, "record 1 .* its id is that of an earlier record"),
        ({"height": 2**64}, "record 1 .*'height' cannot be stored"),
    ],
)
def test_record_that_cannot_be_stored_is_named(change, problem, tmp_path, record_of, small_fields):
    records = [record_of(0, small_fields), record_of(1, small_fields) | change]
    with pytest.raises(RecordError, match=problem):
        write_shard(tmp_path / NAME, records, small_fields)
    assert list(tmp_path.iterdir()) == []


def test_fields_must_be_known_and_have_an_id(tmp_path):
    with pytest.raises(ValueError, match="'colour'"):
        write_shard(tmp_path / NAME, [], ["id", "colour"])
    with pytest.raises(ValueError, match="lack 'id'"):
        write_shard(tmp_path / NAME, [], ["mask"])


def test_full_disk_leaves_nothing(tmp_path):
    import resource
    import signal

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(RuntimeError, match="File too large"):
            write_shard(tmp_path / NAME, ({"id": str(row) * 9999} for row in range(99)), ["id"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_shard_without_records_is_a_shard(tmp_path):
    path = tmp_path / NAME
    assert write_shard(path, [], ["id"]).records == 0
    assert list(Shard(path)) == []


def test_names_and_rows():
    assert shard_name("coco_stuff", 3, 16) == "coco_stuff-train.array_record-00003-of-00016"
    assert shard_name("zoo", 0, 1, "val") == "zoo-val.array_record-00000-of-00001"
    for name, split in [("COCO", "train"), ("a-b", "train"), ("zoo", "val-2"), ("", "train")]:
        with pytest.raises(ValueError, match="small letter"):
            shard_name(name, 0, 1, split)
    for number, count in [(-1, 1), (1, 1), (0, 0), (0, 100_000)]:
        with pytest.raises(ValueError, match="0 <= number < count"):
            shard_name("zoo", number, count)
    for records, count in [(10, 3), (2, 5), (0, 2), (7, 7)]:
        parts = [shard_rows(records, number, count) for number in range(count)]
        assert [row for part in parts for row in part] == list(range(records))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_file_of_a_living_writer_is_left_alone(tmp_path):
    path = tmp_path / "file[1]*"
    stale = tmp_path / f".{path.name}.00000000.tmp"
    stale.touch()
    other = tmp_path / ".file[1]*2.00000000.tmp"
    other.touch()
    with new_file(path) as temporary:
        assert not stale.exists()
        temporary.write_bytes(b"slow")
        write_file(path, b"fast")
        assert temporary.exists()
        assert path.read_bytes() == b"fast"
    assert path.read_bytes() == b"slow"
    assert sorted(tmp_path.iterdir()) == sorted([other, path])


def test_files_get_the_usual_permissions(tmp_path):
    write_file(tmp_path / "ours", b"")
    (tmp_path / "usual").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode
