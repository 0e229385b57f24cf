"""Loads FG-DM checkpoints: adapters, the Stable Diffusion they were trained on, a ControlNet."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from fgdm_jax.adapter import AdapterConfig
from fgdm_jax.convert import components
from fgdm_jax.graph import VARIABLES, unknown_name
from sd_jax.load import open_each
from sd_jax.model import Model, StableDiffusionConfig


@dataclasses.dataclass(frozen=True)
class FGDMConfig(StableDiffusionConfig):
    """Sizes of the components of an FG-DM model; None where it lacks one.

    Attributes:
      adapter_segmentation: of the factor that draws segmentation maps.
      adapter_pose: poses.
      adapter_depth: depth maps.
      adapter_normal: maps of surface normals.
      adapter_sketch: sketches.
      adapter_canny: Canny edges.
      adapter_foreground_depth: depth of the salient object alone.
      adapter_background_depth: depth of what is behind it.
      adapter_image: images.
    """

    adapter_segmentation: AdapterConfig | None = None
    adapter_pose: AdapterConfig | None = None
    adapter_depth: AdapterConfig | None = None
    adapter_normal: AdapterConfig | None = None
    adapter_sketch: AdapterConfig | None = None
    adapter_canny: AdapterConfig | None = None
    adapter_foreground_depth: AdapterConfig | None = None
    adapter_background_depth: AdapterConfig | None = None
    adapter_image: AdapterConfig | None = None


def load(
    path: str | Path | Sequence[str | Path],
    *,
    variable: str = "segmentation",
    num_heads: int | None = None,
    use_ema: bool = False,
) -> Model:
    """Returns an FG-DM model, or whatever part of one is there.

    Args:
      path: FG-DM, T2I-Adapter, ControlNet or Stable Diffusion 1.x files as upstream publishes them,
        a diffusers folder, a converted directory, or "scenes", the weights that ship with the
        project. Several complete one another: of a component that two have, the first is taken.
        "depth=fgdm_depth.pth" says of which variable a file's adapter is.
      variable: of the adapter in files that do not say it and stand without such a "variable=".
      num_heads: attention heads where no config.json tells them; 8 unless given.
      use_ema: take the averaged weights from a file that has both.

    Returns:
      A model with `.params` and `.config` (an `FGDMConfig`). Missing components are left out; what
      needs them says so.

    Raises:
      ValueError: a variable is not known.
      CheckpointError: a checkpoint is not there, damaged, or of another architecture.
    """
    items = named_paths([path] if isinstance(path, str | Path) else path, variable)
    opened = open_each(
        [(item, components(of)) for of, item in items], num_heads=num_heads, use_ema=use_ema
    )
    return opened.load(FGDMConfig)


def named_paths(
    paths: Sequence[str | Path], variable: str = "segmentation"
) -> list[tuple[str, str | Path]]:
    """Returns (variable, path) for each "variable=path" or path.

    Args:
      paths: of checkpoints; one that is there under its whole name is a path, whatever it contains.
      variable: of those that say none.

    Raises:
      ValueError: lists all variables that are not known, and an empty `paths`.
    """
    items: list[tuple[str, str | Path]] = []
    for path in paths:
        match = re.match(r"(\w+)=(.+)", str(path))
        if match is None or Path(path).exists():
            items.append((variable, path))
        else:
            items.append((match[1], match[2]))
    named = dict.fromkeys([variable, *(of for of, _ in items)])
    problems = [unknown_name("variable", of, VARIABLES) for of in named if of not in VARIABLES]
    if not items:
        problems.append("no checkpoint is named; give at least one path")
    if problems:
        raise ValueError("\n".join(problems))
    return items
