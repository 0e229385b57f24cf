"""The names of the original layout against diffusers' own conversion, at full size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sd_jax.controlnet import ControlNetConfig
from sd_jax.convert.component import CONTROLNET, UNET, VAE, Component
from sd_jax.convert.load import plan_loading
from sd_jax.convert.source import Source
from sd_jax.convert.table import make_table
from sd_jax.files import LazyTensor
from sd_jax.unet import UNetConfig
from sd_jax.vae import VAEConfig

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def convert():
    """Returns diffusers' module of conversions."""
    return pytest.importorskip("diffusers.loaders.single_file_utils")


def tables(component: Component, config):
    abstract = component.abstract_params(config)
    return {
        name: make_table(abstract, layout.modules(config), layout.pointwise)
        for name, layout in component.layouts.items()
    }


@pytest.fixture(scope="module")
def unet_tables():
    """Returns the UNet's table in each layout."""
    return tables(UNET, UNetConfig())


def numbered(tables, prefix, torch):
    """Returns both layouts' tensors, each of one number that is its path's."""
    numbers = {entry.path: number for number, entry in enumerate(tables["ldm"])}
    return [
        {
            before + entry.name: torch.full((1,) * len(entry.shape), numbers[entry.path])
            for entry in tables[layout]
        }
        for layout, before in (("ldm", prefix), ("diffusers", ""))
    ]


def check(converted, expected):
    assert converted.keys() == expected.keys()
    for name, tensor in expected.items():
        assert converted[name].shape == tensor.shape, name
        assert converted[name].item() == tensor.item(), name


def test_unet(convert, unet_tables, torch):
    original, expected = numbered(unet_tables, "model.diffusion_model.", torch)
    check(convert.convert_ldm_unet_checkpoint(original, {"layers_per_block": 2}), expected)


def test_vae(convert, torch):
    original, expected = numbered(tables(VAE, VAEConfig()), "first_stage_model.", torch)
    levels = {"down_block_types": [None] * 4, "up_block_types": [None] * 4}
    check(convert.convert_ldm_vae_checkpoint(original, levels), expected)


def test_controlnet(convert, torch):
    original, expected = numbered(tables(CONTROLNET, ControlNetConfig()), "control_model.", torch)
    converted = convert.convert_controlnet_checkpoint(original, {"layers_per_block": 2})
    check(converted, expected)


def test_averaged_unet(convert, unet_tables):
    shapes = {f"model.diffusion_model.{entry.name}": entry.shape for entry in unet_tables["ldm"]}
    shapes |= {
        "model_ema." + name.removeprefix("model.").replace(".", ""): shape
        for name, shape in shapes.items()
    }
    tensors = {
        name: LazyTensor(name, shape, np.dtype(np.float32), lambda: np.empty(0))
        for name, shape in shapes.items()
    }
    plan = plan_loading(Source(Path("sd.ckpt"), "ldm", tensors), [UNET], use_ema=True)
    ours = {entry.path: entry.name for entry in plan.entries["unet"]}
    # Given names for weights, diffusers tells which it would take.
    theirs = convert.convert_ldm_unet_checkpoint(
        {name: name for name in tensors}, {"layers_per_block": 2}, extract_ema=True
    )
    assert ours == {entry.path: theirs[entry.name] for entry in unet_tables["diffusers"]}
    assert all(name.startswith("model_ema.") for name in ours.values())
