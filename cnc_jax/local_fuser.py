"""Compose and Conquer's local fuser: layered depth maps -> residuals of the UNet's skips.

A trainable copy of the UNet's encoder whose first ResnetBlock at each level is modulated (FDN) by
features of the depth maps. Every layer of the scene has a stem of its own; their outputs are
concatenated, front to back, before the shared part, so that the network knows which object stands
before which (arXiv:2401.09048, section 3.2).
"""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax.numpy as jnp

from sd_jax.attention import Implementation
from sd_jax.controlnet import ZeroConv1x1, ZeroConv3x3
from sd_jax.layers import Conv3x3, TimestepEmbedding, group_normalised
from sd_jax.precompute import remember
from sd_jax.remat import Remat
from sd_jax.typing import Array, Dtype, Float, Num
from sd_jax.unet import UNetConfig, UNetEncoder


@dataclasses.dataclass(frozen=True)
class LocalFuserConfig:
    """Sizes of a local fuser; the defaults are the released model's.

    Attributes:
      unet: sizes of the encoder that was copied.
      num_layers: depth layers, 2 in the released model (foreground, background).
      condition_channels: channels of a layer's map; 3 for depth (equal channels), edges, normals.
      stem_channels: widths of a layer's stem; it halves the size at its second and last widths.
      inject_channels: widths of the features injected at each level of the encoder.
    """

    unet: UNetConfig = UNetConfig()
    num_layers: int = 2
    condition_channels: int = 3
    stem_channels: tuple[int, ...] = (32, 64, 64, 64)
    inject_channels: tuple[int, ...] = (192, 256, 384, 512)

    @property
    def downsampling(self) -> int:
        """Pixels of a map per latent along each side: two strides in the stem, and one after it."""
        return 8


class FDN(nn.Module):
    """Feature denormalisation: GroupNorm(x) (1 + conv_gamma(f)) + conv_beta(f).

    The group norm has no affine map of its own. Takes the place of a ResnetBlock's norms
    (arXiv:2401.09048, eq. 4, after Uni-ControlNet, arXiv:2305.16322).
    """

    num_groups: int = 32
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, hidden_states: Float[Array, "b h w c"], features: Float[Array, "b h w f"]
    ) -> Float[Array, "b h w c"]:
        """Returns `hidden_states`, normalised and modulated by `features` of the same size."""
        channels = hidden_states.shape[-1]

        def modulation() -> tuple[Array, Array]:
            conv = functools.partial(Conv3x3, channels, dtype=self.dtype)
            return conv(name="gamma")(features), conv(name="beta")(features)

        gamma, beta = remember(self, "modulation", modulation)
        normalised = group_normalised(hidden_states, self.num_groups, self.epsilon)
        return normalised.astype(self.dtype) * (1 + gamma) + beta


class FeatureExtractor(nn.Module):
    """Depth maps of all layers -> one feature map per level of the encoder."""

    config: LocalFuserConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, depth_maps: Float[Array, "b layers h w c"]) -> list[Array]:
        """Returns the features at 1/8, 1/16, ... of the size of `depth_maps`."""
        stems = [
            _Stem(self.config.stem_channels, self.dtype, name=f"layers_{layer}")(
                depth_maps[:, layer]
            )
            for layer in range(self.config.num_layers)
        ]
        hidden_states = jnp.concatenate(stems, axis=-1)
        features = []
        for level, width in enumerate(self.config.inject_channels):
            hidden_states = nn.silu(
                Conv3x3(width, strides=2, dtype=self.dtype, name=f"extractors_{level}")(
                    hidden_states
                )
            )
            # The chain goes on from the value before the zero convolution.
            features.append(
                ZeroConv3x3(width, dtype=self.dtype, name=f"zero_convs_{level}")(hidden_states)
            )
        return features


class _Stem(nn.Module):
    channels: tuple[int, ...]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, depth_map: Float[Array, "b h w c"]) -> Float[Array, "b h4 w4 s"]:
        hidden_states = depth_map
        for index, width in enumerate(self.channels):
            strides = 2 if index in (1, len(self.channels) - 1) else 1
            hidden_states = nn.silu(
                Conv3x3(width, strides=strides, dtype=self.dtype, name=f"convs_{index}")(
                    hidden_states
                )
            )
        return hidden_states


class LocalFuser(nn.Module):
    """Depth maps, latents and context -> one residual per skip, and one for the middle block."""

    config: LocalFuserConfig
    dtype: Dtype = jnp.float32
    attention_implementation: Implementation = "auto"
    remat: Remat = "none"

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "b h w c"],
        timesteps: Num[Array, " b"],
        encoder_hidden_states: Float[Array, "b k cc"],
        depth_maps: Float[Array, "b layers hd wd dc"],
        *,
        cross_attention_bias: tuple[Array, ...] | None = None,
    ) -> list[Array]:
        """Returns the residuals in the encoder's order, the middle block's last.

        Args:
          latents: noisy latents.
          timesteps: 0 to 999.
          encoder_hidden_states: text tokens, and the exemplars' where there are any.
          depth_maps: in [0, 1], near = 1, eight times the size of the latents, foreground first.
          cross_attention_bias: as in the UNet; the exemplars' tokens are localised here too.
        """
        unet = self.config.unet
        time_embedding = TimestepEmbedding(
            unet.block_out_channels[0], unet.time_embed_dim, self.dtype, name="time_embedding"
        )(timesteps)
        features = FeatureExtractor(self.config, self.dtype, name="feature_extractor")(depth_maps)
        encoder = UNetEncoder(unet, FDN, self.dtype, self.attention_implementation, self.remat)
        nn.share_scope(self, encoder)
        middle, skips = encoder(
            latents,
            time_embedding,
            encoder_hidden_states,
            cross_attention_bias=cross_attention_bias,
            level_features=features,
        )
        return [
            ZeroConv1x1(output.shape[-1], dtype=self.dtype, name=f"zero_convs_{index}")(output)
            for index, output in enumerate([*skips, middle])
        ]
