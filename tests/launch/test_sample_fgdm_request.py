"""launch.sample refuses graphs of factors that cannot be drawn, and tells what is seldom meant."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs import sample_fgdm
from fgdm_jax.convert import adapter_name
from fgdm_jax.testing import with_adapters
from launch.draw_request import DrawRequest, palette_of_run, parse_request
from sd_jax.training.run_folder import RunFolder
from tests.launch.tiny_graph import any_config, drawn, record, saved


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("fgdm") / "model", any_config())


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


def test_the_preset_of_the_scenes_draws_what_its_weights_can():
    assert sample_fgdm.get_config("preset=scenes").graph == sample_fgdm.GRAPHS["chain"]
    assert sample_fgdm.get_config().graph == sample_fgdm.GRAPHS["controlnet"]
    layered = sample_fgdm.get_config("preset=scenes,graph=layered")
    assert layered.graph == sample_fgdm.GRAPHS["layered"]
