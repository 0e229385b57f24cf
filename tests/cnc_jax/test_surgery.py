"""Local fusers start from any UNet that takes its latents alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cnc_jax.load import CnCConfig
from cnc_jax.surgery import init_local
from sd_jax.convert.component import COMPONENTS
from sd_jax.load import open_checkpoints


@pytest.fixture(scope="module")
def scenes():
    """Returns the scenes' UNet, whose latents have 16 channels."""
    return open_checkpoints(["scenes-prior"], COMPONENTS).load(CnCConfig, ["unet"])


def test_a_local_fuser_starts_from_latents_of_any_channels(scenes):
    fuser = init_local(scenes).model.params["local_fuser"]
    unet = scenes.params["unet"]
    assert fuser["conv_in"]["kernel"].shape[2] == 16
    np.testing.assert_array_equal(fuser["conv_in"]["kernel"], unet["conv_in"]["kernel"])


def test_a_unet_that_takes_more_than_its_latents_is_refused(scenes):
    sizes = dataclasses.replace(scenes.config.unet, in_channels=33)
    model = dataclasses.replace(scenes, config=dataclasses.replace(scenes.config, unet=sizes))
    with pytest.raises(ValueError, match=r"takes 33 channels .* the 16 of its latents alone"):
        init_local(model)
