"""What is measured, and how."""

from __future__ import annotations

import dataclasses
from typing import Literal

NAMES_ALL = 3
"""Which of a scene's five captions names everything."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a measurement.

    Attributes:
      scenes: cases of each measure.
      world: seed of the scenes; training sees 0.
      strengths: of the front exemplar; the last one is what the figures are about.
      exemplar: what of the donor is the front exemplar: all of its image, as in training, or its
        foreground object on black.
      image_guidance_scale: of depth and exemplars where looks are measured; 0 leaves it out.
      draws: segmentations of each prompt.
      controls: whether the model is also shown swapped layers, and text alone.
    """

    scenes: int = 512
    world: int = 1
    strengths: tuple[float, ...] = (0.0, 0.5, 1.0)
    exemplar: Literal["image", "foreground"] = "image"
    image_guidance_scale: float = 2.0
    draws: int = 10
    controls: bool = True
