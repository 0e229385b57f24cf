"""launch.inspect_data: a page that opens offline, and what it says of damaged data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from configs.prepare import get_config
from input_pipeline.inspection import spread, statistics
from input_pipeline.palettes import palette
from input_pipeline.pose import draw
from input_pipeline.scenes import Scenes
from input_pipeline.testing import write_wholebody
from launch.inspecting import inspect, report
from launch.preparing import prepare
from tests.launch.commands import launch


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("scenes") / "shards"
    config = get_config("dataset=scenes")
    config.update({"output": str(output), "limit": 6, "num_shards": 2, "sizes": "64x64"})
    prepare(config)
    return output


def look(data: Path | str, output: Path, check: bool = True) -> list[str]:
    return inspect(str(data), output, num_records=3, num_counted=6, check=check)


def test_a_page_that_needs_nothing_else(shards, tmp_path):
    assert look(shards, tmp_path) == []
    text = (tmp_path / "index.html").read_text()
    assert "Verified" in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    # Three records with all their pictures, each with a caption and a legend.
    assert text.count('class="record"') == 3
    for name in ("foreground", "background_depth", "normal", "segmentation", "instances", "sketch"):
        assert text.count(f'alt="{name}"') == 3
    record = Scenes()[0]
    assert record["captions"][0] in text
    assert "sky" in text
    numbers = json.loads((tmp_path / "statistics.json").read_text())
    assert numbers["records"] == 6
    assert (tmp_path / "contact_sheet.png").is_file()


def test_damage_is_named(shards, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    path = sorted(copy.glob("*.array_record-00001-of-00002"))[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    output = tmp_path / "out"
    done = launch("inspect_data", f"--data={copy}", f"--output={output}", "--verify")
    assert done.returncode == 2
    assert path.name in done.stderr
    assert "SHA-256" in done.stderr
    assert path.name in (output / "index.html").read_text()


def test_report_says_what_is_wrong(tmp_path, capsys):
    report([], tmp_path)
    assert "index.html" in capsys.readouterr().err
    with pytest.raises(ValueError, match="2 problems in the data"):
        report(["a", "b"], tmp_path)


def test_numbers_are_those_of_the_records():
    scenes = Scenes()
    numbers = statistics(scenes, palette("scenes"), range(5))
    arrays = [scenes.arrays(index) for index in range(5)]
    areas = [(item["mask"] > 127).mean() for item in arrays]
    expected = np.histogram(areas, bins=20, range=(0, 1))[0]
    np.testing.assert_array_equal(numbers.mask_area, expected)
    assert numbers.sizes == {"64x64": 5}
    assert sum(numbers.words.values()) == sum(len(scenes[i]["captions"]) for i in range(5))
    near = np.mean([(item["depth"] >= 65536 * 0.95).mean() for item in arrays])
    np.testing.assert_allclose(numbers.depth["depth"][-1], near, atol=1e-6)
    np.testing.assert_allclose(sum(numbers.classes.values()), 1)


def test_what_is_shown_is_spread_over_the_data():
    assert spread(10, 3) == [0, 3, 6]
    assert spread(2, 5) == [0, 1]


def test_poses_are_drawn(tmp_path):
    from input_pipeline.inspection import pictures
    from input_pipeline.readers.wholebody import WholeBodyReader

    reader = WholeBodyReader(**write_wholebody(tmp_path))
    seen = pictures(reader[0], palette("coco"), draw)
    assert seen["pose"].shape == seen["image"].shape
    assert seen["pose"].any()
