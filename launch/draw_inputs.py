"""Files of given variables -> pictures in [-1, 1], of the size at which the graph is drawn."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from fgdm_jax.palette import RADIUS
from input_pipeline.image_files import ImageFileError, is_array_file, open_picture, rgb_on_black
from input_pipeline.images import read_depth_map, read_photo
from input_pipeline.palettes import Palette
from launch.draw_request import DrawRequest
from launch.setting_checks import RequestError, collect

_GREY = ("depth", "foreground_depth", "background_depth", "sketch", "canny")
_LARGEST_STRETCH = 1.1
_MOST_WITHOUT_CLASS = 0.05


def read_given(request: DrawRequest) -> dict[str, np.ndarray]:
    """Returns the given variables as pictures, float32 [h w 3].

    Raises:
      RequestError: lists every file that is unreadable or of another shape.
    """
    problems: list[str] = []
    found = {
        name: collect(problems, lambda name=name, path=path: _read(request, name, path))
        for name, path in request.given.items()
    }
    if problems:
        raise RequestError(problems)
    return found


def _read(request: DrawRequest, name: str, path: Path) -> np.ndarray:
    height, width = request.size(name)
    if not is_array_file(path):
        file_width, file_height = open_picture(path).size
        across = (file_height * width, file_width * height)
        if max(across) > _LARGEST_STRETCH * min(across):
            raise ImageFileError(
                f"given: {path} is {file_height} x {file_width}, but {name} is drawn as {height} x "
                f"{width}; use sizes of the same shape (--config.map_height, --config.map_width)"
            )
    if name == "segmentation":
        return _read_colours(path, (height, width), request.palette)
    if name in _GREY:
        return read_depth_map(path, (height, width)) * 2.0 - 1.0
    return read_photo(path, (height, width))


def _read_colours(path: Path, size: tuple[int, int], classes: Palette) -> np.ndarray:
    """Returns a segmentation; colours are never mixed."""
    image = Image.fromarray(rgb_on_black(path, open_picture(path)))
    pixels = np.asarray(image.resize((size[1], size[0]), Image.Resampling.NEAREST))
    colours = np.concatenate([classes.colours, [classes.void_colour]]).astype(np.int16)
    unknown = np.ones(pixels.shape[:2], bool)
    for colour in colours:
        unknown &= (np.abs(pixels.astype(np.int16) - colour) > RADIUS).any(-1)
    if unknown.mean() > _MOST_WITHOUT_CLASS:
        warnings.warn(
            f"{path}: {100 * unknown.mean():.0f} % of the pixels have no colour of the palette "
            f"{classes.name}; --config.palette names another",
            stacklevel=2,
        )
    return pixels.astype(np.float32) / 127.5 - 1.0
