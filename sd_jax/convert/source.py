"""Opens a checkpoint in any layout as one flat mapping of lazily read tensors.

    file.safetensors, file.ckpt     the original layout: "model.diffusion_model.conv_in.weight"
    folder with unet/, vae/, ...    diffusers' layout: "unet/conv_in.weight"
    a component's own folder/file   named as if it stood in one of the two

The tokenizer's files stay where they are; `Source.tokenizer` names their folder.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sd_jax.convert.component import LayoutName
from sd_jax.files import LazyTensor, open_tensors, read_metadata

COMPONENTS_KEY = "cnc_fgdm_jax.components"
"""Key of a safetensors file's metadata: JSON of what a folder's config.json would say."""

_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")

# In order of preference; a half-precision variant is taken only where there is no other file.
_WEIGHT_FILES = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "model.safetensors.index.fp16.json",
    "diffusion_pytorch_model.fp16.bin",
    "pytorch_model.fp16.bin",
)

# A folder or bare file of one component: the class in its config.json, the component.
_CLASSES = {
    "UNet2DConditionModel": "unet",
    "AutoencoderKL": "vae",
    "ControlNetModel": "controlnet",
    "CLIPTextModel": "text_encoder",
    "CLIPTextModelWithProjection": "text_encoder",
    "CLIPVisionModelWithProjection": "image_encoder",
    "CLIPModel": "image_encoder",
    "StableDiffusionSafetyChecker": "safety_checker",
    # Of which variable, no folder says.
    "T2IAdapter": "adapter",
    "Adapter": "adapter",
}

# A file of one component without a prefix: a telling name, the prefix it lacks.
_BARE: tuple[tuple[str, str, LayoutName], ...] = (
    ("controlnet_cond_embedding.conv_in.weight", "controlnet/", "diffusers"),
    ("input_hint_block.0.weight", "control_model.", "ldm"),
    ("concept_embeds", "safety_checker/", "diffusers"),
    ("down_blocks.0.resnets.0.conv1.weight", "unet/", "diffusers"),
    ("encoder.down_blocks.0.resnets.0.conv1.weight", "vae/", "diffusers"),
    ("encoder.down.0.block.0.conv1.weight", "first_stage_model.", "ldm"),
    ("input_blocks.0.0.weight", "model.diffusion_model.", "ldm"),
    # T2I- and FG-DM adapters; diffusers' names have the level and the block apart.
    ("adapter.body.0.resnets.0.block1.weight", "adapter/", "diffusers"),
    ("adapter.body.0.resnets.0.conv1.weight", "adapter/", "diffusers"),
    ("adapter.body.0.block1.weight", "model.diffusion_model.", "ldm"),
    ("adapter.body.0.in_layers.0.weight", "model.diffusion_model.", "ldm"),
    ("body.0.block1.weight", "model.diffusion_model.adapter.", "ldm"),
    ("body.0.in_layers.0.weight", "model.diffusion_model.adapter.", "ldm"),
    ("vision_model.embeddings.class_embedding", "image_encoder/", "diffusers"),
    ("text_model.embeddings.token_embedding.weight", "text_encoder/", "diffusers"),
    ("embeddings.token_embedding.weight", "text_encoder/", "diffusers"),
)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used as it is; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened checkpoint.

    Attributes:
      path: as given.
      layout: "ldm" or "diffusers".
      tensors: every tensor in the checkpoint, by its full name.
      hints: config.json of each component's folder, by component; a file that was exported here
        may carry them too.
      scheduler: scheduler_config.json, if there is one.
      tokenizer: folder with the tokenizer's files, if there is one.
      bare: prefix that the names lack in the file, "" as a rule.
      metadata: text that a safetensors file holds beside its tensors.
    """

    path: Path
    layout: LayoutName
    tensors: Mapping[str, LazyTensor]
    hints: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    scheduler: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tokenizer: Path | None = None
    bare: str = ""
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


def open_source(path: str | Path, layout: LayoutName | None = None) -> Source:
    """Returns the checkpoint at `path`, without reading weights.

    Args:
      path: file or folder.
      layout: overrides the detection for a file.

    Raises:
      CheckpointError: there is no checkpoint there.
      sd_jax.files.UnsafeFileError: a file holds what could run code.
      sd_jax.files.CorruptFileError: a file is damaged.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file or folder")
    if not path.name.endswith((*_SUFFIXES, ".index.json")):
        raise CheckpointError(
            f"{path}: not a checkpoint; expected a folder or a file ending in "
            f"{', '.join(_SUFFIXES)}"
        )
    tensors = open_tensors(path)
    metadata = read_metadata(path) if path.suffix == ".safetensors" else {}
    hints = _hints_in(path, metadata)
    for telling, prefix, bare_layout in _BARE:
        if telling in tensors and (layout or bare_layout) == bare_layout:
            return Source(
                path,
                bare_layout,
                {prefix + name: tensor for name, tensor in tensors.items()},
                hints=hints,
                bare=prefix,
                metadata=metadata,
            )
    return Source(path, layout or "ldm", tensors, hints=hints, metadata=metadata)


def _hints_in(path: Path, metadata: Mapping[str, str]) -> dict[str, Mapping[str, Any]]:
    if COMPONENTS_KEY not in metadata:
        return {}
    try:
        hints = json.loads(metadata[COMPONENTS_KEY])
    except ValueError as error:
        raise CheckpointError(
            f"{path}: its metadata {COMPONENTS_KEY} is not readable as JSON ({error}); export the "
            "file again"
        ) from error
    if not isinstance(hints, dict) or not all(isinstance(hint, dict) for hint in hints.values()):
        raise CheckpointError(
            f"{path}: its metadata {COMPONENTS_KEY} must be an object of objects; export the file "
            "again"
        )
    return hints


def _open_folder(folder: Path) -> Source:
    own_config = _read_json(folder / "config.json")
    own_file = _weight_file(folder)
    if own_file is not None:
        component = _component_of(folder, own_config)
        return Source(
            folder,
            "diffusers",
            {f"{component}/{name}": t for name, t in open_tensors(own_file).items()},
            hints={component: own_config},
            bare=f"{component}/",
        )
    tensors: dict[str, LazyTensor] = {}
    hints = {}
    for subfolder in sorted(item for item in folder.iterdir() if item.is_dir()):
        weights = _weight_file(subfolder)
        if weights is None:
            continue
        for name, tensor in open_tensors(weights).items():
            tensors[f"{subfolder.name}/{name}"] = tensor
        hints[subfolder.name] = _read_json(subfolder / "config.json")
    if not tensors:
        raise CheckpointError(
            f"{folder}: no checkpoint here; expected a converted directory (config.json and "
            f"params/), a diffusers folder (unet/, vae/, ...), or one of {', '.join(_WEIGHT_FILES)}"
        )
    tokenizer = folder / "tokenizer"
    return Source(
        folder,
        "diffusers",
        tensors,
        hints=hints,
        scheduler=_read_json(folder / "scheduler" / "scheduler_config.json"),
        tokenizer=tokenizer if tokenizer.is_dir() else None,
    )


def _weight_file(folder: Path) -> Path | None:
    for name in _WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    return None


def _component_of(folder: Path, config: Mapping[str, Any]) -> str:
    classes = [config.get("_class_name"), *config.get("architectures", [])]
    for name in classes:
        if name in _CLASSES:
            return _CLASSES[name]
    raise CheckpointError(
        f"{folder / 'config.json'}: tells none of the known classes (found "
        f"{', '.join(map(str, filter(None, classes))) or 'no class'}); expected one of "
        f"{', '.join(_CLASSES)}"
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content
