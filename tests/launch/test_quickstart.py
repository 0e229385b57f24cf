"""The parts of the quickstart fit the config files, and the page shows what they left."""

from __future__ import annotations

import json

import numpy as np
import pytest

from input_pipeline.images import read_depth_map, read_mask, write_png
from launch.quickstart_page import Done, write_page
from launch.quickstart_parts import SIZE, parts_of, write_inputs
from launch.quickstart_run import config_of
from launch.setting_checks import RequestError
from launch.training import plan_run
from tests.launch.commands import launched


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    files = write_inputs(tmp_path_factory.mktemp("inputs"))
    return files, parts_of(files)


def test_inputs_are_layers_of_one_scene(parts):
    files, _ = parts
    size = (SIZE, SIZE)
    near = read_depth_map(files["foreground_depth"], size)[..., 0]
    behind = read_depth_map(files["background_depth"], size)[..., 0]
    mask = read_mask(files["mask"], size)
    assert ((near > 0) == (mask > 0)).all()
    # The near object hides something that is not the ground alone.
    assert (near[mask > 0] > behind[mask > 0]).mean() > 0.9
    assert len(files["prompt"].split()) > 4


def test_every_part_is_a_command_whose_settings_there_are(parts, tmp_path):
    names = [part.name for part in parts[1]]
    assert len(set(names)) == len(names)
    for part in parts[1]:
        config = config_of(part)
        words = part.words(tmp_path)
        for name, value in part.settings.items():
            assert config[name] == value
            assert f"--config.{name}=" in words
        assert words.startswith(f"python -m launch.{part.command} --config={part.config}")


def test_trainings_can_begin(parts, tmp_path):
    for part in parts[1]:
        if part.command == "train":
            # Checks every setting and the starting point, and writes nothing.
            plan_run(config_of(part), str(tmp_path / part.name))


def test_what_a_part_asks_for_lacks_weights_and_nothing_else(parts, tmp_path):
    from launch.drawing import draw_from_config
    from launch.sampling import sample_from_config

    for part in parts[1]:
        if part.command == "train":
            continue
        config = config_of(part)
        # The prior alone: what is missing is told, and no setting is wrong.
        config.checkpoint, config.output = "scenes-prior", str(tmp_path / part.name)
        sample = sample_from_config if config.system == "cnc" else draw_from_config
        with pytest.raises(RequestError) as error:
            sample(config)
        assert all(problem.startswith("no ") for problem in error.value.problems), part.name


def test_the_page_holds_pictures_commands_and_losses(parts, tmp_path):
    sample, train = (
        next(part for part in parts[1] if part.command == command)
        for command in ("sample", "train")
    )
    for part in (sample, train):
        (tmp_path / part.name).mkdir()
    write_png(tmp_path / sample.name / "contact_sheet.png", np.zeros((8, 8, 3), np.uint8))
    lines = [{"step": step, "train/loss": 1.0 / step} for step in (1, 2, 4)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / train.name / "metrics.jsonl").write_text(text, encoding="utf-8")
    done = [Done(part, tmp_path / part.name, 1.5) for part in (sample, train)]
    page = write_page(tmp_path, done, 9, 3.0).read_text(encoding="utf-8")
    assert "2 of 9 parts" in page
    assert "loss, from 1.000 to 0.250" in page
    assert page.count('<img src="data:image/png;base64,') == 1
    for part in (sample, train):
        assert part.title in page
        # A command on the page starts a run of its own: that of the page is over.
        assert f"={tmp_path}/by_hand/{part.name}" in page
        assert f"={tmp_path}/{part.name}" not in page
    # It opens offline.
    assert "http" not in page


@pytest.mark.slow
def test_all_of_it(parts, tmp_path):
    """Every part, with the weights that ship with the project."""
    said = launched("quickstart", f"--output={tmp_path}", timeout=1200)
    assert "open " in said
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert f"all {len(parts[1])} parts" in page
    pictures = sum(part.command == "sample" for part in parts[1])
    assert page.count('<img src="data:image/png;base64,') == pictures
    assert page.count("<figcaption>loss, from ") == len(parts[1]) - pictures
    for part in parts[1]:
        if part.command == "sample":
            record = json.loads((tmp_path / part.name / "record.json").read_text())
            assert record["images"], part.name
