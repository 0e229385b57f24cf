"""Tables of the released Compose and Conquer weights, and of Uni-ControlNet's.

Upstream names layers: "fg" and "bg" where this project counts them. A model with more layers takes
"mid1", "mid2", ... between the two; Uni-ControlNet's adapters are ours with a single layer, whose
names carry no such mark.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from cnc_jax.global_fuser import GlobalFuser, GlobalFuserConfig
from cnc_jax.local_fuser import LocalFuser, LocalFuserConfig
from sd_jax.convert.blocks import LDM_RESNET, LEAF, ldm_encoder_blocks, nested
from sd_jax.convert.component import COMPONENTS as SD_COMPONENTS
from sd_jax.convert.component import (
    Component,
    Layout,
    floats,
    groups_from_hints,
    heads_from_hints,
    in_both_layouts,
    integers,
)
from sd_jax.convert.ldm import Shapes, infer_unet

_FDN_RESNET = {
    **{name: path for name, path in LDM_RESNET.items() if not name.startswith("norm")},
    "norm1/gamma": "norm_in.conv_gamma",
    "norm1/beta": "norm_in.conv_beta",
    "norm2/gamma": "norm_out.conv_gamma",
    "norm2/beta": "norm_out.conv_beta",
}


def layer_names(num_layers: int) -> tuple[str, ...]:
    """Returns the layers' names in files, front to back."""
    if num_layers == 1:
        return ("",)
    return ("fg", *(f"mid{index}" for index in range(1, num_layers - 1)), "bg")


def local_fuser_modules(config: LocalFuserConfig) -> dict[str, str]:
    """Returns the module names of `local_adapter`."""
    blocks = ldm_encoder_blocks(config.unet, first_resnet=_FDN_RESNET)
    extractor = "feature_extractor"
    for layer, name in enumerate(layer_names(config.num_layers)):
        stem = f"{name}_extractor" if name else "pre_extractor"
        for index in range(len(config.stem_channels)):
            blocks[f"{extractor}/layers_{layer}/convs_{index}"] = (
                f"{extractor}.{stem}.{2 * index}",
                LEAF,
            )
    for level in range(len(config.inject_channels)):
        blocks[f"{extractor}/extractors_{level}"] = (f"{extractor}.extractors.{level}.0", LEAF)
        blocks[f"{extractor}/zero_convs_{level}"] = (f"{extractor}.zero_convs.{level}", LEAF)
    for index in range(config.unet.num_skips):
        blocks[f"zero_convs_{index}"] = (f"zero_convs.{index}.0", LEAF)
    blocks[f"zero_convs_{config.unet.num_skips}"] = ("middle_block_out.0", LEAF)
    return nested(blocks)


def infer_local_fuser(shapes: Shapes, hints: Mapping[str, Any]) -> LocalFuserConfig:
    """Returns the sizes of a local fuser, Compose and Conquer's or Uni-ControlNet's."""
    prefix = "feature_extractor."
    children = {name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)}
    stems = {child for child in children if child.endswith("_extractor")}
    stem = "pre_extractor" if "pre_extractor" in stems else "fg_extractor"
    stem_channels = []
    while f"{prefix}{stem}.{2 * len(stem_channels)}.weight" in shapes:
        stem_channels.append(shapes[f"{prefix}{stem}.{2 * len(stem_channels)}.weight"][0])
    inject_channels = []
    while f"{prefix}extractors.{len(inject_channels)}.0.weight" in shapes:
        inject_channels.append(shapes[f"{prefix}extractors.{len(inject_channels)}.0.weight"][0])
    unet = infer_unet(shapes, heads_from_hints(hints), prefix_out=False)
    return LocalFuserConfig(
        unet=dataclasses.replace(unet, norm_num_groups=groups_from_hints(hints)),
        num_layers=len(stems),
        condition_channels=shapes[f"{prefix}{stem}.0.weight"][1],
        stem_channels=tuple(stem_channels),
        inject_channels=tuple(inject_channels),
    )


def global_fuser_modules(config: GlobalFuserConfig) -> dict[str, str]:
    """Returns the module names of `global_adapter`."""
    blocks = {}
    for layer, name in enumerate(layer_names(config.num_layers)):
        suffix = f"_{name}" if name else ""
        for number in (1, 2):
            blocks[f"layers_{layer}/norm{number}"] = (f"norm{number}{suffix}", LEAF)
            blocks[f"layers_{layer}/ff{number}"] = (
                f"ff{number}{suffix}",
                {"net_0": "net.0.proj", "net_2": "net.2"},
            )
    return nested(blocks)


def infer_global_fuser(shapes: Shapes, hints: Mapping[str, Any]) -> GlobalFuserConfig:
    """Returns the sizes of a global fuser, Compose and Conquer's or Uni-ControlNet's."""
    del hints
    parts = [re.match(r"(?:norm|ff)[12](_[a-z0-9]+)?\.", name) for name in shapes]
    layers = {part[1] for part in parts if part}
    suffix = "" if None in layers else "_fg"
    width = shapes[f"norm1{suffix}.weight"][0]
    return GlobalFuserConfig(
        num_layers=len(layers),
        embedding_dim=width,
        num_tokens=shapes[f"ff2{suffix}.net.2.weight"][0] // width,
        hidden_multiple=shapes[f"norm2{suffix}.weight"][0] // width,
    )


def _local_fuser_inputs(config: LocalFuserConfig) -> tuple[Any, ...]:
    size = config.unet.size_multiple
    return (
        floats(1, size, size, config.unet.in_channels),
        integers(1),
        floats(1, 1, config.unet.cross_attention_dim),
        floats(1, config.num_layers, 8 * size, 8 * size, config.condition_channels),
    )


LOCAL_FUSER = Component(
    name="local_fuser",
    config_class=LocalFuserConfig,
    module=LocalFuser,
    inputs=_local_fuser_inputs,
    # diffusers has no name for it; a folder beside unet/ keeps upstream's.
    layouts=in_both_layouts(
        Layout("local_adapter.", local_fuser_modules, infer_local_fuser), "local_fuser/"
    ),
    zero=r"(feature_extractor/)?zero_convs",
)

GLOBAL_FUSER = Component(
    name="global_fuser",
    config_class=GlobalFuserConfig,
    module=GlobalFuser,
    inputs=lambda config: (floats(1, config.num_layers, config.embedding_dim),),
    layouts=in_both_layouts(
        Layout("global_adapter.", global_fuser_modules, infer_global_fuser), "global_fuser/"
    ),
)

COMPONENTS: tuple[Component, ...] = (*SD_COMPONENTS, LOCAL_FUSER, GLOBAL_FUSER)
"""What Compose and Conquer checkpoints hold."""
