"""Source -> parameters: every tensor is accounted for, or one error says what is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from sd_jax.convert.causes import likely_causes
from sd_jax.convert.component import Component, Layout
from sd_jax.convert.fresh import fresh_params
from sd_jax.convert.places import averaged_names, is_averaged, only_place, places_in
from sd_jax.convert.source import CheckpointError, Source
from sd_jax.convert.table import Entry, Kind, to_ours
from sd_jax.typing import Params, nested_params

# What a folder's config.json may say of the architecture that no shape tells.
_ARCHITECTURE = {
    "act_fn": "silu",
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "layer_norm_eps": 1e-5,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "use_linear_projection": False,
}


@dataclasses.dataclass(frozen=True)
class Record:
    """Where one tensor of the file went; enough to write the file again, byte for byte.

    Attributes:
      name: in the file.
      path: "component/our/path", or None for what no network uses.
      kind: see `sd_jax.convert.table.Entry`.
    """

    name: str
    path: str | None
    kind: Kind = "same"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What will be loaded: all decisions taken, no weight read.

    Attributes:
      source: the checkpoint.
      configs: sizes by component.
      entries: for each component, its table with names as they stand in the file.
      fresh: paths (with the component in front) that the file lacks and may lack.
      unused: names that no network uses.
    """

    source: Source
    configs: Mapping[str, Any]
    entries: Mapping[str, tuple[Entry, ...]]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def records(self) -> list[Record]:
        """Returns one record for each tensor of the file, in the file's order."""
        used = {
            entry.name: Record(entry.name, f"{component}/{entry.path}", entry.kind)
            for component, entries in self.entries.items()
            for entry in entries
        }
        return [used.get(name, Record(name, None)) for name in self.source.tensors]


def plan_loading(
    source: Source,
    components: Sequence[Component],
    *,
    num_heads: int | None = None,
    use_ema: bool = False,
    may_be_fresh: Collection[str] = (),
) -> Plan:
    """Returns what to load from where, after checking every name and shape.

    Args:
      source: the checkpoint.
      components: to look for; those that the checkpoint lacks are left out.
      num_heads: attention heads, where no config.json tells them (8 unless given).
      use_ema: take the UNet's averaged weights from an original file that has both.
      may_be_fresh: components of which tensors may be missing (they are initialised anew).

    Raises:
      CheckpointError: lists every missing, unexpected or wrongly shaped tensor, and the likely
        cause.
    """
    configs: dict[str, Any] = {}
    parts: dict[str, _Part] = {}
    problems: list[str] = []
    found = places_in(source, components)
    for component in components:
        layout = component.layouts.get(source.layout)
        places = found.get(component.name, {})
        if layout is None or not any(layout.is_in(names) for names in places.values()):
            continue
        try:
            prefix, names = only_place(component, places)
            if use_ema and is_averaged(component, prefix):
                names = averaged_names(source, prefix, names)
            hints = _hints(source, component, prefix, configs.get("unet"), num_heads)
            part = _plan_component(source, component, layout, names, hints)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        configs[component.name] = part.config
        parts[component.name] = part
        problems += part.problems
        if component.name not in may_be_fresh:
            problems += [f"missing: {prefix}{entry.name} {entry.shape}" for entry in part.missing]
    problems += disagreements(configs)
    if problems or not configs:
        adapters = {name for name in found if name.startswith("adapter_")}
        causes = likely_causes(source.tensors, known=configs.keys() | adapters)
        raise CheckpointError(_message(source, problems, causes))
    entries = {name: part.found for name, part in parts.items()}
    fresh = [f"{name}/{entry.path}" for name, part in parts.items() for entry in part.missing]
    used = _used(entries)
    unused = tuple(name for name in source.tensors if name not in used)
    return Plan(source, configs, entries, tuple(fresh), unused)


@dataclasses.dataclass(frozen=True)
class _Part:
    """What a source holds of one component."""

    config: Any
    found: tuple[Entry, ...]
    missing: tuple[Entry, ...]
    problems: tuple[str, ...]


def _hints(
    source: Source, component: Component, prefix: str, unet: Any, num_heads: int | None
) -> dict[str, Any]:
    """Returns what is known of a component beside the shapes of its tensors."""
    folder = component.name if component.name in source.hints else prefix.removesuffix("/")
    hints = dict(source.hints.get(folder, {}))
    if unet is not None:
        # A copy of the encoder has its sizes, unless a config.json of its own says otherwise.
        hints["num_heads_of_unet"] = unet.num_heads
        hints["norm_num_groups_of_unet"] = unet.norm_num_groups
    if num_heads is not None:
        hints["num_heads"] = num_heads
    return hints


