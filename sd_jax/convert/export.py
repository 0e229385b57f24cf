"""Parameters -> files in PyTorch's layouts.

What was loaded from a layout goes back into it byte for byte: the records of the converted
directory tell each tensor's name, and its extras hold what no network uses. Into another layout,
the tables write.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sd_jax.convert.component import Component, LayoutName
from sd_jax.convert.diffusers_json import (
    component_json,
    feature_extractor_json,
    model_index_json,
    scheduler_json,
)
from sd_jax.convert.ldm_buffers import ldm_buffers
from sd_jax.convert.source import COMPONENTS_KEY
from sd_jax.convert.store import Origin
from sd_jax.convert.table import Kind, make_table, their_shape, to_theirs
from sd_jax.convert.weights import ExportError, Weights
from sd_jax.files import LazyTensor, open_tensors, write_safetensors, write_torch
from sd_jax.files.directory import complete_directory
from sd_jax.typing import nested_params

_TRANSFORMERS_COMPONENTS = ("text_encoder", "image_encoder", "safety_checker")


def tensors_in_layout(
    weights: Weights, components: Sequence[Component], layout: LayoutName
) -> list[LazyTensor]:
    """Returns every tensor of a layout's files, unread, with its full name.

    Args:
      weights: to write.
      components: that may be among them.
      layout: to write in.
    """
    tensors: list[LazyTensor] = []
    written: set[str] = set()
    renamed = _renamed_components(weights, components, layout)
    for origin in weights.origins:
        if origin.layout == layout:
            recorded, held = _recorded_tensors(weights, origin, written | renamed)
            names = {tensor.name for tensor in tensors}
            tensors += [tensor for tensor in recorded if tensor.name not in names]
            written |= held
    if layout == "ldm" and not written:
        tensors += ldm_buffers(weights.configs, weights.schedule)
    for component in components:
        if component.name not in weights.configs or component.name in written:
            continue
        spec = component.layouts.get(layout)
        if spec is None:
            raise ExportError(f"{component.name} has no place in layout {layout!r}")
        config = weights.configs[component.name]
        abstract = nested_params(weights.shapes[component.name])
        for entry in make_table(abstract, spec.modules(config), spec.pointwise):
            tensors.append(
                _lazy(weights, spec.prefix + entry.name, component.name, entry.path, entry.kind)
            )
    return tensors


def _renamed_components(
    weights: Weights, components: Sequence[Component], layout: LayoutName
) -> set[str]:
    """Returns the components that cannot keep their sources' names beside one another.

    Every FG-DM or T2I-Adapter file calls its adapter the same, whatever its variable; together
    they go by the names of the table.
    """
    own = {item.layouts[layout].prefix for item in components if layout in item.layouts}
    owners: dict[str, set[str]] = {}
    renamed: set[str] = set()
    for origin in weights.origins:
        if origin.layout != layout:
            continue
        held = {item.path.partition("/")[0] for item in origin.records if item.path is not None}
        if len(weights.origins) > 1 and origin.bare and origin.bare not in own:
            renamed |= held
        for record in origin.records:
            if record.path is not None:
                owners.setdefault(record.name, set()).add(record.path.partition("/")[0])
    return renamed.union(*(names for names in owners.values() if len(names) > 1))


def _recorded_tensors(
    weights: Weights, origin: Origin, written: set[str]
) -> tuple[list[LazyTensor], set[str]]:
    """Returns the tensors of one source under its names, and the components that they make up."""
    folder = weights.extras
    extras = open_tensors(folder / origin.extras) if folder and origin.extras else {}
    tensors, held = [], set()
    for record in origin.records:
        if record.path is None:
            if record.name in extras:
                tensors.append(extras[record.name])
            continue
        component, _, path = record.path.partition("/")
        if component not in written:
            held.add(component)
            tensors.append(_lazy(weights, record.name, component, path, record.kind))
    return tensors, held


def _lazy(weights: Weights, name: str, component: str, path: str, kind: Kind) -> LazyTensor:
    leaf = weights.shapes[component][path]
    return LazyTensor(
        name,
        their_shape(tuple(leaf.shape), kind),
        np.dtype(leaf.dtype),
        lambda: to_theirs(np.asarray(weights.read(component)[path]), kind),
    )


def export_ldm(
    weights: Weights,
    components: Sequence[Component],
    output: str | Path,
    *,
    overwrite: bool = False,
) -> None:
    """Writes one file in the original layout.

    Args:
      weights: to write.
      components: that may be among them.
      output: ends in .safetensors or, for a torch file, .ckpt, .pt or .pth.
      overwrite: replace a file that is there.

    Raises:
      ExportError: the ending is none of these, or the output is there.
    """
    output = Path(output)
    if output.suffix not in (".safetensors", ".ckpt", ".pt", ".pth"):
        raise ExportError(
            f"{output}: the original layout is one file; end its name in .safetensors, or in .ckpt "
            "for a torch file"
        )
    if output.exists() and not overwrite:
        raise ExportError(f"{output}: is there already; choose another output or pass --overwrite")
    output.parent.mkdir(parents=True, exist_ok=True)
    tensors = tensors_in_layout(weights, components, "ldm")
    bare = _bare_prefix(weights, "ldm")
    tensors = [dataclasses.replace(item, name=item.name.removeprefix(bare)) for item in tensors]
    if output.suffix == ".safetensors":
        write_safetensors(output, tensors, _ldm_metadata(weights, components))
    else:
        write_torch(output, tensors)


def untold_by_shapes(weights: Weights, components: Sequence[Component]) -> list[str]:
    """Returns the components that a file in the original layout does not describe in full.

    Heads and norm groups other than Stable Diffusion's are in no shape: a folder has config.json
    for them, a safetensors file its metadata, a torch file nothing.
    """
    untold = []
    for component in components:
        spec, config = component.layouts.get("ldm"), weights.configs.get(component.name)
        if spec is None or config is None:
            continue
        shapes = {entry.name: entry.shape for entry in component.table("ldm", config)}
        if spec.infer(shapes, {}) != config:
            untold.append(component.name)
    return untold


def _ldm_metadata(weights: Weights, components: Sequence[Component]) -> dict[str, str]:
    metadata = {"format": "pt"}
    for origin in weights.origins:
        if origin.layout == "ldm":
            metadata |= origin.metadata
    untold = untold_by_shapes(weights, components)
    if untold:
        hints = {name: _described(name, weights, components) for name in untold}
        metadata[COMPONENTS_KEY] = json.dumps(hints)
    return metadata


def _described(name: str, weights: Weights, components: Sequence[Component]) -> dict[str, Any]:
    """Returns config.json of a component's folder."""
    if name not in weights.configs:  # a folder of its own, which tells no variable
        (name,) = weights.configs
    config = weights.configs[name]
    describe = next(item.describe for item in components if item.name == name)
    return component_json(name, config) if describe is None else describe(config)


