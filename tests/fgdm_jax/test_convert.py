"""Which names, shapes and sizes adapters have in files: the tables, before any weight is read."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import flax.traverse_util
import numpy as np
import pytest

import sd_jax.load
from fgdm_jax import VARIABLES, FGDMConfig
from fgdm_jax.adapter import AdapterConfig
from fgdm_jax.convert import COMPONENTS, UPSTREAM_PREFIX, adapter_component, components
from sd_jax.controlnet import ControlNetConfig
from sd_jax.convert.component import UNET as UNET_COMPONENT
from sd_jax.convert.export import tensors_in_layout
from sd_jax.convert.ldm_buffers import ldm_buffers
from sd_jax.convert.load import plan_loading
from sd_jax.convert.source import CheckpointError, Source
from sd_jax.convert.weights import Weights
from sd_jax.files import LazyTensor
from sd_jax.schedule import ScheduleConfig
from sd_jax.typing import flat_params
from sd_jax.unet import UNetConfig
from tests.fgdm_jax.small_adapters import KINDS, SMALL, SMALL_UNET, shapes_of

MANIFESTS = Path(__file__).parents[1] / "manifests"
UNET = "model.diffusion_model."


def read(name):
    return json.loads((MANIFESTS / f"{name}.json").read_text())


def unread(shapes, layout="ldm", **kwargs):
    """Returns an opened checkpoint whose tensors cannot be read."""

    def refuse():
        raise AssertionError("a weight was read where names and shapes are enough")

    tensors = {
        name: LazyTensor(name, tuple(shape), np.dtype(np.float32), refuse)
        for name, shape in shapes.items()
    }
    return Source(Path("model.ckpt"), layout, tensors, **kwargs)


# The released files by their names and shapes.


@pytest.mark.parametrize(
    ("name", "time_embed_dim", "number", "parameters"),
    [
        ("fgdm_unet_adapter", None, 38, 76_827_840),
        ("fgdm_unet_time_adapter", 1280, 86, 137_277_120),
    ],
)
@pytest.mark.parametrize("prefix", [UNET, ""])
def test_every_tensor_of_a_released_file_has_its_place(
    name, time_embed_dim, number, parameters, prefix
):
    shapes = {prefix + name: shape for name, shape in read(name).items()}
    lightning = {} if not prefix else {**read("first_stage_model"), **read("cond_stage_model")}
    extras = {} if not prefix else read("schedule_buffers")
    extras |= {name: () for name in ("model_ema.decay", "model_ema.num_updates") if prefix}
    source = unread(shapes | lightning | extras, bare="" if prefix else UNET)
    if not prefix:
        source = dataclasses.replace(
            source, tensors={UNET + name: tensor for name, tensor in source.tensors.items()}
        )
    plan = plan_loading(source, components("normal"))
    adapter = AdapterConfig(time_embed_dim=time_embed_dim)
    assert plan.configs["adapter_normal"] == adapter
    assert plan.configs["unet"] == UNetConfig()
    assert [name for name in plan.configs if name.startswith("adapter_")] == ["adapter_normal"]
    assert set(plan.unused) - {
        "cond_stage_model.transformer.text_model.embeddings.position_ids"
    } == (set(extras))
    assert plan.fresh == ()
    entries = plan.entries["adapter_normal"]
    assert len(entries) == number
    assert sum(math.prod(entry.shape) for entry in entries) == parameters
    assert {entry.name for entry in entries} == {
        name for name in source.tensors if name.startswith(UPSTREAM_PREFIX)
    }


def test_the_released_controlnet():
    shapes = read("controlnet_sd15")
    unet = {f"{UNET}{k}": v for k, v in read("fgdm_unet_adapter").items() if "adapter" not in k}
    plan = plan_loading(unread({**shapes, **unet}), components("segmentation"))
    assert plan.configs == {"unet": UNetConfig(), "controlnet": ControlNetConfig()}
    assert plan.unused == plan.fresh == ()


@pytest.mark.parametrize("time_embed_dim", [None, 1280])
def test_weights_from_elsewhere_export_to_upstreams_names(time_embed_dim):
    configs = {
        "unet": UNetConfig(),
        "adapter_depth": AdapterConfig(time_embed_dim=time_embed_dim),
    }
    shapes = {
        item.name: flax.traverse_util.flatten_dict(
            item.abstract_params(configs[item.name]), sep="/"
        )
        for item in COMPONENTS
        if item.name in configs
    }
    weights = Weights(configs, ScheduleConfig(), shapes, read=lambda name: {})
    exported = tensors_in_layout(weights, components("depth"), "ldm")
    name = "fgdm_unet_adapter" if time_embed_dim is None else "fgdm_unet_time_adapter"
    buffers = {tensor.name for tensor in ldm_buffers(configs, ScheduleConfig())}
    ours = {item.name: list(item.shape) for item in exported if item.name not in buffers}
    assert ours == {f"{UNET}{name}": shape for name, shape in read(name).items()}


# Sizes.


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_upstream", [True, False])
def test_sizes_are_told_from_shapes(layout, kind, is_upstream):
    config = KINDS[kind]
    component = adapter_component("pose", is_upstream=is_upstream)
    shapes = shapes_of(component, config, layout)
    assert len(shapes) == len(flat_params(component.abstract_params(config)))
    plan = plan_loading(unread(shapes, layout), components("pose" if is_upstream else None))
    assert plan.configs == {"adapter_pose": config}
    assert plan.unused == plan.fresh == ()


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_or_strange_tensor_is_named(layout, kind):
    component = adapter_component("pose")
    shapes = shapes_of(component, KINDS[kind], layout)
    for name in list(shapes)[::3]:
        rest = {other: shape for other, shape in shapes.items() if other != name}
        with pytest.raises(CheckpointError) as caught:
            plan_loading(unread(rest, layout), COMPONENTS)
        short = name.removeprefix(component.layouts[layout].prefix)
        # Without one of the two that tell the size, the next one's place is taken by another.
        assert short in str(caught.value) or "wrong shape" in str(caught.value)
        with pytest.raises(CheckpointError, match=r"wrong shape|cannot be told"):
            plan_loading(unread({**shapes, name: (2, 3, 4, 5, 6)}, layout), COMPONENTS)


# Whose names are whose.


def test_the_longest_prefix_owns_a_name():
    upstream = adapter_component("depth", is_upstream=True)
    shapes = {**shapes_of(UNET_COMPONENT, SMALL_UNET), **shapes_of(upstream, SMALL)}
    plan = plan_loading(unread(shapes), components("depth"))
    assert plan.configs == {"unet": SMALL_UNET, "adapter_depth": SMALL}
    # Without a variable these are strange names in the UNet, and the error says whose they are.
    for known in (COMPONENTS, sd_jax.load.COMPONENTS):
        with pytest.raises(CheckpointError, match=r"adapter; load it with fgdm_jax") as caught:
            plan_loading(unread(shapes), known)
        assert f"unexpected: {UPSTREAM_PREFIX}conv_in.weight" in str(caught.value)


def test_an_adapter_under_both_names():
    component = adapter_component("depth", is_upstream=True)
    shapes = {**shapes_of(component, SMALL), **shapes_of(component, SMALL, prefix="adapter_depth.")}
    with pytest.raises(CheckpointError, match=r"adapter_depth stands in it 2 times, under model"):
        plan_loading(unread(shapes), components("depth"))
    plan = plan_loading(unread(shapes), components("pose"))
    assert list(plan.configs) == ["adapter_pose", "adapter_depth"]


def test_an_adapter_that_does_not_fit_the_unet():
    timed = dataclasses.replace(
        SMALL, block_out_channels=(32, 64, 64), time_embed_dim=64, text_dim=16, text_channels=8
    )
    shapes = {
        **shapes_of(UNET_COMPONENT, SMALL_UNET),
        **shapes_of(adapter_component("depth"), timed),
    }
    with pytest.raises(CheckpointError) as caught:
        plan_loading(unread(shapes), COMPONENTS)
    assert "wrong adapter_depth: its features are (32, 64, 64) wide" in str(caught.value)
    assert "takes a time embedding of 64, but the UNet's is 128 wide" in str(caught.value)
    assert "texts of width 16, but the UNet reads texts of width 24" in str(caught.value)


def test_every_variable_has_its_component_and_its_field():
    fields = {field.name for field in dataclasses.fields(FGDMConfig)}
    names = [item.name for item in COMPONENTS]
    assert set(names) <= fields
    assert names[-len(VARIABLES) :] == [f"adapter_{variable}" for variable in VARIABLES]
    for variable in VARIABLES:
        assert [item.name for item in components(variable)] == names
