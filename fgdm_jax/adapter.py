"""The adapter: what one factor adds to the frozen prior (FG-DM, arXiv:2410.21638).

    latents -> conv_in -> level 0 -> level 1 -> level 2 -> level 3
                             |          |          |          |
                          feature    feature    feature    feature

A T2I-Adapter (arXiv:2302.08453) without its pixel-unshuffle, as latents are small already. Its
features are added to the UNet's encoder, each at the end of its level: F_i + F^c_i.
There are two kinds: the paper describes blocks that see the timestep, the released weights are of
plain ones. Names of parameters follow diffusers' T2IAdapter.

Features of the encoder cannot take back what the decoder reads in the text. Where a map shows other
colours than the image does ("a blue ball" is red in a segmentation), a small prior needs an adapter
that translates the text too. That is an addition of this project, and left out unless asked for.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from fgdm_jax.graph import Factor
from sd_jax.controlnet import ZeroConv1x1
from sd_jax.layers import Conv1x1, Conv3x3, GroupNorm
from sd_jax.remat import Remat, remat_block, remat_layer
from sd_jax.typing import Array, Dtype, Float, Params, apply_module
from sd_jax.unet import UNetConfig


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """Sizes of an adapter; the defaults are those of the released weights.

    Attributes:
      in_channels: of the latents that it sees: its own variable's, or its parents' joined, 4 each.
      block_out_channels: width of each level's feature; the UNet's.
      layers_per_level: blocks in each level.
      time_embed_dim: width of the UNet's time embedding, which every block then sees, as in the
        paper; None for blocks that do not see it, as in the released weights.
      norm_num_groups: groups of the norms of blocks that see the timestep; plain ones have none.
      zero_convs: a 1x1 convolution on each feature that starts at zero, so that training starts
        from Stable Diffusion exactly. Neither the paper nor the released weights have it.
      text_dim: width of the text encoder's states, for an adapter that translates them; None for
        one that leaves the text as it is.
      text_channels: width inside the translation.
      clean_parents: whether it was trained on the clean latents of its parents, as upstream's code
        does, and so waits for them; else on those of their noise of t - 1, as in the paper.

    Raises:
      ValueError: only one of the two widths of the translation is given.
    """

    in_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_level: int = 2
    time_embed_dim: int | None = None
    norm_num_groups: int = 32
    zero_convs: bool = False
    text_dim: int | None = None
    text_channels: int = 0
    clean_parents: bool = False

    def __post_init__(self) -> None:
        if (self.text_dim is None) != (self.text_channels == 0):
            raise ValueError(
                f"text_dim {self.text_dim} and text_channels {self.text_channels}: a translation "
                "of the text has both widths, an adapter without one has neither"
            )

    @property
    def num_levels(self) -> int:
        """Number of levels, and of features."""
        return len(self.block_out_channels)

    @property
    def size_multiple(self) -> int:
        """What height and width of the latents must be a multiple of."""
        return 2 ** (self.num_levels - 1)


class PlainBlock(nn.Module):
    """3x3 convolution, ReLU, 1x1 convolution, plus the input; at one width.

    Attributes:
      channels: in and out.
      dtype: type of the computation.
    """

    channels: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, hidden_states: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns the block's output."""
        residual = Conv3x3(self.channels, dtype=self.dtype, name="block1")(hidden_states)
        return hidden_states + Conv1x1(self.channels, dtype=self.dtype, name="block2")(
            nn.relu(residual)
        )


