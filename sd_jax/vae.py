"""AutoencoderKL of Stable Diffusion 1.x: images [-1, 1] <-> latents at an eighth of the size."""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from sd_jax.attention import Attention
from sd_jax.layers import Conv1x1, Conv3x3, Downsample, GroupNorm, ResnetBlock, Upsample
from sd_jax.typing import Array, Dtype, Float, KeyArray, Params, apply_module

_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """Sizes of an autoencoder; the defaults are Stable Diffusion 1.x's.

    Attributes:
      in_channels: channels of the image.
      latent_channels: channels of the latents.
      block_out_channels: width of each resolution level; each but the last halves the size.
      layers_per_block: ResnetBlocks in each level of the encoder; the decoder has one more.
      norm_num_groups: groups of every group norm.
      scaling_factor: the latents that the UNet sees are the autoencoder's times this.
    """

    in_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215

    @property
    def downsampling(self) -> int:
        """Pixels per latent along each side."""
        return 2 ** (len(self.block_out_channels) - 1)


class VAEMid(nn.Module):
    """ResnetBlock, one head of self-attention, ResnetBlock."""

    config: VAEConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, hidden_states: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns the block's output."""
        block = functools.partial(
            ResnetBlock,
            self.config.block_out_channels[-1],
            num_groups=self.config.norm_num_groups,
            epsilon=_EPSILON,
            dtype=self.dtype,
        )
        hidden_states = block(name="resnets_0")(hidden_states)
        hidden_states = _PixelAttention(self.config, self.dtype, name="attentions_0")(hidden_states)
        return block(name="resnets_1")(hidden_states)


class _PixelAttention(nn.Module):
    config: VAEConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, hidden_states: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        batch, height, width, channels = hidden_states.shape
        pixels = GroupNorm(self.config.norm_num_groups, _EPSILON, self.dtype, name="group_norm")(
            hidden_states
        ).reshape(batch, height * width, channels)
        attended = Attention(1, use_bias=True, dtype=self.dtype, name="attention")(pixels)
        return hidden_states + attended.reshape(hidden_states.shape)


class _Level(nn.Module):
    """ResnetBlocks of one resolution, then a change of size (or none)."""

    config: VAEConfig
    channels: int
    num_layers: int
    resample: str | None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, hidden_states: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        for index in range(self.num_layers):
            hidden_states = ResnetBlock(
                self.channels,
                num_groups=self.config.norm_num_groups,
                epsilon=_EPSILON,
                dtype=self.dtype,
                name=f"resnets_{index}",
            )(hidden_states)
        if self.resample == "down":
            return Downsample(
                self.channels, ((0, 1), (0, 1)), dtype=self.dtype, name="downsamplers_0"
            )(hidden_states)
        if self.resample == "up":
            return Upsample(self.channels, dtype=self.dtype, name="upsamplers_0")(hidden_states)
        return hidden_states


class VAEEncoder(nn.Module):
    """Image -> the moments of the posterior, before `quant_conv`."""

    config: VAEConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b lh lw m"]:
        """Returns mean and log-variance, side by side in the channels."""
        config, widths = self.config, self.config.block_out_channels
        hidden_states = Conv3x3(widths[0], dtype=self.dtype, name="conv_in")(images)
        for level, width in enumerate(widths):
            hidden_states = _Level(
                config,
                width,
                config.layers_per_block,
                "down" if level < len(widths) - 1 else None,
                self.dtype,
                name=f"down_blocks_{level}",
            )(hidden_states)
        hidden_states = VAEMid(config, self.dtype, name="mid_block")(hidden_states)
        hidden_states = nn.silu(
            GroupNorm(config.norm_num_groups, _EPSILON, self.dtype, name="conv_norm_out")(
                hidden_states
            )
        )
        return Conv3x3(2 * config.latent_channels, dtype=self.dtype, name="conv_out")(hidden_states)


