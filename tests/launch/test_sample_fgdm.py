"""launch.sample with graphs of factors: the best of N maps, given maps, layered depth."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import sample, sample_fgdm
from fgdm_jax.draw import draw
from fgdm_jax.scores import Scores
from input_pipeline.palettes import palette
from launch.drawing import draw_from_config
from launch.progress import listening
from launch.sampling import sample_from_config
from tests.launch.tiny_graph import SETTINGS, any_config, drawn, pixels, record, saved


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("fgdm") / "model", any_config())


@pytest.fixture(scope="module")
def best_of_three(checkpoint, tmp_path_factory) -> Path:
    settings = {"num_draws": 3, "map_batch_size": 1, "keep_steps": "0,1"}
    return drawn(checkpoint, tmp_path_factory.mktemp("best") / "out", "controlnet", **settings)


def test_the_best_of_several_maps_becomes_the_image(best_of_three, capsys):
    content = record(best_of_three)
    assert content["objects"] == ["ball", "box", "grass"]
    (best,) = content["chosen"]
    recalls = {item["seed"]: item["recall"] for item in content["draws"]}
    assert recalls[best] == max(recalls.values())
    for item in content["draws"]:
        assert len(item["missing"]) == round(3 * (1 - item["recall"]))
    files = {path.name for path in best_of_three.iterdir()}
    maps = {f"{seed:06d}_segmentation.png" for seed in range(3)}
    colours = json.loads((best_of_three / "palette.json").read_text())
    assert colours["classes"]["ball"] == "#{:02x}{:02x}{:02x}".format(
        *palette("scenes").colours[palette("scenes").classes.index("ball")]
    )
    others = {"contact_sheet.png", "predictions.png", "record.json", "palette.json"}
    assert files == {*maps, f"{best:06d}.png", *others}
    assert set(content["seconds"]) == {"load", "conditions", "maps", "scores", "images"}


def test_it_is_the_best_that_becomes_the_image(checkpoint, tmp_path, monkeypatch):
    """Whatever the maps of random weights show: the second of three is told to be the best."""
    scores = Scores(
        ("ball",), np.array([[0.0], [0.5], [0.0]]), np.array([0.0, 1.0, 0.0]), (1, 0, 2)
    )
    monkeypatch.setattr("launch.drawing._score", lambda request, pictures: scores)
    settings = {"num_draws": 3, "map_batch_size": 2, "objects": "ball"}
    folder = drawn(checkpoint, tmp_path / "out", "controlnet", **settings)
    assert record(folder)["chosen"] == [1]
    assert [path.name for path in folder.glob("00000[0-9].png")] == ["000001.png"]
    monkeypatch.undo()
    # From its own map: alone, with the same noise, the second seed makes the same.
    alone = drawn(checkpoint, tmp_path / "alone", "controlnet", seed=1)
    difference = pixels(alone, "000001.png").astype(np.int16) - pixels(folder, "000001.png")
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(("draws", "expected"), [(1, [1]), (3, [2, 2])])
def test_no_more_is_drawn_than_is_asked_for(checkpoint, tmp_path, monkeypatch, draws, expected):
    sizes = []

    def counting(model, drawing, text, keys, **options):
        sizes.append(len(keys))
        return draw(model, drawing, text, keys, **options)

    monkeypatch.setattr("fgdm_jax.painter.draw", counting)
    settings = {"num_draws": draws, "map_batch_size": 2, "wanted": "segmentation"}
    folder = drawn(checkpoint, tmp_path / "out", **settings)
    assert sizes == expected
    assert len(list(folder.glob("*_segmentation.png"))) == draws


def test_what_is_hidden_is_hidden_from_the_predictions_too(checkpoint, tmp_path, monkeypatch):
    flag = np.ones(1, bool)
    monkeypatch.setattr("launch.drawing.flagged_images", lambda model, images: flag)
    shown = []

    def keeping(self, seed, kept):
        shown.append(kept)

    monkeypatch.setattr("launch.draw_outputs.DrawOutputs.add_predictions", keeping)
    folder = drawn(checkpoint, tmp_path / "out", "controlnet", keep_steps="0,1")
    assert pixels(folder, "000000.png").max() == 0
    (kept,) = shown
    assert (kept["image"] == -1.0).all()
    assert kept["segmentation"].std() > 0


def test_a_record_may_be_repeated_in_its_own_folder(checkpoint, tmp_path):
    folder = drawn(checkpoint, tmp_path / "out", wanted="segmentation")
    first = record(folder)["images"]
    config = sample_fgdm.get_config(f"record={folder / 'record.json'}")
    config.update({"output": str(folder), "overwrite": True})
    assert record(draw_from_config(config))["images"] == first


def test_maps_are_in_the_colours_of_the_palette(best_of_three):
    classes = palette("scenes")
    known = {*map(tuple, classes.colours.tolist()), classes.void_colour}
    found = pixels(best_of_three, "000001_segmentation.png")
    assert {tuple(colour) for colour in found.reshape(-1, 3).tolist()} <= known


def test_the_image_of_the_best_is_that_of_its_seed_alone(checkpoint, best_of_three, tmp_path):
    (best,) = record(best_of_three)["chosen"]
    alone = drawn(checkpoint, tmp_path / "alone", "controlnet", seed=best)
    for name in (f"{best:06d}.png", f"{best:06d}_segmentation.png"):
        np.testing.assert_array_equal(pixels(alone, name), pixels(best_of_three, name))
    assert "maps and images" in record(alone)["seconds"]


def test_the_table_and_the_times_are_printed(checkpoint, tmp_path, capsys):
    drawn(checkpoint, tmp_path / "out", "controlnet", num_draws=2, wanted="segmentation")
    said = capsys.readouterr()
    assert "objects in the prompt: ball, box, grass" in said.out
    assert "prompts  N  min %  median %  max %  mean %  >= 0.5  >= 0.75  >= 0.9" in said.out
    assert "best: seed" in said.out
    assert "maps" in said.err
    assert "scores" in said.err


def test_a_record_repeats_the_pixels(best_of_three, tmp_path):
    config = sample_fgdm.get_config(f"record={best_of_three / 'record.json'}")
    config.output = str(tmp_path / "again")
    assert record(draw_from_config(config))["images"] == record(best_of_three)["images"]


def test_objects_of_ones_own_are_looked_for(checkpoint, tmp_path):
    settings = {"wanted": "segmentation", "objects": "cones,sky", "num_draws": 2}
    content = record(drawn(checkpoint, tmp_path / "out", "controlnet", **settings))
    assert content["objects"] == ["cone", "sky"]
    assert content["chosen"] == []


def test_a_given_map_is_not_drawn_and_changes_the_image(checkpoint, tmp_path):
    classes = palette("scenes")
    images = []
    for label in (2, 5):
        file = tmp_path / f"{label}.png"
        Image.fromarray(np.full((64, 64, 3), classes.colours[label])).save(file)
        folder = tmp_path / f"out{label}"
        drawn(checkpoint, folder, "controlnet", given=f"segmentation={file}")
        assert not list(folder.glob("*_segmentation.png"))
        assert list(record(folder)["inputs"]) == [str(file)]
        images.append(pixels(folder, "000000.png"))
    assert (images[0] != images[1]).any()


def test_a_chain_is_drawn_together_or_one_after_the_other(checkpoint, tmp_path):
    settings = {"num_draws": 2, "num_images": 2, "keep_steps": "0"}
    joint = drawn(checkpoint, tmp_path / "joint", **settings)
    assert {path.name for path in joint.glob("000001*")} == {
        *("000001.png", "000001_depth.png", "000001_segmentation.png")
    }
    separate = drawn(checkpoint, tmp_path / "separate", mode="sequential", **settings)
    name = "000001_segmentation.png"
    np.testing.assert_array_equal(pixels(joint, name), pixels(separate, name))
    assert (pixels(joint, "000001.png") != pixels(separate, "000001.png")).any()


def test_an_image_of_clean_parents_is_drawn_after_them(checkpoint, tmp_path):
    config = any_config()
    image = dataclasses.replace(config.adapter_image, clean_parents=True)
    clean = saved(tmp_path / "clean", dataclasses.replace(config, adapter_image=image))
    told: list[tuple[int, int]] = []
    with listening(lambda label, done, total: told.append((done, total))):
        after = drawn(clean, tmp_path / "after")
    # Two steps of the maps, then two of the image.
    assert told[-1] == (4, 4)
    beside = drawn(checkpoint, tmp_path / "beside")
    for name in ("000000_segmentation.png", "000000_depth.png"):
        np.testing.assert_array_equal(pixels(after, name), pixels(beside, name))
    assert (pixels(after, "000000.png") != pixels(beside, "000000.png")).any()


def test_layered_depth_is_composed(checkpoint, tmp_path):
    folder = drawn(checkpoint, tmp_path / "layered", "layered", sampler="ddim", guidance_scale=2.0)
    maps = [folder / f"000000_{name}ground_depth.png" for name in ("fore", "back")]
    assert all(path.is_file() for path in maps)
    # As Compose and Conquer does it alone, from the files: the maps are rounded to bytes there.
    config = sample.get_config()
    same = ("prompt", "height", "width", "num_steps")
    config.update({name: SETTINGS[name] for name in same})
    config.update(
        {
            "checkpoint": str(checkpoint),
            "output": str(tmp_path / "alone"),
            "depth_maps": ",".join(map(str, maps)),
            "guidance_scale": 2.0,
        }
    )
    alone = pixels(sample_from_config(config), "000000.png").astype(np.int16)
    difference = np.abs(pixels(folder, "000000.png") - alone)
    assert difference.mean() < 1.0
    config.update({"depth_maps": ",".join(map(str, maps[::-1])), "overwrite": True})
    other = pixels(sample_from_config(config), "000000.png").astype(np.int16)
    assert np.abs(pixels(folder, "000000.png") - other).mean() > 2 * difference.mean() + 0.1


def test_adding_a_factor_leaves_the_others_as_they_are(checkpoint, tmp_path):
    alone = drawn(checkpoint, tmp_path / "alone", wanted="segmentation")
    chain = drawn(checkpoint, tmp_path / "chain")
    name = "000000_segmentation.png"
    assert (alone / name).read_bytes() == (chain / name).read_bytes()


def test_sizes_and_steps_of_one_factor(checkpoint, tmp_path):
    graph = "segmentation@128x64@3, image<segmentation:controlnet"
    folder = drawn(checkpoint, tmp_path / "out", graph=graph, keep_steps="1", height=128)
    assert pixels(folder, "000000_segmentation.png").shape == (128, 64, 3)
    assert pixels(folder, "000000.png").shape == (128, 64, 3)


def test_half_precision(checkpoint, tmp_path):
    folder = drawn(checkpoint, tmp_path / "out", "controlnet", dtype="bfloat16")
    assert pixels(folder, "000000.png").shape == (64, 64, 3)


def test_without_objects_nothing_is_missing_and_nothing_there(checkpoint, tmp_path):
    folder = drawn(checkpoint, tmp_path / "out", wanted="segmentation", prompt="nothing")
    assert [(item["recall"], item["missing"]) for item in record(folder)["draws"]] == [(None, None)]


def test_draws_that_show_nothing_say_so(checkpoint, tmp_path, monkeypatch, capsys):
    scores = Scores(("ball",), np.zeros((2, 1)), np.zeros(2), (0, 1))
    monkeypatch.setattr("launch.drawing._score", lambda request, pictures: scores)
    drawn(checkpoint, tmp_path / "out", wanted="segmentation", num_draws=2, objects="ball")
    assert "no draw shows any of them: draw more (num_draws)" in capsys.readouterr().out
