"""Blocks that UNet, ControlNet-style copies and VAE are made of. NHWC throughout.

Names of parameters follow diffusers. Norm statistics are float32 whatever `dtype` is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from sd_jax.attention import Attention, Implementation
from sd_jax.typing import Array, Dtype, Float, Num

Conv3x3 = functools.partial(nn.Conv, kernel_size=(3, 3), padding=((1, 1), (1, 1)))
Conv1x1 = functools.partial(nn.Conv, kernel_size=(1, 1))

# The two-pass variance, as in `group_normalised`.
LayerNorm = functools.partial(nn.LayerNorm, epsilon=1e-5, use_fast_variance=False)


def timestep_embedding(
    timesteps: Num[Array, " batch"], dim: int, max_period: float = 10000.0
) -> Float[Array, "batch {dim}"]:
    """Returns concat(cos(t f_i), sin(t f_i)), f_i = max_period^(-i / (dim / 2)).

    Args:
      timesteps: 0 to 999, not rescaled.
      dim: even width of the embedding.
      max_period: period of the slowest pair of channels, divided by 2 pi.
    """
    half = dim // 2
    frequencies = jnp.exp(-math.log(max_period) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimestepEmbedding(nn.Module):
    """Two dense layers on top of `timestep_embedding`."""

    channels: int
    embed_dim: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, timesteps: Num[Array, " batch"]) -> Float[Array, "batch embed"]:
        """Returns the time embedding of `timesteps`."""
        embedding = timestep_embedding(timesteps, self.channels)
        embedding = nn.Dense(self.embed_dim, dtype=self.dtype, name="linear_1")(embedding)
        return nn.Dense(self.embed_dim, dtype=self.dtype, name="linear_2")(nn.silu(embedding))


def group_normalised(
    hidden_states: Float[Array, "b *size c"],
    num_groups: int,
    epsilon: float,
) -> Float[Array, "b *size c"]:
    """Returns float32 values of mean 0 and variance 1 in each group of channels.

    Each channel is summed over the pixels first, and the few sums then within their groups: on CPU
    this takes a quarter of the time of sums over pixels and channels at once (`nn.GroupNorm`), and
    rounds less. docs/performance.md has the figures.

    Args:
      hidden_states: channels last.
      num_groups: groups that the channels are split into.
      epsilon: added to the variance.

    Raises:
      ValueError: the channels are no multiple of the groups.
    """
    channels = hidden_states.shape[-1]
    if channels % num_groups:
        raise ValueError(f"{channels} channels cannot be split into {num_groups} groups")
    shape = hidden_states.shape
    pixels = hidden_states.astype(jnp.float32).reshape(shape[0], -1, channels)

    def mean_of_groups(values: Array) -> Array:
        of_channels = jnp.mean(values, axis=1).reshape(shape[0], num_groups, -1)
        of_groups = jnp.mean(of_channels, axis=-1, keepdims=True)
        return jnp.broadcast_to(of_groups, of_channels.shape).reshape(shape[0], channels)[:, None]

    # The two-pass variance: E[x^2] - E[x]^2 loses digits where the mean is large.
    centred = pixels - mean_of_groups(pixels)
    factor = jax.lax.rsqrt(mean_of_groups(jnp.square(centred)) + epsilon)
    return (centred * factor).reshape(shape)


class GroupNorm(nn.Module):
    """Group normalisation with an affine map; takes (and ignores) no features.

    Attributes:
      num_groups: groups that the channels are split into.
      epsilon: added to the variance: 1e-5 in ResnetBlocks of the UNet, 1e-6 at the entry of a
        transformer and everywhere in the VAE.
      dtype: type of the result.
    """

    num_groups: int = 32
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, hidden_states: Float[Array, "b *size c"], features: None = None
    ) -> Float[Array, "b *size c"]:
        """Returns the normalised `hidden_states`."""
        del features
        channels = hidden_states.shape[-1]
        shape = (1,) * (hidden_states.ndim - 1) + (channels,)
        scale = self.param("scale", nn.initializers.ones, (channels,)).astype(jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,)).astype(jnp.float32)
        normalised = group_normalised(hidden_states, self.num_groups, self.epsilon)
        return (normalised * scale.reshape(shape) + bias.reshape(shape)).astype(self.dtype)


class ResnetBlock(nn.Module):
    """norm, SiLU, conv, plus the time embedding, norm, SiLU, conv, plus the input.

    Attributes:
      out_channels: channels of the result; a 1x1 convolution joins the input if they differ.
      norm: makes the two norms; called as `norm(num_groups=, epsilon=, dtype=, name=)`, and the
        module with (hidden_states, features). Compose and Conquer puts its FDN here.
      num_groups: groups of the norms.
      epsilon: of the norms.
      dtype: type of the computation.
    """

    out_channels: int
    norm: Callable[..., nn.Module] = GroupNorm
    num_groups: int = 32
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        hidden_states: Float[Array, "b h w c"],
        time_embedding: Float[Array, "b e"] | None = None,
        features: Float[Array, "b h w f"] | None = None,
    ) -> Float[Array, "b h w out"]:
        """Returns the block's output.

        Args:
          hidden_states: input.
          time_embedding: output of TimestepEmbedding; None in the VAE.
          features: handed to the norms, if they take any.
        """
        norm = functools.partial(
            self.norm, num_groups=self.num_groups, epsilon=self.epsilon, dtype=self.dtype
        )
        residual = hidden_states
        hidden_states = nn.silu(norm(name="norm1")(hidden_states, features))
        hidden_states = Conv3x3(self.out_channels, dtype=self.dtype, name="conv1")(hidden_states)
        if time_embedding is not None:
            shift = nn.Dense(self.out_channels, dtype=self.dtype, name="time_emb_proj")(
                nn.silu(time_embedding)
            )
            hidden_states = hidden_states + shift[:, None, None, :]
        hidden_states = nn.silu(norm(name="norm2")(hidden_states, features))
        hidden_states = Conv3x3(self.out_channels, dtype=self.dtype, name="conv2")(hidden_states)
        if residual.shape[-1] != self.out_channels:
            residual = Conv1x1(self.out_channels, dtype=self.dtype, name="conv_shortcut")(residual)
        return hidden_states + residual


class Downsample(nn.Module):
    """Halves height and width by a strided 3x3 convolution.

    Attributes:
      channels: channels of the result.
      padding: ((1, 1), (1, 1)) in the UNet, ((0, 1), (0, 1)) in the VAE's encoder.
      dtype: type of the computation.
    """

    channels: int
    padding: tuple[tuple[int, int], tuple[int, int]] = ((1, 1), (1, 1))
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, hidden_states: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        """Returns `hidden_states` at half the resolution."""
        return nn.Conv(
            self.channels, (3, 3), strides=2, padding=self.padding, dtype=self.dtype, name="conv"
        )(hidden_states)


class Upsample(nn.Module):
    """Doubles height and width: nearest neighbour, then a 3x3 convolution."""

    channels: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, hidden_states: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        """Returns `hidden_states` at twice the resolution."""
        hidden_states = jnp.repeat(jnp.repeat(hidden_states, 2, axis=1), 2, axis=2)
        return Conv3x3(self.channels, dtype=self.dtype, name="conv")(hidden_states)


class FeedForward(nn.Module):
    """GEGLU (value * gelu(gate), exact erf), dropout, then a dense layer.

    Attributes:
      inner_dim: width between the two layers.
      out_dim: width of the result.
      dropout: rate after the gate; only Compose and Conquer's global fuser drops.
      dtype: type of the computation.
    """

    inner_dim: int
    out_dim: int
    dropout: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, hidden_states: Float[Array, "*b c"], *, deterministic: bool = True
    ) -> Float[Array, "*b out"]:
        """Returns the two layers' output; `deterministic=False` drops, with the "dropout" rng."""
        value, gate = jnp.split(
            nn.Dense(2 * self.inner_dim, dtype=self.dtype, name="net_0")(hidden_states), 2, axis=-1
        )
        hidden_states = value * jax.nn.gelu(gate, approximate=False)
        hidden_states = nn.Dropout(self.dropout, deterministic=deterministic)(hidden_states)
        return nn.Dense(self.out_dim, dtype=self.dtype, name="net_2")(hidden_states)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each behind a LayerNorm and a skip."""

    num_heads: int
    dtype: Dtype = jnp.float32
    attention_implementation: Implementation = "auto"

    @nn.compact
    def __call__(
        self,
        hidden_states: Float[Array, "b q c"],
        context: Float[Array, "b k cc"],
        cross_attention_bias: Float[Array, "#b 1 #q k"] | None = None,
    ) -> Float[Array, "b q c"]:
        """Returns the block's output; the bias applies to the cross-attention alone."""
        channels = hidden_states.shape[-1]
        norm = functools.partial(LayerNorm, dtype=self.dtype)
        attend = functools.partial(
            Attention,
            self.num_heads,
            dtype=self.dtype,
            implementation=self.attention_implementation,
        )
        hidden_states += attend(name="attn1")(norm(name="norm1")(hidden_states))
        hidden_states += attend(name="attn2")(
            norm(name="norm2")(hidden_states), context, cross_attention_bias
        )
        feed_forward = FeedForward(4 * channels, channels, dtype=self.dtype, name="ff")
        return hidden_states + feed_forward(norm(name="norm3")(hidden_states))


