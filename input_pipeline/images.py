"""Photos, depth maps and masks from files, and PNG files from pictures.

Files come from users, so everything that can be wrong with one is an `ImageFileError` that names
it. The three kinds of picture share one crop (`cover_crop_box`): what lies at one place in the
files of a scene lies at one place in the arrays, even when the files differ in resolution.
Sizes are (height, width). Photos lie in [-1, 1]; depth maps (near = 1) and masks in [0, 1].
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, PngImagePlugin

from input_pipeline.image_files import (
    DEEP_GREY_MODES,
    MAX_PIXELS,
    deep_grey,
    describe_not_finite,
    is_array_file,
    mask_values,
    open_picture,
    read_array,
    rgb_on_black,
    to_unit_range,
)

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

_CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def read_photo(path: str | Path, size: tuple[int, int] | None = None) -> Float[np.ndarray, "h w 3"]:
    """Return a photo in [-1, 1], upright, in RGB and cropped to `size`.

    Args:
        path: Picture file. What is transparent becomes black, as in CnC's cut-out foregrounds.
        size: Height and width to cover: the photo is scaled by one factor and cut around its
            centre, never squashed. None keeps its own size.

    Raises:
        ImageFileError: If the file cannot be used.
    """
    return read_photo_uint8(path, size).astype(np.float32) / 127.5 - 1


def read_photo_uint8(
    path: str | Path, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Return a photo as `read_photo` does, in 0..255."""
    rgb = Image.fromarray(rgb_on_black(path, open_picture(path)))
    return np.array(_fit(rgb, size, Image.Resampling.BICUBIC))


