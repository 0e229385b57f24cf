"""Classifier-free guidance (arXiv:2207.12598) as a wrapper around a batched `DenoiseFn`."""

from __future__ import annotations

import jax.numpy as jnp

from sd_jax.typing import Array, DenoiseFn, Float


def stack_branches(*branches: Array | None) -> Array | None:
    """Returns the branches' conditions joined along the batch, or None if all are None."""
    present = [branch for branch in branches if branch is not None]
    if not present:
        return None
    if len(present) != len(branches):
        raise ValueError("a condition must be given in every branch of guidance or in none")
    return jnp.concatenate(present, axis=0)


def guided(denoise: DenoiseFn, guidance_scales: Float[Array, " scales"]) -> DenoiseFn:
    """Returns a DenoiseFn whose one batched call evaluates all branches and combines them.

    Branch 0 is unconditional and each later branch adds one condition to the one before:

        noise = e_0 + s_1 (e_1 - e_0) + s_2 (e_2 - e_1) + ...

    One scale is the usual guidance on the text. Two, with the image conditions in branch 1 and the
    text added in branch 2, give each a scale of its own (arXiv:2211.09800, eq. 3).

    Args:
      denoise: takes (scales + 1) times the batch, branch after branch (`stack_branches`).
      guidance_scales: s_1, s_2, ...; traced, so that other scales compile nothing.
    """
    num_branches = guidance_scales.shape[0] + 1

    def denoise_guided(latents: Array, timesteps: Array) -> Array:
        repeated = jnp.concatenate([latents] * num_branches, axis=0)
        noise = denoise(repeated, timesteps).reshape(num_branches, *latents.shape)
        scales = guidance_scales.reshape(-1, *(1,) * latents.ndim)
        return noise[0] + jnp.sum(scales * (noise[1:] - noise[:-1]), axis=0)

    return denoise_guided
