"""What a checkpoint is made of: one `Component` for each network, with its table in each layout."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from sd_jax.clip import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel
from sd_jax.controlnet import ControlNet, ControlNetConfig
from sd_jax.convert import clip, diffusers, ldm
from sd_jax.convert.table import Entry, Shape, abstract_params, make_table
from sd_jax.safety_checker import SafetyChecker, SafetyCheckerConfig
from sd_jax.unet import UNet, UNetConfig
from sd_jax.vae import AutoencoderKL, VAEConfig

LayoutName = Literal["ldm", "diffusers"]
Hints = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one component stands in one layout.

    Attributes:
      prefix: of all its tensors: "model.diffusion_model." in a file, "unet/" in a folder.
      modules: sizes -> {our module path: their module name}.
      infer: (shapes by name without prefix, hints) -> sizes; the hints are the folder's config.json
        and "num_heads".
      aliases: (pattern, replacement) for other spellings of names; the first full match is used.
      ignored: patterns of names that belong to the component and carry no weights.
      pointwise: module paths of dense layers that the layout stores as 1x1 convolutions.
      other_prefixes: under which files may hold the component too; written is `prefix`.
    """

    prefix: str
    modules: Callable[[Any], dict[str, str]]
    infer: Callable[[Mapping[str, Shape], Hints], Any]
    aliases: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = (r".*position_ids",)
    pointwise: frozenset[str] = frozenset()
    other_prefixes: tuple[str, ...] = ()

    def is_ignored(self, name: str) -> bool:
        """Returns whether a name (without prefix) carries no weights."""
        return any(re.fullmatch(pattern, name) for pattern in self.ignored)

    def is_in(self, names: Iterable[str]) -> bool:
        """Returns whether (a part of) the component is there, given names under its prefix."""
        return not all(self.is_ignored(name) for name in names)

    def canonical(self, name: str) -> str:
        """Returns a name (without prefix) in the spelling of the table."""
        for pattern, replacement in self.aliases:
            if match := re.fullmatch(pattern, name):
                return match.expand(replacement)
        return name


@dataclasses.dataclass(frozen=True)
class Component:
    """A network that checkpoints hold.

    Attributes:
      name: its key in `Model.params` and its field in the config.
      config_class: frozen dataclass of its sizes.
      module: sizes -> linen module.
      inputs: sizes -> abstract arguments of one call, for the shapes of its parameters.
      layouts: by name.
      zero: pattern of the beginning of paths that start training at zero.
      describe: sizes -> config.json of its folder, where `diffusers_json` does not know it.
    """

    name: str
    config_class: type
    module: Callable[[Any], nn.Module]
    inputs: Callable[[Any], tuple[jax.ShapeDtypeStruct, ...]]
    layouts: Mapping[LayoutName, Layout]
    zero: str = ""
    describe: Callable[[Any], dict[str, Any]] | None = None

    def abstract_params(self, config: Any) -> Any:
        """Returns the shapes of the component's parameters."""
        return abstract_params(self.module(config), *self.inputs(config))

    def table(self, layout: LayoutName, config: Any) -> tuple[Entry, ...]:
        """Returns the component's table, names without prefix."""
        spec = self.layouts[layout]
        return make_table(self.abstract_params(config), spec.modules(config), spec.pointwise)


def in_both_layouts(original: Layout, folder: str) -> dict[LayoutName, Layout]:
    """Returns the two layouts of a component whose names differ by their prefix alone.

    Args:
      original: with the prefix of the original layout.
      folder: the prefix in diffusers' layout.
    """
    return {"ldm": original, "diffusers": dataclasses.replace(original, prefix=folder)}


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    """Returns an abstract float32 array."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def integers(*shape: int) -> jax.ShapeDtypeStruct:
    """Returns an abstract int32 array."""
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def heads_from_hints(hints: Hints) -> int:
    """Returns the heads asked for, those of the folder, those of the UNet beside it, or 8."""
    if hints.get("num_heads") is not None:
        return hints["num_heads"]
    # diffusers' SD 1.x folders say `attention_head_dim` where they mean the number of heads.
    heads = hints.get("num_attention_heads") or hints.get("attention_head_dim")
    heads = heads or hints.get("num_heads_of_unet", 8)
    return heads if isinstance(heads, int) else heads[0]


def groups_from_hints(hints: Hints) -> int:
    """Returns the norms' groups of the folder, those of the UNet beside it, or 32."""
    return hints.get("norm_num_groups") or hints.get("norm_num_groups_of_unet", 32)


def _infer_unet(infer: Callable[..., UNetConfig]) -> Callable[[Mapping[str, Shape], Hints], Any]:
    return lambda shapes, hints: dataclasses.replace(
        infer(shapes, heads_from_hints(hints)), norm_num_groups=groups_from_hints(hints)
    )


