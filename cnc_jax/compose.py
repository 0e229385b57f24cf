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
from cnc_jax.denoise import Prepared, prepare, prepared_denoise_fn
from sd_jax.attention import Implementation
from sd_jax.clip import CLIPVisionModel
from sd_jax.encoding import decode_images, encode_prompts
from sd_jax.guidance import guided
from sd_jax.model import Model
from sd_jax.sampling import (
    SamplerState,
    SamplerTable,
    chunk_size,
    initial_noise,
    initial_state,
    sample_steps,
)
from sd_jax.typing import Array, Dtype, Float, Int, KeyArray, apply_module

__all__ = [
    "compose_latents",
    "compose_steps",
    "decode_images",
    "encode_exemplars",
    "encode_prompts",
    "prepare_branches",
]


@functools.partial(jax.jit, static_argnames="dtype")
def encode_exemplars(
    model: Model, pixels: Float[Array, "b layers h w 3"], *, dtype: Dtype = jnp.float32
) -> Float[Array, "b layers d"]:
    """Returns the exemplar embeddings of images preprocessed for CLIP, layers on axis 1."""
    model.require("image_encoder")
    tower = CLIPVisionModel(model.config.image_encoder, dtype)
    flat = pixels.reshape(-1, *pixels.shape[2:])
    embeddings = apply_module(tower, {"params": model.params["image_encoder"]}, flat)
    return embeddings.reshape(*pixels.shape[:2], -1)


@functools.partial(
    jax.jit,
    static_argnames=("latents_size", "image_guidance", "dtype", "attention_implementation"),
)
def prepare_branches(
    model: Model,
    text_embeddings: Float[Array, "b k c"],
    condition: Condition,
    *,
    latents_size: tuple[int, int],
    negative_embeddings: Float[Array, "b k c"] | None = None,
    image_guidance: bool = False,
    dtype: Dtype = jnp.float32,
    attention_implementation: Implementation = "auto",
) -> Prepared:
    """Returns what all steps share, for all branches of guidance, joined along the batch.

    Args:
      model: from `cnc_jax.load`.
      text_embeddings: of the prompts.
      condition: depth maps, exemplars and masks of each image.
      latents_size: (height, width) of the latents.
      negative_embeddings: what guidance leads away from; None leaves guidance out.
      image_guidance: whether a branch without text and image conditions comes first.
      dtype: type of the computation.
      attention_implementation: see `sd_jax.attention.attention`.
    """
    contexts, conditions = [text_embeddings], [condition]
    if negative_embeddings is not None:
        contexts, conditions = [negative_embeddings, text_embeddings], [condition, condition]
        if image_guidance:
            contexts.insert(0, negative_embeddings)
            conditions.insert(0, null_condition(condition))
    batch = text_embeddings.shape[0] * len(contexts)
    return prepare(
        model,
        (batch, *latents_size, model.config.unet.in_channels),
        jnp.concatenate(contexts),
        concatenate_conditions(*conditions),
        dtype=dtype,
        attention_implementation=attention_implementation,
    )


@functools.partial(jax.jit, static_argnames=("dtype", "attention_implementation"))
def compose_steps(
    model: Model,
    prepared: Prepared,
    table: SamplerTable,
    state: SamplerState,
    keys: KeyArray,
    first_step: Int[Array, ""] | int = 0,
    *,
    guidance_scales: Float[Array, " scales"] | None = None,
    dtype: Dtype = jnp.float32,
    attention_implementation: Implementation = "auto",
) -> SamplerState:
    """Returns the state after some steps of the sampler.

    Args:
      model: from `cnc_jax.load`.
      prepared: from `prepare_branches`, with the same settings.
      table: rows of the sampler (`sd_jax.samplers`).
      state: before these steps.
      keys: one for each image; an image depends on its key alone, not on its batch.
      first_step: index of the first row in the whole table.
      guidance_scales: one for each branch but the first (`sd_jax.guidance.guided`).
      dtype: type of the computation.
      attention_implementation: see `sd_jax.attention.attention`.
    """
    denoise = prepared_denoise_fn(
        model, prepared, dtype=dtype, attention_implementation=attention_implementation
    )
    if guidance_scales is not None:
        denoise = guided(denoise, guidance_scales)
    return sample_steps(denoise, table, state, keys, first_step)


def compose_latents(
    model: Model,
    text_embeddings: Float[Array, "b k c"],
    condition: Condition,
    table: SamplerTable,
    keys: KeyArray,
    *,
    latents_size: tuple[int, int],
    negative_embeddings: Float[Array, "b k c"] | None = None,
    guidance_scale: float | None = None,
    image_guidance_scale: float | None = None,
    report: Callable[[int], object] | None = None,
    **settings: Any,
) -> Float[Array, "b h w latent"]:
    """Returns clean latents, running the sampler in a few calls of one compiled program.

    Cut like this, long runs can report progress without host callbacks (with which JAX's
    compilation cache stores nothing), and numbers of steps with a common divisor share a program.

    Args:
      model: from `cnc_jax.load`.
      text_embeddings: of the prompts.
      condition: depth maps, exemplars and masks of each image.
      table: the whole sampler.
      keys: one for each image; an image depends on its key alone, not on its batch.
      latents_size: (height, width) of the latents: an eighth of the image's.
      negative_embeddings: what guidance leads away from; needed with a guidance scale.
      guidance_scale: of the text. None leaves guidance out, at half the cost; as upstream, the
        image conditions stand on both sides of it and are not amplified.
      image_guidance_scale: gives the image conditions a scale of their own, at half more cost:
        noise = e(negative, none) + s_image (e(negative, all) - e(negative, none))
                + s_text (e(text, all) - e(negative, all)).
      report: called with the number of steps done since the last call.
      **settings: `dtype` and `attention_implementation`, as in `compose_steps`.
    """
    scales = None
    if guidance_scale is not None:
        if negative_embeddings is None:
            raise ValueError("guidance_scale needs negative_embeddings (of '' for no prompt)")
        given = (image_guidance_scale, guidance_scale)
        scales = jnp.asarray([scale for scale in given if scale is not None], jnp.float32)
    prepared = prepare_branches(
        model,
        text_embeddings,
        condition,
        latents_size=latents_size,
        negative_embeddings=None if guidance_scale is None else negative_embeddings,
        image_guidance=image_guidance_scale is not None,
        **settings,
    )
    state = initial_state(initial_noise(keys, (*latents_size, model.config.unet.out_channels)))
    num_steps = table.timesteps.shape[0]
    size = chunk_size(num_steps)
    for first in range(0, num_steps, size):
        rows = jax.tree.map(lambda column, first=first: column[first : first + size], table)
        state = compose_steps(
            model,
            prepared,
            rows,
            state,
            keys,
            jnp.int32(first),
            guidance_scales=scales,
            **settings,
        )
        if report is not None:
            jax.block_until_ready(state)
            report(size)
    return state.latents
