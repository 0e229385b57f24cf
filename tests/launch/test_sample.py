"""launch.sample on photographs with a tiny checkpoint in every layout."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from cnc_jax.convert import COMPONENTS
from cnc_jax.testing import random_model, tiny_config
from configs.sample import get_config
from launch.sampling import sample_from_config
from sd_jax.convert.export import export_diffusers
from sd_jax.convert.weights import weights_of_model
from sd_jax.safety_checker import SafetyCheckerConfig
from tests.launch.commands import ROOT, launched
from tests.launch.tiny_networks import write_dpt


def config_of(settings: dict[str, Any], **changes: Any) -> Any:
    config = get_config()
    config.update({**settings, **changes})
    return config


def pixels(folder: Path, seed: int = 0) -> np.ndarray:
    return np.asarray(Image.open(folder / f"{seed:06d}.png"))


@pytest.fixture(scope="module")
def first_run(demo, tmp_path_factory) -> Path:
    """The run that the other tests compare with."""
    output = tmp_path_factory.mktemp("first") / "output"
    settings = {**demo, "height": 64, "width": 64, "num_steps": 2, "output": str(output)}
    return sample_from_config(config_of(settings))


@pytest.mark.parametrize("layout", ["safetensors", "ckpt", "converted"])
def test_every_layout_gives_the_same_pixels(layout, settings, checkpoints, first_run):
    folder = sample_from_config(config_of(settings, **checkpoints[layout]))
    np.testing.assert_array_equal(pixels(folder), pixels(first_run))
    assert (folder / "contact_sheet.png").is_file()


def test_a_run_is_not_written_over_another(settings, first_run):
    settings["output"] = str(first_run)
    with pytest.raises(ValueError, match="holds the record of another run"):
        sample_from_config(config_of(settings))


def test_a_record_whose_files_changed_warns(first_run, tmp_path):
    record = json.loads((first_run / "record.json").read_text())
    path = next(iter(record["inputs"]))
    record["inputs"][path] = "0" * 64
    (tmp_path / "record.json").write_text(json.dumps(record))
    config = get_config(f"record={tmp_path / 'record.json'}")
    config.output = str(tmp_path / "again")
    with pytest.warns(UserWarning, match="is not what the record was made with"):
        sample_from_config(config)


def test_a_record_repeats_the_pixels(first_run, tmp_path):
    config = get_config(f"record={first_run / 'record.json'}")
    config.output = str(tmp_path / "again")
    folder = sample_from_config(config)
    np.testing.assert_array_equal(pixels(folder), pixels(first_run))
    first, second = (
        json.loads((path / "record.json").read_text())["images"] for path in (first_run, folder)
    )
    assert first == second


def test_the_record_names_what_a_repetition_needs(first_run):
    record = json.loads((first_run / "record.json").read_text())
    assert set(record) == {
        "config", "images", "inputs", "checkpoints", "seconds", "device", "attention",
        "versions",
    }  # fmt: skip
    assert len(record["inputs"]) == 5
    assert all(len(digest) == 64 for digest in record["inputs"].values())


def test_an_image_depends_on_its_seed_and_not_on_its_batch(settings, first_run):
    folder = sample_from_config(config_of(settings, num_images=3, batch_size=2))
    assert len(list(folder.glob("0*.png"))) == 3
    close = np.abs(pixels(folder, 0).astype(int) - pixels(first_run).astype(int))
    assert close.max() <= 1
    assert np.abs(pixels(folder, 1).astype(int) - pixels(folder, 0).astype(int)).max() > 50


def test_other_values_compile_nothing(settings, first_run):
    del first_run  # has compiled
    compiled: list[str] = []

    def listen(event: str, duration: float, **_: object) -> None:
        del duration
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    config = config_of(
        settings,
        seed=7,
        prompt="another prompt",
        negative_prompt="not this",
        exemplar_strengths="0.5,1.5",
        depth_gains="0.8,1.1",
        guidance_scale=3.0,
        depth_interval="0,0.5",
        sampler="dpmpp_2m",
    )
    config.residual_scales = ",".join(["0.9"] * 5)
    sample_from_config(config_of(settings, output=settings["output"] + "_first"))
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        sample_from_config(config)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled == []


@pytest.mark.parametrize(
    "changes",
    [
        {"depth_maps": "", "image_guidance_scale": 2.0},
        {"exemplars": "", "masks": "", "guidance_scale": 1.0},
        {"depth_maps": "", "exemplars": "", "masks": "", "sampler": "euler_ancestral"},
        {"dtype": "bfloat16", "mask_rule": "soft_coverage", "height": 64, "width": 128},
    ],
    ids=["global", "local", "text", "bfloat16-wide"],
)
def test_modes_follow_from_what_is_given(changes, settings):
    folder = sample_from_config(config_of(settings, **changes))
    config = config_of(settings, **changes)
    assert pixels(folder).shape == (config.height, config.width, 3)


@pytest.mark.parametrize("name", ["depth_maps", "exemplars", "prompt", "masks"])
def test_every_condition_reaches_the_pixels(name, settings):
    # Random weights change little; large scales make it show.
    settings |= {"residual_scales": "30", "exemplar_strengths": "30", "guidance_scale": 20.0}
    before = pixels(sample_from_config(config_of(settings)))
    if name == "prompt":
        settings["prompt"] = "something else"
    elif name == "masks":
        settings["masks"] = settings["depth_maps"].split(",")[1]
    else:
        settings[name] = ",".join(reversed(settings[name].split(",")))
    settings["overwrite"] = True
    after = pixels(sample_from_config(config_of(settings)))
    assert np.abs(after.astype(int) - before.astype(int)).max() > 1


def test_three_layers(settings, tmp_path):
    model = random_model(tiny_config(num_layers=3))
    configs = {name: getattr(model.config, name) for name in model.params}
    export_diffusers(
        weights_of_model(model.params, configs, model.config.schedule),
        COMPONENTS,
        tmp_path / "three",
    )
    ball, plain = settings["depth_maps"].split(",")
    cat, coffee = settings["exemplars"].split(",")
    mask = settings["masks"]
    folder = sample_from_config(
        config_of(
            settings,
            checkpoint=str(tmp_path / "three"),
            depth_maps=f"{ball},-,{plain}",
            exemplars=f"{cat},{coffee},-",
            masks=f"{mask},{mask}",
        )
    )
    assert pixels(folder).shape == (64, 64, 3)


def test_the_command_itself(demo, tmp_path):
    arguments = {
        **demo, "height": 64, "width": 64, "num_steps": 2, "output": str(tmp_path / "out"),
    }  # fmt: skip
    values = (f"--config.{name}={value}" for name, value in arguments.items())
    said = launched("sample", f"--config={ROOT}/configs/sample.py", *values)
    assert (tmp_path / "out" / "000000.png").is_file()
    assert "2/2" in said  # the progress bar


def with_edges_instead_of_depth(settings: dict[str, Any]) -> dict[str, Any]:
    photos = settings["exemplars"]
    return {**settings, "depth_maps": "", "photos": photos}


def test_photos_stand_in_for_maps_as_edges(settings):
    config = config_of(with_edges_instead_of_depth(settings), local_condition="canny")
    with pytest.warns(UserWarning, match="edges are for a local fuser trained on edges"):
        folder = sample_from_config(config)
    assert pixels(folder).shape == (64, 64, 3)


def test_photos_stand_in_for_maps_as_depth(settings, tmp_path):
    pytest.importorskip("torch")
    write_dpt(tmp_path / "dpt")
    folder = sample_from_config(
        config_of(with_edges_instead_of_depth(settings), depth_estimator=str(tmp_path / "dpt"))
    )
    assert pixels(folder).shape == (64, 64, 3)


@pytest.mark.parametrize("flagged", [True, False])
def test_the_safety_checker_blackens_what_it_flags(flagged, settings, tmp_path):
    config = dataclasses.replace(
        tiny_config(), safety_checker=SafetyCheckerConfig(tiny_config().image_encoder)
    )
    model = random_model(config)
    # A cosine is never above 1, nor below -1.
    checker = dict(model.params["safety_checker"])
    for name in ("concept", "special_care"):
        weights = checker[f"{name}_embeds_weights"]
        checker[f"{name}_embeds_weights"] = np.full_like(weights, -2.0 if flagged else 2.0)
    params = {**model.params, "safety_checker": checker}
    configs = {name: getattr(model.config, name) for name in params}
    export_diffusers(
        weights_of_model(params, configs, model.config.schedule), COMPONENTS, tmp_path / "folder"
    )
    folder = sample_from_config(config_of(settings, checkpoint=str(tmp_path / "folder")))
    assert pixels(folder).any() != flagged
    record = json.loads((folder / "record.json").read_text())
    assert record["images"][0]["flagged_by_safety_checker"] is flagged
    off = sample_from_config(
        config_of(
            settings,
            checkpoint=str(tmp_path / "folder"),
            safety_checker=False,
            output=str(tmp_path / "off"),
        )
    )
    assert pixels(off).any()
