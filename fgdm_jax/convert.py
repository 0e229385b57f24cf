"""Tables of the adapters' weights: FG-DM's released files, T2I-Adapter's, and files of several.

    upstream's file          model.diffusion_model.adapter.*, whatever the variable is
    files written here       adapter_<variable>.*
    folders                  adapter_<variable>/, with the names of diffusers' T2IAdapter inside

An upstream file does not say whose adapter it holds, so `components` is told.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from fgdm_jax.adapter import Adapter, AdapterConfig
from fgdm_jax.graph import VARIABLES, unknown_name
from sd_jax.convert.blocks import DIFFUSERS_RESNET, LDM_RESNET, LEAF, count, is_in, nested
from sd_jax.convert.component import COMPONENTS as SD_COMPONENTS
from sd_jax.convert.component import Component, Layout, floats, groups_from_hints
from sd_jax.convert.ldm import Shapes

UPSTREAM_PREFIX = "model.diffusion_model.adapter."

# What no shape tells: how many of the numbered blocks make a level. All released adapters have two.
_LAYERS_PER_LEVEL = 2

_PLAIN_BLOCK = {"block1": "block1", "block2": "block2"}


def adapter_name(variable: str) -> str:
    """Returns the name of a variable's adapter among the components.

    Raises:
      ValueError: there is no such variable.
    """
    if variable not in VARIABLES:
        raise ValueError(unknown_name("variable", variable, VARIABLES))
    return f"adapter_{variable}"


def upstream_modules(config: AdapterConfig) -> dict[str, str]:
    """Returns the module names of upstream's `adapter`, whose blocks are numbered in one row."""
    blocks: dict[str, tuple[str, Mapping[str, str]]] = {"conv_in": ("conv_in", LEAF)}
    for level in range(config.num_levels):
        for index in range(config.layers_per_level):
            theirs = f"body.{level * config.layers_per_level + index}"
            if config.time_embed_dim is None and index == 0:
                blocks[f"body_{level}/in_conv"] = (f"{theirs}.in_conv", LEAF)
            inside = _PLAIN_BLOCK if config.time_embed_dim is None else LDM_RESNET
            blocks[f"body_{level}/resnets_{index}"] = (theirs, inside)
        blocks[f"zero_convs_{level}"] = (f"zero_convs.{level}", LEAF)
    return nested(blocks | _text_modules(""))


def infer_upstream(shapes: Shapes, hints: Mapping[str, Any]) -> AdapterConfig:
    """Returns the sizes of an adapter in upstream's names."""
    layers = hints.get("num_res_blocks", _LAYERS_PER_LEVEL)
    number = count(shapes, "body.{}.")
    has_time = is_in(shapes, "body.0.in_layers.") or is_in(shapes, "body.0.emb_layers.")
    first = "in_layers.2.weight" if has_time else "block1.weight"
    widths = tuple(shapes[f"body.{index}.{first}"][0] for index in range(0, number, layers))
    embedding = "body.0.emb_layers.1.weight" if has_time else None
    return _config(shapes, hints, widths, layers, embedding)


def diffusers_modules(config: AdapterConfig) -> dict[str, str]:
    """Returns the module names of diffusers' T2IAdapter ("full_adapter"); ours alike with time."""
    inside = _PLAIN_BLOCK if config.time_embed_dim is None else DIFFUSERS_RESNET
    blocks: dict[str, tuple[str, Mapping[str, str]]] = {"conv_in": ("adapter.conv_in", LEAF)}
    for level in range(config.num_levels):
        blocks[f"body_{level}/in_conv"] = (f"adapter.body.{level}.in_conv", LEAF)
        for index in range(config.layers_per_level):
            blocks[f"body_{level}/resnets_{index}"] = (
                f"adapter.body.{level}.resnets.{index}",
                inside,
            )
        blocks[f"zero_convs_{level}"] = (f"adapter.zero_convs.{level}", LEAF)
    return nested(blocks | _text_modules("adapter."))


def _text_modules(prefix: str) -> dict[str, tuple[str, Mapping[str, str]]]:
    return {f"text/{name}": (f"{prefix}text.{name}", LEAF) for name in ("proj_in", "proj_out")}


