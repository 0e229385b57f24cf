"""Pictures of records: arrays -> bytes -> arrays.

Pillow does both ways everywhere, so that the same bytes give the same pixels on every machine.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from input_pipeline.image_files import MAX_PIXELS
from input_pipeline.schema import BY_NAME, PICTURE_KINDS, Kind, RecordError

if TYPE_CHECKING:
    from jaxtyping import Shaped

CODEC_VERSION = 1
"""Of the bytes that `encode_picture` makes; to be raised whenever they change."""

_FORMATS = ("JPEG", "PNG", "WEBP")
# Level 1 takes a fifth of the time of level 6 and a tenth more room.
_PNG_LEVEL = 1
_JPEG_QUALITY = 95
_STORED = {
    "grey": (np.uint8, 2),
    "deep": (np.uint16, 2),
    "rgb": (np.uint8, 3),
    "photo": (np.uint8, 3),
}
_MODES = {"grey": "L", "deep": "I;16", "rgb": "RGB", "photo": "RGB"}


def encode_picture(array: Shaped[np.ndarray, "..."], kind: Kind) -> bytes:
    """Returns the file of a picture: PNG, or JPEG of quality 95 for photos.

    Args:
      array: as the kind is decoded; see `input_pipeline.schema`.
      kind: of the field.

    Raises:
      ValueError: the array is of another type or rank.
    """
    dtype, rank = _STORED[kind]
    if array.dtype != dtype or array.ndim != rank or (rank == 3 and array.shape[2] != 3):
        raise ValueError(
            f"a picture of kind {kind!r} is {np.dtype(dtype).name} with {rank} axes"
            f"{' and 3 channels' if rank == 3 else ''}, got {array.dtype} of shape {array.shape}"
        )
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(array))
    if kind == "photo":
        image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    else:
        image.save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()


def decode_picture(data: bytes, kind: Kind) -> Shaped[np.ndarray, "..."]:
    """Returns the pixels of a picture file, upright.

    Args:
      data: the file.
      kind: of the field; a file that does not hold what the kind says is refused.

    Raises:
      ValueError: the file is damaged, or holds another kind of picture.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"has {image.width} x {image.height} pixels, over {MAX_PIXELS}")
            image.load()
            if kind == "photo":
                upright = ImageOps.exif_transpose(image)
                return np.asarray(upright if upright.mode == "RGB" else upright.convert("RGB"))
            if image.mode != _MODES[kind]:
                raise ValueError(f"has Pillow's mode {image.mode}, expected {_MODES[kind]}")
            return np.asarray(image)
    except UnidentifiedImageError as error:
        raise ValueError("cannot be decoded: it is no JPEG, PNG or WebP picture") from error
    except ValueError:
        raise
    # On damaged files Pillow's decoders raise nearly every type that there is.
    except Exception as error:
        raise ValueError(f"cannot be decoded: {error}") from error


def decode_field(record_name: str, name: str, stored: Any) -> Any:
    """Returns the decoded value of a field.

    Args:
      record_name: data set and record, for messages.
      name: of the field.
      stored: its stored value.

    Raises:
      RecordError: the value cannot be decoded.
    """
    kind = BY_NAME[name].kind
    try:
        if kind in PICTURE_KINDS:
            return decode_picture(stored, kind)
        return json.loads(stored) if kind == "json" else stored
    except ValueError as error:
        raise RecordError(f"{record_name}: field {name!r} {error}") from error
