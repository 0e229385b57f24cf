"""Smooth random patterns without end, the same on every machine."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

    Array = Float[np.ndarray, "..."]

_PERIOD = 64
_MASK = _PERIOD - 1
_SHIFT = 6


@functools.cache
def _corners() -> Float[np.ndarray, "4 n"]:
    """Returns random values of a grid, and those of the cells right, below and both."""
    grid = np.random.Generator(np.random.Philox(key=0)).random((_PERIOD, _PERIOD))
    right = np.roll(grid, -1, axis=1)
    both = [grid, right, np.roll(grid, -1, axis=0), np.roll(right, -1, axis=0)]
    return np.stack(both).reshape(4, -1).astype(np.float32)


def noise(x: Array | np.float32, y: Array | np.float32) -> Array:
    """Returns values in 0..1 that vary smoothly over a unit; x and y broadcast."""
    cell_x, cell_y = np.floor(x), np.floor(y)
    part_x, part_y = x - cell_x, y - cell_y
    part_x = part_x * part_x * (3 - 2 * part_x)
    part_y = part_y * part_y * (3 - 2 * part_y)
    row = (cell_y.astype(np.int32) & _MASK) << _SHIFT
    index = row | (cell_x.astype(np.int32) & _MASK)
    corners = _corners()
    top_left, top_right, low_left, low_right = (corners[i].take(index) for i in range(4))
    top = top_left + part_x * (top_right - top_left)
    low = low_left + part_x * (low_right - low_left)
    return top + part_y * (low - top)


def smooth_step(value: Array) -> Array:
    """Returns 0 below 0, 1 above 1 and a smooth way between."""
    inside = np.clip(value, 0, 1)
    return inside * inside * (3 - 2 * inside)


def wave(turns: Array) -> Array:
    """Returns a wave in -1..1 like the sine of a number of turns, made of parabolas."""
    part = turns - np.floor(turns) - 0.5
    return part * (16 * np.abs(part) - 8)