def _plan_component(
    source: Source,
    component: Component,
    layout: Layout,
    names: Mapping[str, str],
    hints: Mapping[str, Any],
) -> _Part:
    """Returns what the source holds of a component.

    Raises:
      CheckpointError: so much is wrong that its sizes cannot be told.
    """
    shapes = {name: source.tensors[full].shape for name, full in names.items()}
    try:
        config = layout.infer(shapes, hints)
        table = component.table(source.layout, config)
    except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{component.name}: the sizes cannot be told from the shapes; "
            f"no tensor or shape as expected for {error}"
        ) from error
    problems = [
        f"{component.name}/config.json: {name} is {hints[name]!r}, supported is {value!r}"
        for name, value in _ARCHITECTURE.items()
        if name in hints and hints[name] != value
    ]
    found, missing = [], []
    for entry in table:
        if entry.name not in names:
            missing.append(entry)
        elif (kind := _stored_kind(entry, shapes[entry.name])) is None:
            problems.append(
                f"wrong shape: {names[entry.name]} is {shapes[entry.name]}, expected {entry.shape}"
            )
        else:
            found.append(Entry(entry.path, names[entry.name], kind, shapes[entry.name]))
    known = {entry.name for entry in table}
    problems += [
        f"unexpected: {names[name]} {shapes[name]}"
        for name in names
        if name not in known and not layout.is_ignored(name)
    ]
    return _Part(config, tuple(found), tuple(missing), tuple(problems))


def _stored_kind(entry: Entry, shape: tuple[int, ...]) -> Kind | None:
    """Returns how a tensor of this shape becomes ours; None if it is of another shape.

    A dense layer may be stored as 1x1 convolution, and the reverse.
    """
    if shape == entry.shape:
        return entry.kind
    if entry.kind == "pointwise" and shape == entry.shape[:2]:
        return "linear"
    if entry.kind == "linear" and shape == (*entry.shape, 1, 1):
        return "pointwise"
    return None


def disagreements(configs: Mapping[str, Any]) -> list[str]:
    """Returns what does not fit between components that work on each other's outputs."""
    problems = []
    unet, text, vae = configs.get("unet"), configs.get("text_encoder"), configs.get("vae")
    if unet and text and unet.cross_attention_dim != text.hidden_size:
        problems.append(
            f"wrong text encoder: it is {text.hidden_size} wide, but the UNet's cross-attention "
            f"takes {unet.cross_attention_dim}"
        )
    for name in ("local_fuser", "controlnet"):
        copy = getattr(configs.get(name), "unet", None)
        if (
            unet
            and copy
            and (
                (copy.block_out_channels, copy.cross_attention_dim, copy.layers_per_block)
                != (unet.block_out_channels, unet.cross_attention_dim, unet.layers_per_block)
            )
        ):
            problems.append(
                f"wrong {name}: it copies a UNet of widths {copy.block_out_channels} with "
                f"cross-attention {copy.cross_attention_dim}, but the UNet here has "
                f"{unet.block_out_channels} and {unet.cross_attention_dim}"
            )
    for name, config in configs.items():
        if unet and name.startswith("adapter_"):
            problems += _adapter_disagreements(name, config, unet)
    tokens = configs.get("global_fuser")
    if unet and tokens and unet.cross_attention_dim != tokens.embedding_dim:
        problems.append(
            f"wrong global_fuser: its tokens are {tokens.embedding_dim} wide, but the UNet's "
            f"cross-attention takes {unet.cross_attention_dim}"
        )
    if unet and vae and unet.out_channels != vae.latent_channels:
        problems.append(
            f"wrong autoencoder: {vae.latent_channels} latent channels, but the UNet predicts "
            f"{unet.out_channels}"
        )
    return problems


def _adapter_disagreements(name: str, config: Any, unet: Any) -> list[str]:
    problems = []
    if config.block_out_channels != unet.block_out_channels:
        problems.append(
            f"wrong {name}: its features are {config.block_out_channels} wide, but the UNet's "
            f"levels are {unet.block_out_channels}"
        )
    if config.time_embed_dim not in (None, unet.time_embed_dim):
        problems.append(
            f"wrong {name}: it takes a time embedding of {config.time_embed_dim}, but the UNet's "
            f"is {unet.time_embed_dim} wide"
        )
    if config.text_dim not in (None, unet.cross_attention_dim):
        problems.append(
            f"wrong {name}: it translates texts of width {config.text_dim}, but the UNet reads "
            f"texts of width {unet.cross_attention_dim}"
        )
    return problems


def _used(entries: Mapping[str, tuple[Entry, ...]]) -> set[str]:
    return {entry.name for table in entries.values() for entry in table}


def _message(source: Source, problems: Sequence[str], causes: Sequence[str]) -> str:
    if not problems:
        problems = [f"no known component among its {len(source.tensors)} tensors"]
    lines = [f"{source.path}: cannot be loaded ({len(problems)} problems)"]
    lines += [f"- {problem}" for problem in problems]
    lines += [f"Likely cause: {cause}" for cause in causes]
    return "\n".join(lines)


def read_component(
    plan: Plan, component: Component, keep: Callable[[np.ndarray], Any] = lambda array: array
) -> Params:
    """Returns one component's parameters, read tensor by tensor.

    Args:
      plan: from `plan_loading`.
      component: one of the plan's.
      keep: applied to each array as it is read; for example `jnp.asarray`.
    """
    flat = {
        entry.path: keep(to_ours(plan.source.tensors[entry.name].read(), entry.kind))
        for entry in plan.entries[component.name]
    }
    prefix = f"{component.name}/"
    fresh = {path[len(prefix) :] for path in plan.fresh if path.startswith(prefix)}
    if fresh:
        flat |= {
            path: keep(array)
            for path, array in fresh_params(component, plan.configs[component.name]).items()
            if path in fresh
        }
    return nested_params(flat)
