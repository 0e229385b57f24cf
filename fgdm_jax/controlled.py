"""A factor whose parent is an image: the frozen prior with a ControlNet (arXiv:2302.05543).

The last factor of the released graph: the map drawn by the first is decoded, resized and shown to
a ControlNet as its hint, in the conditional and in the unconditional branch of guidance alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp

from fgdm_jax.networks import precompute_text
from sd_jax.attention import Implementation
from sd_jax.controlnet import ControlNet, ControlNetConfig
from sd_jax.model import Model
from sd_jax.network_settings import NetworkSettings
from sd_jax.precompute import precompute
from sd_jax.schedule import make_schedule, noise_from_prediction
from sd_jax.typing import Array, DenoiseFn, Dtype, Float, Num, apply_module
from sd_jax.unet import UNet

Scale: TypeAlias = float | Sequence[float] | Array
"""Of the residuals: one number, or one for each (the skips in order, the middle block last)."""


class ControlledNetworks:
    """The UNet and its ControlNet."""

    def __init__(self, model: Model, settings: NetworkSettings) -> None:
        """Takes the networks.

        Args:
          model: with a UNet and a ControlNet.
          settings: of the computation.

        Raises:
          ValueError: the model lacks one of them.
        """
        model.require("unet", "controlnet")
        self.model = model
        self._settings = settings
        shared = (settings.dtype, settings.attention_implementation)
        self._unet = UNet(model.config.unet, *shared, settings.remat)
        self._controlnet = ControlNet(model.config.controlnet, *shared)

    def precompute(
        self, text_embeddings: Float[Array, "b k cc"], hint: Float[Array, "hb hh hw hc"]
    ) -> dict[str, Any]:
        """Returns what does not depend on the timestep: the hint's features, keys and values."""
        batch, config = text_embeddings.shape[0], self.model.config.controlnet
        hint = repeat_hint(hint, batch)
        height, width = latents_size(config, hint)
        return {
            "unet": precompute_text(self.model, text_embeddings, self._settings),
            "controlnet": precompute(
                self._controlnet,
                {"params": self.model.params["controlnet"]},
                jnp.zeros((batch, height, width, config.unet.in_channels)),
                jnp.zeros(batch, jnp.int32),
                text_embeddings,
                hint,
            ),
        }

    def __call__(
        self,
        latents: Float[Array, "b h w c"],
        timesteps: Array,
        text_embeddings: Float[Array, "b k cc"],
        hint: Float[Array, "hb hh hw hc"],
        conditioning_scale: Scale = 1.0,
        precomputed: Mapping[str, Any] | None = None,
    ) -> Float[Array, "b h w out"]:
        """Returns the UNet's prediction: noise, or velocity, by the model's prediction type.

        Args:
          latents: noisy latents of the image.
          timesteps: 0 to 999, one for each example or one for all.
          text_embeddings: last hidden state of the text encoder.
          hint: in [0, 1], eight times the size of the latents.
          conditioning_scale: of the residuals.
          precomputed: from `precompute`, with the same text and hint; computed here unless given.

        Raises:
          ValueError: the inputs do not fit the model or one another; all problems are listed.
        """
        config = self.model.config
        check_hint(config.controlnet, latents, text_embeddings, hint)
        scales = residual_scales(config.controlnet, conditioning_scale)
        timesteps = jnp.broadcast_to(timesteps, latents.shape[:1])
        residuals, middle = apply_module(
            self._controlnet,
            self._variables("controlnet", precomputed),
            latents,
            timesteps,
            text_embeddings,
            repeat_hint(hint, latents.shape[0]),
        )
        *residuals, middle = (
            residual * scale.astype(residual.dtype)
            for residual, scale in zip([*residuals, middle], scales, strict=True)
        )
        return apply_module(
            self._unet,
            self._variables("unet", precomputed),
            latents,
            timesteps,
            text_embeddings,
            down_block_additional_residuals=residuals,
            mid_block_additional_residual=middle,
        )

    def _variables(self, name: str, precomputed: Mapping[str, Any] | None) -> dict[str, Any]:
        variables = {"params": self.model.params[name]}
        return variables if precomputed is None else {**variables, "precomputed": precomputed[name]}