class SpatialTransformer(nn.Module):
    """A TransformerBlock over the pixels of a feature map, between two 1x1 convolutions."""

    num_heads: int
    num_groups: int = 32
    dtype: Dtype = jnp.float32
    attention_implementation: Implementation = "auto"

    @nn.compact
    def __call__(
        self,
        hidden_states: Float[Array, "b h w c"],
        context: Float[Array, "b k cc"],
        cross_attention_bias: Float[Array, "#b 1 #hw k"] | None = None,
    ) -> Float[Array, "b h w c"]:
        """Returns `hidden_states` after attending to itself and to `context`."""
        batch, height, width, channels = hidden_states.shape
        residual = hidden_states
        hidden_states = GroupNorm(self.num_groups, 1e-6, self.dtype, name="norm")(hidden_states)
        hidden_states = Conv1x1(channels, dtype=self.dtype, name="proj_in")(hidden_states)
        hidden_states = TransformerBlock(
            self.num_heads, self.dtype, self.attention_implementation, name="transformer_blocks_0"
        )(hidden_states.reshape(batch, height * width, channels), context, cross_attention_bias)
        hidden_states = hidden_states.reshape(residual.shape)
        return Conv1x1(channels, dtype=self.dtype, name="proj_out")(hidden_states) + residual
