"""ControlNet against diffusers' ControlNetModel, alone and attached to the UNet."""

from __future__ import annotations

import numpy as np
import pytest

import sd_jax.load
from sd_jax.controlnet import ControlNet
from sd_jax.unet import UNet

pytestmark = pytest.mark.parity


def test_residuals_and_the_unet_with_them(
    diffusers_models, tmp_path, rng, apply, to_torch, assert_close
):
    controlnet = diffusers_models.controlnet(seed=9)
    unet = diffusers_models.unet(seed=10)
    controlnet.save_pretrained(tmp_path / "controlnet")
    unet.save_pretrained(tmp_path / "unet")
    loaded = sd_jax.load.load(tmp_path)
    assert loaded.params.keys() == {"controlnet", "unet"}
    assert loaded.config.controlnet.hint_block_out_channels == (4, 8, 12, 16)

    latents = rng.normal(size=(2, 8, 16, 4)).astype(np.float32)
    timesteps = np.array([17, 800])
    context = rng.normal(size=(2, 13, 48)).astype(np.float32)
    hint = rng.uniform(size=(2, 64, 128, 3)).astype(np.float32)
    inputs = (latents, timesteps, context)
    skips, middle = apply(
        ControlNet(loaded.config.controlnet), loaded.params["controlnet"], *inputs, hint
    )
    their_skips, their_middle = controlnet(*map(to_torch, (*inputs, hint)), return_dict=False)
    assert len(skips) == len(their_skips) == 9
    for ours, theirs in zip(skips, their_skips, strict=True):
        assert_close(ours, theirs)
    assert_close(middle, their_middle)

    ours = apply(
        UNet(loaded.config.unet),
        loaded.params["unet"],
        *inputs,
        down_block_additional_residuals=skips,
        mid_block_additional_residual=middle,
    )
    theirs = unet(
        *map(to_torch, inputs),
        down_block_additional_residuals=their_skips,
        mid_block_additional_residual=their_middle,
    ).sample
    assert_close(ours, theirs)
