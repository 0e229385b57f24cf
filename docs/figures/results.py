"""Draws docs/compose.png and docs/factors.png: what the weights that ship with the project do.

python docs/figures/results.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cnc_jax.pipeline import ComposeAndConquer, Layer
from fgdm_jax.pipeline import FactorGraphDiffusion
from input_pipeline.contact_sheet import Picture, contact_sheet
from input_pipeline.images import write_png
from input_pipeline.palettes import palette
from input_pipeline.scenes import Scenes

_DOCS = Path(__file__).parents[1]
_CELL, _SIZE, _SEEDS = 132, (64, 64), range(4)
_SETTINGS: dict[str, Any] = {"num_steps": 20, "guidance_scale": 3.0}
# Of a world that no training has seen: a scene, one of three objects, and two looks.
_SCENE, _THREE, _FRONT_LOOK, _BACK_LOOK = 8, 54, 21, 33
_CHAIN = "a red ball in front of a blue box in the snow"


def depths_of(scene: dict[str, Any], names: tuple[str, ...]) -> list[np.ndarray]:
    """Returns maps of a scene in [0, 1]."""
    return [scene[f"{name}_depth"].astype(np.float32) / 65535 for name in names]


def composed() -> list[list[Picture]]:
    """Returns two layers from depth, with looks, and three layers."""
    world = Scenes(seed=1, size=_SIZE)
    scene, front, back = (world.arrays(i) for i in (_SCENE, _FRONT_LOOK, _BACK_LOOK))
    near, far = depths_of(scene, ("foreground", "background"))
    mask = scene["mask"].astype(np.float32) / 255
    look, place = front["image"], back["background"]
    pipeline = ComposeAndConquer.load("scenes")
    prompt = scene["captions"][1]
    plain = pipeline(prompt, [Layer(near), Layer(far)], seeds=_SEEDS, **_SETTINGS)
    layers = [Layer(near, look, mask), Layer(far, place)]
    looks = pipeline("", layers, seeds=_SEEDS, image_guidance_scale=2.0, **_SETTINGS)

    three = world.arrays(_THREE)
    maps = depths_of(three, ("foreground", "middle", "far"))
    deep = ComposeAndConquer.load("scenes-three")
    text = three["captions"][3]
    layered = deep(text, [Layer(depth) for depth in maps], seeds=_SEEDS[:3], **_SETTINGS)
    return [
        [
            Picture.mask("depth, front", near),
            Picture.mask("depth, back", far),
            *(Picture(prompt if not i else f"seed {i}", x) for i, x in enumerate(plain)),
        ],
        [
            Picture("look of the front", look),
            Picture("look of the back", place),
            *(Picture("no text" if not i else f"seed {i}", x) for i, x in enumerate(looks)),
        ],
        [
            *(Picture.mask(f"depth {i + 1} of 3", depth) for i, depth in enumerate(maps)),
            *(Picture(text if not i else f"seed {i}", x) for i, x in enumerate(layered)),
        ],
    ]


def drawn() -> list[list[Picture]]:
    """Returns maps with their images: a row for each of two seeds, two seeds beside each other."""
    pipeline = FactorGraphDiffusion.load("scenes", palette=palette("scenes"))
    found = pipeline(_CHAIN, "chain", seeds=_SEEDS, size=_SIZE, **_SETTINGS)
    cells = [
        [
            Picture(
                f"{name}, seed {i}" + f": {found.scores.label(i)}" * (name == "segmentation"), x[i]
            )
            for name, x in found.pictures.items()
        ]
        for i in _SEEDS
    ]
    return [cells[0] + cells[1], cells[2] + cells[3]]


def main() -> None:
    """Writes the pictures."""
    title = "Compose and Conquer: objects in depth order, each layer with its own look"
    write_png(_DOCS / "compose.png", contact_sheet(composed(), cell=_CELL, title=title))
    title = f'FG-DM: maps and image from "{_CHAIN}"'
    write_png(_DOCS / "factors.png", contact_sheet(drawn(), cell=_CELL, title=title))


if __name__ == "__main__":
    main()
