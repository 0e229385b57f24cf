"""Text and layered conditions -> images: the jitted programs that sampling is made of.

There is one program for each (size, batch, kinds of conditions and guidance). Prompts, seeds,
conditions, strengths, guidance scales and the sampler itself are arguments: other values of them
compile nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cnc_jax.condition import Condition, concatenate_conditions, null_condition
from cnc_jax.denoise import denoise_fn
from sd_jax.attention import Implementation
from sd_jax.clip import CLIPVisionModel, encode_text
from sd_jax.guidance import guided
from sd_jax.model import Model
from sd_jax.sampling import (
    SamplerState,
    SamplerTable,
    initial_noise,
    initial_state,
    sample_steps,
)
from sd_jax.typing import Array, Dtype, Float, Int, KeyArray
from sd_jax.vae import decode_latents


@functools.partial(jax.jit, static_argnames="dtype")
def encode_prompts(
    model: Model, input_ids: Int[Array, "b n"], *, dtype: Dtype = jnp.float32
) -> Float[Array, "b n c"]:
    """Returns the text embeddings of tokenised prompts (`sd_jax.tokenizer`)."""
    model.require("text_encoder")
    return encode_text(
        model.config.text_encoder, model.params["text_encoder"], input_ids, dtype=dtype
    )


@functools.partial(jax.jit, static_argnames="dtype")
def encode_exemplars(
    model: Model, pixels: Float[Array, "b layers h w 3"], *, dtype: Dtype = jnp.float32
) -> Float[Array, "b layers d"]:
    """Returns the exemplar embeddings of images preprocessed for CLIP, layers on axis 1."""
    model.require("image_encoder")
    tower = CLIPVisionModel(model.config.image_encoder, dtype)
    flat = pixels.reshape(-1, *pixels.shape[2:])
    embeddings = tower.apply({"params": model.params["image_encoder"]}, flat)
    return embeddings.reshape(*pixels.shape[:2], -1)


@functools.partial(jax.jit, static_argnames=("dtype", "attention_implementation"))
def compose_steps(
    model: Model,
    text_embeddings: Float[Array, "b k c"],
    condition: Condition,
    table: SamplerTable,
    state: SamplerState,
    keys: KeyArray,
    first_step: Int[Array, ""] | int = 0,
    *,
    negative_embeddings: Float[Array, "b k c"] | None = None,
    guidance_scale: Any = None,
    image_guidance_scale: Any = None,
    dtype: Dtype = jnp.float32,
    attention_implementation: Implementation = "auto",
) -> SamplerState:
    """Returns the state after some steps of the sampler.

    Args:
      model: from `cnc_jax.load`.
      text_embeddings: of the prompts.
      condition: depth maps, exemplars and masks of each image.
      table: rows of the sampler (`sd_jax.samplers`).
      state: before these steps.
      keys: one for each image; an image depends on its key alone, not on its batch.
      first_step: index of the first row in the whole table.
      negative_embeddings: what guidance leads away from; needed with a guidance scale.
      guidance_scale: of the text. None leaves guidance out, at half the cost; as upstream, the
        image conditions stand on both sides of it and are not amplified.
      image_guidance_scale: gives the image conditions a scale of their own, at half more cost:
        noise = e(negative, none) + s_image (e(negative, all) - e(negative, none))
                + s_text (e(text, all) - e(negative, all)).
      dtype: type of the computation.
      attention_implementation: see `sd_jax.attention.attention`.
    """
    scales: list[Any] = []
    contexts, conditions = [text_embeddings], [condition]
    if guidance_scale is not None:
        if negative_embeddings is None:
            raise ValueError("guidance_scale needs negative_embeddings (of '' for no prompt)")
        scales, contexts = [guidance_scale], [negative_embeddings, text_embeddings]
        conditions = [condition, condition]
        if image_guidance_scale is not None:
            scales.insert(0, image_guidance_scale)
            contexts.insert(0, negative_embeddings)
            conditions.insert(0, null_condition(condition))
    batch, *shape = state.latents.shape
    denoise = denoise_fn(
        model,
        (batch * len(contexts), *shape),
        jnp.concatenate(contexts),
        concatenate_conditions(*conditions),
        dtype=dtype,
        attention_implementation=attention_implementation,
    )
    if scales:
        denoise = guided(denoise, jnp.stack([jnp.float32(scale) for scale in scales]))
    return sample_steps(denoise, table, state, keys, first_step)


def compose_latents(
    model: Model,
    text_embeddings: Float[Array, "b k cc"],
    condition: Condition,
    table: SamplerTable,
    keys: KeyArray,
    *,
    latents_size: tuple[int, int],
    report: Callable[[int], object] | None = None,
    **settings: Any,
) -> Float[Array, "b h w c"]:
    """Returns clean latents, running the sampler in a few calls of one compiled program.

    Cut like this, long runs can report progress without host callbacks (with which JAX's
    compilation cache stores nothing), and numbers of steps with a common divisor share a program.

    Args:
      model: as in `compose_steps`.
      text_embeddings: as in `compose_steps`.
      condition: as in `compose_steps`.
      table: the whole sampler.
      keys: one for each image.
      latents_size: (height, width) of the latents: an eighth of the image's.
      report: called with the number of steps done since the last call.
      **settings: the keyword arguments of `compose_steps`.
    """
    shape = (*latents_size, model.config.unet.out_channels)
    state = initial_state(initial_noise(keys, shape))
    num_steps = table.timesteps.shape[0]
    size = chunk_size(num_steps)
    for first in range(0, num_steps, size):
        rows = jax.tree.map(lambda column, first=first: column[first : first + size], table)
        state = compose_steps(
            model, text_embeddings, condition, rows, state, keys, jnp.int32(first), **settings
        )
        if report is not None:
            jax.block_until_ready(state)
            report(size)
    return state.latents


def chunk_size(num_steps: int, largest: int = 8) -> int:
    """Returns the largest divisor of `num_steps` that is at most `largest`."""
    return max(size for size in range(1, largest + 1) if num_steps % size == 0)


@functools.partial(jax.jit, static_argnames=("dtype", "slice_size"))
def decode_images(
    model: Model, latents: Float[Array, "b h w c"], *, dtype: Dtype, slice_size: int = 1
) -> Float[Array, "b ih iw 3"]:
    """Returns the images of clean latents in [-1, 1], decoded `slice_size` at a time."""
    model.require("vae")
    return decode_latents(
        model.config.vae, model.params["vae"], latents, dtype=dtype, slice_size=slice_size
    )
