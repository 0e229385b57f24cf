"""Reading a folder of shards: any record, from any process and thread, and what damage does."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from input_pipeline.schema import FIELDS, RecordError
from input_pipeline.shards import Shard, ShardedRecords, ShardError
from input_pipeline.shards.readers import ShardReaders

ROOT = Path(__file__).parents[3]
ALL = tuple(field.name for field in FIELDS)


@pytest.fixture
def folder(folder_of):
    return folder_of(records=10, count=3)


def test_all_records_come_back_in_order(folder_of, record_of, same):
    source = ShardedRecords(folder_of(records=7, count=3, fields=ALL))
    assert (source.name, source.palette, source.fields) == ("zoo", "colours", ALL)
    assert len(source) == 7
    assert all(same(source[row], record_of(row)) for row in (3, 0, 6, 6, 1, 2, 5, 4))


def test_empty_shards_are_no_hindrance(folder_of):
    source = ShardedRecords(folder_of(records=3, count=5))
    assert [source[row]["id"] for row in range(3)] == ["id 0", "id 1", "id 2"]
    assert [source.locate(row) for row in range(3)] == [(1, 0), (3, 0), (4, 0)]


def test_index_tells_ids_and_sizes(folder):
    index = ShardedRecords(folder).index
    assert index.ids == [f"id {row}" for row in range(10)]
    assert index.heights.tolist() == [16] * 10
    assert index.widths.tolist() == [24] * 10


@pytest.mark.parametrize("index", [-1, 10])
def test_index_outside_is_refused(index, folder):
    with pytest.raises(IndexError, match=f"holds 10 records, asked for {index}"):
        ShardedRecords(folder)[index]


def test_fields_can_be_chosen(folder):
    source = ShardedRecords(folder, fields=["width", "captions"])
    assert source.fields == ("captions", "width")
    assert source[3] == {"captions": ["a: dög 3", "", "猫"], "width": 24}
    with pytest.raises(ValueError, match=r"has no fields \['depth'\]"):
        ShardedRecords(folder, fields=["id", "depth"])
    with pytest.raises(ValueError, match="'colour'"):
        ShardedRecords(folder, fields=["colour"])


def test_opening_reads_the_manifest_and_nothing_else(folder):
    for path in folder.glob("*"):
        if path.name != "manifest.json":
            path.unlink()
    assert len(ShardedRecords(folder)) == 10


@pytest.mark.parametrize("used", [False, True])
def test_source_can_be_pickled(used, folder, record_of, small_fields, same):
    source = ShardedRecords(folder)
    if used:
        source[0], source.index
    restored = pickle.loads(pickle.dumps(source))
    # The index of a large data set would be sent to every worker.
    assert "index" not in vars(restored)
    assert same(restored[9], record_of(9, small_fields))
    assert restored.index.ids[9] == "id 9"
    shard = pickle.loads(pickle.dumps(Shard(folder / source.manifest.shards[0].file)))
    assert same(shard[1], record_of(1, small_fields))


def test_forked_child_reads_while_its_parent_does(folder):
    # In a process of its own, as forking one with JAX in it is warned about. A thread holds the
    # lock of the readers at the time of the fork, which must not stop the child.
    script = """
import os, sys, threading
from input_pipeline.shards import ShardedRecords
source = ShardedRecords(sys.argv[1])
source[0]
with source._readers._open.lock:
    child = os.fork()
if child == 0:
    good = all(source[row]["id"] == f"id {row}" for row in range(10) for _ in range(20))
    os._exit(0 if good else 1)
good = all(source[row]["id"] == f"id {row}" for row in range(10) for _ in range(20))
print(good, os.waitpid(child, 0)[1])
with source._readers._open.lock:
    child = os.fork()
    if child == 0:
        os._exit(0 if source[9]["id"] == "id 9" else 1)
print(os.waitpid(child, 0)[1])
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["True", "0", "0"], done.stderr


