"""Into the model's spaces and out again: texts, images and what batches hold of them.

    token ids -> text embeddings        images -> latents        latents -> images

Batches of training may hold embeddings and latents that were computed before; they are then taken
as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from sd_jax.clip import encode_text
from sd_jax.model import Model
from sd_jax.typing import Array, Dtype, Float, Int, apply_module
from sd_jax.vae import AutoencoderKL, Posterior, VAEConfig, decode_latents

Batch: TypeAlias = Mapping[str, Array]
"""As the stream makes it (docs/stream.md lists the keys)."""


@functools.partial(jax.jit, static_argnames="dtype")
def encode_prompts(
    model: Model, input_ids: Int[Array, "b n"], *, dtype: Dtype = jnp.float32
) -> Float[Array, "b n c"]:
    """Returns the text embeddings of tokenised prompts (`sd_jax.tokenizer`).

    Args:
      model: with its text encoder.
      input_ids: a multiple of 77 tokens each.
      dtype: type of the computation.
    """
    return text_of(model, {"input_ids": input_ids}, dtype)


@functools.partial(jax.jit, static_argnames=("dtype", "slice_size"))
def decode_images(
    model: Model, latents: Float[Array, "b h w c"], *, dtype: Dtype, slice_size: int = 1
) -> Float[Array, "b ih iw 3"]:
    """Returns the images of clean latents in [-1, 1], decoded `slice_size` at a time.

    Args:
      model: with its autoencoder.
      latents: scaled, as the UNet predicts them.
      dtype: type of the computation.
      slice_size: images decoded at once (`sd_jax.vae.decode_latents`).
    """
    model.require("vae")
    return decode_latents(
        model.config.vae, model.params["vae"], latents, dtype=dtype, slice_size=slice_size
    )


def text_of(model: Model, batch: Batch, dtype: Any = jnp.float32) -> Float[Array, "b k c"]:
    """Returns the text embeddings of a batch: its own, or those of its `input_ids`.

    Args:
      model: with its text encoder, unless the batch holds `text_embeddings`.
      batch: with one of the two.
      dtype: type of the computation.
    """
    if "text_embeddings" in batch:
        return batch["text_embeddings"]
    model.require("text_encoder")
    config, params = model.config.text_encoder, dict(model.params["text_encoder"])
    return encode_text(config, params, batch["input_ids"], dtype=dtype)


def posterior_of(
    model: Model, batch: Batch, key: str = "image", dtype: Any = jnp.float32
) -> Posterior:
    """Returns the autoencoder's posterior of a batch's images, unscaled.

    Args:
      model: with its autoencoder, unless the batch holds `latent_mean` and `latent_logvar`, which
        are those of the key "image".
      batch: images in [-1, 1].
      key: of the images.
      dtype: type of the computation.
    """
    if key == "image" and "latent_mean" in batch:
        return Posterior(batch["latent_mean"], batch["latent_logvar"])
    model.require("vae")
    autoencoder = AutoencoderKL(model.config.vae, dtype)
    variables = {"params": model.params["vae"]}
    return apply_module(autoencoder, variables, batch[key], method="encode")


def latents_scale(model: Model) -> float:
    """Returns what latents are multiplied by: the autoencoder's, or Stable Diffusion 1.x's."""
    return (model.config.vae or VAEConfig()).scaling_factor
