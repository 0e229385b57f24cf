"""Tiny Compose and Conquer models for tests: of random weights, and untrained."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax.numpy as jnp
import numpy as np

from cnc_jax.convert import COMPONENTS
from cnc_jax.global_fuser import GlobalFuserConfig
from cnc_jax.load import CnCConfig
from cnc_jax.local_fuser import LocalFuserConfig
from sd_jax.clip import CLIPTextConfig, CLIPVisionConfig
from sd_jax.convert.component import Component
from sd_jax.convert.fresh import fresh_params
from sd_jax.model import Model
from sd_jax.schedule import ScheduleConfig
from sd_jax.testing import random_params
from sd_jax.typing import Array, Float, flat_params, nested_params
from sd_jax.unet import UNetConfig
from sd_jax.vae import VAEConfig, encode_images

_WIDTH = 64
_NARROW_LOGVAR = -10.0
_WARMTH = np.array([1.0, 0.0, -1.0], np.float32)
_LIVELY_GAIN = 6.0**0.5
_EXTRACTOR_KERNEL = "feature_extractor/(?!zero_convs).*/kernel"


def tiny_config(num_layers: int = 2) -> CnCConfig:
    """Returns sizes of about 7 million parameters, most of them in the vocabulary.

    Every file layout tells them, and their programs compile in seconds.

    Args:
      num_layers: layers of both fusers.
    """
    unet = UNetConfig(
        block_out_channels=(32, 64),
        layers_per_block=1,
        attention_levels=(True, False),
        num_heads=4,
        cross_attention_dim=_WIDTH,
    )
    tower: dict[str, Any] = {
        "hidden_size": _WIDTH,
        "intermediate_size": 2 * _WIDTH,
        "num_layers": 1,
    }
    return CnCConfig(
        unet=unet,
        vae=VAEConfig(block_out_channels=(32, 32, 64, 64), layers_per_block=1),
        # Heads of 64, as in the released towers, so that files without a config.json load too.
        text_encoder=CLIPTextConfig(num_heads=1, **tower),
        image_encoder=CLIPVisionConfig(image_size=56, num_heads=1, projection_dim=_WIDTH, **tower),
        local_fuser=LocalFuserConfig(unet=unet, num_layers=num_layers, inject_channels=(32, 48)),
        global_fuser=GlobalFuserConfig(num_layers=num_layers, embedding_dim=_WIDTH),
    )


def smallest_config() -> CnCConfig:
    """Returns the smallest sizes with everything in it, which compile in seconds."""
    width = 16
    unet = _smallest_unet(width, 2 * width)
    tower: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_layers": 1,
        "num_heads": 1,
    }
    return CnCConfig(
        unet=unet,
        vae=VAEConfig(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4),
        text_encoder=CLIPTextConfig(**tower),
        image_encoder=CLIPVisionConfig(image_size=28, projection_dim=width, **tower),
        local_fuser=_smallest_fuser(unet),
        global_fuser=GlobalFuserConfig(embedding_dim=width),
    )


def random_model(config: CnCConfig, seed: int = 0, only: tuple[str, ...] = ()) -> Model:
    """Returns a model of random weights, in which no layer is zero (`sd_jax.testing`).

    Args:
      config: sizes.
      seed: of the weights.
      only: names of the components wanted; all that have a size unless given.
    """
    return Model(*random_params(COMPONENTS, config, seed, only))


def untrained_model(images: Float[Array, "b h w 3"], seed: int = 0) -> Model:
    """Returns the smallest Stable Diffusion that has everything to learn, within minutes.

    The UNet is new. The autoencoder and the towers are random, like those of `random_model`, and
    stay so: what they make of pictures and words differs from one to the next, which is enough.

    Three things make the conditions worth learning. The model predicts velocity, at noisy
    timesteps nearly the image itself, where noise would be told by its input. Its latents are of
    unit variance with little noise of their own. And the autoencoder sees how warm a colour is and
    nothing else: of all that a picture shows, depth tells most about that in the procedural world.

    Args:
      images: in [-1, 1]; on these the latents' variance is measured.
      seed: of the weights.
    """
    model = random_model(smallest_config(), seed, ("vae", "text_encoder", "image_encoder"))
    unet = _smallest_unet(32, 64)
    vae, autoencoder = model.config.vae, _warm_and_narrow(flat_params(model.params["vae"]))
    params = {
        **model.params,
        "unet": nested_params(fresh_params(_component("unet"), unet, seed)),
        "vae": nested_params(autoencoder),
    }
    vae = dataclasses.replace(vae, scaling_factor=1.0)
    deviation = float(jnp.std(encode_images(vae, params["vae"], images)))
    config = dataclasses.replace(
        model.config,
        unet=unet,
        vae=dataclasses.replace(vae, scaling_factor=1.0 / deviation),
        schedule=ScheduleConfig(prediction_type="v_prediction"),
    )
    return Model(params, config)


def untrained_fuser(model: Model, seed: int = 0) -> Model:
    """Returns a local fuser alone that starts from a model's UNet and can learn within minutes.

    Like `cnc_jax.surgery.init_local`, but with narrow stems, and with kernels of the feature
    extractor so large that the maps still show behind it: PyTorch's initialisation leaves less
    than a hundredth of them there, which takes long to make up for.

    Args:
      model: with the UNet.
      seed: of the new weights.
    """
    config = _smallest_fuser(model.config.unet)
    donor = flat_params(model.params["unet"])
    flat = fresh_params(_component("local_fuser"), config, seed)
    for path, array in flat.items():
        if path in donor and donor[path].shape == array.shape:
            flat[path] = np.asarray(donor[path])
        elif re.fullmatch(_EXTRACTOR_KERNEL, path):
            flat[path] = array * _LIVELY_GAIN
    params = {"local_fuser": nested_params(flat)}
    return Model(params, CnCConfig(schedule=model.config.schedule, local_fuser=config))


def _smallest_unet(*channels: int) -> UNetConfig:
    return UNetConfig(
        block_out_channels=channels,
        layers_per_block=1,
        attention_levels=(True, False),
        num_heads=2,
        cross_attention_dim=16,
        norm_num_groups=8,
    )


def _smallest_fuser(unet: UNetConfig) -> LocalFuserConfig:
    return LocalFuserConfig(unet=unet, stem_channels=(8, 8, 8, 8), inject_channels=(8, 12))


def _component(name: str) -> Component:
    return next(component for component in COMPONENTS if component.name == name)


def _warm_and_narrow(flat: dict[str, Any]) -> dict[str, Any]:
    """Returns an autoencoder that sees red minus blue, and whose posterior is narrow."""
    kernel, bias = np.array(flat["quant_conv/kernel"]), np.array(flat["quant_conv/bias"])
    half = len(bias) // 2
    kernel[..., half:], bias[half:] = 0.0, _NARROW_LOGVAR
    warm = flat["encoder/conv_in/kernel"][:, :, :1] * _WARMTH[:, None]
    changed = {"quant_conv/kernel": kernel, "quant_conv/bias": bias}
    return {**flat, **changed, "encoder/conv_in/kernel": warm}
