"""Tables of the original single-file layout (CompVis' latent diffusion, original ControlNet)."""

from __future__ import annotations

from collections.abc import Mapping

from sd_jax.controlnet import ControlNetConfig
from sd_jax.convert.blocks import (
    LDM_RESNET,
    LDM_VAE_RESNET,
    LEAF,
    TRANSFORMER,
    count,
    is_in,
    ldm_encoder_blocks,
    nested,
)
from sd_jax.convert.table import Shape
from sd_jax.unet import UNetConfig
from sd_jax.vae import VAEConfig

Shapes = Mapping[str, Shape]


def unet_modules(config: UNetConfig) -> dict[str, str]:
    """Returns the module names of `model.diffusion_model`."""
    blocks = ldm_encoder_blocks(config)
    blocks["conv_norm_out"] = ("out.0", LEAF)
    blocks["conv_out"] = ("out.2", LEAF)
    number = 0
    for block, level in enumerate(reversed(range(config.num_levels))):
        for index in range(config.layers_per_block + 1):
            blocks[f"up_blocks_{block}/resnets_{index}"] = (f"output_blocks.{number}.0", LDM_RESNET)
            last = 1
            if config.attention_levels[level]:
                blocks[f"up_blocks_{block}/attentions_{index}"] = (
                    f"output_blocks.{number}.1",
                    TRANSFORMER,
                )
                last = 2
            if index == config.layers_per_block and level > 0:
                # The upsampler is the last child of the level's last block.
                blocks[f"up_blocks_{block}/upsamplers_0/conv"] = (
                    f"output_blocks.{number}.{last}.conv",
                    LEAF,
                )
            number += 1
    return nested(blocks)


def infer_unet(shapes: Shapes, num_heads: int, prefix_out: bool = True) -> UNetConfig:
    """Returns the sizes of a UNet, or of a copy of its encoder, from the shapes of its tensors.

    Args:
      shapes: names without the component's prefix.
      num_heads: attention heads, which no shape tells.
      prefix_out: whether there is a decoder, whose head tells the output channels.
    """
    widths: list[int] = [0]
    attention: list[bool] = [False]
    layers = [0]
    for number in range(1, count(shapes, "input_blocks.{}.")):
        if is_in(shapes, f"input_blocks.{number}.0.op."):
            widths.append(0)
            attention.append(False)
            layers.append(0)
        else:
            widths[-1] = shapes[f"input_blocks.{number}.0.in_layers.2.weight"][0]
            attention[-1] |= is_in(shapes, f"input_blocks.{number}.1.")
            layers[-1] += 1
    context = shapes.get("middle_block.1.transformer_blocks.0.attn2.to_k.weight", (0, 768))[1]
    return UNetConfig(
        in_channels=shapes["input_blocks.0.0.weight"][1],
        out_channels=shapes["out.2.weight"][0] if prefix_out and "out.2.weight" in shapes else 4,
        block_out_channels=tuple(widths),
        layers_per_block=layers[0],
        attention_levels=tuple(attention),
        num_heads=num_heads,
        cross_attention_dim=context,
    )


_HINT_LAYERS = {
    "conv_in": 0,
    "conv_out": 14,
    **{f"blocks_{index}": 2 * index + 2 for index in range(6)},
}


def controlnet_modules(config: ControlNetConfig) -> dict[str, str]:
    """Returns the module names of `control_model`."""
    blocks = ldm_encoder_blocks(config.unet)
    for layer, number in _HINT_LAYERS.items():
        blocks[f"controlnet_cond_embedding/{layer}"] = (f"input_hint_block.{number}", LEAF)
    for index in range(config.unet.num_skips):
        blocks[f"controlnet_down_blocks_{index}"] = (f"zero_convs.{index}.0", LEAF)
    blocks["controlnet_mid_block"] = ("middle_block_out.0", LEAF)
    return nested(blocks)


def infer_controlnet(shapes: Shapes, num_heads: int) -> ControlNetConfig:
    """Returns the sizes of an original ControlNet."""
    hint = [shapes[f"input_hint_block.{number}.weight"][0] for number in (0, 4, 8, 12)]
    return ControlNetConfig(
        unet=infer_unet(shapes, num_heads, prefix_out=False),
        hint_channels=shapes["input_hint_block.0.weight"][1],
        hint_block_out_channels=tuple(hint),
    )


def vae_modules(config: VAEConfig) -> dict[str, str]:
    """Returns the module names of `first_stage_model`."""
    attention = {
        "group_norm": "norm",
        "attention/to_q": "q",
        "attention/to_k": "k",
        "attention/to_v": "v",
        "attention/to_out_0": "proj_out",
    }
    blocks: dict[str, tuple[str, Mapping[str, str]]] = {
        "quant_conv": ("quant_conv", LEAF),
        "post_quant_conv": ("post_quant_conv", LEAF),
    }
    for part in ("encoder", "decoder"):
        for ours, theirs in (
            ("conv_in", "conv_in"),
            ("conv_norm_out", "norm_out"),
            ("conv_out", "conv_out"),
        ):
            blocks[f"{part}/{ours}"] = (f"{part}.{theirs}", LEAF)
        blocks[f"{part}/mid_block/resnets_0"] = (f"{part}.mid.block_1", LDM_VAE_RESNET)
        blocks[f"{part}/mid_block/resnets_1"] = (f"{part}.mid.block_2", LDM_VAE_RESNET)
        blocks[f"{part}/mid_block/attentions_0"] = (f"{part}.mid.attn_1", attention)
    last = len(config.block_out_channels) - 1
    for level in range(last + 1):
        for index in range(config.layers_per_block):
            blocks[f"encoder/down_blocks_{level}/resnets_{index}"] = (
                f"encoder.down.{level}.block.{index}",
                LDM_VAE_RESNET,
            )
        for index in range(config.layers_per_block + 1):
            # The original numbers the decoder's levels from the image down.
            blocks[f"decoder/up_blocks_{level}/resnets_{index}"] = (
                f"decoder.up.{last - level}.block.{index}",
                LDM_VAE_RESNET,
            )
        if level < last:
            blocks[f"encoder/down_blocks_{level}/downsamplers_0/conv"] = (
                f"encoder.down.{level}.downsample.conv",
                LEAF,
            )
            blocks[f"decoder/up_blocks_{level}/upsamplers_0/conv"] = (
                f"decoder.up.{last - level}.upsample.conv",
                LEAF,
            )
    return nested(blocks)


VAE_POINTWISE = frozenset(
    f"{part}/mid_block/attentions_0/attention/{name}"
    for part in ("encoder", "decoder")
    for name in ("to_q", "to_k", "to_v", "to_out_0")
)
"""Dense layers that the original autoencoder stores as 1x1 convolutions."""


def infer_vae(shapes: Shapes) -> VAEConfig:
    """Returns the sizes of an autoencoder."""
    levels = range(count(shapes, "encoder.down.{}."))
    return VAEConfig(
        in_channels=shapes["encoder.conv_in.weight"][1],
        latent_channels=shapes["post_quant_conv.weight"][0],
        block_out_channels=tuple(
            shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in levels
        ),
        layers_per_block=count(shapes, "encoder.down.0.block.{}."),
    )
