"""CLIP's text and image towers (arXiv:2103.00020), ViT-L/14 in Stable Diffusion 1.x."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from sd_jax.attention import attention
from sd_jax.layers import LayerNorm
from sd_jax.typing import Array, Dtype, Float, Int, apply_module


def quick_gelu(inputs: Array) -> Array:
    """Returns x sigmoid(1.702 x), OpenAI's approximation of gelu."""
    return inputs * jax.nn.sigmoid(1.702 * inputs)


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
}


def _check_activation(name: str) -> None:
    if name not in _ACTIVATIONS:
        raise ValueError(f"hidden_act {name!r}; supported are {', '.join(_ACTIVATIONS)}")


@dataclasses.dataclass(frozen=True)
class CLIPTextConfig:
    """Sizes of a text tower; the defaults are ViT-L/14's.

    Attributes:
      vocab_size: tokens known.
      max_position_embeddings: longest prompt, in tokens.
      hidden_size: width.
      intermediate_size: width inside the MLP.
      num_layers: transformer layers.
      num_heads: attention heads.
      hidden_act: "quick_gelu" or "gelu".
    """

    vocab_size: int = 49408
    max_position_embeddings: int = 77
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_layers: int = 12
    num_heads: int = 12
    hidden_act: str = "quick_gelu"

    def __post_init__(self) -> None:
        """Checks the activation."""
        _check_activation(self.hidden_act)


@dataclasses.dataclass(frozen=True)
class CLIPVisionConfig:
    """Sizes of an image tower; the defaults are ViT-L/14's.

    Attributes:
      image_size: height and width of the input.
      patch_size: side of a patch.
      hidden_size: width.
      intermediate_size: width inside the MLP.
      num_layers: transformer layers.
      num_heads: attention heads.
      projection_dim: width of the embedding shared with the text.
      hidden_act: "quick_gelu" or "gelu".
    """

    image_size: int = 224
    patch_size: int = 14
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_layers: int = 24
    num_heads: int = 16
    projection_dim: int = 768
    hidden_act: str = "quick_gelu"

    def __post_init__(self) -> None:
        """Checks the activation."""
        _check_activation(self.hidden_act)


class _SelfAttention(nn.Module):
    num_heads: int
    dtype: Dtype

    @nn.compact
    def __call__(
        self, hidden_states: Float[Array, "b n c"], bias: Float[Array, "#b 1 n n"] | None
    ) -> Float[Array, "b n c"]:
        channels = hidden_states.shape[-1]

        def project(name: str) -> Float[Array, "b n heads d"]:
            outputs = nn.Dense(channels, dtype=self.dtype, name=name)(hidden_states)
            return outputs.reshape(*outputs.shape[:2], self.num_heads, -1)

        outputs = attention(project("q_proj"), project("k_proj"), project("v_proj"), bias)
        outputs = outputs.reshape(hidden_states.shape)
        return nn.Dense(channels, dtype=self.dtype, name="out_proj")(outputs)


