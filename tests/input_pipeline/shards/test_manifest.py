"""The manifest: made of shards that fit together, and refused when it is wrong."""

from __future__ import annotations

import dataclasses
import json

import pytest

from input_pipeline.shards import ManifestError, read_manifest, write_manifest, write_shard
from input_pipeline.shards.index import read_index
from input_pipeline.shards.shard import read_shard_info


def infos_of(folder):
    return [read_shard_info(folder / shard.file) for shard in read_manifest(folder).shards]


def edit(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_manifest_tells_all(folder_of, small_fields):
    folder = folder_of(records=10, count=3)
    manifest = read_manifest(folder)
    assert (manifest.name, manifest.split, manifest.palette) == ("zoo", "train", "colours")
    assert manifest.fields == small_fields
    assert manifest.records == 10
    assert [shard.records for shard in manifest.shards] == [3, 3, 4]
    for shard, info in zip(manifest.shards, infos_of(folder), strict=True):
        assert (shard.file, shard.bytes, shard.sha256) == (info.file, info.bytes, info.sha256)
    assert [file.file for file in manifest.files] == [
        "dataset_info.json",
        "features.json",
        "index.npz",
    ]
    assert manifest.settings == {"size": 512}
    assert manifest.sources == {"url": "nowhere"}


def test_same_files_again_and_nothing_is_touched(folder_of):
    folder, other = folder_of("a"), folder_of("b")
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    for name in names:
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    shards = list(reversed(infos_of(folder)))
    write_manifest(folder, shards, "colours", {"size": 512}, {"url": "nowhere"})
    assert times == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert write_manifest(folder, shards, None).palette is None


def test_settings_may_hold_whatever_json_has(folder_of):
    folder = folder_of()
    shards = infos_of(folder)
    manifest = write_manifest(folder, shards, settings={"sizes": (1, 2), "ü": None})
    assert manifest == read_manifest(folder)
    assert manifest.settings == {"sizes": [1, 2], "ü": None}
    before = (folder / "manifest.json").read_bytes()
    for value in (object(), float("nan")):
        with pytest.raises(ManifestError, match="settings or sources hold what JSON cannot"):
            write_manifest(folder, shards, settings={"value": value})
    assert (folder / "manifest.json").read_bytes() == before


def test_shards_must_be_complete_and_fit_together(folder_of, record_of, small_fields):
    folder = folder_of(count=3)
    first, second, third = infos_of(folder)
    (folder / third.file).write_bytes(b"short")
    other = dataclasses.replace(second, fields=("id", "height"), ids=("id 0",))
    elsewhere = dataclasses.replace(first, file=first.file.replace("zoo", "sea"))
    with pytest.raises(ManifestError) as caught:
        write_manifest(folder, [first, other, third, elsewhere])
    for part in (
        "several data sets",
        "sea-train.array_record-00000-of-00003 is missing",
        "00001-of-00003 has fields ['id', 'height']",
        f"record 'id 0' is in {first.file} and in {second.file}",
        "00002-of-00003 has 5 bytes, expected",
    ):
        assert part in str(caught.value)
    with pytest.raises(ManifestError, match=r"of 3 shards, these are missing: \[1, 2\]"):
        write_manifest(folder, [first])
    with pytest.raises(ManifestError, match="a shard is there twice"):
        write_manifest(folder, [first, first, second, third])


def test_data_set_needs_records_sizes_and_names(tmp_path, record_of):
    name = "zoo-train.array_record-00000-of-00001"
    with pytest.raises(ManifestError, match="hold no records"):
        write_manifest(tmp_path, [write_shard(tmp_path / name, [], ["id"])])
    info = write_shard(tmp_path / name, [record_of(0, ("id", "width"))], ["id", "width"])
    with pytest.raises(ManifestError, match=r"has no fields \['height'\]"):
        write_manifest(tmp_path, [info])
    record = {"id": "a", "height": 0, "width": 5}
    with pytest.raises(ManifestError, match="images without height or width"):
        write_manifest(tmp_path, [write_shard(tmp_path / name, [record], record)])
    info = write_shard(tmp_path / "zoo.bin", [record | {"height": 5}], record)
    with pytest.raises(ManifestError, match=r"'zoo.bin' is no name of a shard"):
        write_manifest(tmp_path, [info])


def test_missing_and_broken_manifest(tmp_path, folder_of):
    with pytest.raises(ManifestError, match=r"holds no manifest.json"):
        read_manifest(tmp_path)
    folder = folder_of()
    for text, problem in [("{", "is no JSON"), ("[]", "it is a list"), (b"\xff", "is no JSON")]:
        (folder / "manifest.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ManifestError, match=problem):
            read_manifest(folder)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_refused(version, folder_of):
    folder = folder_of()
    edit(folder, schema_version=version)
    with pytest.raises(ManifestError, match=f"schema_version is {version!r}, this program reads 1"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"records": 11}, "tells of 11 records, its shards of 10"),
        ({"records": True}, "'records' is True"),
        ({"fields": ["id", "height", "width", "colour"]}, r"fields \['colour'\] are unknown"),
        ({"fields": ["id", "height", "height", "width"]}, "not in the order of the schema"),
        ({"fields": ["height", "id", "width"]}, "not in the order of the schema"),
        ({"fields": ["id"]}, r"fields \['height', 'width'\] are missing"),
        ({"name": "sea"}, "it is called 'sea', 'train', its shards"),
        ({"shards": [{"file": "x"}]}, r"shards\[0\] is \{'file': 'x'\}, expected file, bytes"),
        ({"files": []}, "does not tell of index.npz"),
        ({"files": [{"file": "../x", "bytes": 1, "sha256": ""}]}, "outside its folder"),
        ({"settings": []}, r"'settings' is \[\]"),
        ({"weight": 1}, "'weight' is unknown"),
    ],
)
def test_wrong_entries_are_named(changes, problem, folder_of):
    folder = folder_of()
    edit(folder, **changes)
    with pytest.raises(ManifestError, match=problem):
        read_manifest(folder)


