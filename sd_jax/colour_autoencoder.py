"""An autoencoder that needs no training: its latents are the mean colours of squares of pixels.

It is an `AutoencoderKL` of real shape, whose weights are set by hand so that pictures pass as they
are: each ResnetBlock and attention adds nothing, each downsampler takes the mean of four pixels,
each upsampler repeats. For tests and examples of what comes after the autoencoder: maps of classes
keep their colours, which random autoencoders do not.

A group norm would take the colours' mean and spread away. Beside each colour stand its negative,
and a constant that is large against both with its negative: the group's mean is 0, and its spread
that of the constants, up to 1 in 1000. SiLU is the identity for large inputs, hence the offset.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from sd_jax.convert.component import COMPONENTS
from sd_jax.typing import Array, Float, Params, flat_params, nested_params
from sd_jax.vae import VAEConfig, encode_images

_COLOURS = 3
# A colour, its negative, the constant, its negative.
_GROUP = 4
_WIDTH = (_COLOURS + 1) * _GROUP
_CONSTANT = 40.0
_OFFSET = 30.0
_NARROW_LOGVAR = -20.0


def colour_autoencoder(
    images: Float[Array, "b h w 3"], num_levels: int = 3
) -> tuple[VAEConfig, Params]:
    """Returns sizes and parameters; latents of `images` have the variance 1.

    Args:
      images: in [-1, 1].
      num_levels: latents are as small as 2 ** (num_levels - 1) pixels.
    """
    config = VAEConfig(
        block_out_channels=(_WIDTH,) * num_levels,
        layers_per_block=1,
        norm_num_groups=_WIDTH // _GROUP,
        scaling_factor=1.0,
    )
    component = next(item for item in COMPONENTS if item.name == "vae")
    shapes = flat_params(component.abstract_params(config))
    flat = {path: np.zeros(leaf.shape, np.float32) for path, leaf in shapes.items()}
    for path, array in flat.items():
        if path.endswith("/scale"):
            array[...] = 1.0
        elif path.endswith("downsamplers_0/conv/kernel"):
            array[:2, :2] = np.eye(_WIDTH) / 4.0
        elif path.endswith("upsamplers_0/conv/kernel"):
            array[1, 1] = np.eye(_WIDTH)
    # Latents: red, green, blue, and their mean, so that no channel is empty.
    mix = np.concatenate([np.eye(_COLOURS), np.full((_COLOURS, 1), 1.0 / _COLOURS)], axis=1)
    _spread_colours(flat, "encoder/conv_in", np.eye(_COLOURS))
    _gather_colours(flat, "encoder", np.concatenate([mix, np.zeros_like(mix)], axis=1))
    flat["quant_conv/kernel"][0, 0] = np.eye(2 * mix.shape[1])
    flat["quant_conv/bias"][mix.shape[1] :] = _NARROW_LOGVAR
    flat["post_quant_conv/kernel"][0, 0] = np.eye(mix.shape[1])
    _spread_colours(flat, "decoder/conv_in", np.eye(mix.shape[1], _COLOURS))
    _gather_colours(flat, "decoder", np.eye(_COLOURS))
    params = nested_params({path: jnp.asarray(array) for path, array in flat.items()})
    deviation = float(jnp.std(jax.jit(encode_images, static_argnums=0)(config, params, images)))
    return dataclasses.replace(config, scaling_factor=1.0 / deviation), params


def _spread_colours(flat: dict[str, np.ndarray], path: str, colours: np.ndarray) -> None:
    """Sets a first convolution: inputs -> groups of colours (`colours` is [input colour])."""
    kernel, bias = flat[f"{path}/kernel"], flat[f"{path}/bias"]
    for index in range(_COLOURS):
        first = index * _GROUP
        kernel[1, 1, :, first] = colours[:, index]
        kernel[1, 1, :, first + 1] = -colours[:, index]
        bias[first + 2 : first + 4] = _CONSTANT, -_CONSTANT


def _gather_colours(flat: dict[str, np.ndarray], path: str, outputs: np.ndarray) -> None:
    """Sets a last norm and convolution: groups -> outputs (`outputs` is [colour output])."""
    scale, bias = flat[f"{path}/conv_norm_out/scale"], flat[f"{path}/conv_norm_out/bias"]
    # What the norm divides by: the spread of (colour, -colour, constant, -constant).
    scale[...] = _CONSTANT / np.sqrt(2.0)
    bias[...] = _OFFSET
    kernel = flat[f"{path}/conv_out/kernel"]
    for index in range(_COLOURS):
        kernel[1, 1, index * _GROUP] = outputs[index]
    flat[f"{path}/conv_out/bias"][...] = -_OFFSET * outputs.sum(axis=0)
