"""launch.sample with graphs of factors: the best of N maps, given maps, layered depth, errors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cnc_jax.testing
from configs import sample, sample_fgdm
from fgdm_jax.convert import adapter_name
from fgdm_jax.draw import draw
from fgdm_jax.scores import Scores
from fgdm_jax.testing import smallest_config, with_adapters
from input_pipeline.palettes import palette
from launch.components import AnyConfig, components_of
from launch.draw_request import DrawRequest, palette_of_run, parse_request
from launch.drawing import draw_from_config
from launch.sampling import sample_from_config
from sd_jax.convert.store import save_model
from sd_jax.testing import random_params
from sd_jax.training.run_folder import RunFolder

SEEN = {
    **dict.fromkeys(("segmentation", "depth", "foreground_depth", "background_depth"), 1),
    "image": 2,
}
SETTINGS: dict[str, Any] = {
    "prompt": "a red ball in front of a box on grass",
    "palette": "scenes",
    **dict.fromkeys(("map_height", "map_width", "height", "width"), 64),
    **dict.fromkeys(("map_steps", "num_steps"), 2),
}


def saved(folder: Path, config: AnyConfig, only: tuple[str, ...] = ()) -> Path:
    params, config = random_params(components_of(), config, 0, only)
    sizes = {name: getattr(config, name) for name in params}
    save_model(params, sizes, folder, config.schedule)
    return folder


def any_config(seen=SEEN) -> AnyConfig:
    """Returns the smallest sizes of a model that is both systems."""
    fgdm, cnc = smallest_config(seen), cnc_jax.testing.smallest_config()
    fuser = dataclasses.replace(cnc.local_fuser, unet=fgdm.unet)
    fields = {field.name: getattr(fgdm, field.name) for field in dataclasses.fields(fgdm)}
    return AnyConfig(**{**fields, "local_fuser": fuser})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("fgdm") / "model", any_config())


def drawn(checkpoint: Path, output: Path, preset: str = "chain", **changes: Any) -> Path:
    config = sample_fgdm.get_config(f"graph={preset}")
    settings = {**SETTINGS, "checkpoint": str(checkpoint), "output": str(output), **changes}
    config.update(settings)
    return draw_from_config(config)


def pixels(folder: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(folder / name))


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "record.json").read_text())


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


def problems(checkpoint: Path, output: Path, preset: str = "chain", **changes: Any) -> str:
    with pytest.raises(ValueError, match="cannot be met") as caught:
        drawn(checkpoint, output, preset, **changes)
    assert not output.exists()
    return str(caught.value)


def test_problems_are_listed_together(checkpoint, tmp_path):
    found = problems(
        checkpoint,
        tmp_path / "out",
        map_height=100,
        num_steps=0,
        num_images=2,
        mode="jointly",
        palette="cocoa",
        guidance_scale=float("inf"),
        given=f"depht=a.png,depth={tmp_path}/b.png,canny",
        keep_steps="x",
        objects="bal",
    )
    for expected in (
        "map_height must be a positive multiple of 64, got 100",
        "num_steps must be at least 1",
        "num_images is 2, but there are only num_draws=1",
        "mode must be one of sequential, joint, got 'jointly'; did you mean 'joint'?",
        "palette must be one of",
        "guidance_scale must be a finite number",
        "given: unknown variable 'depht'; did you mean 'depth'?",
        f"given: there is no file {tmp_path}/b.png for depth",
        "given: 'canny' names no variable",
        "keep_steps must be whole numbers",
        "there is no class for 'bal'",
    ):
        assert expected in found, expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"graph": "depth<image, image<depth"}, "cycle depth -> image -> depth"),
        ({"graph": "image<depth"}, "parent 'depth' has no factor"),
        ({"graph": "imgae"}, "did you mean 'image'"),
        ({"graph": ""}, "the graph is empty"),
        ({"graph": "image<<depth"}, "is no factor; write VARIABLE"),
        ({"wanted": "pose"}, "unknown wanted variable 'pose'"),
        ({"keep_steps": "1,5"}, "keep_steps must be from 0 to 1, got [5]"),
        ({"keep_steps": "1,1"}, "keep_steps must name each step once"),
        ({"checkpoint": ""}, "checkpoint is empty"),
        ({"checkpoint": "dpeth=a.pth"}, "unknown variable 'dpeth'; did you mean 'depth'?"),
        ({"graph": "segmentation, image<segmentation"}, "image sees 8 channels, but with 1"),
        ({"graph": "chain"}, "write --config=configs/sample_fgdm.py:graph=chain"),
        ({"graph": "pose"}, "no adapter_pose in"),
        ({"graph": "segmentation@100x64"}, "multiples of 64, got (100, 64)"),
        (
            {"graph": "segmentation, image<segmentation:controlnet, depth<image", "num_draws": 2},
            "depth would be drawn from the image, so that every draw needs one",
        ),
        (
            {
                "graph": "foreground_depth, background_depth<foreground_depth, "
                "image<foreground_depth+background_depth:cnc, sketch<image"
            },
            "sketch would be drawn from the image, which Compose and Conquer composes last",
        ),
    ],
)
def test_graphs_that_cannot_be_drawn(checkpoint, tmp_path, changes, expected):
    assert expected in problems(output=tmp_path / "out", **{"checkpoint": checkpoint, **changes})


def test_given_maps_that_do_not_fit(checkpoint, tmp_path):
    file = tmp_path / "wide.png"
    Image.fromarray(np.zeros((64, 128, 3), np.uint8)).save(file)
    found = problems(checkpoint, tmp_path / "out", given=f"segmentation={file}")
    assert f"{file} is 64 x 128, but is needed as 64 x 64 (segmentation)" in found
    # The output's own problem hides none of the files'.
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "record.json").write_text("{}")
    with pytest.raises(ValueError, match="is 64 x 128") as caught:
        drawn(checkpoint, tmp_path / "taken", given=f"segmentation={file}")
    assert "holds the record of another run" in str(caught.value)
    square = tmp_path / "square.png"
    Image.fromarray(np.full((64, 64), 18, np.uint8)).save(square)
    found = problems(checkpoint, tmp_path / "out", given=f"segmentation={square}")
    assert f"{square} is a grey picture" in found
    Image.fromarray(np.full((64, 64, 3), 70, np.uint8)).save(square)
    found = problems(checkpoint, tmp_path / "out", given=f"image={square}")
    assert "given: image is seen by nothing that is drawn" in found
    found = problems(checkpoint, tmp_path / "out", wanted="depth", given=f"depth={square}")
    assert "depth is both wanted and given" in found
    file.write_bytes(b"no picture")
    assert str(file) in problems(checkpoint, tmp_path / "out", given=f"segmentation={file}")
    with pytest.warns(UserWarning, match="100 % of the pixels have no colour of the palette"):
        drawn(checkpoint, tmp_path / "grey", "controlnet", given=f"segmentation={square}")


def test_checkpoints_that_do_not_fit(checkpoint, tmp_path):
    config = any_config()
    wide = dataclasses.replace(config.unet, block_out_channels=(32, 64))
    wider = with_adapters(dataclasses.replace(config, unet=wide), {"segmentation": 1})
    name = adapter_name("segmentation")
    other = saved(tmp_path / "wide", wider, (name,))
    found = problems(f"{other},{checkpoint}", tmp_path / "out")
    assert "adapter_segmentation" in found
    assert "(32, 64)" in found
    found = problems(other, tmp_path / "out")
    for missing in ("unet", "vae", "text_encoder", "adapter_depth", "adapter_image"):
        assert f"no {missing} in" in found


def test_what_is_seldom_meant_is_told(checkpoint, tmp_path):
    with pytest.warns(UserWarning, match=r"nothing tells the draws apart, as the prompt names no"):
        folder = drawn(checkpoint, tmp_path / "out", "controlnet", num_draws=2, prompt="beauty")
    assert record(folder)["chosen"] == [0]


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


def test_runs_tell_their_palette(tmp_path):
    def parsed(*names: str | None, **settings: str) -> tuple[DrawRequest, list[str]]:
        config = sample_fgdm.get_config("graph=chain")
        paths = []
        for index, name in enumerate(names):
            folder = RunFolder(tmp_path / f"run{index}")
            folder.path.mkdir(exist_ok=True)
            folder.write({"palette": name})
            paths.append(str(folder.path))
        config.update({"checkpoint": ",".join(paths), "prompt": "a ball", **settings})
        return parse_request(config)

    assert parsed("scenes")[0].palette.name == "scenes"
    assert parsed(None, "ade20k")[0].palette.name == "ade20k"
    assert parsed(None)[0].palette.name == "coco"
    assert palette_of_run(tmp_path / "run0" / "checkpoints" / "7") is None
    assert parsed("scenes", palette="coco")[0].palette.name == "coco"
    assert palette_of_run(tmp_path / "run0" / "checkpoints" / "7") == "scenes"
    _, problems = parsed("scenes", "coco")
    assert any("palette: the runs were trained on several" in text for text in problems)
    _, problems = parsed("scenes", "coco", graph="depth")
    assert not any("several" in text for text in problems)
    # A file of that name beside a checkpoint is somebody else's.
    (tmp_path / "run.json").write_text("{}")
    assert palette_of_run(tmp_path / "sd" / "model.ckpt") is None


def test_another_palette_than_the_runs_warns(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("launch.drawing.palette_of_run", lambda path: "coco")
    with pytest.warns(UserWarning, match="was trained on segmentations of the palette coco"):
        drawn(checkpoint, tmp_path / "out", wanted="segmentation")


def test_draws_that_show_nothing_say_so(checkpoint, tmp_path, monkeypatch, capsys):
    scores = Scores(("ball",), np.zeros((2, 1)), np.zeros(2), (0, 1))
    monkeypatch.setattr("launch.drawing._score", lambda request, pictures: scores)
    drawn(checkpoint, tmp_path / "out", wanted="segmentation", num_draws=2, objects="ball")
    assert "no draw shows any of them: draw more (num_draws)" in capsys.readouterr().out
