"""The classes of the scenes' label maps, and their colours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import UInt8

from input_pipeline.schema import VOID


class SceneClass(NamedTuple):
    """A class: its name and its colour (red, green, blue)."""

    name: str
    colour: tuple[int, int, int]


# Any two colours, black of the void included, differ by at least 60 in some channel, so that a
# colour within 28 of one of them is farther than 28 from all others.
CLASSES: tuple[SceneClass, ...] = (
    SceneClass("sky", (128, 192, 255)),
    SceneClass("mountain", (128, 128, 128)),
    SceneClass("grass", (64, 192, 64)),
    SceneClass("sand", (255, 192, 128)),
    SceneClass("snow", (255, 255, 255)),
    SceneClass("water", (0, 64, 192)),
    SceneClass("floor", (128, 64, 0)),
    SceneClass("wall", (192, 192, 192)),
    SceneClass("ball", (255, 0, 0)),
    SceneClass("box", (255, 255, 0)),
    SceneClass("cylinder", (255, 0, 255)),
    SceneClass("cone", (0, 255, 255)),
    SceneClass("pyramid", (128, 0, 255)),
    SceneClass("ring", (255, 128, 0)),
)

VOID_COLOUR = (0, 0, 0)

CLASS_IDS: Mapping[str, int] = {item.name: label for label, item in enumerate(CLASSES)}


def label_colours() -> UInt8[np.ndarray, "256 3"]:
    """Returns the colour of every label; labels without a class have the colour of the void."""
    colours = np.full((VOID + 1, 3), VOID_COLOUR, np.uint8)
    colours[: len(CLASSES)] = [item.colour for item in CLASSES]
    return colours
