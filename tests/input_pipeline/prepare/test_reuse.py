"""What is made again after a change, and what is kept."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from input_pipeline.codecs import encode_picture
from input_pipeline.prepare.engine import Engine
from input_pipeline.prepare.masks import Coverage, LabelMask
from input_pipeline.prepare.resize import Resize
from input_pipeline.prepare.sketches import Edges
from input_pipeline.schema import Record
from input_pipeline.shards.manifest import ManifestError, read_manifest
from input_pipeline.shards.records import ShardedRecords
from tests.input_pipeline.prepare.pipelines import made, resized, run
from tests.input_pipeline.prepare.raw_records import Drawings


class Changed(Drawings):
    """The drawings, of which the tenth, in the second shard, has other values."""

    def __init__(self, **values):
        super().__init__()
        self._values = values

    def __getitem__(self, index: int) -> Record:
        return super().__getitem__(index) | (self._values if index == 9 else {})


def grey_picture() -> bytes:
    return encode_picture(np.full((64, 48, 3), 99, np.uint8), "photo")


def labels_in_a_corner() -> bytes:
    labels = np.full((64, 48), 100, np.uint8)
    labels[:30, :30] = 0
    return encode_picture(labels, "grey")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {"raw": 3, "image": 0, "mask": 0, "edges": 0, "shards": 0}),
        ({"captions": ["other"]}, {"raw": 3, "image": 1, "mask": 0, "edges": 0, "shards": 1}),
        ({"image": grey_picture()}, {"raw": 3, "image": 1, "mask": 1, "edges": 1, "shards": 1}),
        (
            {"segmentation": labels_in_a_corner()},
            {"raw": 3, "image": 1, "mask": 1, "edges": 1, "shards": 1},
        ),
    ],
    ids=["nothing", "captions", "image", "labels"],
)
def test_raw_records_of_other_content(tmp_path, values, expected):
    first = resized(tmp_path, LabelMask(), Edges())
    run(first)
    first.finish()
    shutil.rmtree(tmp_path / "work" / "raw")
    second = resized(tmp_path, LabelMask(), Edges(), source=Changed(**values))
    assert second.stale() == []
    assert made(second) == expected
    second.finish()
    records = {record["id"]: record for record in ShardedRecords(tmp_path / "shards")}
    fresh = resized(tmp_path / "fresh", LabelMask(), Edges(), source=Changed(**values))
    run(fresh)
    fresh.finish()
    expected_records = {r["id"]: r for r in ShardedRecords(tmp_path / "fresh" / "shards")}
    assert records == expected_records


def test_only_what_needs_a_new_shard_is_made_of_it(tmp_path):
    first = resized(tmp_path, LabelMask(), Edges())
    run(first)
    # One mask of another content, though of the same records: edges do not look at it.
    (path,) = (tmp_path / "work" / "mask").glob("*00001-of-00003")
    path.with_name(f"{path.name}.json").unlink()

    class Inverted(LabelMask):
        def encode(self, result):
            return super().encode(~result)

    second = resized(tmp_path, Inverted(), Edges())
    assert second.recipes == first.recipes
    assert made(second) == {"raw": 0, "image": 0, "mask": 1, "edges": 0, "shards": 1}


def test_what_is_finished_is_kept(tmp_path, pipeline_in):
    run(pipeline_in(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert {report.shards_made for report in run(pipeline_in(tmp_path))} == {0}
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_other_settings_make_only_what_depends_on_them(tmp_path, pipeline_in):
    source = Drawings()
    resize = Resize(((64, 64),), source.fields)
    run(pipeline_in(tmp_path, resize, LabelMask(), Edges()))
    assert made(pipeline_in(tmp_path, resize, LabelMask(), Edges(low=50))) == {
        "raw": 0,
        "image": 0,
        "mask": 0,
        "edges": 3,
        "shards": 3,
    }
    assert made(pipeline_in(tmp_path, resize, LabelMask(classes=(0, 1)), Edges(low=50))) == {
        "raw": 0,
        "image": 0,
        "mask": 3,
        "edges": 3,
        "shards": 3,
    }


def test_a_killed_run_of_other_settings_loses_no_record(tmp_path, monkeypatch):
    run(resized(tmp_path, LabelMask()))
    other = resized(tmp_path, LabelMask(coverage=Coverage(least=0.5)))

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("input_pipeline.prepare.pipeline.write_shard", killed)
        with pytest.raises(KeyboardInterrupt):
            run(other)
    again = resized(tmp_path, LabelMask(), Edges())
    assert made(again)["mask"] == 0
    again.finish()
    assert len(ShardedRecords(tmp_path / "shards")) == 16


def test_no_manifest_stands_beside_shards_of_other_settings(tmp_path):
    first = resized(tmp_path, LabelMask(), Edges())
    run(first)
    first.finish()
    second = resized(tmp_path, LabelMask(), Edges(low=10, high=20))
    run(second, Engine(task_index=0, task_count=3))
    with pytest.raises(ManifestError):
        ShardedRecords(tmp_path / "shards")
    assert second.finish() is None
    run(second)
    second.finish()
    assert read_manifest(tmp_path / "shards").settings["edges"]["low"] == 10


def test_a_file_that_was_mended_comes_back(tmp_path):
    source = Drawings(bad=(3,))
    broken = resized(tmp_path, LabelMask(), source=source, max_unreadable=1)
    run(broken)
    assert broken.finish().records == 15
    assert broken.unreadable() == ["drawings 3: file x3.jpg is cut short"]
    source.bad = ()
    mended = resized(tmp_path, LabelMask(), source=source, max_unreadable=1)
    assert made(mended) == {"raw": 1, "image": 1, "mask": 1, "shards": 1}
    assert mended.finish().records == 16


def test_what_would_be_replaced_is_told(tmp_path):
    run(resized(tmp_path, LabelMask(), Edges()))
    assert resized(tmp_path, LabelMask(), Edges()).stale() == []
    (text,) = resized(tmp_path, LabelMask(), Edges(low=50)).stale()
    assert text == "3 of step 'edges': low was 100, is 50"


def test_a_data_set_without_its_work_is_told_of(tmp_path):
    first = resized(tmp_path, LabelMask(), Edges())
    assert not first.is_packed()
    run(first)
    assert not first.is_packed()
    first.finish()
    assert first.is_packed()
    # While the work is there, it is quickly put together again.
    assert resized(tmp_path, LabelMask()).stale() == []
    shutil.rmtree(tmp_path / "work")
    assert not first.has_work()
    assert first.is_packed()
    assert first.stale() == []
    other = resized(tmp_path, LabelMask(), Edges(low=50))
    assert not other.is_packed()
    assert other.stale() == ["3 of step 'shards': edges low was 100, is 50"]