def read_depth_map(
    path: str | Path, size: tuple[int, int] | None = None, *, invert: bool = False
) -> Float[np.ndarray, "h w 3"]:
    """Return a depth map in [0, 1], near = 1, cropped to `size`.

    Grey becomes three equal channels; three channels (edges, normals) stay as they are.

    Args:
        path: 8- or 16-bit picture, or `.npy` of [h w], [h w 1] or [h w 3]: uint8 and uint16 are
            divided by their largest value, floats must lie in [0, 1] already.
        size: Height and width to cover, as in `read_photo`.
        invert: Whether the file has far = 1 and is to be turned round.

    Raises:
        ImageFileError: If the file cannot be used.
    """
    if is_array_file(path):
        depth = read_array(path, channels=(1, 3))
    else:
        image = open_picture(path)
        if image.mode in DEEP_GREY_MODES:
            depth = to_unit_range(path, deep_grey(path, image))
        else:
            depth = to_unit_range(path, rgb_on_black(path, image))
    depth = depth[..., None] if depth.ndim == 2 else depth
    channels = [
        np.asarray(_fit(Image.fromarray(depth[..., i]), size, Image.Resampling.BICUBIC))
        for i in range(depth.shape[-1])
    ]
    fitted = np.clip(np.stack(channels * (3 // len(channels)), axis=-1), 0, 1)
    return 1 - fitted if invert else fitted


def read_mask(path: str | Path, size: tuple[int, int] | None = None) -> Float[np.ndarray, "h w"]:
    """Return a mask in [0, 1] with the values of the file, cropped to `size`.

    Nothing is thresholded and no value is invented (nearest resizing): what counts as foreground
    is for the model to say.

    Args:
        path: 8- or 16-bit picture, or `.npy` of [h w] or [h w 1] in bool, uint8, uint16 or
            floats in [0, 1]. A picture's alpha channel is the mask if it varies, else its
            luminance is.
        size: Height and width to cover, as in `read_photo`.

    Raises:
        ImageFileError: If the file cannot be used.
    """
    if is_array_file(path):
        mask = read_array(path, channels=(1,))
    else:
        mask = to_unit_range(path, mask_values(path, open_picture(path)))
    mask = mask[..., 0] if mask.ndim == 3 else mask
    return np.array(_fit(Image.fromarray(mask), size, Image.Resampling.NEAREST))


def cover_crop_box(
    source_size: tuple[int, int], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return the largest centred part of a source with the shape of `size`, in source pixels.

    The box is (left, top, right, bottom) and need not fall on whole pixels, so that sources of
    one scene in several resolutions are cut along the same lines.

    Args:
        source_size: Height and width of the source.
        size: Height and width to which the box will be resized.
    """
    for name, value in (("source_size", source_size), ("size", size)):
        if len(value) != 2 or any(not isinstance(n, int | np.integer) or n < 1 for n in value):
            raise ValueError(f"{name} is {value}, expected (height, width), both whole and >= 1")
    scale = max(size[0] / source_size[0], size[1] / source_size[1])
    box_height, box_width = (
        min(wanted / scale, available) for wanted, available in zip(size, source_size, strict=True)
    )
    top, left = (source_size[0] - box_height) / 2, (source_size[1] - box_width) / 2
    if scale == 1:
        # Half a pixel of offset would blur a picture that needs no resizing at all.
        top, left = top // 1, left // 1
    return left, top, left + box_width, top + box_height


def clip_pixels(
    photo: UInt8[np.ndarray, "h w 3"] | str | Path, image_size: int = 224
) -> Float[np.ndarray, "image_size image_size 3"]:
    """Return a photo as CLIP's image tower wants it, by the steps of CLIPImageProcessor.

    Args:
        photo: RGB picture in 0..255, or the file of one.
        image_size: Height and width of the tower's input.
    """
    pixels = read_photo_uint8(photo) if isinstance(photo, str | Path) else np.asarray(photo)
    if pixels.dtype != np.uint8 or pixels.shape[2:] != (3,) or 0 in pixels.shape:
        raise ValueError(
            f"photo has shape {pixels.shape} and type {pixels.dtype}, expected uint8 [h w 3]; "
            "read it with read_photo_uint8"
        )
    height, width = pixels.shape[:2]
    # The long edge is rounded down and the crop starts on a whole pixel, unlike `_fit`.
    height, width = (image_size * n // min(height, width) for n in (height, width))
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"photo has {pixels.shape[0]} x {pixels.shape[1]} pixels, which would grow to "
            f"{height} x {width} before the crop; expected a less narrow picture; crop it first"
        )
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    top, left = (height - image_size) // 2, (width - image_size) // 2
    cropped = np.asarray(resized)[top : top + image_size, left : left + image_size]
    return (cropped.astype(np.float32) / 255 - _CLIP_MEAN) / _CLIP_STD


def to_uint8(image: Float[np.ndarray, "*batch h w 3"]) -> UInt8[np.ndarray, "*batch h w 3"]:
    """Return pictures of [-1, 1] in 0..255, rounded to nearest as diffusers does.

    Args:
        image: Decoded pictures; what lies outside [-1, 1] is clipped.

    Raises:
        ValueError: If a value is NaN or infinite, or the type is not a floating one.
    """
    values = np.asarray(image)
    # bfloat16, as JAX hands it over, is of kind "V".
    if values.dtype.kind not in "fV":
        raise ValueError(f"image has type {values.dtype}, expected floats in [-1, 1]")
    values = values.astype(np.float32)
    if not_finite := describe_not_finite(values):
        raise ValueError(f"image has {not_finite}, expected floats in [-1, 1]")
    return np.rint(np.clip(values / 2 + 0.5, 0, 1) * 255).astype(np.uint8)


def write_png(
    path: str | Path,
    image: Float[np.ndarray, "h w 3"] | UInt8[np.ndarray, "h w 3"] | UInt8[np.ndarray, "h w"],
    text: Mapping[str, str] | None = None,
) -> None:
    """Write a PNG file whole or not at all.

    Args:
        path: File to write, ending in .png, in a folder that exists; an old file is replaced.
        image: Floats in [-1, 1] or uint8.
        text: Entries to store in the file, such as the prompt; keys of 1 to 79 Latin-1 letters.
    """
    path, pixels = Path(path), np.asarray(image)
    problems = []
    if path.suffix.lower() != ".png":
        problems.append("the name must end in .png")
    if not path.parent.is_dir():
        problems.append(f"the folder {path.parent} does not exist; create it first")
    is_grey = pixels.ndim == 2 and pixels.dtype == np.uint8
    if not (is_grey or pixels.shape[2:] == (3,)) or 0 in pixels.shape:
        problems.append(
            f"the picture has shape {pixels.shape} and type {pixels.dtype}, "
            "expected [h w 3], or uint8 [h w]"
        )
    chunks = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        if not 1 <= len(key) <= 79 or not key.isprintable() or max(key) > "\xff":
            problems.append(f"the text key {key!r} is not 1 to 79 printable Latin-1 letters")
        else:
            chunks.add_text(key, value)
    if problems:
        raise ValueError(f"{path} was not written: " + "; ".join(problems))
    pixels = pixels if pixels.dtype == np.uint8 else to_uint8(pixels)
    unfinished = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        Image.fromarray(pixels).save(unfinished, format="PNG", pnginfo=chunks)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _fit(
    image: Image.Image, size: tuple[int, int] | None, resample: Image.Resampling
) -> Image.Image:
    """Return the picture cut and resized to cover `size`."""
    if size is None:
        return image
    box = cover_crop_box((image.height, image.width), size)
    return image.resize((size[1], size[0]), resample, box=box)
