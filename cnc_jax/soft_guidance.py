"""Soft guidance: masks of the layers -> a bias that keeps each exemplar's tokens in its layer.

The context of the cross-attention is text | tokens of layer 0 | tokens of layer 1 | ... . A pixel
may look at all text tokens, and at the tokens of the layer that is seen there (arXiv:2401.09048,
section 3.3; the paper's Hadamard product of the logits would not exclude a token, the released code
excludes it). The bias depends on the masks and the size alone, never on the timestep.

Two rules say which layer is seen at a cell of a feature map:

- "upstream", the rule that the released weights were trained with: the mask is resized bicubically
  (a = -0.75, no antialiasing) and any value but 0 is foreground. At 1/r of the mask's size it looks
  at the central 4x4 pixels of each r x r block, so small objects can vanish and levels disagree.
- "coverage": each layer's share of the cell's area; the largest share takes the cell. With `soft`,
  a layer's tokens get the bias log(share) instead: borders blend, and what covers a cell wholly
  gives exactly the hard bias.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from sd_jax.typing import Array, Bool, Float

MaskRule = Literal["upstream", "coverage", "soft_coverage"]

_EXCLUDED = float(np.finfo(np.float32).min)
_CUBIC_A = -0.75


@functools.cache
def _bicubic_matrix(size: int, source_size: int) -> Float[np.ndarray, "size source"]:
    """Returns torch's bicubic resampling along one axis (align_corners=False, no antialiasing)."""
    centres = (np.arange(size) + 0.5) * source_size / size - 0.5
    first = np.floor(centres).astype(int)
    matrix = np.zeros((size, source_size))
    for tap in range(-1, 3):
        distance = np.abs(centres - (first + tap))
        near = ((_CUBIC_A + 2) * distance - (_CUBIC_A + 3)) * distance**2 + 1
        far = _CUBIC_A * (((distance - 5) * distance + 8) * distance - 4)
        weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
        # Beyond the border the outermost pixel is repeated.
        source = np.clip(first + tap, 0, source_size - 1)
        np.add.at(matrix, (np.arange(size), source), weights)
    return matrix.astype(np.float32)


@functools.cache
def _area_matrix(size: int, source_size: int) -> Float[np.ndarray, "size source"]:
    """Returns the averaging over each cell's share of the source axis, for any two sizes."""
    edges = np.arange(size + 1) * source_size / size
    pixels = np.arange(source_size)
    overlap = np.minimum(edges[1:, None], pixels[None] + 1) - np.maximum(
        edges[:-1, None], pixels[None]
    )
    return (np.clip(overlap, 0.0, None) * size / source_size).astype(np.float32)


def _resize(matrix: Callable[[int, int], np.ndarray], masks: Array, size: tuple[int, int]) -> Array:
    rows, columns = matrix(size[0], masks.shape[-2]), matrix(size[1], masks.shape[-1])
    # TPUs and GPUs would round the products; "any value but 0" must mean it.
    return jnp.einsum(
        "hH,...HW,wW->...hw", rows, masks, columns, precision=jax.lax.Precision.HIGHEST
    )


def layer_shares(
    masks: Float[Array, "b masks h w"], size: tuple[int, int], rule: MaskRule
) -> Float[Array, "b layers hs ws"]:
    """Returns each layer's share of each cell: 0 or 1, or between for "soft_coverage".

    Args:
      masks: of all layers but the last, in [0, 1], foreground first. Earlier layers hide later
        ones; the last layer is the ground and gets what is left.
      size: (height, width) of the feature map.
      rule: see the module's description.
    """
    if rule not in get_args(MaskRule):
        raise ValueError(
            f"unknown mask rule {rule!r}; choose one of {', '.join(get_args(MaskRule))}"
        )
    if rule == "upstream":
        present = _resize(_bicubic_matrix, masks, size) != 0
        return _front_to_back(present.astype(jnp.float32))
    shares = _resize(_area_matrix, _front_to_back(masks), size)
    if rule == "coverage":
        # argmax gives ties to the front.
        winner = jnp.argmax(shares, axis=1)
        return jnp.moveaxis(jax.nn.one_hot(winner, shares.shape[1]), -1, 1)
    return shares


def _front_to_back(masks: Float[Array, "b masks h w"]) -> Float[Array, "b layers h w"]:
    """Returns what is seen of each layer when earlier ones hide later ones, ground included."""
    batch, _, height, width = masks.shape
    one = jnp.ones((batch, 1, height, width), masks.dtype)  # also where there is only the ground
    before = jnp.concatenate([one, jnp.cumprod(1.0 - masks, axis=1)], axis=1)
    own = jnp.concatenate([masks, one], axis=1)
    return before * own


def cross_attention_bias(
    masks: Float[Array, "b masks h w"],
    sizes: tuple[tuple[int, int], ...],
    num_text_tokens: int,
    num_layer_tokens: int,
    rule: MaskRule = "upstream",
) -> tuple[Array, ...]:
    """Returns the bias [b 1 (h w) keys] for each resolution level.

    Args:
      masks: of all layers but the last; see `layer_shares`.
      sizes: (height, width) of the feature map at each level.
      num_text_tokens: text tokens at the front of the context, seen from everywhere.
      num_layer_tokens: tokens of each layer.
      rule: see the module's description.
    """

    def level(size: tuple[int, int]) -> Float[Array, "b 1 hw k"]:
        shares = layer_shares(masks, size, rule)
        bias = jnp.where(shares > 0, jnp.log(jnp.maximum(shares, 1e-6)), _EXCLUDED)
        batch, layers = bias.shape[:2]
        bias = bias.reshape(batch, layers, -1).swapaxes(1, 2)  # [b, cells, layers]
        bias = jnp.repeat(bias, num_layer_tokens, axis=2)
        text = jnp.zeros((*bias.shape[:2], num_text_tokens))
        return jnp.concatenate([text, bias], axis=2)[:, None]

    return tuple(level(size) for size in sizes)


def check_masks(masks: Bool[np.ndarray, "*any"] | Float[np.ndarray, "*any"]) -> list[str]:
    """Returns warnings about masks that are allowed but probably not meant."""
    warnings = []
    for index, mask in enumerate(np.asarray(masks).reshape(-1, *np.shape(masks)[-2:])):
        if not mask.any():
            warnings.append(f"mask {index} is empty: its layer's exemplar is seen nowhere")
        elif (mask >= 1).all():
            warnings.append(f"mask {index} covers the whole image: it hides every layer behind it")
    return warnings
