"""Compose and Conquer's global fuser: exemplar embeddings -> tokens for the cross-attention."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from sd_jax.layers import FeedForward, LayerNorm
from sd_jax.typing import Array, Dtype, Float


@dataclasses.dataclass(frozen=True)
class GlobalFuserConfig:
    """Sizes of a global fuser; the defaults are the released model's.

    Attributes:
      num_layers: layers of the scene, each with an exemplar of its own.
      embedding_dim: width of a CLIP image embedding, and of a token.
      num_tokens: tokens that an exemplar becomes.
      hidden_multiple: width between the two feed-forwards, in embedding widths.
      dropout: rates inside the two feed-forwards, in training.
    """

    num_layers: int = 2
    embedding_dim: int = 768
    num_tokens: int = 4
    hidden_multiple: int = 2
    dropout: tuple[float, float] = (0.1, 0.3)


class _Branch(nn.Module):
    """One layer's way: LayerNorm, feed-forward, LayerNorm, feed-forward, no skip."""

    config: GlobalFuserConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, embedding: Float[Array, "b d"], *, deterministic: bool) -> Array:
        config = self.config
        width = config.embedding_dim
        middle = config.hidden_multiple * width
        outputs = LayerNorm(dtype=self.dtype, name="norm1")(embedding)
        outputs = FeedForward(4 * width, middle, config.dropout[0], self.dtype, name="ff1")(
            outputs, deterministic=deterministic
        )
        outputs = LayerNorm(dtype=self.dtype, name="norm2")(outputs)
        outputs = FeedForward(
            4 * middle, config.num_tokens * width, config.dropout[1], self.dtype, name="ff2"
        )(outputs, deterministic=deterministic)
        return outputs.reshape(-1, config.num_tokens, width)


class GlobalFuser(nn.Module):
    """CLIP image embeddings of all layers -> their tokens."""

    config: GlobalFuserConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, exemplar_embeddings: Float[Array, "b layers d"], *, deterministic: bool = True
    ) -> Float[Array, "b layers tokens d"]:
        """Returns the tokens of each layer, foreground first.

        Args:
          exemplar_embeddings: CLIP `image_embeds`, not normalised; zeros stand for no exemplar
            (as in training), whose tokens are not zero.
          deterministic: False drops (training), with the "dropout" rng.
        """
        tokens = [
            _Branch(self.config, self.dtype, name=f"layers_{layer}")(
                exemplar_embeddings[:, layer], deterministic=deterministic
            )
            for layer in range(self.config.num_layers)
        ]
        return jnp.stack(tokens, axis=1)
