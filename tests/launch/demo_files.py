"""Files to compose from: a checkpoint of random weights, photographs, depth maps and a mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage import data

from cnc_jax.convert import COMPONENTS
from cnc_jax.testing import random_model, tiny_config
from sd_jax.convert.export import export_diffusers
from sd_jax.convert.weights import weights_of_model


def write_demo_files(folder: Path) -> dict[str, Any]:
    """Returns config values that name the files written to `folder`.

    The depth maps are drawn by hand: a ball in front of a plain that rises to the horizon.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = random_model(tiny_config())
    configs = {name: getattr(model.config, name) for name in model.params}
    export_diffusers(
        weights_of_model(model.params, configs, model.config.schedule),
        COMPONENTS,
        folder / "checkpoint",
        overwrite=True,
    )
    ball, plain = _ball_and_plain(512)
    _save(folder / "ball_depth.png", ball)
    _save(folder / "plain_depth.png", plain)
    _save(folder / "ball_mask.png", (ball > 0).astype(np.float32))
    for name, photo in (("cat", data.chelsea()), ("coffee", data.coffee())):
        Image.fromarray(photo).save(folder / f"{name}.png")
    return {
        "checkpoint": str(folder / "checkpoint"),
        "prompt": "a ball of fur in front of a table",
        "depth_maps": f"{folder / 'ball_depth.png'},{folder / 'plain_depth.png'}",
        "exemplars": f"{folder / 'cat.png'},{folder / 'coffee.png'}",
        "masks": str(folder / "ball_mask.png"),
    }


def _ball_and_plain(size: int) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[:size, :size] / (size - 1)
    distance = np.hypot(rows - 0.55, columns - 0.5) / 0.25
    ball = np.where(distance < 1, 0.7 + 0.3 * np.sqrt(np.clip(1 - distance**2, 0, 1)), 0.0)
    plain = np.clip((rows - 0.4) / 0.6, 0, 1) * 0.8
    return ball.astype(np.float32), plain.astype(np.float32)


def _save(path: Path, values: np.ndarray) -> None:
    Image.fromarray(np.round(values * 65535).astype(np.uint16)).save(path)
