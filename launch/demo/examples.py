"""Examples to start from: scenes of the procedural world with their depth maps and layers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from input_pipeline.images import write_png
from input_pipeline.scenes import Scenes

_WORLD = 7
_SCENES = (0, 8, 11, 12, 15, 6)
_FIELDS = ("image", "mask", "background", "foreground_depth", "background_depth", "captions")


@dataclasses.dataclass(frozen=True)
class Example:
    """What an example fills in.

    Attributes:
      picture: the scene itself, to choose by.
      prompt: that is true of it.
      depths: files of foreground and background.
      exemplars: likewise.
      mask: file, of the foreground.
    """

    picture: str
    prompt: str
    depths: tuple[str, str]
    exemplars: tuple[str, str]
    mask: str


def write_examples(folder: Path, size: int) -> list[Example]:
    """Returns examples whose files lie in a folder.

    Args:
      folder: to write to.
      size: height and width of the files.
    """
    scenes = Scenes(seed=_WORLD, size=(size, size), fields=_FIELDS)
    return [_write(folder / str(index), scenes.arrays(index)) for index in _SCENES]


def _write(folder: Path, scene: dict[str, np.ndarray]) -> Example:
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in (
        ("image", scene["image"]),
        ("background", scene["background"]),
        ("mask", scene["mask"]),
    ):
        write_png(folder / f"{name}.png", pixels)
    for name in ("foreground_depth", "background_depth"):
        # In 8 bits, which browsers show.
        grey = np.rint(scene[name] / 257).astype(np.uint8)
        Image.fromarray(grey).save(folder / f"{name}.png")

    def path(name: str) -> str:
        return str(folder / f"{name}.png")

    return Example(
        picture=path("image"),
        prompt=str(scene["captions"][1]),
        depths=(path("foreground_depth"), path("background_depth")),
        exemplars=(path("image"), path("background")),
        mask=path("mask"),
    )
