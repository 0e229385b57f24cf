"""A tiny model that is both systems, and graphs of factors drawn by it through launch.sample."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import cnc_jax.testing
from configs import sample_fgdm
from fgdm_jax.testing import smallest_config
from launch.components import AnyConfig, components_of
from launch.drawing import draw_from_config
from sd_jax.convert.store import save_model
from sd_jax.testing import random_params

SEEN = {
    **dict.fromkeys(("segmentation", "depth", "foreground_depth", "background_depth"), 1),
    "image": 2,
}
SETTINGS: dict[str, Any] = {
    "prompt": "a red ball in front of a box on grass",
    "palette": "scenes",
    **dict.fromkeys(("map_height", "map_width", "height", "width"), 64),
    **dict.fromkeys(("map_steps", "num_steps"), 2),
}


def saved(folder: Path, config: AnyConfig, only: tuple[str, ...] = ()) -> Path:
    params, config = random_params(components_of(), config, 0, only)
    sizes = {name: getattr(config, name) for name in params}
    save_model(params, sizes, folder, config.schedule)
    return folder


def any_config(seen=SEEN) -> AnyConfig:
    """Returns the smallest sizes of a model that is both systems."""
    fgdm, cnc = smallest_config(seen), cnc_jax.testing.smallest_config()
    fuser = dataclasses.replace(cnc.local_fuser, unet=fgdm.unet)
    fields = {field.name: getattr(fgdm, field.name) for field in dataclasses.fields(fgdm)}
    return AnyConfig(**{**fields, "local_fuser": fuser})


def drawn(checkpoint: Path, output: Path, preset: str = "chain", **changes: Any) -> Path:
    config = sample_fgdm.get_config(f"graph={preset}")
    settings = {**SETTINGS, "checkpoint": str(checkpoint), "output": str(output), **changes}
    config.update(settings)
    return draw_from_config(config)


def pixels(folder: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(folder / name))


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "record.json").read_text())
