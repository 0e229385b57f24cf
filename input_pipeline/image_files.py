"""Picture files as pixels and values: what decodes them, and what refuses the rest.

Files come from users, so everything that can be wrong with one is an `ImageFileError` that names
it. `input_pipeline.images` makes photos, depth maps and masks of what is read here.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped, UInt8

MAX_PIXELS = 100_000_000
# Not every format that Pillow knows: its EPS reader, for one, runs an outside program.
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")
DEEP_GREY_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
# Resizing and half precision push values past [0, 1] by this much; more is another unit.
_RANGE_TOLERANCE = 1e-3
_NPY_MAGIC = b"\x93NUMPY"
_CONTENT_HINTS = (
    (_NPY_MAGIC, "a NumPy array, which only depth maps and masks may be"),
    (b"\x89PNG", "a PNG file whose header is damaged or tells a size of zero"),
    (b"\xff\xd8\xff", "a JPEG file whose header is damaged"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML text, perhaps an SVG drawing"),
    (b"<!doctype", "a web page, perhaps of a failed download"),
    (b"<html", "a web page, perhaps of a failed download"),
    (b"version https://git-lfs", "a git-lfs pointer; run `git lfs pull`"),
)


class ImageFileError(ValueError):
    """A picture file that cannot be used; the message names it, the fault and the remedy."""


def open_picture(path: str | Path) -> Image.Image:
    """Return the first frame of a picture file, decoded and turned upright."""
    _require_regular_file(path)
    # Recorded, because Pillow's warnings do not say which file they are about.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image, is_animated = _decode(path)
    # The file is opened twice, so that each may come twice.
    notes = {str(note.message): note.category for note in caught}
    for note, category in notes.items():
        if not issubclass(category, Image.DecompressionBombWarning):
            warnings.warn(f"{path}: {note}", category, stacklevel=3)
    if is_animated:
        warnings.warn(f"{path}: holds several frames; the first is used", stacklevel=3)
    return image


def _readable_formats() -> tuple[str, ...]:
    """Return the formats of `PICTURE_FORMATS` that this build of Pillow knows."""
    Image.init()
    return tuple(name for name in PICTURE_FORMATS if name in Image.OPEN)


def _decode(path: str | Path) -> tuple[Image.Image, bool]:
    """Return the decoded first frame, upright, and whether more frames follow."""
    formats = _readable_formats()
    try:
        with Image.open(path, formats=formats) as image:
            _require_pixel_count(path, image.height, image.width)
            # Only this compares the checksums of PNG; it leaves the file unusable, so reopen.
            image.verify()
        with Image.open(path, formats=formats) as image:
            # The second picture of an MPO file, as phones write them, is no next frame.
            is_animated = image.format != "MPO" and getattr(image, "is_animated", False)
            image.seek(0)
            image.load()
            return ImageOps.exif_transpose(image), is_animated
    except ImageFileError:
        raise
    except Image.DecompressionBombError:
        _refuse_pixel_count(path, "too many pixels")
    except Image.UnidentifiedImageError:
        _refuse_content(path)
    # On damaged files Pillow's decoders raise nearly every type that there is.
    except Exception as error:
        _refuse(
            path,
            f"cannot be decoded ({type(error).__name__}: {error})",
            "a whole, undamaged picture",
            "copy the file again or save it anew as PNG",
        )


def rgb_on_black(path: str | Path, image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Return a picture of any mode in RGB, with black where it is transparent."""
    if image.mode in DEEP_GREY_MODES:
        grey = to_unit_range(path, deep_grey(path, image))
        return np.repeat(np.rint(grey * 255).astype(np.uint8)[..., None], 3, axis=-1)
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def mask_values(path: str | Path, image: Image.Image) -> Shaped[np.ndarray, "h w"]:
    """Return the alpha channel of a picture if it varies, else its luminance."""
    if image.mode in DEEP_GREY_MODES:
        return deep_grey(path, image)
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        lowest, highest = alpha.getextrema()
        if lowest != highest:
            return np.asarray(alpha)
    return np.asarray(image.convert("RGB").convert("L"))


def deep_grey(path: str | Path, image: Image.Image) -> Shaped[np.ndarray, "h w"]:
    """Return the values of a grey picture of more than 8 bits, which Pillow would cut off."""
    values = np.asarray(image)
    if image.mode != "I":
        return values
    if values.min() < 0 or values.max() > 65535:
        _refuse(
            path,
            f"has 32-bit values of {values.min()} to {values.max()}",
            "values of 0 to 65535",
            "scale them and save the picture as 16-bit PNG",
        )
    return values.astype(np.uint16)