def export_diffusers(
    weights: Weights,
    components: Sequence[Component],
    output: str | Path,
    *,
    overwrite: bool = False,
) -> None:
    """Writes a diffusers folder; a single component that came alone gets a folder of its own.

    Args:
      weights: to write.
      components: that may be among them.
      output: the folder to make.
      overwrite: replace a folder that is there.
    """
    output = Path(output)
    if output.suffix in (".safetensors", ".ckpt", ".pt", ".pth"):
        raise ExportError(f"{output}: diffusers' layout is a folder; leave out {output.suffix}")
    origins = [origin for origin in weights.origins if origin.layout == "diffusers"]
    hints = {name: hint for origin in origins for name, hint in origin.hints.items() if hint}
    alone = bool(_bare_prefix(weights, "diffusers"))
    by_folder: dict[str, list[LazyTensor]] = {}
    for tensor in tensors_in_layout(weights, components, "diffusers"):
        folder, _, name = tensor.name.partition("/")
        by_folder.setdefault(folder, []).append(dataclasses.replace(tensor, name=name))
    with complete_directory(output, overwrite=overwrite) as root:
        for name, tensors in by_folder.items():
            folder = root if alone else root / name
            folder.mkdir(exist_ok=True)
            stem = "model" if name in _TRANSFORMERS_COMPONENTS else "diffusion_pytorch_model"
            write_safetensors(folder / f"{stem}.safetensors", tensors, {"format": "pt"})
            content = hints.get(name) or _described(name, weights, components)
            if content:
                _write_json(folder / "config.json", content)
        if not alone:
            scheduler = next((item.scheduler for item in origins if item.scheduler), None)
            _write_pipeline_files(root, weights, scheduler, by_folder)


def _write_pipeline_files(
    root: Path,
    weights: Weights,
    scheduler: Mapping[str, Any] | None,
    folders: Iterable[str],
) -> None:
    """Writes what makes the components' folders a pipeline: index, scheduler, tokenizer."""
    (root / "scheduler").mkdir()
    _write_json(
        root / "scheduler" / "scheduler_config.json",
        scheduler or scheduler_json(weights.schedule),
    )
    if weights.tokenizer is not None:
        shutil.copytree(weights.tokenizer, root / "tokenizer")
    elif "text_encoder" in weights.configs:
        # Imported here: it needs the tokenizers library, which the rest does not.
        from sd_jax.tokenizer import Tokenizer

        (root / "tokenizer").mkdir()
        length = weights.configs["text_encoder"].max_position_embeddings
        Tokenizer.default(length).save(root / "tokenizer")
    if "safety_checker" in weights.configs:
        (root / "feature_extractor").mkdir()
        _write_json(
            root / "feature_extractor" / "preprocessor_config.json",
            feature_extractor_json(weights.configs["safety_checker"].vision),
        )
    _write_json(root / "model_index.json", model_index_json(folders, weights.configs.get("unet")))


def _bare_prefix(weights: Weights, layout: LayoutName) -> str:
    """Returns the prefix that the names lack if one component's own file is all there is."""
    if len(weights.origins) != 1 or weights.origins[0].layout != layout:
        return ""
    return weights.origins[0].bare


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
