"""Tiny FG-DM models of random weights, for tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fgdm_jax.adapter import adapter_for
from fgdm_jax.convert import COMPONENTS, adapter_name
from fgdm_jax.load import FGDMConfig
from sd_jax.clip import CLIPTextConfig
from sd_jax.controlnet import ControlNetConfig
from sd_jax.model import Model
from sd_jax.testing import random_params
from sd_jax.unet import UNetConfig
from sd_jax.vae import VAEConfig

SEEN: Mapping[str, int] = MappingProxyType({"segmentation": 1, "depth": 1, "image": 2})
"""Variables whose adapters the models have, and the latents of how many each adapter sees."""

_WIDTH = 64


def tiny_config(seen: Mapping[str, int] = SEEN, *, has_time: bool = False) -> FGDMConfig:
    """Returns sizes of about 10 million parameters, most of them in the vocabulary.

    Args:
      seen: variable -> the latents of how many variables its adapter sees: 1 for its own or one
        parent's.
      has_time: whether the adapters see the timestep.
    """
    unet = UNetConfig(
        block_out_channels=(32, 64, 128, 128), num_heads=4, cross_attention_dim=_WIDTH
    )
    config = FGDMConfig(
        unet=unet,
        vae=VAEConfig(block_out_channels=(32, 32, 64, 64), layers_per_block=1),
        # Heads of 64, as in the released tower, so that files without a config.json load too.
        text_encoder=CLIPTextConfig(
            hidden_size=_WIDTH, intermediate_size=2 * _WIDTH, num_layers=2, num_heads=1
        ),
        controlnet=ControlNetConfig(unet),
    )
    return with_adapters(config, seen, has_time=has_time)


def smallest_config(seen: Mapping[str, int] = SEEN, *, has_time: bool = False) -> FGDMConfig:
    """Returns the smallest sizes with everything in it, which compile in seconds.

    Args:
      seen: as in `tiny_config`.
      has_time: as in `tiny_config`.
    """
    width = 16
    unet = UNetConfig(
        block_out_channels=(width, 2 * width),
        layers_per_block=1,
        attention_levels=(True, False),
        num_heads=2,
        cross_attention_dim=width,
        norm_num_groups=8,
    )
    config = FGDMConfig(
        unet=unet,
        vae=VAEConfig(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4),
        text_encoder=CLIPTextConfig(
            hidden_size=width, intermediate_size=2 * width, num_layers=1, num_heads=1
        ),
        controlnet=ControlNetConfig(unet, hint_block_out_channels=(4, 4, 8, 8)),
    )
    return with_adapters(config, seen, has_time=has_time)


def with_adapters(
    config: FGDMConfig, seen: Mapping[str, int], *, has_time: bool = False, **changes: Any
) -> FGDMConfig:
    """Returns sizes with adapters that fit the UNet.

    Args:
      config: with a UNet.
      seen: as in `tiny_config`.
      has_time: as in `tiny_config`.
      **changes: other fields of `AdapterConfig`.

    Raises:
      ValueError: there is no such variable, or there is no UNet.
    """
    unet = config.unet
    if unet is None:
        raise ValueError("adapters take their sizes from a UNet, and the config has none")
    adapters = {
        adapter_name(variable): dataclasses.replace(
            adapter_for(unet, number, has_time=has_time), **changes
        )
        for variable, number in seen.items()
    }
    return dataclasses.replace(config, **adapters)


def random_model(config: FGDMConfig, seed: int = 0, only: tuple[str, ...] = ()) -> Model:
    """Returns a model of random weights, in which no layer is zero (`sd_jax.testing`).

    Args:
      config: sizes.
      seed: of the weights.
      only: names of the components wanted; all that have a size unless given.
    """
    return Model(*random_params(COMPONENTS, config, seed, only))
