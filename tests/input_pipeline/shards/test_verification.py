"""Verifying a folder of shards: every damage is found and named."""

from __future__ import annotations

import json
import random
import shutil

import pytest

from input_pipeline.shards import (
    ShardedRecords,
    read_manifest,
    shard_name,
    verify,
    write_manifest,
    write_shard,
)

NAMES = [shard_name("zoo", number, 3) for number in range(3)]


@pytest.fixture
def folder(folder_of):
    return folder_of(records=10, count=3)


def test_nothing_is_wrong_with_what_was_written(folder):
    done = []
    assert verify(folder, progress=lambda *counts: done.append(counts)) == []
    assert done == [(3, 10), (6, 10), (10, 10)]
    assert verify(folder, threads=3) == []
    assert verify(folder, quick=True) == []


def test_leftovers_and_other_files_are_no_problem(folder):
    (folder / f".{NAMES[0]}.01234567.tmp").touch()
    (folder / "README.md").touch()
    for name in NAMES:
        (folder / f"{name}.json").unlink()
    assert verify(folder) == []


def test_any_flipped_byte_is_found(folder):
    positions = random.Random(0)
    for path in sorted(folder.iterdir()):
        # The note beside a shard is no part of the data set.
        if path.name == "manifest.json" or path.name.endswith("-of-00003.json"):
            continue
        good = path.read_bytes()
        for _ in range(3):
            position = positions.randrange(len(good))
            damaged = bytearray(good)
            damaged[position] ^= 1 << positions.randrange(8)
            path.write_bytes(damaged)
            problems = verify(folder)
            assert problems, (path, position)
            assert str(path) in problems[0]
        path.write_bytes(good)
    assert verify(folder) == []


def test_record_of_a_flipped_byte_is_named(folder):
    path = folder / NAMES[1]
    good = path.read_bytes()
    image = ShardedRecords(folder)[4]["image"]
    damaged = bytearray(good)
    damaged[good.index(image) + len(image) // 2] ^= 1
    path.write_bytes(damaged)
    problems = verify(folder)
    assert len(problems) == 2
    assert "its SHA-256 is not the manifest's" in problems[0]
    assert f"{path}: record 1 (id 'id 4', record 4 of 'zoo'): cannot be read" in problems[1]


@pytest.mark.parametrize("quick", [False, True])
def test_missing_cut_and_extra_shards_are_found_at_once(quick, folder):
    (folder / NAMES[0]).unlink()
    cut = folder / NAMES[2]
    cut.write_bytes(cut.read_bytes()[:-1000])
    shutil.copy(folder / NAMES[1], folder / shard_name("zoo", 3, 4))
    problems = verify(folder, quick=quick)
    assert len(problems) == 3
    assert f"{shard_name('zoo', 3, 4)}: is no shard of this data set" in problems[0]
    assert f"{NAMES[0]}: is missing" in problems[1]
    assert f"{NAMES[2]}: has {cut.stat().st_size} bytes, expected" in problems[2]


def test_swapped_shards_are_found(folder):
    first, second = folder / NAMES[0], folder / NAMES[1]
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    problems = "\n".join(verify(folder))
    assert problems.count("its SHA-256 is not the manifest's") == 2
    assert "has id, height and width ('id 3', 16, 24), the index says ('id 0', 16, 24)" in problems


def test_count_and_version_of_the_manifest_are_checked(folder):
    path = folder / "manifest.json"
    good = json.loads(path.read_text())
    path.write_text(json.dumps(good | {"schema_version": 7}))
    assert "schema_version is 7" in verify(folder)[0]
    shards = [dict(shard) for shard in good["shards"]]
    shards[0]["records"] += 1
    path.write_text(json.dumps(good | {"shards": shards}))
    assert "tells of 10 records, its shards of 11" in verify(folder)[0]
    shards[1]["records"] -= 1
    path.write_text(json.dumps(good | {"shards": shards}))
    problems = verify(folder)
    assert len(problems) == 2
    assert "holds 3 records where 4 are expected" in problems[0]
    assert "holds 3 records where 2 are expected" in problems[1]


def test_missing_and_wrong_index_are_found(folder, folder_of):
    other = folder_of("other", records=9)
    shutil.copy(other / "index.npz", folder / "index.npz")
    assert "tells of 9 records" in verify(folder)[-1]
    (folder / "index.npz").unlink()
    problems = verify(folder)
    assert "index.npz: is missing" in problems[0]
    assert "index.npz: cannot be read" in problems[1]


def test_pictures_and_json_that_cannot_be_decoded_are_named(tmp_path, record_of):
    fields = ("id", "height", "width", "image", "mask", "depth", "objects")
    records = [record_of(row, fields) for row in range(6)]
    records[0]["image"] = records[0]["image"][:-40]
    records[1]["mask"] = records[1]["depth"]
    records[2]["depth"] = b"no picture"
    records[3]["objects"] = "{"
    records[4]["height"] = 17
    path = tmp_path / shard_name("zoo", 0, 1)
    write_manifest(tmp_path, [write_shard(path, records, fields)])
    problems = verify(tmp_path)
    assert len(problems) == 5
    for row, text in enumerate(
        [
            "field 'image' cannot be decoded",
            "field 'mask' has Pillow's mode I;16, expected L",
            "field 'depth' cannot be decoded",
            "field 'objects' Expecting property name",
            "field 'image' has height and width (16, 24), the record (17, 24)",
        ]
    ):
        assert f"{path}: record {row} (id 'id {row}', record {row} of 'zoo')" in problems[row]
        assert text in problems[row]


def test_no_data_set_is_a_problem(tmp_path):
    assert "holds no manifest.json" in verify(tmp_path)[0]


def test_verifying_changes_nothing(folder):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    verify(folder)
    assert before == {path: path.read_bytes() for path in folder.iterdir()}
    assert read_manifest(folder).records == 10
