"""ControlNet (arXiv:2302.05543): a copy of the UNet's encoder that turns a hint into residuals."""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax.numpy as jnp

from sd_jax.attention import Implementation
from sd_jax.layers import Conv1x1, Conv3x3, TimestepEmbedding
from sd_jax.precompute import remember
from sd_jax.typing import Array, Dtype, Float, Num
from sd_jax.unet import UNetConfig, UNetEncoder

zero_init = nn.initializers.zeros_init()
ZeroConv1x1 = functools.partial(Conv1x1, kernel_init=zero_init, bias_init=zero_init)
ZeroConv3x3 = functools.partial(Conv3x3, kernel_init=zero_init, bias_init=zero_init)


@dataclasses.dataclass(frozen=True)
class ControlNetConfig:
    """Sizes of a ControlNet.

    Attributes:
      unet: sizes of the encoder that was copied.
      hint_channels: channels of the hint image.
      hint_block_out_channels: widths of the hint's own encoder; each but the first halves the size.
    """

    unet: UNetConfig = UNetConfig()
    hint_channels: int = 3
    hint_block_out_channels: tuple[int, ...] = (16, 32, 96, 256)


class HintEncoder(nn.Module):
    """Hint image -> a feature map at the size of the latents; zero at the start of training."""

    config: ControlNetConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, hint: Float[Array, "b h w c"]) -> Float[Array, "b lh lw c0"]:
        """Returns the feature map.

        Args:
          hint: image in [0, 1], eight times the size of the latents.
        """
        widths = self.config.hint_block_out_channels
        hidden_states = nn.silu(Conv3x3(widths[0], dtype=self.dtype, name="conv_in")(hint))
        for level in range(len(widths) - 1):
            hidden_states = nn.silu(
                Conv3x3(widths[level], dtype=self.dtype, name=f"blocks_{2 * level}")(hidden_states)
            )
            hidden_states = nn.silu(
                Conv3x3(
                    widths[level + 1], strides=2, dtype=self.dtype, name=f"blocks_{2 * level + 1}"
                )(hidden_states)
            )
        out_channels = self.config.unet.block_out_channels[0]
        return ZeroConv3x3(out_channels, dtype=self.dtype, name="conv_out")(hidden_states)


class ControlNet(nn.Module):
    """Residuals for the UNet's skips and its middle block."""

    config: ControlNetConfig
    dtype: Dtype = jnp.float32
    attention_implementation: Implementation = "auto"

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "b h w c"],
        timesteps: Num[Array, " b"],
        encoder_hidden_states: Float[Array, "b k cc"],
        hint: Float[Array, "b hh hw hc"],
    ) -> tuple[list[Array], Float[Array, "b hm wm cm"]]:
        """Returns (down_block_additional_residuals, mid_block_additional_residual).

        Args:
          latents: noisy latents.
          timesteps: 0 to 999.
          encoder_hidden_states: text tokens.
          hint: condition image in [0, 1].
        """
        unet = self.config.unet
        time_embedding = TimestepEmbedding(
            unet.block_out_channels[0], unet.time_embed_dim, self.dtype, name="time_embedding"
        )(timesteps)
        encoder = UNetEncoder(
            unet, dtype=self.dtype, attention_implementation=self.attention_implementation
        )
        nn.share_scope(self, encoder)
        hint_features = remember(
            self,
            "hint_features",
            lambda: HintEncoder(self.config, self.dtype, name="controlnet_cond_embedding")(hint),
        )
        middle, skips = encoder(
            latents, time_embedding, encoder_hidden_states, conv_in_residual=hint_features
        )
        residuals = [
            ZeroConv1x1(skip.shape[-1], dtype=self.dtype, name=f"controlnet_down_blocks_{index}")(
                skip
            )
            for index, skip in enumerate(skips)
        ]
        mid_residual = ZeroConv1x1(middle.shape[-1], dtype=self.dtype, name="controlnet_mid_block")(
            middle
        )
        return residuals, mid_residual
