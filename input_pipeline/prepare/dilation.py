"""Growing a mask, so that nothing of an object's rim is left in what is painted behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool


def dilate(mask: Bool[np.ndarray, "h w"], size: int = 50) -> Bool[np.ndarray, "h w"]:
    """Returns the mask grown by a square of ones, as scipy's binary_dilation grows it.

    With an even size the square has no middle: a pixel p covers p - size/2 to p + size/2 - 1
    (upstream's 50 x 50).

    Args:
      mask: any.
      size: of the square in pixels; 0 or 1 changes nothing.
    """
    for axis in (0, 1):
        mask = _dilate_along(mask, size, axis)
    return mask


def _dilate_along(mask: np.ndarray, size: int, axis: int) -> np.ndarray:
    # How many foreground pixels lie from q - after to q + before, by a difference of running sums.
    before, after = size // 2, max(size - 1, 0) // 2
    counts = np.cumsum(mask, axis=axis, dtype=np.int64)
    counts = np.concatenate([np.zeros_like(np.take(counts, [0], axis)), counts], axis=axis)
    length = mask.shape[axis]
    positions = np.arange(length)
    upper = np.take(counts, np.minimum(positions + before + 1, length), axis)
    lower = np.take(counts, np.maximum(positions - after, 0), axis)
    return upper > lower
