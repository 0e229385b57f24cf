"""The levels of the UNet: the blocks of its encoder, its middle and its decoder, and its sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp

from sd_jax.attention import Implementation
from sd_jax.layers import Downsample, GroupNorm, ResnetBlock, SpatialTransformer, Upsample
from sd_jax.remat import Remat, remat_layer
from sd_jax.typing import Array, Dtype, Float


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Sizes of a UNet; the defaults are Stable Diffusion 1.x's.

    Attributes:
      in_channels: 4; 9 in the inpainting UNet (latents, mask, masked image's latents).
      out_channels: channels of the prediction.
      block_out_channels: width of each resolution level.
      layers_per_block: ResnetBlocks in each level of the encoder; the decoder has one more.
      attention_levels: for each level, whether its ResnetBlocks are followed by transformers.
      num_heads: attention heads at every level.
      cross_attention_dim: width of `encoder_hidden_states`.
      norm_num_groups: groups of every group norm.
    """

    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    attention_levels: tuple[bool, ...] = (True, True, True, False)
    num_heads: int = 8
    cross_attention_dim: int = 768
    norm_num_groups: int = 32

    @property
    def time_embed_dim(self) -> int:
        """Width of the time embedding."""
        return 4 * self.block_out_channels[0]

    @property
    def num_levels(self) -> int:
        """Number of resolution levels."""
        return len(self.block_out_channels)

    @property
    def num_skips(self) -> int:
        """Number of skip connections: conv_in, the ResnetBlocks and the downsamplers."""
        return self.num_levels * (self.layers_per_block + 1)

    @property
    def size_multiple(self) -> int:
        """What height and width of the latents must be a multiple of."""
        return 2 ** (self.num_levels - 1)

    def feature_sizes(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Returns (height, width) of each level for latents of this size."""
        return tuple((height >> level, width >> level) for level in range(self.num_levels))

    def skip_levels(self) -> tuple[int, ...]:
        """Returns the resolution level of each skip connection, in the encoder's order."""
        levels = [0]
        for level in range(self.num_levels):
            levels += [level] * self.layers_per_block
            if level < self.num_levels - 1:
                levels.append(level + 1)
        return tuple(levels)


class DownBlock(nn.Module):
    """One level of the encoder: ResnetBlocks with or without transformers, then a downsampler.

    Attributes:
      config: sizes.
      level: from 0, the highest resolution.
      first_norm: norm of the first ResnetBlock; gets `features`.
      dtype: type of the computation.
      attention_implementation: see `sd_jax.attention.attention`.
      remat: see `sd_jax.remat`.
    """

    config: UNetConfig
    level: int
    first_norm: Callable[..., nn.Module] = GroupNorm
    dtype: Dtype = jnp.float32
    attention_implementation: Implementation = "auto"
    remat: Remat = "none"

    @nn.compact
    def __call__(
        self,
        hidden_states: Float[Array, "b h w c"],
        time_embedding: Float[Array, "b e"],
        context: Float[Array, "b k cc"],
        cross_attention_bias: Float[Array, "#b 1 #hw k"] | None = None,
        features: Float[Array, "b h w f"] | None = None,
        intrablock_residual: Float[Array, "b h w out"] | None = None,
    ) -> tuple[Float[Array, "b h2 w2 out"], list[Array]]:
        """Returns the level's output and its skips."""
        config, channels = self.config, self.config.block_out_channels[self.level]
        skips = []
        for index in range(config.layers_per_block):
            first = index == 0
            hidden_states = remat_layer(ResnetBlock, self.remat)(
                channels,
                norm=self.first_norm if first else GroupNorm,
                num_groups=config.norm_num_groups,
                dtype=self.dtype,
                name=f"resnets_{index}",
            )(hidden_states, time_embedding, features if first else None)
            if config.attention_levels[self.level]:
                hidden_states = remat_layer(SpatialTransformer, self.remat)(
                    config.num_heads,
                    config.norm_num_groups,
                    self.dtype,
                    self.attention_implementation,
                    name=f"attentions_{index}",
                )(hidden_states, context, cross_attention_bias)
            if index == config.layers_per_block - 1 and intrablock_residual is not None:
                hidden_states = hidden_states + intrablock_residual.astype(hidden_states.dtype)
            skips.append(hidden_states)
        if self.level < config.num_levels - 1:
            hidden_states = Downsample(channels, dtype=self.dtype, name="downsamplers_0")(
                hidden_states
            )
            skips.append(hidden_states)
        return hidden_states, skips


class MidBlock(nn.Module):
    """ResnetBlock, transformer, ResnetBlock at the lowest resolution.

    Attributes:
      config: sizes.
      dtype: type of the computation.
      attention_implementation: see `sd_jax.attention.attention`.
      remat: see `sd_jax.remat`.
    """

    config: UNetConfig
    dtype: Dtype = jnp.float32
    attention_implementation: Implementation = "auto"
    remat: Remat = "none"

    @nn.compact
    def __call__(
        self,
        hidden_states: Float[Array, "b h w c"],
        time_embedding: Float[Array, "b e"],
        context: Float[Array, "b k cc"],
        cross_attention_bias: Float[Array, "#b 1 #hw k"] | None = None,
    ) -> Float[Array, "b h w c"]:
        """Returns the block's output."""
        config = self.config
        for index in range(2):
            hidden_states = remat_layer(ResnetBlock, self.remat)(
                config.block_out_channels[-1],
                num_groups=config.norm_num_groups,
                dtype=self.dtype,
                name=f"resnets_{index}",
            )(hidden_states, time_embedding)
            if index == 0:
                hidden_states = remat_layer(SpatialTransformer, self.remat)(
                    config.num_heads,
                    config.norm_num_groups,
                    self.dtype,
                    self.attention_implementation,
                    name="attentions_0",
                )(hidden_states, context, cross_attention_bias)
        return hidden_states


class UpBlock(nn.Module):
    """One level of the decoder: joins the skips, then upsamples unless it is the last.

    Attributes:
      config: sizes.
      level: from 0, the highest resolution.
      dtype: type of the computation.
      attention_implementation: see `sd_jax.attention.attention`.
      remat: see `sd_jax.remat`.
    """

    config: UNetConfig
    level: int
    dtype: Dtype = jnp.float32
    attention_implementation: Implementation = "auto"
    remat: Remat = "none"

    @nn.compact
    def __call__(
        self,
        hidden_states: Float[Array, "b h w c"],
        skips: Sequence[Array],
        time_embedding: Float[Array, "b e"],
        context: Float[Array, "b k cc"],
        cross_attention_bias: Float[Array, "#b 1 #hw k"] | None = None,
    ) -> Float[Array, "b h2 w2 out"]:
        """Returns the level's output; `skips` are its own, in the encoder's order."""
        config, channels = self.config, self.config.block_out_channels[self.level]
        for index, skip in enumerate(reversed(skips)):
            hidden_states = remat_layer(ResnetBlock, self.remat)(
                channels,
                num_groups=config.norm_num_groups,
                dtype=self.dtype,
                name=f"resnets_{index}",
            )(jnp.concatenate([hidden_states, skip], axis=-1), time_embedding)
            if config.attention_levels[self.level]:
                hidden_states = remat_layer(SpatialTransformer, self.remat)(
                    config.num_heads,
                    config.norm_num_groups,
                    self.dtype,
                    self.attention_implementation,
                    name=f"attentions_{index}",
                )(hidden_states, context, cross_attention_bias)
        if self.level > 0:
            hidden_states = Upsample(channels, dtype=self.dtype, name="upsamplers_0")(hidden_states)
        return hidden_states
