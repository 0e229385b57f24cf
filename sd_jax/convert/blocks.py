"""Names inside the blocks that several components share, in both families of layouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sd_jax.unet import UNetConfig

_ATTENTION = ("to_q", "to_k", "to_v")

TRANSFORMER: dict[str, str] = {
    "norm": "norm",
    "proj_in": "proj_in",
    "proj_out": "proj_out",
    **{
        f"transformer_blocks_0/{attention}/{name}": f"transformer_blocks.0.{attention}.{name}"
        for attention in ("attn1", "attn2")
        for name in _ATTENTION
    },
    **{
        f"transformer_blocks_0/{attention}/to_out_0": f"transformer_blocks.0.{attention}.to_out.0"
        for attention in ("attn1", "attn2")
    },
    **{f"transformer_blocks_0/norm{i}": f"transformer_blocks.0.norm{i}" for i in (1, 2, 3)},
    "transformer_blocks_0/ff/net_0": "transformer_blocks.0.ff.net.0.proj",
    "transformer_blocks_0/ff/net_2": "transformer_blocks.0.ff.net.2",
}
"""A SpatialTransformer; original and diffusers' names agree."""

LDM_RESNET: dict[str, str] = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
"""A ResnetBlock of the original UNet."""

DIFFUSERS_RESNET: dict[str, str] = {
    name: name for name in ("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut")
}
"""A ResnetBlock of diffusers."""

LDM_VAE_RESNET: dict[str, str] = {
    **{name: name for name in ("norm1", "conv1", "norm2", "conv2")},
    "conv_shortcut": "nin_shortcut",
}
"""A ResnetBlock of the original autoencoder."""


def nested(blocks: Mapping[str, tuple[str, Mapping[str, str]]]) -> dict[str, str]:
    """Returns module names from {our block: (their block, names inside)}; "" names the block."""
    names = {}
    for ours, (theirs, inside) in blocks.items():
        for path, name in inside.items():
            names["/".join(filter(None, (ours, path)))] = ".".join(filter(None, (theirs, name)))
    return names


def is_in(shapes: Mapping[str, Any], prefix: str) -> bool:
    """Returns whether any tensor is there under a prefix, so that one missing name hides none."""
    return any(name.startswith(prefix) for name in shapes)


def count(shapes: Mapping[str, Any], prefix: str) -> int:
    """Returns how many of prefix.format(0), prefix.format(1), ... tensors are there under."""
    number = 0
    while is_in(shapes, prefix.format(number)):
        number += 1
    return number


LEAF: dict[str, str] = {"": ""}
"""Names inside a block that is one layer."""


def ldm_encoder_blocks(
    config: UNetConfig, first_resnet: Mapping[str, str] = LDM_RESNET
) -> dict[str, tuple[str, Mapping[str, str]]]:
    """Returns the blocks of the original encoder: `input_blocks` numbered in one row.

    Args:
      config: sizes.
      first_resnet: names inside the first ResnetBlock of each level.
    """
    blocks: dict[str, tuple[str, Mapping[str, str]]] = {
        "conv_in": ("input_blocks.0.0", LEAF),
        "time_embedding/linear_1": ("time_embed.0", LEAF),
        "time_embedding/linear_2": ("time_embed.2", LEAF),
        "mid_block/resnets_0": ("middle_block.0", LDM_RESNET),
        "mid_block/attentions_0": ("middle_block.1", TRANSFORMER),
        "mid_block/resnets_1": ("middle_block.2", LDM_RESNET),
    }
    number = 1
    for level in range(config.num_levels):
        for index in range(config.layers_per_block):
            inside = first_resnet if index == 0 else LDM_RESNET
            blocks[f"down_blocks_{level}/resnets_{index}"] = (f"input_blocks.{number}.0", inside)
            if config.attention_levels[level]:
                blocks[f"down_blocks_{level}/attentions_{index}"] = (
                    f"input_blocks.{number}.1",
                    TRANSFORMER,
                )
            number += 1
        if level < config.num_levels - 1:
            blocks[f"down_blocks_{level}/downsamplers_0/conv"] = (
                f"input_blocks.{number}.0.op",
                LEAF,
            )
            number += 1
    return blocks


def diffusers_encoder_blocks(config: UNetConfig) -> dict[str, tuple[str, Mapping[str, str]]]:
    """Returns the blocks of diffusers' encoder."""
    blocks: dict[str, tuple[str, Mapping[str, str]]] = {
        "conv_in": ("conv_in", LEAF),
        "time_embedding/linear_1": ("time_embedding.linear_1", LEAF),
        "time_embedding/linear_2": ("time_embedding.linear_2", LEAF),
        "mid_block/resnets_0": ("mid_block.resnets.0", DIFFUSERS_RESNET),
        "mid_block/attentions_0": ("mid_block.attentions.0", TRANSFORMER),
        "mid_block/resnets_1": ("mid_block.resnets.1", DIFFUSERS_RESNET),
    }
    for level in range(config.num_levels):
        for index in range(config.layers_per_block):
            blocks[f"down_blocks_{level}/resnets_{index}"] = (
                f"down_blocks.{level}.resnets.{index}",
                DIFFUSERS_RESNET,
            )
            if config.attention_levels[level]:
                blocks[f"down_blocks_{level}/attentions_{index}"] = (
                    f"down_blocks.{level}.attentions.{index}",
                    TRANSFORMER,
                )
        if level < config.num_levels - 1:
            blocks[f"down_blocks_{level}/downsamplers_0/conv"] = (
                f"down_blocks.{level}.downsamplers.0.conv",
                LEAF,
            )
    return blocks