def controlnet_denoise_fn(
    model: Model,
    text_embeddings: Float[Array, "b k cc"],
    hint: Float[Array, "hb hh hw hc"],
    *,
    conditioning_scale: Scale = 1.0,
    dtype: Dtype = jnp.float32,
    attention_implementation: Implementation = "auto",
    precomputed: Mapping[str, Any] | None = None,
) -> DenoiseFn:
    """Returns (latents, timesteps) -> noise with everything computed once that can be.

    Call it inside the jitted function that samples, and outside its loop.

    Args:
      model: with a UNet and a ControlNet.
      text_embeddings: one for each of the latents; for guidance, those of all branches.
      hint: images in [0, 1], eight times the size of the latents; as many as latents, or as images,
        and every branch of guidance then sees the same.
      conditioning_scale: of the residuals.
      dtype: type of the computation; norms, softmax and the result stay float32.
      attention_implementation: see `sd_jax.attention.attention`.
      precomputed: from `precompute_hint` with this text, this hint and these settings.

    Raises:
      ValueError: the model lacks a network, or the inputs do not fit.
    """
    settings = NetworkSettings(dtype, attention_implementation)
    networks = ControlledNetworks(model, settings)
    if precomputed is None:
        precomputed = networks.precompute(text_embeddings, hint)
    config = model.config.schedule
    schedule = make_schedule(config)

    def denoise(latents: Array, timesteps: Array) -> Array:
        prediction = networks(
            latents, timesteps, text_embeddings, hint, conditioning_scale, precomputed
        )
        return noise_from_prediction(
            schedule, config.prediction_type, prediction, latents, timesteps
        )

    return denoise


def precompute_hint(
    model: Model,
    text_embeddings: Float[Array, "b k cc"],
    hint: Float[Array, "hb hh hw hc"],
    *,
    dtype: Dtype = jnp.float32,
    attention_implementation: Implementation = "auto",
) -> dict[str, Any]:
    """Returns what all steps share, to be handed from one compiled program to another.

    Call it inside `jit`. Arguments as in `controlnet_denoise_fn`.
    """
    settings = NetworkSettings(dtype, attention_implementation)
    return ControlledNetworks(model, settings).precompute(text_embeddings, hint)


def predict_controlled_noise(
    model: Model,
    latents: Float[Array, "b h w c"],
    timesteps: Num[Array, "*b1"],
    text_embeddings: Float[Array, "tb k cc"],
    hint: Float[Array, "hb hh hw hc"],
    *,
    conditioning_scale: Scale = 1.0,
    dtype: Dtype = jnp.float32,
    attention_implementation: Implementation = "auto",
) -> Float[Array, "b h w out"]:
    """Returns the predicted noise of one step; arguments as in `controlnet_denoise_fn`."""
    networks = ControlledNetworks(model, NetworkSettings(dtype, attention_implementation))
    prediction = networks(latents, timesteps, text_embeddings, hint, conditioning_scale)
    config = model.config.schedule
    return noise_from_prediction(
        make_schedule(config), config.prediction_type, prediction, latents, timesteps
    )


def repeat_hint(hint: Float[Array, "hb h w c"], batch: int) -> Float[Array, "b h w c"]:
    """Returns the hints once for each branch of guidance, branch after branch."""
    if batch % hint.shape[0]:
        raise ValueError(
            f"there are {hint.shape[0]} hints for a batch of {batch}; give one for each image"
        )
    return jnp.concatenate([hint] * (batch // hint.shape[0]))


def latents_size(config: ControlNetConfig, hint: Array) -> tuple[int, int]:
    """Returns (height, width) of the latents that a hint belongs to."""
    scale = 2 ** (len(config.hint_block_out_channels) - 1)
    return hint.shape[1] // scale, hint.shape[2] // scale


def residual_scales(config: ControlNetConfig, scale: Scale) -> Float[Array, " residuals"]:
    """Returns one scale for each residual.

    Raises:
      ValueError: there are neither one nor as many as residuals.
    """
    scales, number = jnp.asarray(scale, jnp.float32), config.unet.num_skips + 1
    if scales.shape not in ((), (1,), (number,)):
        raise ValueError(
            f"conditioning_scale has shape {scales.shape}, expected one number or {number}, one "
            "for each residual"
        )
    return jnp.broadcast_to(scales, (number,))


def check_hint(
    config: ControlNetConfig, latents: Array, text_embeddings: Array, hint: Array
) -> None:
    """Checks shapes against the sizes of the ControlNet and one another.

    Args:
      config: sizes.
      latents: of the image.
      text_embeddings: of the prompts.
      hint: of the ControlNet.

    Raises:
      ValueError: lists everything that does not fit.
    """
    batch, height, width, _ = latents.shape
    unet, problems = config.unet, []
    if height % unet.size_multiple or width % unet.size_multiple:
        problems.append(
            f"latents are {height} x {width}, but both must be multiples of {unet.size_multiple}"
        )
    if text_embeddings.shape[::2] != (batch, unet.cross_attention_dim):
        problems.append(
            f"text_embeddings are {text_embeddings.shape}, expected [{batch}, tokens, "
            f"{unet.cross_attention_dim}] for these latents and this UNet"
        )
    scale = 2 ** (len(config.hint_block_out_channels) - 1)
    expected = (scale * height, scale * width, config.hint_channels)
    if hint.shape[1:] != expected:
        problems.append(
            f"the hint is {hint.shape[1:]}, expected {expected} for these latents: resize it"
        )
    if batch % hint.shape[0]:
        problems.append(f"there are {hint.shape[0]} hints for a batch of {batch}")
    if problems:
        raise ValueError("the inputs do not fit the ControlNet:\n- " + "\n- ".join(problems))
