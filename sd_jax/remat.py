"""Activation checkpointing: what a network's backward pass computes again instead of keeping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import flax.linen as nn
import jax

Remat: TypeAlias = Literal["none", "dots", "layers", "blocks"]
"""What the backward pass computes again, from nothing to most:

    none     nothing; fastest, and takes the most memory
    dots     each layer, but for the outputs of its matrix products
    layers   each ResnetBlock and each transformer
    blocks   each resolution level as a whole
"""

REMATS: tuple[str, ...] = get_args(Remat)


def remat_layer(layer: Callable[..., nn.Module], remat: Remat) -> Callable[..., nn.Module]:
    """Returns the class of a ResnetBlock or transformer with its checkpointing.

    Args:
      layer: the class.
      remat: of the network.
    """
    if remat == "dots":
        return _remat(layer, jax.checkpoint_policies.dots_with_no_batch_dims_saveable)
    return _remat(layer) if remat == "layers" else layer


def remat_block(block: Callable[..., nn.Module], remat: Remat) -> Callable[..., nn.Module]:
    """Returns the class of a resolution level with its checkpointing.

    Args:
      block: the class.
      remat: of the network.
    """
    return _remat(block) if remat == "blocks" else block


def _remat(module: Any, policy: Any = None) -> Callable[..., nn.Module]:
    return nn.remat(module, policy=policy)
