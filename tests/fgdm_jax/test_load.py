"""Adapters out of files and back: upstream's, T2I-Adapter's, files of several, folders."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import fgdm_jax
from fgdm_jax import FGDMConfig
from fgdm_jax.convert import COMPONENTS, UPSTREAM_PREFIX, adapter_component, components
from fgdm_jax.load import named_paths
from fgdm_jax.testing import random_model, smallest_config
from sd_jax.convert.component import UNET as UNET_COMPONENT
from sd_jax.convert.export import export_diffusers, export_ldm
from sd_jax.convert.ldm_buffers import ldm_buffers
from sd_jax.convert.load import plan_loading
from sd_jax.convert.source import CheckpointError, open_source
from sd_jax.convert.store import open_converted, save_plans
from sd_jax.convert.weights import weights_of_converted, weights_of_model
from sd_jax.files import open_tensors, write_safetensors, write_torch
from sd_jax.schedule import ScheduleConfig
from sd_jax.typing import flat_params
from tests.fgdm_jax.small_adapters import KINDS, SMALL, SMALL_UNET, shapes_of, tensors


def assert_same(ours, theirs):
    ours, theirs = flat_params(ours), flat_params(theirs)
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        np.testing.assert_array_equal(value, theirs[path])


def test_what_no_shape_tells_is_in_the_folder_or_the_metadata(tmp_path):
    config = dataclasses.replace(
        KINDS["time"], layers_per_level=1, norm_num_groups=8, clean_parents=True
    )
    model = random_model(FGDMConfig(adapter_depth=config))
    weights = weights_of_model(model.params, {"adapter_depth": config}, ScheduleConfig())
    export_diffusers(weights, COMPONENTS, tmp_path / "folder")
    export_ldm(weights, COMPONENTS, tmp_path / "file.safetensors")
    for path in (tmp_path / "folder", tmp_path / "file.safetensors"):
        loaded = fgdm_jax.load(path)
        assert loaded.config.adapter_depth == config
        assert_same(loaded.params, model.params)


def test_the_folder_of_a_plain_adapter_is_diffusers(tmp_path):
    config = SMALL
    model = random_model(FGDMConfig(adapter_depth=config))
    weights = weights_of_model(model.params, {"adapter_depth": config}, ScheduleConfig())
    export_diffusers(weights, COMPONENTS, tmp_path / "folder")
    content = json.loads((tmp_path / "folder" / "adapter_depth" / "config.json").read_text())
    assert content == {
        "_class_name": "T2IAdapter",
        "adapter_type": "full_adapter",
        "channels": [32, 64],
        "downscale_factor": 1,
        "in_channels": 4,
        "num_res_blocks": 2,
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Returns files of one upstream adapter each, as .ckpt and .safetensors, and folders."""
    folder = tmp_path_factory.mktemp("adapters")
    upstream = adapter_component("depth", is_upstream=True)
    whole = {**shapes_of(UNET_COMPONENT, SMALL_UNET), **shapes_of(upstream, SMALL)}
    buffers = ldm_buffers({"unet": SMALL_UNET}, ScheduleConfig())
    paths = {name: folder / name for name in ("first.ckpt", "second.safetensors")}
    write_torch(paths["first.ckpt"], [*tensors(whole, np.float16), *buffers])
    changed = [
        dataclasses.replace(item, read=lambda item=item: item.read() + np.float32(1))
        for item in tensors(whole)
    ]
    write_safetensors(paths["second.safetensors"], [*changed, *buffers], {"format": "pt"})
    bare = {
        "t2i.safetensors": ("ldm", ""),
        "adapter.safetensors": ("ldm", "adapter."),
        "diffusers.safetensors": ("diffusers", ""),
    }
    for name, (layout, prefix) in bare.items():
        config = dataclasses.replace(SMALL, in_channels=192)
        shapes = shapes_of(adapter_component("depth"), config, layout, prefix)
        write_safetensors(folder / name, tensors(shapes))
    (folder / "t2i").mkdir()
    shapes = shapes_of(adapter_component("depth"), SMALL, "diffusers", "")
    write_safetensors(folder / "t2i" / "diffusion_pytorch_model.safetensors", tensors(shapes))
    content = {"_class_name": "T2IAdapter", "adapter_type": "full_adapter", "channels": [32, 64]}
    (folder / "t2i" / "config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("variable", ["segmentation", "normal"])
def test_load_takes_the_variable_that_it_is_told(files, variable):
    model = fgdm_jax.load(files / "first.ckpt", variable=variable)
    assert isinstance(model.config, FGDMConfig)
    assert set(model.params) == {"unet", f"adapter_{variable}"}
    assert getattr(model.config, f"adapter_{variable}") == SMALL
    kernel = model.params[f"adapter_{variable}"]["body_1"]["in_conv"]["kernel"]
    assert kernel.dtype == jnp.float16
    theirs = open_tensors(files / "first.ckpt")[f"{UPSTREAM_PREFIX}body.2.in_conv.weight"].read()
    np.testing.assert_array_equal(kernel, theirs.transpose(2, 3, 1, 0))


def test_load_joins_files_of_several_variables(files):
    paths = [f"pose={files / 'first.ckpt'}", str(files / "second.safetensors")]
    model = fgdm_jax.load(paths, variable="depth")
    assert set(model.params) == {"unet", "adapter_pose", "adapter_depth"}
    # Of what both have, the first is taken.
    first = fgdm_jax.load(files / "first.ckpt", variable="pose")
    second = fgdm_jax.load(files / "second.safetensors", variable="depth")
    assert_same(model.params["unet"], first.params["unet"])
    assert_same(model.params["adapter_pose"], first.params["adapter_pose"])
    assert_same(model.params["adapter_depth"], second.params["adapter_depth"])


@pytest.mark.parametrize(
    "name", ["t2i", *(f"{n}.safetensors" for n in ("t2i", "adapter", "diffusers"))]
)
def test_adapters_alone(files, tmp_path, name):
    channels = 4 if name == "t2i" else 192
    model = fgdm_jax.load(files / name, variable="sketch")
    assert model.config.adapter_sketch == dataclasses.replace(SMALL, in_channels=channels)
    # And back, byte for byte.
    converted = convert(tmp_path, sketch=files / name)
    is_ldm = name in ("t2i.safetensors", "adapter.safetensors")
    written = tmp_path / ("out.safetensors" if is_ldm else "out")
    (export_ldm if is_ldm else export_diffusers)(converted, COMPONENTS, written)
    file, ours = files / name, written
    if not is_ldm:
        ours = written / "diffusion_pytorch_model.safetensors"
        if name == "t2i":
            file = file / "diffusion_pytorch_model.safetensors"
            config = (files / name / "config.json").read_text()
            assert json.loads((written / "config.json").read_text()) == json.loads(config)
    assert_same_file(ours, file)


def convert(tmp_path, **sources):
    """Returns the weights of a converted directory, made of one file for each variable."""
    plans = [
        plan_loading(open_source(path), components(variable)) for variable, path in sources.items()
    ]
    save_plans(plans, COMPONENTS, tmp_path / "converted", ScheduleConfig())
    return weights_of_converted(open_converted(tmp_path / "converted", COMPONENTS))


def assert_same_file(ours, theirs):
    ours, theirs = open_tensors(ours), open_tensors(theirs)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert ours[name].read().tobytes() == tensor.read().tobytes(), name


@pytest.mark.parametrize("name", ["first.ckpt", "second.safetensors"])
def test_a_file_comes_back_byte_for_byte(files, tmp_path, name):
    written = tmp_path / name
    export_ldm(convert(tmp_path, depth=files / name), COMPONENTS, written)
    assert_same_file(written, files / name)
    if name == "first.ckpt":
        assert list(open_tensors(written)) == list(open_tensors(files / name))
    else:
        assert written.read_bytes() == (files / name).read_bytes()


def test_two_files_go_into_one_under_the_names_of_their_variables(files, tmp_path):
    sources = {"pose": files / "first.ckpt", "depth": files / "second.safetensors"}
    written = tmp_path / "both.safetensors"
    export_ldm(convert(tmp_path, **sources), COMPONENTS, written)
    names = open_tensors(written)
    assert not any(name.startswith(UPSTREAM_PREFIX) for name in names)
    assert {name.split(".")[0] for name in names if name.startswith("adapter_")} == {
        "adapter_pose",
        "adapter_depth",
    }
    both = fgdm_jax.load([f"{variable}={path}" for variable, path in sources.items()])
    assert_same(fgdm_jax.load(written).params, both.params)
    converted = fgdm_jax.load(tmp_path / "converted")
    assert_same(converted.params, both.params)
    assert converted.config == both.config


def test_a_folder_of_a_whole_model_and_back(tmp_path):
    adapters = ("adapter_segmentation", "adapter_depth", "adapter_image")
    model = random_model(smallest_config(has_time=True), only=("unet", "controlnet", *adapters))
    configs = {name: getattr(model.config, name) for name in model.params}
    weights = weights_of_model(model.params, configs, ScheduleConfig())
    export_diffusers(weights, COMPONENTS, tmp_path / "folder")
    folder = fgdm_jax.load(tmp_path / "folder")
    assert folder.config == model.config
    assert_same(folder.params, model.params)
    export_ldm(weights, COMPONENTS, tmp_path / "file.safetensors")
    file = fgdm_jax.load(tmp_path / "file.safetensors")
    assert file.config == model.config
    assert_same(file.params, model.params)


def test_averaged_weights(tmp_path):
    shapes = shapes_of(adapter_component("depth", is_upstream=True), SMALL)
    plain = tensors(shapes)
    mean = [
        dataclasses.replace(
            item,
            name="model_ema." + item.name.removeprefix("model.").replace(".", ""),
            read=lambda item=item: item.read() + np.float32(1),
        )
        for item in plain
    ]
    write_safetensors(tmp_path / "file.safetensors", [*plain, *mean])
    usual, averaged = (
        fgdm_jax.load(tmp_path / "file.safetensors", variable="depth", use_ema=use_ema).params
        for use_ema in (False, True)
    )
    for path, value in flat_params(usual).items():
        np.testing.assert_array_equal(flat_params(averaged)[path], value + 1)
    write_safetensors(tmp_path / "without.safetensors", plain)
    with pytest.raises(CheckpointError, match="load it without use_ema"):
        fgdm_jax.load(tmp_path / "without.safetensors", use_ema=True)


def test_names_of_variables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("depth=odd.ckpt").touch()
    paths = ["a.ckpt", "normal=b.ckpt", "depth=odd.ckpt", "runs/lr=1/c.ckpt", Path("d")]
    assert named_paths(paths, "pose") == [
        ("pose", "a.ckpt"),
        ("normal", "b.ckpt"),
        ("pose", "depth=odd.ckpt"),
        ("pose", "runs/lr=1/c.ckpt"),
        ("pose", Path("d")),
    ]


def test_all_unknown_variables_at_once():
    with pytest.raises(ValueError, match="unknown variable 'segmentatoin'") as caught:
        fgdm_jax.load(["normals=a.ckpt", "dept=b.ckpt"], variable="segmentatoin")
    for near in ("segmentation", "normal", "depth"):
        assert f"did you mean {near!r}?" in str(caught.value)
    with pytest.raises(ValueError, match="give at least one path"):
        fgdm_jax.load([])
    with pytest.raises(ValueError, match="did you mean 'depth'"):
        components("depths")


def test_what_is_not_there():
    with pytest.raises(CheckpointError) as caught:
        fgdm_jax.load(["pose=nothing.ckpt", "depth=nowhere.ckpt"])
    assert "nothing.ckpt: no such file" in str(caught.value)
    assert "nowhere.ckpt: no such file" in str(caught.value)