class _MLP(nn.Module):
    intermediate_size: int
    hidden_act: str
    dtype: Dtype

    @nn.compact
    def __call__(self, hidden_states: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        inner = nn.Dense(self.intermediate_size, dtype=self.dtype, name="fc1")(hidden_states)
        inner = _ACTIVATIONS[self.hidden_act](inner)
        return nn.Dense(hidden_states.shape[-1], dtype=self.dtype, name="fc2")(inner)


class _Layer(nn.Module):
    config: CLIPTextConfig | CLIPVisionConfig
    dtype: Dtype

    @nn.compact
    def __call__(
        self, hidden_states: Float[Array, "b n c"], bias: Float[Array, "#b 1 n n"] | None
    ) -> Float[Array, "b n c"]:
        config = self.config
        norm = functools.partial(LayerNorm, dtype=self.dtype)
        hidden_states += _SelfAttention(config.num_heads, self.dtype, name="self_attn")(
            norm(name="layer_norm1")(hidden_states), bias
        )
        mlp = _MLP(config.intermediate_size, config.hidden_act, self.dtype, name="mlp")
        return hidden_states + mlp(norm(name="layer_norm2")(hidden_states))


class CLIPTextModel(nn.Module):
    """Token ids -> the last hidden state after the final LayerNorm, Stable Diffusion's context."""

    config: CLIPTextConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, input_ids: Int[Array, "b n"]) -> Float[Array, "b n c"]:
        """Returns `encoder_hidden_states` in float32, for at most max_position_embeddings ids."""
        config = self.config
        num_tokens = input_ids.shape[1]
        embed = functools.partial(nn.Embed, features=config.hidden_size, dtype=self.dtype)
        hidden_states = embed(config.vocab_size, name="token_embedding")(input_ids)
        hidden_states += embed(config.max_position_embeddings, name="position_embedding")(
            jnp.arange(num_tokens)
        )[None]
        future = jnp.triu(jnp.ones((num_tokens, num_tokens), bool), 1)
        bias = jnp.where(future, jnp.finfo(jnp.float32).min, 0.0)[None, None]
        for index in range(config.num_layers):
            hidden_states = _Layer(config, self.dtype, name=f"layers_{index}")(hidden_states, bias)
        hidden_states = LayerNorm(dtype=self.dtype, name="final_layer_norm")(hidden_states)
        return hidden_states.astype(jnp.float32)


class CLIPVisionModel(nn.Module):
    """Pixels -> `image_embeds`, projected and not normalised: the exemplar embeddings of CnC."""

    config: CLIPVisionConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b p"]:
        """Returns the embedding in float32.

        Args:
          pixels: [batch, image_size, image_size, 3], normalised with CLIP's mean and deviation.
        """
        config = self.config
        patch = (config.patch_size, config.patch_size)
        patches = nn.Conv(
            config.hidden_size,
            patch,
            strides=patch,
            padding="VALID",
            use_bias=False,
            dtype=self.dtype,
            name="patch_embedding",
        )(pixels)
        batch = pixels.shape[0]
        patches = patches.reshape(batch, -1, config.hidden_size)
        class_embedding = self.param(
            "class_embedding", nn.initializers.normal(0.02), (config.hidden_size,)
        )
        class_token = jnp.broadcast_to(
            class_embedding.astype(self.dtype)[None, None], (batch, 1, config.hidden_size)
        )
        hidden_states = jnp.concatenate([class_token, patches], axis=1)
        num_tokens = (config.image_size // config.patch_size) ** 2 + 1
        hidden_states += nn.Embed(
            num_tokens, config.hidden_size, dtype=self.dtype, name="position_embedding"
        )(jnp.arange(num_tokens))[None]
        hidden_states = LayerNorm(dtype=self.dtype, name="pre_layrnorm")(hidden_states)
        for index in range(config.num_layers):
            hidden_states = _Layer(config, self.dtype, name=f"layers_{index}")(hidden_states, None)
        pooled = LayerNorm(dtype=self.dtype, name="post_layernorm")(hidden_states[:, 0])
        return nn.Dense(
            config.projection_dim, use_bias=False, dtype=self.dtype, name="visual_projection"
        )(pooled).astype(jnp.float32)


def encode_text(
    config: CLIPTextConfig,
    params: dict,
    input_ids: Int[Array, "b n"],
    *,
    dtype: Dtype = jnp.float32,
) -> Float[Array, "b n c"]:
    """Returns `encoder_hidden_states`; ids of several prompt lengths' worth are encoded in chunks.

    Args:
      config: sizes.
      params: of CLIPTextModel.
      input_ids: [batch, k * max_position_embeddings], or fewer than one chunk.
      dtype: type of the computation.
    """
    batch, num_ids = input_ids.shape
    length = min(num_ids, config.max_position_embeddings)
    if num_ids % length:
        raise ValueError(
            f"{num_ids} token ids are no multiple of {length}, the longest prompt of this model; "
            "pad every chunk to the full length (Tokenizer does)"
        )
    hidden_states = apply_module(
        CLIPTextModel(config, dtype), {"params": params}, input_ids.reshape(-1, length)
    )
    return hidden_states.reshape(batch, num_ids, -1)