class TimeBlock(nn.Module):
    """The UNet's ResnetBlock that may halve the size, between its first norm and convolution.

    Attributes:
      out_channels: channels of the result; a 1x1 convolution joins the input if they differ.
      is_halving: whether both branches are averaged over 2 x 2 pixels.
      num_groups: groups of the norms.
      dtype: type of the computation.
    """

    out_channels: int
    is_halving: bool = False
    num_groups: int = 32
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, hidden_states: Float[Array, "b h w c"], time_embedding: Float[Array, "b e"]
    ) -> Float[Array, "b h2 w2 out"]:
        """Returns the block's output."""
        residual = hidden_states
        norm1 = GroupNorm(self.num_groups, dtype=self.dtype, name="norm1")
        hidden_states = nn.silu(norm1(hidden_states))
        if self.is_halving:
            hidden_states, residual = average_pool(hidden_states), average_pool(residual)
        hidden_states = Conv3x3(self.out_channels, dtype=self.dtype, name="conv1")(hidden_states)
        shift = nn.Dense(self.out_channels, dtype=self.dtype, name="time_emb_proj")(
            nn.silu(time_embedding)
        )
        norm2 = GroupNorm(self.num_groups, dtype=self.dtype, name="norm2")
        hidden_states = nn.silu(norm2(hidden_states + shift[:, None, None, :]))
        # Zero at the start of training (`convert.adapter_component`), like the UNet's own.
        hidden_states = Conv3x3(self.out_channels, dtype=self.dtype, name="conv2")(hidden_states)
        if residual.shape[-1] != self.out_channels:
            residual = Conv1x1(self.out_channels, dtype=self.dtype, name="conv_shortcut")(residual)
        return hidden_states + residual


class AdapterLevel(nn.Module):
    """The blocks of one level, the first of which halves the size; level 0 keeps it.

    Attributes:
      config: sizes.
      level: from 0, the highest resolution.
      dtype: type of the computation.
      remat: see `sd_jax.remat`.
    """

    config: AdapterConfig
    level: int
    dtype: Dtype = jnp.float32
    remat: Remat = "none"

    @nn.compact
    def __call__(
        self,
        hidden_states: Float[Array, "b h w c"],
        time_embedding: Float[Array, "b e"] | None = None,
    ) -> Float[Array, "b h2 w2 out"]:
        """Returns the level's feature."""
        config, channels = self.config, self.config.block_out_channels[self.level]
        if config.time_embed_dim is None:
            if self.level > 0:
                hidden_states = average_pool(hidden_states)
            if hidden_states.shape[-1] != channels:
                hidden_states = Conv1x1(channels, dtype=self.dtype, name="in_conv")(hidden_states)
            for index in range(config.layers_per_level):
                hidden_states = remat_layer(PlainBlock, self.remat)(
                    channels, self.dtype, name=f"resnets_{index}"
                )(hidden_states)
            return hidden_states
        for index in range(config.layers_per_level):
            hidden_states = remat_layer(TimeBlock, self.remat)(
                channels,
                self.level > 0 and index == 0,
                config.norm_num_groups,
                self.dtype,
                name=f"resnets_{index}",
            )(hidden_states, time_embedding)
        return hidden_states


class TextTranslator(nn.Module):
    """Text as the prior reads it -> as it reads it for one variable's maps, token by token.

    Attributes:
      channels: inside.
      dtype: type of the computation.
    """

    channels: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, text_embeddings: Float[Array, "b k c"]) -> Float[Array, "b k c"]:
        """Returns the translated states of the text encoder."""
        hidden_states = nn.Dense(self.channels, dtype=self.dtype, name="proj_in")(text_embeddings)
        # Zero at the start of training (`convert.adapter_component`): the text as it was.
        change = nn.Dense(text_embeddings.shape[-1], dtype=self.dtype, name="proj_out")(
            nn.silu(hidden_states)
        )
        return text_embeddings + change


