"""Files of raw data sets as pictures of records: photos upright in RGB, labels as classes.

All errors are `RecordError`s that begin with `where`: data set, record and file.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageOps

from input_pipeline.codecs import encode_picture
from input_pipeline.image_files import DEEP_GREY_MODES, MAX_PIXELS, rgb_on_black
from input_pipeline.schema import RecordError

if TYPE_CHECKING:
    from jaxtyping import Bool, Shaped, UInt8

_PHOTO_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_KEPT_FORMATS = ("JPEG", "PNG", "WEBP")
# Lossy formats invent numbers at the borders of classes.
_LABEL_FORMATS = ("PNG", "BMP", "TIFF")
_NUMBERS = 2**16
_INDEX_MODES = ("1", "L", "P", *(mode for mode in DEEP_GREY_MODES if mode != "F"))


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photo as a record stores it.

    Attributes:
      data: the file: upright, in RGB.
      height: in pixels.
      width: in pixels.
    """

    data: bytes
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


class ClassNumbers:
    """What the numbers in a data set's label pictures mean.

    Args:
      classes: class of each number, or `VOID`.
      expected: the numbers, for messages.
    """

    def __init__(self, classes: Mapping[int, int], expected: str) -> None:
        self.expected = expected
        # One place for every number of 16 bits, so that none has to be compared.
        self._classes = np.zeros(_NUMBERS, np.uint8)
        self._known = np.zeros(_NUMBERS, bool)
        for number, label in classes.items():
            self._classes[number] = label
            self._known[number] = True

    def labels(self, numbers: Shaped[np.ndarray, "h w"], where: str) -> UInt8[np.ndarray, "h w"]:
        """Returns the classes of numbers.

        Raises:
          RecordError: a number has no meaning.
        """
        fits = numbers.dtype in (np.uint8, np.uint16) or (
            numbers.min() >= 0 and numbers.max() < _NUMBERS
        )
        if fits and self._known[numbers].all():
            return self._classes[numbers]
        present = np.unique(numbers).tolist()
        unknown = [n for n in present if not (0 <= n < _NUMBERS and self._known[n])]
        raise RecordError(f"{where} has the label numbers {unknown[:10]}, expected {self.expected}")


def read_bytes(path: str | Path, where: str) -> bytes:
    """Returns the content of a file.

    Raises:
      RecordError: it cannot be read, or is empty.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise RecordError(f"{where} cannot be read: {error.strerror}") from error
    if not data:
        raise RecordError(f"{where} is empty")
    return data


def stored_photo(data: bytes, where: str) -> Photo:
    """Returns a photo upright in RGB: the file as it came if it is that already.

    What is transparent becomes black. The file is decoded to its end, so that no damaged one
    gets into a record.

    Args:
      data: the file.
      where: data set, record and file, for messages.

    Raises:
      RecordError: it cannot be decoded.
    """
    image = open_image(data, where, _PHOTO_FORMATS)
    if _is_storable(image):
        return Photo(data, image.height, image.width)
    pixels = photo_pixels(image, where)
    return Photo(encode_picture(pixels, "photo"), *pixels.shape[:2])


def photo_pixels(image: Image.Image, where: str) -> UInt8[np.ndarray, "h w 3"]:
    """Returns an opened picture upright in RGB; what is transparent becomes black.

    Raises:
      RecordError: it has values without a meaning.
    """
    try:
        return np.ascontiguousarray(rgb_on_black(where, ImageOps.exif_transpose(image)))
    except ValueError as error:
        raise RecordError(str(error)) from error


def stored_labels(labels: UInt8[np.ndarray, "h w"], size: tuple[int, int], where: str) -> bytes:
    """Returns a label map as the record of a photo holds it: of the same size.

    Args:
      labels: of any size with the photo's proportions.
      size: height and width of the photo.
      where: data set, record and file, for messages.

    Raises:
      RecordError: the proportions differ.
    """
    return encode_picture(fit_labels(labels, size, where), "grey")


def read_numbers(data: bytes, where: str) -> Shaped[np.ndarray, "h w"]:
    """Returns the numbers in a label picture: grey values, or indices into its palette.

    Args:
      data: the file.
      where: data set, record and file, for messages.

    Raises:
      RecordError: it cannot be decoded, or holds colours.
    """
    image = open_image(data, where, _LABEL_FORMATS)
    if image.mode not in _INDEX_MODES:
        raise RecordError(
            f"{where} has Pillow's mode {image.mode}, expected a picture of class numbers: "
            "grey or with a palette, 8 or 16 bit"
        )
    numbers = np.asarray(image)
    return numbers.astype(np.uint8) if image.mode == "1" else numbers


def read_marked(data: bytes, where: str) -> Bool[np.ndarray, "h w"]:
    """Returns which pixels of a picture are not black.

    Raises:
      RecordError: it cannot be decoded.
    """
    image = open_image(data, where, _LABEL_FORMATS)
    if image.mode in DEEP_GREY_MODES:
        return np.asarray(image).astype(bool)
    return np.asarray(image.convert("RGB")).max(axis=-1).astype(bool)


def fit_labels(
    labels: UInt8[np.ndarray, "h w"], size: tuple[int, int], where: str
) -> UInt8[np.ndarray, "height width"]:
    """Returns a label map resized to a photo's size: every pixel takes its nearest class.

    Args:
      labels: classes.
      size: height and width.
      where: data set, record and file, for messages.

    Raises:
      RecordError: it has not the photo's proportions.
    """
    height, width = labels.shape
    if (height, width) == size:
        return labels
    # Sides of the smaller one were rounded to whole pixels, by less than one in whatever way.
    small, large = sorted([(height, width), size], key=math.prod)
    if abs(small[0] / large[0] - small[1] / large[1]) > 1 / min(large):
        raise RecordError(
            f"{where} has {height} x {width} pixels and its photo {size[0]} x {size[1]}, expected "
            "the same proportions; they do not belong together, or one of them was cropped"
        )
    resized = Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.asarray(resized)


def open_image(data: bytes, where: str, formats: tuple[str, ...] = _PHOTO_FORMATS) -> Image.Image:
    """Returns the first frame of a picture file, decoded, not turned.

    Args:
      data: the file.
      where: data set, record and file, for messages.
      formats: that are read.

    Raises:
      RecordError: it cannot be decoded, or is too large.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
        if image.width * image.height > MAX_PIXELS:
            raise RecordError(
                f"{where} has {image.height} x {image.width} pixels, expected at most {MAX_PIXELS}"
            )
        if image.format == "PNG":
            # Only this compares checksums; it leaves the file unusable.
            image.verify()
            image = Image.open(io.BytesIO(data), formats=formats)
        image.load()
        image.getexif()
    except RecordError:
        raise
    except Image.UnidentifiedImageError as error:
        raise RecordError(f"{where} is no picture of the formats {', '.join(formats)}") from error
    # On damaged files Pillow's decoders raise nearly every type that there is.
    except Exception as error:
        problem = f"cannot be decoded: {type(error).__name__}: {error}"
        raise RecordError(f"{where} {problem}") from error
    return image


def _is_storable(image: Image.Image) -> bool:
    """Returns whether the file of a picture can go into a record as it is."""
    return (
        image.format in _KEPT_FORMATS
        and image.mode == "RGB"
        and not image.has_transparency_data
        and not getattr(image, "is_animated", False)
        and image.getexif().get(ExifTags.Base.Orientation, 1) not in range(2, 9)
    )