class VAEDecoder(nn.Module):
    """Latents, after `post_quant_conv` -> image."""

    config: VAEConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, latents: Float[Array, "b lh lw l"]) -> Float[Array, "b h w c"]:
        """Returns the image."""
        config, widths = self.config, self.config.block_out_channels[::-1]
        hidden_states = Conv3x3(widths[0], dtype=self.dtype, name="conv_in")(latents)
        hidden_states = VAEMid(config, self.dtype, name="mid_block")(hidden_states)
        for level, width in enumerate(widths):
            hidden_states = _Level(
                config,
                width,
                config.layers_per_block + 1,
                "up" if level < len(widths) - 1 else None,
                self.dtype,
                name=f"up_blocks_{level}",
            )(hidden_states)
        hidden_states = nn.silu(
            GroupNorm(config.norm_num_groups, _EPSILON, self.dtype, name="conv_norm_out")(
                hidden_states
            )
        )
        return Conv3x3(config.in_channels, dtype=self.dtype, name="conv_out")(hidden_states)


@flax.struct.dataclass
class Posterior:
    """The diagonal Gaussian that an image is encoded to, unscaled.

    Attributes:
      mean: [batch height width latent_channels].
      log_variance: likewise, clamped to [-30, 20].
    """

    mean: Float[Array, "b lh lw l"]
    log_variance: Float[Array, "b lh lw l"]

    def sample(self, key: KeyArray) -> Float[Array, "b lh lw l"]:
        """Returns one draw."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(0.5 * self.log_variance) * noise

    def sample_each(self, keys: KeyArray) -> Float[Array, "b lh lw l"]:
        """Returns one draw, each example's with a key of its own."""
        shape = self.mean.shape[1:]
        noise = jax.vmap(lambda key: jax.random.normal(key, shape, self.mean.dtype))(keys)
        return self.mean + jnp.exp(0.5 * self.log_variance) * noise


class AutoencoderKL(nn.Module):
    """Encoder, decoder and the two 1x1 convolutions between them."""

    config: VAEConfig
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Makes the four parts."""
        config = self.config
        self.encoder = VAEEncoder(config, self.dtype)
        self.decoder = VAEDecoder(config, self.dtype)
        self.quant_conv = Conv1x1(2 * config.latent_channels, dtype=self.dtype)
        self.post_quant_conv = Conv1x1(config.latent_channels, dtype=self.dtype)

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns the reconstruction from the posterior's mean."""
        return self.decode(self.encode(images).mean)

    def encode(self, images: Float[Array, "b h w c"]) -> Posterior:
        """Returns the posterior of `images` in [-1, 1], in float32 and unscaled."""
        moments = self.quant_conv(self.encoder(images)).astype(jnp.float32)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return Posterior(mean, jnp.clip(log_variance, -30.0, 20.0))

    def decode(self, latents: Float[Array, "b lh lw l"]) -> Float[Array, "b h w c"]:
        """Returns the images of unscaled `latents`, about [-1, 1], in float32."""
        return self.decoder(self.post_quant_conv(latents)).astype(jnp.float32)


def encode_images(
    config: VAEConfig,
    params: Params,
    images: Float[Array, "b h w c"],
    key: KeyArray | None = None,
    *,
    dtype: Dtype = jnp.float32,
) -> Float[Array, "b lh lw l"]:
    """Returns scaled latents: a sample of the posterior, or its mean without a key."""
    module = AutoencoderKL(config, dtype)
    posterior = apply_module(module, {"params": params}, images, method="encode")
    latents = posterior.mean if key is None else posterior.sample(key)
    return latents * config.scaling_factor


def decode_latents(
    config: VAEConfig,
    params: Params,
    latents: Float[Array, "b lh lw l"],
    *,
    dtype: Dtype = jnp.float32,
    slice_size: int = 1,
) -> Float[Array, "b h w c"]:
    """Returns the images of scaled latents, clipped to [-1, 1].

    Args:
      config: sizes.
      params: of AutoencoderKL.
      latents: as the UNet predicts them.
      dtype: type of the computation.
      slice_size: images decoded at once; the rest of the batch waits. The decoder's activations are
        the largest of the whole pipeline (2.5 TFLOP at 512x512), and the UNet's batch rarely fits.
    """
    decode = functools.partial(AutoencoderKL(config, dtype).apply, method="decode")

    def decode_one(latent: Float[Array, "lh lw l"]) -> Float[Array, "h w c"]:
        return decode({"params": params}, latent[None])[0]

    latents = latents / config.scaling_factor
    images = jax.lax.map(decode_one, latents, batch_size=min(slice_size, latents.shape[0]))
    return jnp.clip(images, -1.0, 1.0)