class Adapter(nn.Module):
    """Latents -> one feature for each level of the UNet's encoder.

    Attributes:
      config: sizes.
      dtype: type of the computation.
      remat: see `sd_jax.remat`.
    """

    config: AdapterConfig
    dtype: Dtype = jnp.float32
    remat: Remat = "none"

    @nn.compact
    def __call__(
        self,
        inputs: Float[Array, "b h w c"],
        time_embedding: Float[Array, "b e"] | None = None,
    ) -> list[Array]:
        """Returns the features, as UNet takes them for `down_intrablock_additional_residuals`.

        Args:
          inputs: the variable's own noisy latents, or those of its parents joined; height and
            width multiples of `config.size_multiple`.
          time_embedding: output of the UNet's own TimestepEmbedding; plain adapters ignore it.

        Raises:
          ValueError: the adapter sees the timestep and was given none.
        """
        config = self.config
        if config.time_embed_dim is not None and time_embedding is None:
            raise ValueError(
                "this adapter sees the timestep: it needs time_embedding "
                f"[b {config.time_embed_dim}], the output of the UNet's TimestepEmbedding"
            )
        if config.text_dim is not None and self.is_initializing():
            # It has its parameters here, and is applied apart, once for all steps: `translate`.
            TextTranslator(config.text_channels, self.dtype, name="text")(
                jnp.zeros((1, 1, config.text_dim))
            )
        widths = config.block_out_channels
        hidden_states = Conv3x3(widths[0], dtype=self.dtype, name="conv_in")(inputs)
        features = []
        for level in range(config.num_levels):
            hidden_states = remat_block(AdapterLevel, self.remat)(
                config, level, self.dtype, self.remat, name=f"body_{level}"
            )(hidden_states, None if config.time_embed_dim is None else time_embedding)
            feature = hidden_states
            if config.zero_convs:
                zero_conv = ZeroConv1x1(widths[level], dtype=self.dtype, name=f"zero_convs_{level}")
                feature = zero_conv(feature)
            features.append(feature)
        return features


def translate(
    config: AdapterConfig,
    params: Params,
    text_embeddings: Float[Array, "b k c"],
    dtype: Dtype = jnp.float32,
) -> Float[Array, "b k c"]:
    """Returns the text as an adapter has the prior read it.

    Args:
      config: sizes of the adapter; without `text_dim` the text stays as it is.
      params: of the adapter.
      text_embeddings: last hidden state of the text encoder.
      dtype: type of the computation.
    """
    if config.text_dim is None:
        return text_embeddings
    translator = TextTranslator(config.text_channels, dtype)
    return apply_module(translator, {"params": params["text"]}, text_embeddings)


def average_pool(hidden_states: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Returns the means over cells of 2 x 2 pixels."""
    return nn.avg_pool(hidden_states, (2, 2), strides=(2, 2))


def adapter_for(unet: UNetConfig, num_parents: int, *, has_time: bool = False) -> AdapterConfig:
    """Returns the sizes of an adapter that fits a UNet.

    Args:
      unet: of the prior.
      num_parents: variables whose latents it sees; without any it sees its own.
      has_time: whether it sees the timestep.
    """
    return AdapterConfig(
        in_channels=unet.in_channels * max(1, num_parents),
        block_out_channels=unet.block_out_channels,
        time_embed_dim=unet.time_embed_dim if has_time else None,
        # Plain adapters have no norms; the default keeps equal ones equal.
        norm_num_groups=unet.norm_num_groups if has_time else AdapterConfig.norm_num_groups,
    )


def size_problem(adapter: AdapterConfig, unet: UNetConfig, factor: Factor) -> str | None:
    """Returns why an adapter is not that of a factor on a UNet, told from sizes; None if it may be.

    Args:
      adapter: sizes that a checkpoint has.
      unet: of the prior.
      factor: whose adapter it is to be.
    """
    if adapter.text_dim not in (None, unet.cross_attention_dim):
        return (
            f"the adapter of {factor.variable} translates texts of width {adapter.text_dim}, but "
            f"the UNet reads texts of width {unet.cross_attention_dim}; give it the prior that it "
            "was trained on"
        )
    expected = unet.in_channels * max(1, len(factor.parents))
    if adapter.in_channels == expected:
        return None
    return (
        f"the adapter of {factor.variable} sees {adapter.in_channels} channels, but with "
        f"{len(factor.parents) or 'no'} parents it would see {expected}; give it as many parents "
        "as it was trained with"
    )
