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

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from sd_jax.attention import Implementation
from sd_jax.layers import Conv3x3, GroupNorm, TimestepEmbedding
from sd_jax.remat import Remat, remat_block
from sd_jax.typing import Array, Dtype, Float, Num
from sd_jax.unet_blocks import DownBlock, MidBlock, UNetConfig, UpBlock

__all__ = ["UNet", "UNetConfig", "UNetEncoder"]


class UNetEncoder(nn.Module):
    """conv_in, the levels of the encoder and the middle block.

    Attributes:
      config: sizes.
      first_norm: norm of the first ResnetBlock of each level; gets that level's `level_features`.
      dtype: type of the computation.
      attention_implementation: see `sd_jax.attention.attention`.
      remat: see `sd_jax.remat`.
    """

    config: UNetConfig
    first_norm: Callable[..., nn.Module] = GroupNorm
    dtype: Dtype = jnp.float32
    attention_implementation: Implementation = "auto"
    remat: Remat = "none"

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
            hidden_states, block_skips = remat_block(DownBlock, self.remat)(
                config,
                level,
                self.first_norm,
                self.dtype,
                self.attention_implementation,
                self.remat,
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
        hidden_states = remat_block(MidBlock, self.remat)(
            config, self.dtype, self.attention_implementation, self.remat, name="mid_block"
        )(hidden_states, time_embedding, context, _at(cross_attention_bias, -1))
        return hidden_states, skips


class UNet(nn.Module):
    """Noise prediction of Stable Diffusion 1.x (arXiv:2112.10752).

    Attributes:
      config: sizes.
      dtype: type of the computation.
      attention_implementation: see `sd_jax.attention.attention`.
      remat: see `sd_jax.remat`.
      encoder_gradient: False lets no gradient through the encoder, the middle block and the time
        embedding, as upstream's Compose and Conquer trains.
    """

    config: UNetConfig
    dtype: Dtype = jnp.float32
    attention_implementation: Implementation = "auto"
    remat: Remat = "none"
    encoder_gradient: bool = True

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
            config,
            dtype=self.dtype,
            attention_implementation=self.attention_implementation,
            remat=self.remat,
        )
        nn.share_scope(self, encoder)  # diffusers' flat names: down_blocks_0, not encoder/...
        hidden_states, skips = encoder(
            latents,
            time_embedding,
            encoder_hidden_states,
            cross_attention_bias=cross_attention_bias,
            intrablock_residuals=down_intrablock_additional_residuals,
        )
        if not self.encoder_gradient:
            hidden_states, skips, time_embedding = jax.lax.stop_gradient(
                (hidden_states, skips, time_embedding)
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
            hidden_states = remat_block(UpBlock, self.remat)(
                config,
                level,
                self.dtype,
                self.attention_implementation,
                self.remat,
                name=f"up_blocks_{block}",
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
