"""Draws docs/scenes.png: every map of a few scenes, and the layers of one.

python docs/figures/scenes.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.contact_sheet import Picture, contact_sheet
from input_pipeline.images import write_png
from input_pipeline.scenes import CLASSES, Scenes, foreground_image, label_colours

CELL = 144
# One scene of each place, then those whose maps are shown; the last one's layers, too.
PLACES = (502, 389, 24, 395, 465, 101)
SHOWN = (205, 159, 487, 75)


def depth_picture(label: str, depth: np.ndarray) -> Picture:
    """Returns a 16-bit map as grey levels."""
    return Picture.mask(label, depth.astype(np.float32) / 65535)


def scene_rows(arrays: dict[str, Any]) -> list[list[Picture]]:
    """Returns two rows with all pictures of a scene."""
    image, mask = arrays["image"], arrays["mask"]
    colours = label_colours()
    names = [CLASSES[label].name for label in np.unique(arrays["segmentation"])]
    # The colours of the shapes are as good as any for objects.
    instances = np.concatenate([np.zeros((1, 3), np.uint8), colours[len(CLASSES) - 6 :]])
    return [
        [
            Picture(arrays["captions"][2], image),
            Picture("the image inside its mask", foreground_image(image, mask)),
            Picture("background", arrays["background"]),
            Picture.mask("mask", mask.astype(np.float32) / 255),
            Picture("canny", np.repeat(arrays["canny"][..., None], 3, axis=-1)),
            Picture("sketch", np.repeat(arrays["sketch"][..., None], 3, axis=-1)),
        ],
        [
            depth_picture("depth", arrays["depth"]),
            depth_picture("foreground_depth", arrays["foreground_depth"]),
            depth_picture("background_depth", arrays["background_depth"]),
            Picture("normal", arrays["normal"]),
            Picture(f"segmentation: {', '.join(names)}", colours[arrays["segmentation"]]),
            Picture("instances, 1 is the foreground", instances[arrays["instances"]]),
        ],
    ]


def layer_row(scenes: Scenes, index: int) -> list[Picture]:
    """Returns the objects of a scene by themselves, and the empty place."""
    *layers, place = scenes.layers(index)
    names = [item["name"] for item in scenes.arrays(index)["objects"]]
    return [
        *(
            Picture(f"layer: {name}", layer["image"])
            for name, layer in zip(names, layers, strict=True)
        ),
        Picture("the empty place", place["image"]),
    ]


def main() -> None:
    """Writes the picture."""
    scenes = Scenes(seed=0, size=(CELL, CELL))
    places = [scenes.arrays(index) for index in PLACES]
    rows = [[Picture(arrays["captions"][0], arrays["image"]) for arrays in places]]
    rows += [row for index in SHOWN for row in scene_rows(scenes.arrays(index))]
    rows.append(layer_row(scenes, SHOWN[-1]))
    sheet = contact_sheet(rows, cell=CELL, title="Scenes and all their maps")
    write_png(Path(__file__).parents[1] / "scenes.png", sheet)


if __name__ == "__main__":
    main()
