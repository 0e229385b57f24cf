"""The image filter that Stable Diffusion 1.x folders carry, with diffusers' rules."""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from sd_jax.clip import CLIPVisionConfig, CLIPVisionModel
from sd_jax.typing import Array, Bool, Dtype, Float, Params, apply_module


@dataclasses.dataclass(frozen=True)
class SafetyCheckerConfig:
    """Sizes of a safety checker.

    Attributes:
      vision: of its image tower.
      num_concepts: unwanted concepts.
      num_special_concepts: concepts that make the others' thresholds stricter.
    """

    vision: CLIPVisionConfig = CLIPVisionConfig()
    num_concepts: int = 17
    num_special_concepts: int = 3


class SafetyChecker(nn.Module):
    """Pixels -> whether an unwanted concept is near the image's embedding."""

    config: SafetyCheckerConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, pixels: Float[Array, "b h w 3"]) -> Bool[Array, " b"]:
        """Returns True where an image is to be blacked out.

        Args:
          pixels: preprocessed as for CLIP's image tower.
        """
        config, dim = self.config, self.config.vision.projection_dim
        embeds = CLIPVisionModel(config.vision, self.dtype, name="vision_model")(pixels)
        ones = nn.initializers.ones_init()

        def scores(name: str, count: int, adjustment: Array | float) -> Float[Array, "b c"]:
            concepts = self.param(f"{name}_embeds", ones, (count, dim)).astype(jnp.float32)
            thresholds = self.param(f"{name}_embeds_weights", ones, (count,)).astype(jnp.float32)
            cosine = _normalise(embeds) @ _normalise(concepts).T
            # The rounding is diffusers'; it decides at the threshold.
            return jnp.round(cosine - thresholds[None] + adjustment, 3)

        special = scores("special_care", config.num_special_concepts, 0.0)
        adjustment = jnp.where((special > 0).any(axis=1), 0.01, 0.0)[:, None]
        return (scores("concept", config.num_concepts, adjustment) > 0).any(axis=1)


def _normalise(embeds: Float[Array, "n d"]) -> Float[Array, "n d"]:
    return embeds / jnp.maximum(jnp.linalg.norm(embeds, axis=-1, keepdims=True), 1e-12)


@functools.partial(jax.jit, static_argnums=0)
def flag_images(
    config: SafetyCheckerConfig, params: Params, pixels: Float[Array, "b h w 3"]
) -> Bool[Array, " b"]:
    """Returns True for each image that the checker would black out."""
    return apply_module(SafetyChecker(config), {"params": params}, pixels)
