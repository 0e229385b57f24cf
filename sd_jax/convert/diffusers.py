"""Tables of diffusers' folders: UNet2DConditionModel, AutoencoderKL, ControlNetModel."""

from __future__ import annotations

from collections.abc import Mapping

from sd_jax.controlnet import ControlNetConfig
from sd_jax.convert.blocks import (
    DIFFUSERS_RESNET,
    LEAF,
    TRANSFORMER,
    count,
    diffusers_encoder_blocks,
    is_in,
    nested,
)
from sd_jax.convert.ldm import Shapes
from sd_jax.unet import UNetConfig
from sd_jax.vae import VAEConfig


def unet_modules(config: UNetConfig) -> dict[str, str]:
    """Returns the module names of a UNet2DConditionModel."""
    blocks = diffusers_encoder_blocks(config)
    blocks["conv_norm_out"] = ("conv_norm_out", LEAF)
    blocks["conv_out"] = ("conv_out", LEAF)
    for block, level in enumerate(reversed(range(config.num_levels))):
        for index in range(config.layers_per_block + 1):
            blocks[f"up_blocks_{block}/resnets_{index}"] = (
                f"up_blocks.{block}.resnets.{index}",
                DIFFUSERS_RESNET,
            )
            if config.attention_levels[level]:
                blocks[f"up_blocks_{block}/attentions_{index}"] = (
                    f"up_blocks.{block}.attentions.{index}",
                    TRANSFORMER,
                )
        if level > 0:
            blocks[f"up_blocks_{block}/upsamplers_0/conv"] = (
                f"up_blocks.{block}.upsamplers.0.conv",
                LEAF,
            )
    return nested(blocks)


def infer_unet(shapes: Shapes, num_heads: int) -> UNetConfig:
    """Returns the sizes of a UNet, or of a copy of its encoder, from the shapes of its tensors."""
    levels = range(count(shapes, "down_blocks.{}."))
    context = shapes.get("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", (0, 768))[
        1
    ]
    return UNetConfig(
        in_channels=shapes["conv_in.weight"][1],
        out_channels=shapes.get("conv_out.weight", (4,))[0],
        block_out_channels=tuple(
            shapes[f"down_blocks.{level}.resnets.0.conv1.weight"][0] for level in levels
        ),
        layers_per_block=count(shapes, "down_blocks.0.resnets.{}."),
        attention_levels=tuple(
            is_in(shapes, f"down_blocks.{level}.attentions.") for level in levels
        ),
        num_heads=num_heads,
        cross_attention_dim=context,
    )


def controlnet_modules(config: ControlNetConfig) -> dict[str, str]:
    """Returns the module names of a ControlNetModel."""
    blocks = diffusers_encoder_blocks(config.unet)
    hint = "controlnet_cond_embedding"
    num_blocks = 2 * (len(config.hint_block_out_channels) - 1)
    blocks[f"{hint}/conv_in"] = (f"{hint}.conv_in", LEAF)
    blocks[f"{hint}/conv_out"] = (f"{hint}.conv_out", LEAF)
    for index in range(num_blocks):
        blocks[f"{hint}/blocks_{index}"] = (f"{hint}.blocks.{index}", LEAF)
    for index in range(config.unet.num_skips):
        blocks[f"controlnet_down_blocks_{index}"] = (f"controlnet_down_blocks.{index}", LEAF)
    blocks["controlnet_mid_block"] = ("controlnet_mid_block", LEAF)
    return nested(blocks)


def infer_controlnet(shapes: Shapes, num_heads: int) -> ControlNetConfig:
    """Returns the sizes of a ControlNetModel."""
    hint = "controlnet_cond_embedding"
    widths = [shapes[f"{hint}.conv_in.weight"][0]]
    # Blocks go in pairs, of which the second has the next width.
    for block in range(1, count(shapes, f"{hint}.blocks.{{}}."), 2):
        widths.append(shapes[f"{hint}.blocks.{block}.weight"][0])
    return ControlNetConfig(
        unet=infer_unet(shapes, num_heads),
        hint_channels=shapes[f"{hint}.conv_in.weight"][1],
        hint_block_out_channels=tuple(widths),
    )


def vae_modules(config: VAEConfig) -> dict[str, str]:
    """Returns the module names of an AutoencoderKL."""
    attention = {
        "group_norm": "group_norm",
        **{f"attention/{name}": name for name in ("to_q", "to_k", "to_v")},
        "attention/to_out_0": "to_out.0",
    }
    resnet = {name: name for name in DIFFUSERS_RESNET if name != "time_emb_proj"}
    blocks: dict[str, tuple[str, Mapping[str, str]]] = {
        "quant_conv": ("quant_conv", LEAF),
        "post_quant_conv": ("post_quant_conv", LEAF),
    }
    for part in ("encoder", "decoder"):
        for name in ("conv_in", "conv_norm_out", "conv_out"):
            blocks[f"{part}/{name}"] = (f"{part}.{name}", LEAF)
        for index in range(2):
            blocks[f"{part}/mid_block/resnets_{index}"] = (
                f"{part}.mid_block.resnets.{index}",
                resnet,
            )
        blocks[f"{part}/mid_block/attentions_0"] = (f"{part}.mid_block.attentions.0", attention)
    last = len(config.block_out_channels) - 1
    for part, block, extra, sampler in (
        ("encoder", "down_blocks", 0, "downsamplers"),
        ("decoder", "up_blocks", 1, "upsamplers"),
    ):
        for level in range(last + 1):
            for index in range(config.layers_per_block + extra):
                blocks[f"{part}/{block}_{level}/resnets_{index}"] = (
                    f"{part}.{block}.{level}.resnets.{index}",
                    resnet,
                )
            if level < last:
                blocks[f"{part}/{block}_{level}/{sampler}_0/conv"] = (
                    f"{part}.{block}.{level}.{sampler}.0.conv",
                    LEAF,
                )
    return nested(blocks)


VAE_ALIASES: tuple[tuple[str, str], ...] = (
    (r"(.*\.attentions\.0)\.query\.(.*)", r"\1.to_q.\2"),
    (r"(.*\.attentions\.0)\.key\.(.*)", r"\1.to_k.\2"),
    (r"(.*\.attentions\.0)\.value\.(.*)", r"\1.to_v.\2"),
    (r"(.*\.attentions\.0)\.proj_attn\.(.*)", r"\1.to_out.0.\2"),
)
"""Names that diffusers gave the autoencoder's attention before 0.15, and released folders have."""


def infer_vae(shapes: Shapes) -> VAEConfig:
    """Returns the sizes of an AutoencoderKL."""
    levels = range(count(shapes, "encoder.down_blocks.{}."))
    return VAEConfig(
        in_channels=shapes["encoder.conv_in.weight"][1],
        latent_channels=shapes["post_quant_conv.weight"][0],
        block_out_channels=tuple(
            shapes[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"][0] for level in levels
        ),
        layers_per_block=count(shapes, "encoder.down_blocks.0.resnets.{}."),
    )