@pytest.mark.parametrize("max_open", [1, 2, 256])
def test_threads_share_a_source(max_open, folder):
    source = ShardedRecords(folder)
    source._readers._max_open = max_open
    barrier = threading.Barrier(8)

    def read(seed):
        rows = random.Random(seed).choices(range(10), k=200)
        barrier.wait()
        return all(source[row]["id"] == f"id {row}" for row in rows)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))
    assert 1 <= len(source._readers._open.readers) <= max_open


def shard_of(source, number):
    return source.folder / source.manifest.shards[number].file


def test_missing_shard_is_named(folder):
    source = ShardedRecords(folder)
    shard_of(source, 1).unlink()
    assert source[0]["id"] == "id 0"
    with pytest.raises(ShardError) as caught:
        source[3]
    for part in (shard_of(source, 1), "record 0 (id 'id 3', record 3 of 'zoo')", "does not exist"):
        assert str(part) in str(caught.value)


@pytest.mark.parametrize("size", [0, 100, 70_000, -1])
def test_truncated_shard_is_named(size, folder):
    source = ShardedRecords(folder)
    path = shard_of(source, 0)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ShardError, match=r"00000-of-00003: record 2 .*is cut off or damaged"):
        source[2]


def test_shard_of_another_run_is_named(folder, folder_of):
    other = folder_of("other", records=8, count=3)
    source = ShardedRecords(folder)
    path = shard_of(source, 0)
    path.write_bytes((other / path.name).read_bytes())
    with pytest.raises(ShardError, match="holds 2 records where 3 are expected"):
        source[0]


def test_flipped_byte_never_gives_a_wrong_record(folder, record_of, small_fields, same):
    """ArrayRecord refuses one record or the whole shard, unless the byte is padding."""
    rows = range(3)
    records = [record_of(row, small_fields) for row in rows]
    path = shard_of(ShardedRecords(folder), 0)
    good = path.read_bytes()
    refused = dict.fromkeys(rows, 0)
    for position in [*range(0, len(good), 997), *range(200, 2000, 61)]:
        damaged = bytearray(good)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        source = ShardedRecords(folder)
        for row in rows:
            try:
                assert same(source[row], records[row])
            except RecordError:
                refused[row] += 1
    assert min(refused.values()) > 0
    assert len(set(refused.values())) > 1


def test_record_without_a_field_is_named(folder):
    source = ShardedRecords(folder)
    source.fields = ("id", "sketch")
    with pytest.raises(RecordError, match=r"record 1 \(id 'id 4'.*field 'sketch' is missing"):
        source[4]


def test_damage_is_named_without_the_index_too(folder):
    source = ShardedRecords(folder)
    (folder / "index.npz").write_bytes(b"")
    shard_of(source, 1).unlink()
    with pytest.raises(ShardError, match=r"record 0 \(id unknown, record 3 of 'zoo'\)"):
        source[3]


def test_few_files_are_open_at_once(folder):
    source = ShardedRecords(folder)
    readers = ShardReaders(source._readers.paths, source._readers.counts, max_open=2)
    before = len(os.listdir("/proc/self/fd"))
    for shard in (0, 1, 2, 0, 1, 2):
        readers.read(shard, 0)
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_single_shard_is_a_record_source(folder, record_of, small_fields, same):
    path = shard_of(ShardedRecords(folder), 1)
    shard = Shard(path, fields=["image", "id"])
    assert (len(shard), shard.fields, shard.palette) == (3, ("id", "image"), None)
    assert same(shard[2], record_of(5, ("id", "image")))
    with pytest.raises(IndexError):
        shard[3]
    path.write_bytes(b"")
    with pytest.raises(ShardError, match=r"record 2 \(id 'id 5'\): cannot be read"):
        Shard(path)[2]
    path.with_name(f"{path.name}.json").unlink()
    with pytest.raises(ValueError, match="is not a finished shard"):
        Shard(path)