def _infer_controlnet(
    infer: Callable[..., ControlNetConfig],
) -> Callable[[Mapping[str, Shape], Hints], Any]:
    def infer_all(shapes: Mapping[str, Shape], hints: Hints) -> ControlNetConfig:
        config = infer(shapes, heads_from_hints(hints))
        unet = dataclasses.replace(config.unet, norm_num_groups=groups_from_hints(hints))
        return dataclasses.replace(config, unet=unet)

    return infer_all


def _infer_vae(infer: Callable[..., VAEConfig]) -> Callable[[Mapping[str, Shape], Hints], Any]:
    def infer_all(shapes: Mapping[str, Shape], hints: Hints) -> VAEConfig:
        config = infer(shapes)
        return dataclasses.replace(
            config,
            norm_num_groups=hints.get("norm_num_groups", config.norm_num_groups),
            scaling_factor=hints.get("scaling_factor", config.scaling_factor),
        )

    return infer_all


UNET = Component(
    name="unet",
    config_class=UNetConfig,
    module=UNet,
    inputs=lambda config: (
        floats(1, config.size_multiple, config.size_multiple, config.in_channels),
        integers(1),
        floats(1, 1, config.cross_attention_dim),
    ),
    layouts={
        "ldm": Layout(
            "model.diffusion_model.",
            ldm.unet_modules,
            _infer_unet(ldm.infer_unet),
        ),
        "diffusers": Layout(
            "unet/",
            diffusers.unet_modules,
            _infer_unet(diffusers.infer_unet),
        ),
    },
)

VAE = Component(
    name="vae",
    config_class=VAEConfig,
    module=AutoencoderKL,
    inputs=lambda config: (
        floats(1, config.downsampling, config.downsampling, config.in_channels),
    ),
    layouts={
        "ldm": Layout(
            "first_stage_model.",
            ldm.vae_modules,
            _infer_vae(ldm.infer_vae),
            ignored=(r"loss\..*", r"model_ema\..*"),
            pointwise=ldm.VAE_POINTWISE,
        ),
        "diffusers": Layout(
            "vae/",
            diffusers.vae_modules,
            _infer_vae(diffusers.infer_vae),
            aliases=diffusers.VAE_ALIASES,
        ),
    },
)

TEXT_ENCODER = Component(
    name="text_encoder",
    config_class=CLIPTextConfig,
    module=CLIPTextModel,
    inputs=lambda config: (integers(1, 1),),
    layouts={
        "ldm": Layout(
            "cond_stage_model.transformer.",
            clip.text_modules,
            clip.infer_text,
            aliases=clip.TEXT_ALIASES,
            ignored=(r".*position_ids", r"text_projection\.weight", r"logit_scale"),
        ),
        "diffusers": Layout(
            "text_encoder/",
            clip.text_modules,
            clip.infer_text,
            aliases=clip.TEXT_ALIASES,
            ignored=(r".*position_ids", r"text_projection\.weight"),
        ),
    },
)

IMAGE_ENCODER = Component(
    name="image_encoder",
    config_class=CLIPVisionConfig,
    module=CLIPVisionModel,
    inputs=lambda config: (floats(1, config.image_size, config.image_size, 3),),
    layouts=in_both_layouts(
        Layout(
            "image_encoder.",
            clip.vision_modules,
            clip.infer_vision,
            # A whole CLIPModel holds the text tower too.
            ignored=(r".*position_ids", r"text_model\..*", r"text_projection\..*", r"logit_scale"),
        ),
        "image_encoder/",
    ),
)

SAFETY_CHECKER = Component(
    name="safety_checker",
    config_class=SafetyCheckerConfig,
    module=SafetyChecker,
    inputs=lambda config: (floats(1, config.vision.image_size, config.vision.image_size, 3),),
    layouts=in_both_layouts(
        Layout(
            "safety_checker.",
            clip.safety_modules,
            clip.infer_safety,
            aliases=clip.SAFETY_ALIASES,
        ),
        "safety_checker/",
    ),
)

CONTROLNET = Component(
    name="controlnet",
    config_class=ControlNetConfig,
    module=ControlNet,
    inputs=lambda config: (
        floats(1, config.unet.size_multiple, config.unet.size_multiple, config.unet.in_channels),
        integers(1),
        floats(1, 1, config.unet.cross_attention_dim),
        floats(
            1,
            *(config.unet.size_multiple * 2 ** (len(config.hint_block_out_channels) - 1),) * 2,
            config.hint_channels,
        ),
    ),
    layouts={
        "ldm": Layout(
            "control_model.",
            ldm.controlnet_modules,
            _infer_controlnet(ldm.infer_controlnet),
        ),
        "diffusers": Layout(
            "controlnet/",
            diffusers.controlnet_modules,
            _infer_controlnet(diffusers.infer_controlnet),
        ),
    },
    zero=r"controlnet_(down_blocks|mid_block|cond_embedding/conv_out)",
)

COMPONENTS: tuple[Component, ...] = (
    UNET,
    VAE,
    TEXT_ENCODER,
    IMAGE_ENCODER,
    SAFETY_CHECKER,
    CONTROLNET,
)
"""What Stable Diffusion checkpoints hold; Compose and Conquer and FG-DM add their own."""
