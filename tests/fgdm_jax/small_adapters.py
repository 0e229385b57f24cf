"""Small adapters of each kind, with names, shapes and values as files hold them."""

from __future__ import annotations

import dataclasses

import numpy as np

from fgdm_jax.adapter import AdapterConfig
from sd_jax.testing import formula_tensors
from sd_jax.unet import UNetConfig

SMALL_UNET = UNetConfig(
    block_out_channels=(32, 64),
    layers_per_block=1,
    attention_levels=(True, False),
    cross_attention_dim=24,
)
SMALL = AdapterConfig(4, (32, 64))
KINDS = {
    "plain": SMALL,
    "time": dataclasses.replace(SMALL, time_embed_dim=128),
    "zero": dataclasses.replace(SMALL, in_channels=8, zero_convs=True),
    "text": dataclasses.replace(SMALL, text_dim=24, text_channels=8),
}


def shapes_of(component, config, layout="ldm", prefix=None):
    """Returns names and shapes of a component in a layout."""
    prefix = component.layouts[layout].prefix if prefix is None else prefix
    return {prefix + entry.name: entry.shape for entry in component.table(layout, config)}


def tensors(shapes, dtype=np.float32):
    """Returns tensors with values, of their names' formulas."""
    return [
        dataclasses.replace(
            tensor,
            dtype=np.dtype(dtype),
            read=lambda tensor=tensor: tensor.read().astype(dtype),
        )
        for tensor in formula_tensors(shapes).values()
    ]
