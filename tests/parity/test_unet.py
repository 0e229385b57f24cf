"""The UNet against diffusers' UNet2DConditionModel, and what is attached to it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import sd_jax.load
from sd_jax.unet import UNet

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def case(diffusers_models, tmp_path_factory):
    """Returns a UNet of both kinds and inputs for it."""
    model = diffusers_models.unet(seed=1)
    folder = tmp_path_factory.mktemp("unet")
    model.save_pretrained(folder)
    loaded = sd_jax.load.load(folder)
    rng = np.random.default_rng(0)
    return SimpleNamespace(
        torch=model,
        unet=UNet(loaded.config.unet),
        params=loaded.params["unet"],
        latents=rng.normal(size=(3, 16, 24, 4)).astype(np.float32),
        timesteps=np.array([0, 421, 999]),
        context=rng.normal(size=(3, 77, 48)).astype(np.float32),
    )


def expected(case, to_torch, **residuals):
    return case.torch(
        to_torch(case.latents),
        to_torch(case.timesteps),
        encoder_hidden_states=to_torch(case.context),
        **residuals,
    ).sample


def test_prediction(case, apply, to_torch, assert_close):
    ours = apply(case.unet, case.params, case.latents, case.timesteps, case.context)
    assert_close(ours, expected(case, to_torch))


def test_inpainting_unet_with_other_heads_and_few_tokens(
    diffusers_models, tmp_path, rng, apply, to_torch, assert_close
):
    model = diffusers_models.unet(seed=2, in_channels=9, attention_head_dim=8)
    model.save_pretrained(tmp_path)
    loaded = sd_jax.load.load(tmp_path)
    assert loaded.config.unet.in_channels == 9
    assert loaded.config.unet.num_heads == 8
    latents = rng.normal(size=(2, 24, 8, 9)).astype(np.float32)
    timesteps = np.array([1, 901])
    context = rng.normal(size=(2, 5, 48)).astype(np.float32)
    ours = apply(UNet(loaded.config.unet), loaded.params["unet"], latents, timesteps, context)
    assert ours.shape == (2, 24, 8, 4)
    theirs = model(*map(to_torch, (latents, timesteps, context))).sample
    assert_close(ours, theirs)


def test_residuals_of_skips_and_middle(case, apply, to_torch, assert_close, rng):
    config = case.unet.config
    sizes = config.feature_sizes(16, 24)
    levels = config.skip_levels()
    # A level's last skip is the next level's size but still its own width.
    widths = [32, 32, 32, 32, 64, 64, 64, 64, 64]
    skips = [
        rng.normal(size=(3, *sizes[level], width)).astype(np.float32)
        for level, width in zip(levels, widths, strict=True)
    ]
    middle = rng.normal(size=(3, *sizes[-1], 64)).astype(np.float32)
    ours = apply(
        case.unet,
        case.params,
        case.latents,
        case.timesteps,
        case.context,
        down_block_additional_residuals=skips,
        mid_block_additional_residual=middle,
    )
    theirs = expected(
        case,
        to_torch,
        down_block_additional_residuals=tuple(map(to_torch, skips)),
        mid_block_additional_residual=to_torch(middle),
    )
    assert_close(ours, theirs)
    assert np.std(theirs.numpy() - expected(case, to_torch).numpy()) > 1e-2


def test_residuals_inside_the_levels_are_those_of_t2i_adapters(
    case, apply, to_torch, assert_close, rng
):
    sizes = case.unet.config.feature_sizes(16, 24)
    residuals = [
        rng.normal(size=(3, *size, width)).astype(np.float32)
        for size, width in zip(sizes, (32, 64, 64), strict=True)
    ]
    ours = apply(
        case.unet,
        case.params,
        case.latents,
        case.timesteps,
        case.context,
        down_intrablock_additional_residuals=residuals,
    )
    # diffusers takes the residuals out of the list.
    theirs = expected(
        case, to_torch, down_intrablock_additional_residuals=list(map(to_torch, residuals))
    )
    assert_close(ours, theirs)
    assert np.std(theirs.numpy() - expected(case, to_torch).numpy()) > 1e-2
