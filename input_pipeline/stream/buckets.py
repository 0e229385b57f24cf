"""Aspect-ratio buckets: the few sizes that batches may have, and which record goes to which."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int

MULTIPLE = 64
"""Sizes are multiples of this: the UNet halves latents three times, which are an eighth in size."""


def bucket_sizes(
    pixels: int = 512 * 512, *, max_ratio: float = 2.0, multiple: int = MULTIPLE
) -> tuple[tuple[int, int], ...]:
    """Returns sizes (height, width) of about as many pixels, the squarest first.

    Args:
      pixels: that no size exceeds; training memory is bounded by it.
      max_ratio: of the longer to the shorter side, at least 1.
      multiple: of which both sides are multiples.
    """
    if pixels < multiple**2 or max_ratio < 1:
        raise ValueError(
            f"pixels is {pixels} and max_ratio {max_ratio}, expected at least {multiple**2} "
            f"({multiple} x {multiple}) and 1"
        )
    tall = []
    for width in range(multiple, math.isqrt(pixels) + 1, multiple):
        height = pixels // width // multiple * multiple
        if height / width <= max_ratio:
            tall.append((height, width))
    # Of two with one ratio only the larger, which comes later, could ever be chosen.
    by_ratio = {height / width: (height, width) for height, width in tall}
    sizes = {*by_ratio.values(), *((width, height) for height, width in by_ratio.values())}
    return tuple(sorted(sizes, key=lambda size: (abs(math.log(size[0] / size[1])), size)))


def nearest_bucket(
    record_sizes: Int[np.ndarray, "n 2"], sizes: Sequence[tuple[int, int]]
) -> Int[np.ndarray, " n"]:
    """Returns for every record the number of the size whose aspect ratio is nearest to its own.

    Args:
      record_sizes: heights and widths, positive.
      sizes: of the buckets; of two as near the first is taken.
    """
    record_ratios = np.log(record_sizes[:, 0] / record_sizes[:, 1])
    ratios = np.log([height / width for height, width in sizes])
    return np.abs(record_ratios[:, None] - ratios).argmin(axis=1)