def is_array_file(path: str | Path) -> bool:
    """Return whether a file is a NumPy array, by its content: names are often wrong."""
    _require_regular_file(path)
    return _first_bytes(path).startswith(_NPY_MAGIC)


def read_array(path: str | Path, channels: tuple[int, ...]) -> Float[np.ndarray, "h w *c"]:
    """Return an array file in [0, 1] after checking its header, then its values.

    Args:
        path: File of which `is_array_file` is true.
        channels: Allowed lengths of a third axis; no third axis is always allowed.
    """
    try:
        # Mapped, so that a header that promises more than the file holds costs nothing.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        _refuse(
            path,
            f"cannot be read ({type(error).__name__}: {error})",
            "a whole .npy file of plain numbers",
            "write it again with numpy.save",
        )
    if array.ndim not in (2, 3) or array.shape[2:] not in {(), *((c,) for c in channels)}:
        shapes = " or ".join(["[height width]", *(f"[height width {c}]" for c in channels)])
        _refuse(path, f"has shape {list(array.shape)}", shapes, "save one picture per file")
    _require_pixel_count(path, *array.shape[:2])
    return to_unit_range(path, np.array(array))


def to_unit_range(
    path: str | Path, values: Shaped[np.ndarray, "h w *c"]
) -> Float[np.ndarray, "h w *c"]:
    """Return values in [0, 1]: integers divided by their type's largest, floats as they are."""
    if values.dtype.kind == "b":
        return values.astype(np.float32)
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return values.astype(np.float32) / np.iinfo(values.dtype).max
    if values.dtype.kind != "f":
        _refuse(
            path,
            f"has values of type {values.dtype}",
            "bool, uint8, uint16 or floats",
            "convert it: astype(bool) for a mask, floats in [0, 1] for depth",
        )
    if not_finite := describe_not_finite(values):
        _refuse(path, f"has {not_finite}", "finite values", "fill the holes before saving")
    lowest, highest = float(values.min()), float(values.max())
    if lowest < -_RANGE_TOLERANCE or highest > 1 + _RANGE_TOLERANCE:
        _refuse(
            path,
            f"has values of {lowest:g} to {highest:g}",
            "floats in [0, 1], near = 1",
            "normalise it: (x - x.min()) / (x.max() - x.min())",
        )
    return np.clip(values, 0, 1).astype(np.float32)


def describe_not_finite(values: Float[np.ndarray, "..."]) -> str:
    """Return how many values are NaN or infinite and where the first is, or nothing."""
    wrong = ~np.isfinite(values)
    if not wrong.any():
        return ""
    first = tuple(int(i) for i in np.unravel_index(np.argmax(wrong), wrong.shape))
    return f"{int(wrong.sum())} NaN or infinite values, the first at index {first}"


def _require_regular_file(path: str | Path) -> None:
    """Refuse what is no file, or an empty one."""
    try:
        file = Path(path)
        if file.is_dir():
            fault = "is a folder"
        elif not file.exists():
            fault = "does not exist"
        elif not file.is_file():
            fault = "is a device or a pipe"
        else:
            fault = "" if file.stat().st_size else "is empty"
    except OSError as error:
        fault = f"cannot be reached ({error.strerror})"
    if fault:
        _refuse(path, fault, "a picture file", "check the path")


def _require_pixel_count(path: str | Path, height: int, width: int) -> None:
    """Refuse a picture whose header tells a size that is not sensible."""
    if height * width > MAX_PIXELS:
        _refuse_pixel_count(path, f"{height} x {width} pixels")
    if height * width == 0:
        _refuse(path, f"has {height} x {width} pixels", "at least one", "save it again")


def _refuse_pixel_count(path: str | Path, count: str) -> NoReturn:
    _refuse(
        path,
        f"tells of {count}, which may be a decompression bomb",
        f"at most {MAX_PIXELS} pixels",
        "make the picture smaller",
    )


def _refuse_content(path: str | Path) -> NoReturn:
    """Refuse a file that is no picture, naming what it looks like."""
    head = _first_bytes(path).lstrip().lower()
    hints = [hint for magic, hint in _CONTENT_HINTS if head.startswith(magic.lower())]
    _refuse(
        path,
        f"is not a picture that can be read{''.join(f'; it looks like {hint}' for hint in hints)}",
        f"one of {', '.join(PICTURE_FORMATS)}, or .npy for depth maps and masks",
        "convert it to PNG",
    )


def _first_bytes(path: str | Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(64)
    except OSError as error:
        _refuse(path, f"cannot be read ({error.strerror})", "a readable file", "check its rights")


def _refuse(path: str | Path, fault: str, expected: str, remedy: str) -> NoReturn:
    raise ImageFileError(f"{path}: {fault}; expected {expected}; {remedy}")
