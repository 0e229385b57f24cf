"""Stable Diffusion 1.x's UNet, with the five seams that both papers are attached to.

    encoder_hidden_states                   text; CnC appends its exemplar tokens
    cross_attention_bias                    CnC's soft guidance, one entry per resolution level
    down_block_additional_residuals, mid_block_additional_residual
                                            CnC's local fuser, ControlNet
    down_intrablock_additional_residuals    FG-DM's adapters, one feature map per level
    sow("intermediates", "query_key", ...)  FG-DM's attention distillation

Whatever is attached is an argument: there is one UNet, and nothing subclasses or copies it. Copies
of its encoder (ControlNet, the local fuser) reuse `UNetEncoder`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp

from sd_jax.attention import Implementation
from sd_jax.layers import (
    Conv3x3,
    Downsample,
    GroupNorm,
    ResnetBlock,
    SpatialTransformer,
    TimestepEmbedding,
    Upsample,
)
from sd_jax.typing import Array, Dtype, Float, Num


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
    """One level of the encoder: ResnetBlocks with or without transformers, then a downsampler."""

    config: UNetConfig
    level: int
    first_norm: Callable[..., nn.Module] = GroupNorm
    dtype: Dtype = jnp.float32
    attention_implementation: Implementation = "auto"

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
            hidden_states = ResnetBlock(
                channels,
                norm=self.first_norm if first else GroupNorm,
                num_groups=config.norm_num_groups,
                dtype=self.dtype,
                name=f"resnets_{index}",
            )(hidden_states, time_embedding, features if first else None)
            if config.attention_levels[self.level]:
                hidden_states = SpatialTransformer(
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
    """ResnetBlock, transformer, ResnetBlock at the lowest resolution."""

    config: UNetConfig
    dtype: Dtype = jnp.float32
    attention_implementation: Implementation = "auto"

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
            hidden_states = ResnetBlock(
                config.block_out_channels[-1],
                num_groups=config.norm_num_groups,
                dtype=self.dtype,
                name=f"resnets_{index}",
            )(hidden_states, time_embedding)
            if index == 0:
                hidden_states = SpatialTransformer(
                    config.num_heads,
                    config.norm_num_groups,
                    self.dtype,
                    self.attention_implementation,
                    name="attentions_0",
                )(hidden_states, context, cross_attention_bias)
        return hidden_states


class UpBlock(nn.Module):
    """One level of the decoder: joins the skips, then upsamples unless it is the last."""

    config: UNetConfig
    level: int
    dtype: Dtype = jnp.float32
    attention_implementation: Implementation = "auto"

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
            hidden_states = ResnetBlock(
                channels,
                num_groups=config.norm_num_groups,
                dtype=self.dtype,
                name=f"resnets_{index}",
            )(jnp.concatenate([hidden_states, skip], axis=-1), time_embedding)
            if config.attention_levels[self.level]:
                hidden_states = SpatialTransformer(
                    config.num_heads,
                    config.norm_num_groups,
                    self.dtype,
                    self.attention_implementation,
                    name=f"attentions_{index}",
                )(hidden_states, context, cross_attention_bias)
        if self.level > 0:
            hidden_states = Upsample(channels, dtype=self.dtype, name="upsamplers_0")(hidden_states)
        return hidden_states


class UNetEncoder(nn.Module):
    """conv_in, the levels of the encoder and the middle block.

    Attributes:
      config: sizes.
      first_norm: norm of the first ResnetBlock of each level; gets that level's `level_features`.
      dtype: type of the computation.
      attention_implementation: see `sd_jax.attention.attention`.
    """

    config: UNetConfig
    first_norm: Callable[..., nn.Module] = GroupNorm
    dtype: Dtype = jnp.float32
    attention_implementation: Implementation = "auto"

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "b h w c"],
        time_embedding: Float[Array, "b e"],
        context: Float[Array, "b k cc"],
        *,
        cross_attention_bias: Sequence[Array] | None = None,
        conv_in_residual: Float[Array, "b h w c0"] | None = None,
        level_features: Sequence[Array] | None = None,
        intrablock_residuals: Sequence[Array] | None = None,
    ) -> tuple[Float[Array, "b hm wm cm"], list[Array]]:
        """Returns the middle block's output and the skips.

        Args:
          latents: noisy latents.
          time_embedding: output of TimestepEmbedding.
          context: tokens for the cross-attention.
          cross_attention_bias: one [b 1 (h w) k] per level.
          conv_in_residual: added to conv_in's output (ControlNet's hint).
          level_features: one per level, for `first_norm`.
          intrablock_residuals: one per level, added to the output of its last block.
        """
        config = self.config
        hidden_states = Conv3x3(config.block_out_channels[0], dtype=self.dtype, name="conv_in")(
            latents
        )
        if conv_in_residual is not None:
            hidden_states = hidden_states + conv_in_residual
        skips = [hidden_states]
        for level in range(config.num_levels):
            hidden_states, block_skips = DownBlock(
                config,
                level,
                self.first_norm,
                self.dtype,
                self.attention_implementation,
                name=f"down_blocks_{level}",
            )(
                hidden_states,
                time_embedding,
                context,
                _at(cross_attention_bias, level),
                _at(level_features, level),
                _at(intrablock_residuals, level),
            )
            skips += block_skips
        hidden_states = MidBlock(
            config, self.dtype, self.attention_implementation, name="mid_block"
        )(hidden_states, time_embedding, context, _at(cross_attention_bias, -1))
        return hidden_states, skips


class UNet(nn.Module):
    """Noise prediction of Stable Diffusion 1.x (arXiv:2112.10752)."""

    config: UNetConfig
    dtype: Dtype = jnp.float32
    attention_implementation: Implementation = "auto"

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "b h w c"],
        timesteps: Num[Array, " b"],
        encoder_hidden_states: Float[Array, "b k cc"],
        *,
        cross_attention_bias: Sequence[Array] | None = None,
        down_block_additional_residuals: Sequence[Array] | None = None,
        mid_block_additional_residual: Float[Array, "b hm wm cm"] | None = None,
        down_intrablock_additional_residuals: Sequence[Array] | None = None,
    ) -> Float[Array, "b h w out"]:
        """Returns the predicted noise (or v, by the checkpoint's prediction type), in float32.

        Args:
          latents: noisy latents; height and width multiples of `config.size_multiple`.
          timesteps: 0 to 999.
          encoder_hidden_states: text (and other) tokens.
          cross_attention_bias: one [b 1 (h w) k] per resolution level, added to the logits.
          down_block_additional_residuals: one per skip, added to it.
          mid_block_additional_residual: added to the middle block's output.
          down_intrablock_additional_residuals: one per level, added to the output of the level's
            last block, before its downsampler, and so to that block's skip too.
        """
        config = self.config
        time_embedding = TimestepEmbedding(
            config.block_out_channels[0], config.time_embed_dim, self.dtype, name="time_embedding"
        )(timesteps)
        encoder = UNetEncoder(
            config, dtype=self.dtype, attention_implementation=self.attention_implementation
        )
        nn.share_scope(self, encoder)  # diffusers' flat names: down_blocks_0, not encoder/...
        hidden_states, skips = encoder(
            latents,
            time_embedding,
            encoder_hidden_states,
            cross_attention_bias=cross_attention_bias,
            intrablock_residuals=down_intrablock_additional_residuals,
        )
        if mid_block_additional_residual is not None:
            hidden_states = hidden_states + mid_block_additional_residual.astype(self.dtype)
        if down_block_additional_residuals is not None:
            skips = [
                skip + residual.astype(self.dtype)
                for skip, residual in zip(skips, down_block_additional_residuals, strict=True)
            ]
        per_level = config.layers_per_block + 1
        for block, level in enumerate(reversed(range(config.num_levels))):
            hidden_states = UpBlock(
                config, level, self.dtype, self.attention_implementation, name=f"up_blocks_{block}"
            )(
                hidden_states,
                skips[level * per_level : (level + 1) * per_level],
                time_embedding,
                encoder_hidden_states,
                _at(cross_attention_bias, level),
            )
        hidden_states = nn.silu(
            GroupNorm(config.norm_num_groups, dtype=self.dtype, name="conv_norm_out")(hidden_states)
        )
        noise = Conv3x3(config.out_channels, dtype=self.dtype, name="conv_out")(hidden_states)
        return noise.astype(jnp.float32)


def _at(values: Sequence[Array] | None, index: int) -> Array | None:
    return None if values is None else values[index]