def test_all_problems_are_listed(folder_of):
    folder = folder_of()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["split"]
    shards = [dict(shard, records="3") for shard in manifest["shards"]]
    (folder / "manifest.json").write_text(json.dumps(manifest | {"name": 1, "shards": shards}))
    with pytest.raises(ManifestError) as caught:
        read_manifest(folder)
    for part in ("'split' is missing", "'name' is 1", "shards[0] is", "shards[2] is"):
        assert part in str(caught.value)


def test_shards_missing_in_the_manifest_are_named(folder_of):
    folder = folder_of(records=10, count=3)
    shards = json.loads((folder / "manifest.json").read_text())["shards"]
    edit(folder, shards=shards[:2])
    with pytest.raises(ManifestError, match=r"these are missing: \[2\]"):
        read_manifest(folder)


def test_index_of_other_records_is_refused(folder_of):
    folder, other = folder_of("a", records=10), folder_of("b", records=9)
    manifest = read_manifest(folder)
    (folder / "index.npz").write_bytes((other / "index.npz").read_bytes())
    with pytest.raises(ManifestError, match="tells of 9 records, the manifest of 10"):
        read_index(folder, manifest)
    (folder / "index.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(ManifestError, match=r"index.npz: cannot be read"):
        read_index(folder, manifest)
    (folder / "index.npz").unlink()
    with pytest.raises(ManifestError, match=r"index.npz: cannot be read \(FileNotFoundError"):
        read_index(folder, manifest)


def test_ids_of_any_text_and_length_come_back(tmp_path):
    ids = ["", "a\x00", "猫/1.jpg", "x" * 5000]
    records = [{"id": name, "height": 1, "width": 2} for name in ids]
    path = tmp_path / "zoo-train.array_record-00000-of-00001"
    manifest = write_manifest(tmp_path, [write_shard(path, records, records[0])])
    assert read_index(tmp_path, manifest).ids == ids
    assert (tmp_path / "index.npz").stat().st_size < 10_000
