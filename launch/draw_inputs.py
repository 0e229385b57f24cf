"""Files of given variables -> pictures in [-1, 1], of the size at which the graph is drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fgdm_jax.palette import RADIUS
from input_pipeline.image_files import ImageFileError, is_array_file, open_picture, rgb_on_black
from input_pipeline.images import read_depth_map, read_photo
from input_pipeline.palettes import Palette
from launch.draw_request import DrawRequest
from launch.setting_checks import RequestError, collect

_GREY = ("depth", "foreground_depth", "background_depth", "sketch", "canny")
_NO_COLOURS = ("1", "L", "LA", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_LARGEST_STRETCH = 1.1
_MOST_WITHOUT_CLASS = 0.05


@dataclasses.dataclass(frozen=True)
class Given:
    """Given variables as pictures in [-1, 1], float32 [h w 3], by name.

    Attributes:
      maps: of the size at which the graph draws them, to be encoded.
      hints: those that a ControlNet or Compose and Conquer sees as pictures, of the image's size.
    """

    maps: Mapping[str, np.ndarray]
    hints: Mapping[str, np.ndarray]


def read_given(request: DrawRequest) -> Given:
    """Returns the given variables.

    Raises:
      RequestError: lists every file that is unreadable or of another shape.
    """
    problems: list[str] = []

    def read_all(sizes: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
        return {
            name: collect(
                problems, lambda n=name, s=size: _read(request.palette, n, request.given[n], s)
            )
            for name, size in sizes.items()
        }

    maps = read_all({name: request.size(name) for name in request.given})
    if problems:
        raise RequestError(problems)
    seen = {
        name: request.size(factor.variable)
        for factor in request.order
        if factor.kind in ("controlnet", "cnc")
        for name in factor.parents
        if name in request.given
    }
    hints = read_all(seen)
    if problems:
        raise RequestError(problems)
    return Given(maps, hints)


def doubts(request: DrawRequest, given: Given) -> list[str]:
    """Returns what is possible of given maps, but seldom meant.

    Args:
      request: for its palette.
      given: as read.
    """
    if "segmentation" not in given.maps:
        return []
    pixels = (given.maps["segmentation"] * 127.5 + 127.5).round().astype(np.int16)
    classes = request.palette
    unknown = np.ones(pixels.shape[:2], bool)
    for colour in np.concatenate([classes.colours, [classes.void_colour]]).astype(np.int16):
        unknown &= (np.abs(pixels - colour) > RADIUS).any(-1)
    if unknown.mean() <= _MOST_WITHOUT_CLASS:
        return []
    return [
        f"{request.given['segmentation']}: {100 * unknown.mean():.0f} % of the pixels have no "
        f"colour of the palette {classes.name}; --config.palette names another"
    ]


def _read(classes: Palette, name: str, path: Path, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    if not is_array_file(path):
        file_width, file_height = open_picture(path).size
        across = (file_height * width, file_width * height)
        if max(across) > _LARGEST_STRETCH * min(across):
            raise ImageFileError(
                f"given: {path} is {file_height} x {file_width}, but is needed as {height} x "
                f"{width} ({name}); use sizes of the same shape (--config.map_height, map_width, "
                "height, width)"
            )
    if name == "segmentation":
        picture = open_picture(path)
        if picture.mode in _NO_COLOURS:
            raise ImageFileError(
                f"given: {path} is a grey picture, but a segmentation is given in the colours of "
                f"the palette {classes.name}, not as numbers of classes; palette.json beside "
                "drawn maps lists the colours"
            )
        # Colours are never mixed.
        image = Image.fromarray(rgb_on_black(path, picture))
        pixels = np.asarray(image.resize((width, height), Image.Resampling.NEAREST))
        return pixels.astype(np.float32) / 127.5 - 1.0
    if name in _GREY:
        return read_depth_map(path, size) * 2.0 - 1.0
    return read_photo(path, size)
