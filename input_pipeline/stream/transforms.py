"""What of a record an example shows: one view, chosen once and applied to the image and every map.

All functions are pure and work on decoded arrays; `input_pipeline.schema` tells their types.
Photos and depth maps are resized bicubically, as upstream does and as `input_pipeline.images` does
for sampling; normals and edges bilinearly; masks and labels take the nearest pixel, because what
lies between two labels is a third one. Whatever shrinks is antialiased, except masks and labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from input_pipeline import pose
from input_pipeline.images import cover_crop_box

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Shaped

_RESAMPLING: Mapping[str, Image.Resampling] = {
    "image": Image.Resampling.BICUBIC,
    "background": Image.Resampling.BICUBIC,
    "depth": Image.Resampling.BICUBIC,
    "foreground_depth": Image.Resampling.BICUBIC,
    "background_depth": Image.Resampling.BICUBIC,
    "middle_depth": Image.Resampling.BICUBIC,
    "far_depth": Image.Resampling.BICUBIC,
    "normal": Image.Resampling.BILINEAR,
    "canny": Image.Resampling.BILINEAR,
    "sketch": Image.Resampling.BILINEAR,
    "mask": Image.Resampling.NEAREST,
    "segmentation": Image.Resampling.NEAREST,
}
PICTURES = tuple(_RESAMPLING)
"""Fields that `show` can cut and resize."""

# A map that was resized on its own has sides rounded to pixels: 1 in 64 at the worst.
_RATIO_TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True)
class View:
    """A part of an image, its size in the batch, and whether it is mirrored.

    Attributes:
      source_size: height and width of the whole image.
      box: the part as (left, top, right, bottom) in pixels of the image, whole or not.
      size: height and width in the batch, of the same shape as the box.
      flip: whether left and right are exchanged, after the cut.
    """

    source_size: tuple[int, int]
    box: tuple[float, float, float, float]
    size: tuple[int, int]
    flip: bool = False


def centre_view(source_size: tuple[int, int], size: tuple[int, int], flip: bool = False) -> View:
    """Returns the largest centred part of an image with the shape of `size`.

    Args:
      source_size: height and width of the image.
      size: height and width in the batch.
      flip: whether it is mirrored.
    """
    return View(source_size, cover_crop_box(source_size, size), size, flip)


def random_view(
    source_size: tuple[int, int],
    size: tuple[int, int],
    *,
    scale: float,
    down: float,
    across: float,
    flip: bool = False,
) -> View:
    """Returns a part of an image anywhere in it.

    Args:
      source_size: height and width of the image.
      size: height and width in the batch.
      scale: side of the part, as a fraction of the largest that fits, in (0, 1].
      down: where it lies from the top, 0, to the bottom, 1.
      across: where it lies from the left, 0, to the right, 1.
      flip: whether it is mirrored.
    """
    left, top, right, bottom = cover_crop_box(source_size, size)
    height, width = (bottom - top) * scale, (right - left) * scale
    top, left = (source_size[0] - height) * down, (source_size[1] - width) * across
    if (height, width) == size:
        # A fraction of a pixel of offset would blur an image that needs no resizing at all.
        top, left = round(top), round(left)
    return View(source_size, (left, top, left + width, top + height), size, flip)


def show(
    field: str, picture: Shaped[np.ndarray, "h w *c"], view: View
) -> Shaped[np.ndarray, "height width *c"]:
    """Returns what a view shows of a decoded picture: of its type, or float32 if it was 16 bit.

    Args:
      field: name of its field, one of `PICTURES`.
      picture: decoded; it may have another resolution than the image, but not another shape.
      view: of the image.

    Raises:
      ValueError: the picture has another shape than the image.
    """
    box = _scaled_box(field, picture.shape[:2], view)
    left, top, right, bottom = box
    if (bottom - top, right - left) == view.size and all(float(edge).is_integer() for edge in box):
        shown = picture[int(top) : int(bottom), int(left) : int(right)]
    else:
        shown = _resized(picture, box, view.size, _RESAMPLING[field])
    if not view.flip:
        return shown
    shown = shown[:, ::-1]
    if field == "normal":
        # x is stored as 127.5 x + 127.5, so that this is exactly -x.
        shown = np.concatenate([255 - shown[..., :1], shown[..., 1:]], axis=-1)
    return shown


def show_pose(people: pose.People, view: View) -> Float[np.ndarray, "people 133 3"]:
    """Returns people in pixels of the view; their points may lie outside it.

    Args:
      people: in pixels of the image, as `input_pipeline.pose` has them.
      view: of the image.

    Raises:
      ValueError: they are no people.
    """
    shown = pose.crop(people, view.box, view.size)
    return pose.flip(shown, view.size[1]) if view.flip else shown


def write_scaled(
    picture: Shaped[np.ndarray, "h w *c"], out: Float32[np.ndarray, "h w c"], low: float
) -> None:
    """Writes a picture's values from `low` (black) to 1 (white); grey goes to all channels.

    Args:
      picture: uint8, or 16-bit values as uint16 or float32.
      out: where to.
      low: 0 or -1.
    """
    full = 255 if picture.dtype == np.uint8 else 65535
    values = picture[..., None] if picture.ndim == 2 else picture
    np.multiply(values, np.float32((1 - low) / full), out=out)
    if low:
        out += np.float32(low)


def _scaled_box(
    field: str, shape: tuple[int, ...], view: View
) -> tuple[float, float, float, float]:
    """Returns the view's box in the pixels of a picture of its own resolution."""
    if shape == view.source_size:
        return view.box
    down, across = shape[0] / view.source_size[0], shape[1] / view.source_size[1]
    if abs(down / across - 1) > _RATIO_TOLERANCE:
        raise ValueError(
            f"field {field!r} has {shape[0]} x {shape[1]} pixels (height x width), expected the "
            f"shape of the image's {view.source_size[0]} x {view.source_size[1]}; prepare it again"
        )
    left, top, right, bottom = view.box
    return (
        left * across,
        top * down,
        min(right * across, shape[1]),
        min(bottom * down, shape[0]),
    )


def _resized(
    picture: Shaped[np.ndarray, "h w *c"],
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    resampling: Image.Resampling,
) -> Shaped[np.ndarray, "height width *c"]:
    is_deep = picture.dtype == np.uint16
    image = Image.fromarray(picture.astype(np.float32) if is_deep else picture)
    left, top, right, bottom = box
    # Rounding can push an edge out of the picture by less than Pillow forgives.
    box = (max(left, 0.0), max(top, 0.0), min(right, image.width), min(bottom, image.height))
    resized = np.asarray(image.resize((size[1], size[0]), resampling, box=box))
    # Bicubic overshoots; Pillow clips 8 bits itself.
    return np.clip(resized, 0, 65535) if is_deep else resized
