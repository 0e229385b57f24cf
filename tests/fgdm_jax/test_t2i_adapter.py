"""Plain adapters against diffusers' T2IAdapter, which has the same layers: in, through, and out."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import fgdm_jax
import fgdm_jax.testing
from fgdm_jax.adapter import Adapter, AdapterConfig
from fgdm_jax.convert import COMPONENTS
from sd_jax.convert.export import export_diffusers
from sd_jax.convert.weights import weights_of_model
from sd_jax.schedule import ScheduleConfig
from sd_jax.testing import relative_rms

pytestmark = pytest.mark.parity

SIZES = {"channels": (16, 32, 32), "num_res_blocks": 2, "adapter_type": "full_adapter"}


@pytest.fixture(scope="module")
def torch():
    """Returns torch, on few threads: the cores are shared with other workers."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(2)
    return torch


@pytest.fixture(scope="module")
def adapter_class(torch):
    """Returns diffusers' class."""
    return pytest.importorskip("diffusers").T2IAdapter


def features(torch, model, latents):
    """Returns what diffusers' adapter makes of latents in this project's layout."""
    with torch.no_grad():
        theirs = model.eval()(torch.from_numpy(latents.transpose(0, 3, 1, 2)))
    return [feature.numpy().transpose(0, 2, 3, 1) for feature in theirs]


def assert_close(ours, theirs):
    assert len(ours) == len(theirs) == 3
    for feature, other in zip(ours, theirs, strict=True):
        assert relative_rms(feature, other) <= 1e-5


def test_the_same_features(torch, adapter_class, tmp_path, rng):
    torch.manual_seed(0)
    theirs = adapter_class(in_channels=4, downscale_factor=1, **SIZES)
    theirs.save_pretrained(tmp_path)
    loaded = fgdm_jax.load(tmp_path, variable="depth")
    config = loaded.config.adapter_depth
    assert config == AdapterConfig(4, (16, 32, 32))
    latents = rng.normal(size=(2, 8, 12, 4)).astype(np.float32)
    ours = Adapter(config).apply({"params": loaded.params["adapter_depth"]}, jnp.asarray(latents))
    assert_close(ours, features(torch, theirs, latents))


def test_an_adapter_of_images_keeps_its_unshuffled_channels(adapter_class, tmp_path):
    adapter_class(in_channels=3, downscale_factor=8, **SIZES).save_pretrained(tmp_path)
    loaded = fgdm_jax.load(tmp_path)
    assert loaded.config.adapter_segmentation == AdapterConfig(3 * 8 * 8, (16, 32, 32))


def test_the_other_kind_is_refused(adapter_class, tmp_path):
    sizes = {**SIZES, "adapter_type": "light_adapter"}
    adapter_class(in_channels=4, downscale_factor=1, **sizes).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"light_adapter.*supported is 'full_adapter'"):
        fgdm_jax.load(tmp_path)


def test_diffusers_opens_what_is_written_here(torch, adapter_class, tmp_path, rng):
    config = AdapterConfig(8, (16, 32, 32), layers_per_level=1)
    (component,) = (item for item in COMPONENTS if item.name == "adapter_image")
    module = Adapter(config)
    latents = rng.normal(size=(1, 8, 12, 8)).astype(np.float32)
    params = fgdm_jax.testing.random_model(fgdm_jax.FGDMConfig(adapter_image=config)).params
    weights = weights_of_model(params, {"adapter_image": config}, ScheduleConfig())
    export_diffusers(weights, [component], tmp_path / "folder")
    theirs = adapter_class.from_pretrained(tmp_path / "folder" / "adapter_image")
    ours = module.apply({"params": params["adapter_image"]}, jnp.asarray(latents))
    assert_close(ours, features(torch, theirs, latents))
    # And back.
    loaded = fgdm_jax.load(tmp_path / "folder" / "adapter_image", variable="image")
    assert loaded.config == dataclasses.replace(loaded.config, adapter_image=config)
