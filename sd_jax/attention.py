"""The only attention of the project: pure functions, and the linen module around them.

Both papers need more of attention than its output. Compose and Conquer biases the cross-attention
(soft guidance); FG-DM compares attention maps of two networks (attention distillation). The bias
is an argument, and query and key are offered through `sow("intermediates", "query_key", ...)`, from
which `attention_weights` gives the maps of the layers one wants.
"""

from __future__ import annotations

import logging
import math
from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from sd_jax.precompute import remember
from sd_jax.typing import Array, Dtype, Float

Implementation = Literal["auto", "einsum", "xla", "cudnn"]

# cuDNN's fused kernels: half precision only, head width a multiple of 8, at most 128 before Hopper
# (160, the width at SD 1.x's lowest resolutions, is left to XLA on every card: few tokens, cheap).
_CUDNN_MAX_HEAD_DIM = 128

_logger = logging.getLogger(__name__)


def attention_weights(
    query: Float[Array, "b q heads d"],
    key: Float[Array, "b k heads d"],
    bias: Float[Array, "#b #heads #q k"] | None = None,
) -> Float[Array, "b heads q k"]:
    """Returns softmax(query key^T / sqrt(d) + bias) over the keys, in float32.

    Args:
      query: queries, split into heads.
      key: keys, split into heads.
      bias: added to the logits; `finfo.min` excludes a key exactly, as long as one key is left.
    """
    logits = jnp.einsum(
        "bqhd,bkhd->bhqk", query.astype(jnp.float32), key.astype(jnp.float32)
    ) / math.sqrt(query.shape[-1])
    if bias is not None:
        logits = logits + bias.astype(jnp.float32)
    return jax.nn.softmax(logits, axis=-1)


def _backend() -> str:
    """Returns "cuda" where cuDNN's fused attention runs, else another name."""
    device = jax.devices()[0]
    if device.platform != "gpu" or "cuda" not in device.client.platform_version.lower():
        return device.platform
    capability = float(getattr(device, "compute_capability", 0) or 0)
    return "cuda" if capability >= 8.0 else "old cuda"


def choose_implementation(
    query_shape: tuple[int, ...],
    num_keys: int,
    dtype: Dtype,
    *,
    biased: bool,
    backend: str | None = None,
) -> Literal["xla", "cudnn"]:
    """Returns the fastest implementation that is known to be right for these shapes.

    Args:
      query_shape: [batch, queries, heads, head_dim].
      num_keys: number of keys.
      dtype: type of query, key and value.
      biased: whether a bias is given; cuDNN's gradient then needs even lengths.
      backend: "cuda" for an NVIDIA card that has the fused kernels (compute capability 8.0 or
        more); the default device's unless given.
    """
    backend = backend or _backend()
    _, num_queries, _, head_dim = query_shape
    fits = (
        backend == "cuda"
        and jnp.dtype(dtype) in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))
        and head_dim % 8 == 0
        and head_dim <= _CUDNN_MAX_HEAD_DIM
        and (not biased or (num_queries % 2 == 0 and num_keys % 2 == 0))
    )
    return "cudnn" if fits else "xla"


_reported: set[str] = set()


def _report_once(implementation: str, head_dim: int, dtype: str) -> None:
    choice = f"{implementation} for head width {head_dim} in {dtype}"
    if choice not in _reported:
        _reported.add(choice)
        _logger.info("attention: %s", choice)


def implementations_used() -> frozenset[str]:
    """Returns what "auto" has chosen in this process, for reports."""
    return frozenset(_reported)


def attention(
    query: Float[Array, "b q heads d"],
    key: Float[Array, "b k heads d"],
    value: Float[Array, "b k heads d"],
    bias: Float[Array, "#b #heads #q k"] | None = None,
    *,
    implementation: Implementation = "auto",
) -> Float[Array, "b q heads d"]:
    """Returns the values averaged with `attention_weights`, in the type of `query`.

    Args:
      query: queries, split into heads.
      key: keys.
      value: values.
      bias: see `attention_weights`.
      implementation: "einsum" is the reference, "xla" and "cudnn" are those of
        `jax.nn.dot_product_attention`, "auto" is chosen by `choose_implementation`.

    Raises:
      ValueError: the implementation is unknown.
    """
    if implementation not in get_args(Implementation):
        raise ValueError(
            f"unknown attention implementation {implementation!r}; "
            f"choose one of {', '.join(get_args(Implementation))}"
        )
    if implementation == "einsum":
        weights = attention_weights(query, key, bias)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, value.astype(jnp.float32)).astype(query.dtype)
    if implementation == "auto":
        implementation = choose_implementation(
            query.shape, key.shape[1], query.dtype, biased=bias is not None
        )
        _report_once(implementation, query.shape[-1], str(query.dtype))
    if bias is not None:
        # A float32 `finfo.min` would become -inf in half precision, and a fully -inf row NaN.
        lowest = float(jnp.finfo(query.dtype).min)
        bias = jnp.maximum(bias, lowest).astype(query.dtype)
        # cuDNN broadcasts over batch and heads, not over queries.
        bias = jnp.broadcast_to(bias, (*bias.shape[:2], query.shape[1], bias.shape[3]))
    return jax.nn.dot_product_attention(query, key, value, bias=bias, implementation=implementation)


class Attention(nn.Module):
    """Multi-head attention with diffusers' parameter names (`to_q`, `to_k`, `to_v`, `to_out_0`).

    Attributes:
      num_heads: heads; the channels are split evenly among them.
      use_bias: whether query, key and value projections have a bias (the VAE's do).
      dtype: type of the computation.
      implementation: see `attention`.
    """

    num_heads: int
    use_bias: bool = False
    dtype: Dtype = jnp.float32
    implementation: Implementation = "auto"

    @nn.compact
    def __call__(
        self,
        hidden_states: Float[Array, "b q c"],
        context: Float[Array, "b k cc"] | None = None,
        bias: Float[Array, "#b #heads #q k"] | None = None,
    ) -> Float[Array, "b q c"]:
        """Returns the attention of `hidden_states` over `context`, or over itself without one."""
        channels = hidden_states.shape[-1]

        def project(name: str, inputs: Array) -> Array:
            outputs = nn.Dense(channels, use_bias=self.use_bias, dtype=self.dtype, name=name)(
                inputs
            )
            return outputs.reshape(*outputs.shape[:-1], self.num_heads, -1)

        query = project("to_q", hidden_states)
        if context is None:
            key, value = project("to_k", hidden_states), project("to_v", hidden_states)
        else:
            key, value = remember(
                self, "key_value", lambda: (project("to_k", context), project("to_v", context))
            )
        self.sow("intermediates", "query_key", (query, key))
        outputs = attention(query, key, value, bias, implementation=self.implementation)
        outputs = outputs.reshape(hidden_states.shape)
        return nn.Dense(channels, dtype=self.dtype, name="to_out_0")(outputs)
