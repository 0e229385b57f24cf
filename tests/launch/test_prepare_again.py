"""launch.prepare_data run again: what is kept, what is made anew, and what is told first."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from input_pipeline.shards.records import ShardedRecords
from input_pipeline.testing import write_coco
from launch import preparing
from launch.prepare_settings import PrepareError
from launch.preparing import prepare
from tests.launch.prepare_config import config_of


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    write_coco(root, 5, (96, 80))
    return root


def test_it_goes_on_where_it_was(coco, tmp_path):
    settings = {"root": str(coco), "output": str(tmp_path / "o"), "sizes": "64x64", "num_shards": 2}
    first = config_of(**settings, steps="image,mask,edges", task_index=0, task_count=2)
    assert prepare(first) is None
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*00000-of-00002")}
    assert len(made) == 5
    assert prepare(config_of(**settings, steps="image,mask,edges")) == tmp_path / "o"
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert len(ShardedRecords(tmp_path / "o")) == 5
    other = config_of(**settings, steps="image,mask,edges", canny_low=50.0)
    with pytest.raises(PrepareError, match=r"2 of step 'edges': low was 100.0, is 50.0"):
        prepare(other)
    other.remake = True
    assert prepare(other) == tmp_path / "o"


def test_a_finished_data_set_needs_no_work_folder(coco, tmp_path, capsys, monkeypatch):
    made = []
    make_source = preparing.make_source

    def counting(config: Any) -> Any:
        made.append(config.dataset)
        return make_source(config)

    monkeypatch.setattr(preparing, "make_source", counting)
    settings = {"root": str(coco), "output": str(tmp_path / "o"), "steps": "image,mask"}
    settings |= {"sizes": "64x64", "num_shards": 2}
    assert prepare(config_of(**settings)) == tmp_path / "o"
    # Reading what a data set holds may take minutes.
    assert made == ["coco"]
    shutil.rmtree(tmp_path / "o.work")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capsys.readouterr()
    assert prepare(config_of(**settings)) == tmp_path / "o"
    assert capsys.readouterr().err == f"{tmp_path / 'o'} is already made with these settings\n"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(PrepareError, match=r"2 of step 'shards': image sizes was "):
        prepare(config_of(**{**settings, "sizes": "64x128"}))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_other_captions_make_raw_records_anew(tmp_path):
    write_coco(tmp_path / "coco", 3)
    settings = {"root": str(tmp_path / "coco"), "output": str(tmp_path / "o")}
    settings |= {"steps": "image", "sizes": "64x64", "num_shards": 1}
    prepare(config_of(**settings))
    write_coco(tmp_path / "coco", 3, captions={1: ["A new one."]})
    with pytest.raises(PrepareError, match=r"1 of step 'raw': contents was '\w+', is '\w+'"):
        prepare(config_of(**settings))
    prepare(config_of(**settings, remake=True))
    assert ShardedRecords(tmp_path / "o")[1]["captions"] == ["A new one."]


def test_scenes_of_another_size_are_drawn_anew(tmp_path):
    settings = {"output": str(tmp_path / "o"), "limit": 3}
    prepare(config_of("scenes", **settings))
    other = config_of("scenes", **settings, sizes="64x128")
    with pytest.raises(PrepareError, match=r"step 'raw': size was \[64, 64\], is \[64, 128\]"):
        prepare(other)
    other.remake = True
    prepare(other)
    assert {record["width"] for record in ShardedRecords(tmp_path / "o")} == {128}
