"""Which part of the world each pixel shows."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

SAMPLES = 2
"""Samples of a solid in a pixel, along each axis."""


class View(NamedTuple):
    """A picture's rows and columns in sides of the square that all sizes show.

    The square is as wide as the shorter side; wide pictures show more to the left and the right,
    tall ones more sky. Columns count from the middle, rows from the square's top.

    Attributes:
      height: of the picture in pixels.
      width: of the picture in pixels.
      side: of the square in pixels.
      rows: middle of every row.
      columns: middle of every column.
      fine_rows: rows of the samples, SAMPLES to a pixel.
      fine_columns: columns of the samples.
    """

    height: int
    width: int
    side: int
    rows: Float[np.ndarray, "h 1"]
    columns: Float[np.ndarray, "1 w"]
    fine_rows: Float[np.ndarray, "h2 1"]
    fine_columns: Float[np.ndarray, "1 w2"]


@functools.lru_cache(maxsize=64)
def make_view(height: int, width: int) -> View:
    """Returns the view of pictures of a size."""
    side = min(height, width)

    def rows(per_pixel: int) -> Float[np.ndarray, "n 1"]:
        middles = (np.arange(height * per_pixel) + 0.5) / per_pixel
        return (1 - (height - middles) / side).astype(np.float32)[:, None]

    def columns(per_pixel: int) -> Float[np.ndarray, "1 n"]:
        middles = (np.arange(width * per_pixel) + 0.5) / per_pixel
        return ((middles - width / 2) / side).astype(np.float32)[None, :]

    return View(height, width, side, rows(1), columns(1), rows(SAMPLES), columns(SAMPLES))


def pixel_range(low: float, high: float, start: float, side: int, count: int) -> slice:
    """Returns the pixels that an interval touches, at least none.

    Args:
      low: of the interval, in sides of the square.
      high: of the interval.
      start: where the first pixel begins.
      side: of the square in pixels.
      count: of all pixels.
    """
    first = min(max(int((low - start) * side), 0), count)
    last = min(max(int((high - start) * side) + 1, first), count)
    return slice(first, last)


def view_slices(view: View, box: tuple[float, float, float, float]) -> tuple[slice, slice]:
    """Returns rows and columns of a box of left, top, right and bottom."""
    left, top, right, bottom = box
    columns = pixel_range(left, right, -0.5 * view.width / view.side, view.side, view.width)
    rows = pixel_range(top, bottom, 1 - view.height / view.side, view.side, view.height)
    return rows, columns


def finer(pixels: slice) -> slice:
    """Returns the samples of pixels."""
    return slice(pixels.start * SAMPLES, pixels.stop * SAMPLES)
