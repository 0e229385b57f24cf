"""Whatever is wrong with a request is said at once, before any weight is read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sd_jax.load
from configs.cnc import get_config as get_cnc_config
from configs.fgdm import get_config as get_fgdm_config
from configs.prepare import get_config as get_prepare_config
from configs.prior import get_config as get_prior_config
from configs.sample import get_config
from launch.sampling import sample_from_config
from tests.launch.commands import launch


@pytest.fixture(autouse=True)
def _no_weight_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(sd_jax.load.Opened, "load", refuse)


def message(settings: dict[str, Any], **changes: Any) -> str:
    config = get_config()
    config.update({**settings, **changes})
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the messages are what is tested
        sample_from_config(config)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"height": 100}, "height must be a positive multiple of 64, got 100; 128 is near"),
        ({"width": 0}, "width must be a positive multiple of 64, got 0"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"num_steps": 1001}, "num_steps must be at most 1000"),
        ({"num_images": 0}, "num_images must be at least 1"),
        ({"sampler": "ddmi"}, "ddim, dpmpp_2m, euler, euler_ancestral, got 'ddmi'; did you mean"),
        ({"mask_rule": "hard"}, "upstream, coverage, soft_coverage"),
        ({"dtype": "float64"}, "float32, bfloat16, float16"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a finite number"),
        ({"eta": 2.0}, "eta must be from 0 to 1"),
        ({"depth_interval": "0.8,0.2"}, "depth_interval must be start,end"),
        ({"exemplar_strengths": "1,2,3"}, "exemplar_strengths has 3 numbers, expected 1 or 2"),
        ({"exemplar_strengths": "one"}, "exemplar_strengths must be numbers"),
        ({"residual_scales": "1,2"}, "residual_scales has 2 numbers, expected 1 or 5"),
        ({"checkpoint": ""}, "checkpoint is empty"),
        ({"checkpoint": "nowhere.ckpt"}, "nowhere.ckpt: no such file"),
        ({"photos": "a.png,b.png"}, "depth_maps and photos are both given"),
        ({"seed": -1}, "seed must be from 0"),
    ],
)
def test_values_out_of_range(changes, expected, settings):
    assert expected in message(settings, **changes)


def test_an_eta_for_a_sampler_without_noise(settings):
    assert "'euler' draws no noise" in message(settings, sampler="euler", eta=0.5)


def test_layers_that_disagree(settings):
    first = settings["depth_maps"].split(",")[0]
    assert "depth_maps has 1 layers, others have 2" in message(settings, depth_maps=first)
    mask = settings["masks"]
    assert "masks has 3 layers, expected 1" in message(settings, masks=",".join([mask] * 3))


def test_more_layers_than_the_model_has(settings):
    changes = {
        name: settings[name] + "," + settings[name].split(",")[0]
        for name in ("depth_maps", "exemplars")
    }
    text = message(settings, **changes, masks=",".join([settings["masks"]] * 2))
    assert "layers given: 3, but the local fuser takes 2" in text
    assert "layers given: 3, but the global fuser takes 2" in text


def test_all_problems_are_listed_together(settings):
    text = message(settings, height=65, num_steps=0, sampler="magic", exemplar_strengths="x")
    for part in ("height", "num_steps", "sampler", "exemplar_strengths"):
        assert part in text


def test_settings_files_and_checkpoints_are_listed_together(settings, tmp_path):
    masks = str(tmp_path / "no_mask.png")
    text = message(
        settings,
        height=65,
        masks=masks,
        residual_scales="1,2",
        checkpoint=f"{settings['checkpoint']},{tmp_path / 'a.ckpt'},{tmp_path / 'b.ckpt'}",
    )
    for part in ("height must be", "no_mask.png", "a.ckpt: no such", "b.ckpt: no such"):
        assert part in text
    text = message(settings, height=2**20, masks=masks, residual_scales="1,2")
    for part in ("height must be at most 8192", "no_mask.png", "residual_scales has 2 numbers"):
        assert part in text


def test_names_with_commas(settings, tmp_path):
    mask = tmp_path / "a, b.png"
    mask.write_bytes(Path(settings["masks"]).read_bytes())
    config = get_config()
    config.update({**settings, "masks": json.dumps([str(mask)])})
    with pytest.raises(AssertionError, match="a model was loaded"):
        sample_from_config(config)
    assert "begins like a JSON list" in message(settings, masks="[a.png")
    assert "must be a JSON list of texts" in message(settings, masks="[1]")


def test_layers_that_are_all_left_out(settings):
    config = get_config()
    config.update({**settings, "depth_maps": "-,-"})
    with (
        pytest.warns(UserWarning, match="depth_maps: every layer is left out"),
        pytest.raises(AssertionError, match="a model was loaded"),
    ):
        sample_from_config(config)


def test_files_that_cannot_be_used(settings, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    depth = np.zeros((64, 64), np.float32)
    depth[3, 4] = np.nan
    np.save(tmp_path / "nan.npy", depth)
    text = message(
        settings,
        depth_maps=f"{tmp_path / 'nan.npy'},{tmp_path / 'missing.png'}",
        exemplars=f"{broken},{broken}",
    )
    assert "nan.npy" in text
    assert "missing.png" in text
    assert "broken.png" in text


def test_a_checkpoint_that_lacks_what_is_asked_for(settings, checkpoints, tmp_path):
    import shutil

    folder = tmp_path / "part"
    shutil.copytree(settings["checkpoint"], folder)
    shutil.rmtree(folder / "image_encoder")
    shutil.rmtree(folder / "local_fuser")
    text = message(settings, checkpoint=str(folder))
    assert "no local_fuser in" in text
    assert "no image_encoder in" in text
    assert "depth_maps and photos" in text


@pytest.mark.parametrize("value", [0, 255])
def test_an_empty_or_full_mask_is_allowed_with_a_warning(value, settings, tmp_path):
    Image.fromarray(np.full((64, 64), value, np.uint8)).save(tmp_path / "mask.png")
    config = get_config()
    config.update({**settings, "masks": str(tmp_path / "mask.png")})
    with (
        pytest.warns(UserWarning, match="is empty|covers the whole image"),
        pytest.raises(AssertionError, match="a model was loaded"),
    ):
        sample_from_config(config)


def test_a_wrong_flag_ends_the_command_with_one_message(settings):
    done = launch("sample", f"--config.checkpoint={settings['checkpoint']}", "--config.height=65")
    assert done.returncode == 2
    assert "height must be a positive multiple of 64" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("argument", "expected"),
    [("presett=fast", "did you mean 'preset'"), ("preset=fats", "did you mean 'fast'")],
)
def test_config_arguments_suggest_the_nearest_name(argument, expected):
    with pytest.raises(ValueError, match=expected):
        get_config(argument)


@pytest.mark.parametrize(
    "command",
    [
        *("sample", "convert", "export", "prepare_data", "inspect_data", "train"),
        *("demo", "quickstart"),
        "train --config=configs/fgdm.py:factor=depth",
        "train --config=configs/prior.py:stage=unet",
        *("make_tokenizer", "share_weights"),
    ],
)
def test_help_names_every_setting(command):
    name, *arguments = command.split()
    done = launch(name, *arguments, "--help")
    assert done.returncode == 0, done.stderr
    expected = {
        "sample": [f"    {key} " for key in get_config()],
        "convert": ["--source", "--surgery"],
        "export": ["--layout", "--checkpoint"],
        "demo": ["--checkpoint", "--port"],
        "quickstart": ["--output", "--only"],
        "prepare_data": [f"    {key} " for key in get_prepare_config()],
        "inspect_data": ["--data", "--[no]verify"],
        "train": [f"    {key} " for key in get_cnc_config()],
        "train --config=configs/fgdm.py:factor=depth": [f"    {key} " for key in get_fgdm_config()],
        "train --config=configs/prior.py:stage=unet": [f"    {key} " for key in get_prior_config()],
        "make_tokenizer": ["--data", "--output"],
        "share_weights": ["--component", "--other"],
    }
    if arguments and "fgdm" in arguments[0]:
        # The values in force, not those of another scale or the code that makes them.
        done = launch(name, "--config=configs/fgdm.py:factor=image,scale=scenes", "--help")
        assert re.search(
            r'^    graph +"segmentation, image<segmentation" ', done.stdout, re.MULTILINE
        )
        assert re.search(r"^    learning_rate +0.0015 ", done.stdout, re.MULTILINE)
        assert len(re.findall(r"^    sizes ", done.stdout, re.MULTILINE)) == 1
    for part in expected[command]:
        assert part in done.stdout
    assert "python -m launch" in done.stdout


def test_unknown_arguments_end_the_command():
    done = launch("sample", "height=64")
    assert done.returncode == 2
    assert "unknown arguments: height=64" in done.stderr
