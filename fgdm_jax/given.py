"""Maps that the user has -> pictures in [-1, 1], as factors and ControlNets take them.

A map is what `fgdm_jax.decode.decode_map` returns for one draw: class numbers [h w] of a
segmentation, [h w] in [0, 1] of depth and edges, unit vectors [h w 3] of normals. A picture of it,
uint8 [h w 3], does as well.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fgdm_jax.decode import picture_of
from fgdm_jax.scores import VOID, Palette
from sd_jax.typing import Float

_GREY = ("depth", "foreground_depth", "background_depth", "sketch", "canny")


def given_picture(
    variable: str, array: np.ndarray, palette: Palette | None
) -> Float[np.ndarray, "h w 3"]:
    """Returns a given map as a picture in [-1, 1].

    Args:
      variable: what it is a map of.
      array: the map, or a picture of it.
      palette: of segmentations, which need one.

    Raises:
      ValueError: it is neither, or has values that no map of the variable has.
    """
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3:
        return _from_bytes(array)
    if variable == "segmentation":
        return _coloured(array, palette)
    values = np.asarray(array, np.float32) if array.dtype.kind in "fb" else array
    shape, low = ("[h w]", 0) if variable in _GREY else ("[h w 3]", -1)
    right = values.ndim == 2 if variable in _GREY else values.ndim == 3 and values.shape[2] == 3
    if not right or values.dtype.kind != "f":
        raise ValueError(
            f"given: {variable} has type {array.dtype} and shape {array.shape}, expected float "
            f"{shape} in [{low}, 1] or uint8 [h w 3]"
        )
    if not ((values >= low) & (values <= 1)).all():
        raise ValueError(
            f"given: {variable} has values from {values.min():g} to {values.max():g}, expected "
            f"{low} to 1"
        )
    return np.repeat(values[..., None] * 2 - 1, 3, axis=-1) if variable in _GREY else values


def enlarged(
    variable: str, picture: Float[np.ndarray, "_ _ 3"], size: tuple[int, int]
) -> Float[np.ndarray, "_ _ 3"]:
    """Returns a picture as large as the image that a ControlNet draws from it.

    Colours of segmentations are never mixed.

    Args:
      variable: what it shows.
      picture: in [-1, 1].
      size: (height, width) of the image.
    """
    method = "nearest" if variable == "segmentation" else "bilinear"
    return np.asarray(jax.image.resize(picture, (*size, 3), method, antialias=False))


def _coloured(labels: np.ndarray, palette: Palette | None) -> np.ndarray:
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"given: segmentation has type {labels.dtype} and shape {labels.shape}, expected "
            "whole numbers of classes [h w], or their colours, uint8 [h w 3]"
        )
    if palette is None:
        # What it lacks is told once, for given and for drawn ones.
        return np.zeros((*labels.shape, 3), np.float32)
    count = len(palette.classes)
    outside = sorted({int(label) for label in np.unique(labels)} - {*range(count), VOID})
    if outside:
        raise ValueError(
            f"given: segmentation has labels {outside}, expected classes 0 to {count - 1} of the "
            f"palette {palette.name}, or {VOID} for none"
        )
    picture = picture_of(
        "segmentation",
        jnp.asarray(labels, jnp.int32)[None],
        colours=palette.colours,
        void_colour=palette.void_colour,
    )
    return _from_bytes(np.asarray(picture[0]))


def _from_bytes(picture: np.ndarray) -> np.ndarray:
    return picture.astype(np.float32) / np.float32(127.5) - np.float32(1)
