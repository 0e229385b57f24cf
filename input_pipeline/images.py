"""Photos, depth maps and masks from files, and PNG files from pictures.

Files come from users, so everything that can be wrong with one is an `ImageFileError` that names
it. The three kinds of picture share one crop (`cover_crop_box`): what lies at one place in the
files of a scene lies at one place in the arrays, even when the files differ in resolution.
Sizes are (height, width). Photos lie in [-1, 1]; depth maps (near = 1) and masks in [0, 1].
"""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped, UInt8

MAX_PIXELS = 100_000_000
# Not every format that Pillow knows: its EPS reader, for one, runs an outside program.
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")
_DEEP_GREY_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
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
_CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


class ImageFileError(ValueError):
    """A picture file that cannot be used; the message names it, the fault and the remedy."""


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
    rgb = Image.fromarray(_rgb_on_black(path, _open_picture(path)))
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
    if _is_array_file(path):
        depth = _read_array(path, channels=(1, 3))
    else:
        image = _open_picture(path)
        if image.mode in _DEEP_GREY_MODES:
            depth = _to_unit_range(path, _deep_grey(path, image))
        else:
            depth = _to_unit_range(path, _rgb_on_black(path, image))
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
    if _is_array_file(path):
        mask = _read_array(path, channels=(1,))
    else:
        mask = _to_unit_range(path, _mask_values(path, _open_picture(path)))
    mask = mask[..., 0] if mask.ndim == 3 else mask
    return np.array(_fit(Image.fromarray(mask), size, Image.Resampling.NEAREST))


def check_image_files(paths: Mapping[str, str | Path]) -> list[str]:
    """Return every problem of the named files, each found by decoding the whole file.

    Args:
        paths: What each file is for, and the file, as in `{"mask": "mask.png"}`.
    """
    problems = []
    for name, path in paths.items():
        try:
            if _is_array_file(path):
                _read_array(path, channels=(1, 3))
            else:
                _open_picture(path)
        except ImageFileError as error:
            problems.append(f"{name}: {error}")
    return problems


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
    if not_finite := _describe_not_finite(values):
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


def _open_picture(path: str | Path) -> Image.Image:
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


def _rgb_on_black(path: str | Path, image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Return a picture of any mode in RGB, with black where it is transparent."""
    if image.mode in _DEEP_GREY_MODES:
        grey = _to_unit_range(path, _deep_grey(path, image))
        return np.repeat(np.rint(grey * 255).astype(np.uint8)[..., None], 3, axis=-1)
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _mask_values(path: str | Path, image: Image.Image) -> Shaped[np.ndarray, "h w"]:
    """Return the alpha channel of a picture if it varies, else its luminance."""
    if image.mode in _DEEP_GREY_MODES:
        return _deep_grey(path, image)
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        lowest, highest = alpha.getextrema()
        if lowest != highest:
            return np.asarray(alpha)
    return np.asarray(image.convert("RGB").convert("L"))


def _deep_grey(path: str | Path, image: Image.Image) -> Shaped[np.ndarray, "h w"]:
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


def _is_array_file(path: str | Path) -> bool:
    """Return whether a file is a NumPy array, by its content: names are often wrong."""
    _require_regular_file(path)
    return _first_bytes(path).startswith(_NPY_MAGIC)


def _read_array(path: str | Path, channels: tuple[int, ...]) -> Float[np.ndarray, "h w *c"]:
    """Return an array file in [0, 1] after checking its header, then its values.

    Args:
        path: File of which `_is_array_file` is true.
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
    return _to_unit_range(path, np.array(array))


def _to_unit_range(
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
    if not_finite := _describe_not_finite(values):
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


def _describe_not_finite(values: Float[np.ndarray, "..."]) -> str:
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
