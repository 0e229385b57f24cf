"""Inpainting with Stable Diffusion's 9-channel UNet: what is behind a mask, painted anew.

The UNet sees [noisy latents (4), mask (1), latents of the masked image (4)]; nothing else differs
from text-to-image sampling (runwayml/stable-diffusion-inpainting).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from sd_jax.attention import Implementation
from sd_jax.guidance import guided, stack_branches
from sd_jax.model import Model
from sd_jax.sampling import SamplerTable, initial_noise, sample
from sd_jax.schedule import make_schedule, noise_from_prediction
from sd_jax.typing import Array, Dtype, Float, KeyArray, apply_module
from sd_jax.unet import UNet
from sd_jax.vae import decode_latents, encode_images


@functools.partial(jax.jit, static_argnames=("dtype", "decode_slice", "attention_implementation"))
def inpaint(
    model: Model,
    images: Float[Array, "b h w 3"],
    masks: Float[Array, "b h w"],
    text_embeddings: Float[Array, "b k c"],
    negative_embeddings: Float[Array, "b k c"],
    table: SamplerTable,
    keys: KeyArray,
    *,
    guidance_scale: Float[Array, ""] | float = 7.5,
    dtype: Dtype = jnp.float32,
    decode_slice: int = 1,
    attention_implementation: Implementation = "auto",
) -> Float[Array, "b h w 3"]:
    """Returns images in [-1, 1] in which the masked part is new, and the rest near the old.

    The rest passes through the autoencoder, so it is not bit-equal; paste the old pixels back where
    that matters.

    Args:
      model: with a UNet of 9 input channels and the autoencoder.
      images: in [-1, 1], both sides multiples of what the UNet halves.
      masks: 1 where to paint, 0 where to keep; a threshold of 0.5 decides between.
      text_embeddings: what to paint.
      negative_embeddings: what guidance leads away from.
      table: the sampler, from noise to image (strength 1).
      keys: one for each image; an image depends on its key alone, not on its batch.
      guidance_scale: of the text.
      dtype: type of the computation.
      decode_slice: images decoded at once.
      attention_implementation: see `sd_jax.attention.attention`.

    Raises:
      ValueError: the model is no inpainting model.
    """
    check_inpainting(model)
    config = model.config
    masks = (masks >= 0.5).astype(jnp.float32)[..., None]
    vae = config.vae, model.params["vae"]
    masked = encode_images(*vae, images * (1.0 - masks), dtype=dtype)
    step = config.vae.downsampling
    # The pixel in the upper left of each cell decides, as in diffusers.
    inputs = jnp.concatenate([masks[:, ::step, ::step], masked], axis=-1)
    contexts = stack_branches(negative_embeddings, text_embeddings)
    branches = jnp.concatenate([inputs, inputs])
    schedule = make_schedule(config.schedule)
    unet = UNet(config.unet, dtype, attention_implementation)

    def denoise(latents: Array, timesteps: Array) -> Array:
        timesteps = jnp.broadcast_to(timesteps, latents.shape[:1])
        prediction = apply_module(
            unet,
            {"params": model.params["unet"]},
            jnp.concatenate([latents, branches], axis=-1),
            timesteps,
            contexts,
        )
        return noise_from_prediction(
            schedule, config.schedule.prediction_type, prediction, latents, timesteps
        )

    _, height, width, latent_channels = masked.shape
    noise = initial_noise(keys, (height, width, latent_channels))
    scales = jnp.asarray(guidance_scale, jnp.float32).reshape(1)
    latents = sample(guided(denoise, scales), table, noise, keys)
    return decode_latents(*vae, latents, dtype=dtype, slice_size=decode_slice)


def check_inpainting(model: Model) -> None:
    """Checks that the model can inpaint.

    Raises:
      ValueError: its UNet has not the 9 channels of an inpainting model, or a part is missing.
    """
    model.require("unet", "vae")
    channels = model.config.unet.in_channels
    if channels != 2 * model.config.vae.latent_channels + 1:
        raise ValueError(
            f"the UNet takes {channels} channels, an inpainting one takes "
            f"{2 * model.config.vae.latent_channels + 1}; use an inpainting checkpoint, such as "
            "stable-diffusion-inpainting"
        )