def infer_diffusers(shapes: Shapes, hints: Mapping[str, Any]) -> AdapterConfig:
    """Returns the sizes of an adapter in diffusers' names.

    Raises:
      ValueError: its config.json says that it is another kind of T2I-Adapter.
    """
    kind = hints.get("adapter_type", "full_adapter")
    if kind != "full_adapter":
        raise ValueError(f"adapter_type {kind!r}; supported is 'full_adapter'")
    levels = range(count(shapes, "adapter.body.{}."))
    block = "adapter.body.0.resnets.0"
    has_time = is_in(shapes, f"{block}.conv1.") or is_in(shapes, f"{block}.time_emb_proj.")
    first = "conv1.weight" if has_time else "block1.weight"
    widths = tuple(shapes[f"adapter.body.{level}.resnets.0.{first}"][0] for level in levels)
    embedding = f"{block}.time_emb_proj.weight" if has_time else None
    layers = count(shapes, "adapter.body.0.resnets.{}.")
    return _config(shapes, hints, widths, layers, embedding, "adapter.")


def _config(
    shapes: Shapes,
    hints: Mapping[str, Any],
    widths: tuple[int, ...],
    layers: int,
    embedding: str | None,
    prefix: str = "",
) -> AdapterConfig:
    """Returns the sizes; `embedding` names the tensor that tells the time embedding's width."""
    # Either tells both sizes, so that the other one can be told to be missing.
    text = shapes.get(f"{prefix}text.proj_in.weight")
    text = text or shapes.get(f"{prefix}text.proj_out.weight", ())[::-1] or None
    return AdapterConfig(
        in_channels=shapes[f"{prefix}conv_in.weight"][1],
        block_out_channels=widths,
        layers_per_level=layers,
        time_embed_dim=None if embedding is None else shapes[embedding][1],
        # Plain adapters have no norms; the default keeps equal ones equal.
        norm_num_groups=groups_from_hints(hints) if embedding else AdapterConfig.norm_num_groups,
        zero_convs=is_in(shapes, f"{prefix}zero_convs."),
        text_dim=None if text is None else text[1],
        text_channels=0 if text is None else text[0],
        clean_parents=bool(hints.get("clean_parents", False)),
    )


def _folder_json(config: AdapterConfig) -> dict[str, Any]:
    """Returns config.json of an adapter's folder: with it diffusers opens a plain one."""
    is_ours = config.time_embed_dim or config.zero_convs or config.text_dim
    content = {
        "_class_name": "Adapter" if is_ours else "T2IAdapter",
        "adapter_type": "full_adapter",
        "channels": list(config.block_out_channels),
        "downscale_factor": 1,
        "in_channels": config.in_channels,
        "num_res_blocks": config.layers_per_level,
    }
    if config.time_embed_dim is not None:
        content["norm_num_groups"] = config.norm_num_groups
    if config.clean_parents:
        content["clean_parents"] = True
    return content


def _inputs(config: AdapterConfig) -> tuple[Any, ...]:
    latents = floats(1, config.size_multiple, config.size_multiple, config.in_channels)
    if config.time_embed_dim is None:
        return (latents,)
    return latents, floats(1, config.time_embed_dim)


def adapter_component(variable: str, *, is_upstream: bool = False) -> Component:
    """Returns the component of a variable's adapter.

    Args:
      variable: one of VARIABLES.
      is_upstream: whether upstream's names, which say no variable, are this variable's; they are
        then what is written too.

    Raises:
      ValueError: there is no such variable.
    """
    name = adapter_name(variable)
    ours, folder = f"{name}.", f"{name}/"
    return Component(
        name=name,
        config_class=AdapterConfig,
        module=Adapter,
        inputs=_inputs,
        layouts={
            "ldm": Layout(
                UPSTREAM_PREFIX if is_upstream else ours,
                upstream_modules,
                infer_upstream,
                other_prefixes=(ours,) if is_upstream else (),
            ),
            "diffusers": Layout(
                folder,
                diffusers_modules,
                infer_diffusers,
                other_prefixes=("adapter/",) if is_upstream else (),
            ),
        },
        zero=r"zero_convs_\d+/|body_\d+/resnets_\d+/conv2/|text/proj_out/",
        describe=_folder_json,
    )


@functools.cache
def components(upstream_variable: str | None = None) -> tuple[Component, ...]:
    """Returns what FG-DM checkpoints hold: Stable Diffusion's components and the adapters.

    Args:
      upstream_variable: the variable whose adapter stands under upstream's names; None if no file
        with such names is to be read or written.

    Raises:
      ValueError: there is no such variable.
    """
    if upstream_variable is not None:
        adapter_name(upstream_variable)
    return (
        *SD_COMPONENTS,
        *(adapter_component(item, is_upstream=item == upstream_variable) for item in VARIABLES),
    )


COMPONENTS: tuple[Component, ...] = components()
"""What FG-DM checkpoints written here hold."""
