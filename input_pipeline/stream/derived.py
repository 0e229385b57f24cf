"""What is made of the pictures that an example's view shows: edges, and pixels for CLIP.

Both are made as `launch.sample` makes them of a user's files, so that training sees what sampling
gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING

import numpy as np

from input_pipeline.edges import canny
from input_pipeline.images import clip_pixels

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8


def edges(
    shown: Mapping[str, UInt8[np.ndarray, "h w *c"]], dropped: Set[str]
) -> dict[str, UInt8[np.ndarray, "h w"] | None]:
    """Returns the edges, 0 or 255, of the foreground on black and of the background.

    The outline of the mask is an edge of the foreground wherever the image is not black.

    Args:
      shown: image, mask and background.
      dropped: names of what is to be None, foreground_edges and background_edges among them.
    """
    pictures = {
        "foreground_edges": shown["image"] * (shown["mask"] > 0)[..., None],
        "background_edges": shown["background"],
    }
    return {
        name: None if name in dropped else canny(picture).astype(np.uint8) * np.uint8(255)
        for name, picture in pictures.items()
    }


def exemplars(
    shown: Mapping[str, UInt8[np.ndarray, "h w 3"]], size: int, dropped: Set[str]
) -> dict[str, Float32[np.ndarray, "size size 3"] | None]:
    """Returns image and background as CLIP's image tower takes them; None if dropped.

    What drops their embeddings drops them: image_embedding and background_embedding.

    Args:
      shown: image and background.
      size: height and width of the results.
      dropped: names of what is to be nothing.
    """
    return {
        f"{field}_exemplar": None
        if f"{field}_embedding" in dropped
        else clip_pixels(shown[field], size)
        for field in ("image", "background")
    }
