"""First step: every image in one of a few shapes, with everything that lies on its pixels."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from input_pipeline import pose
from input_pipeline.codecs import decode_field, encode_picture
from input_pipeline.images import cover_crop_box
from input_pipeline.prepare.step import Dropped, Simple
from input_pipeline.schema import BY_NAME, PICTURE_KINDS, Record

if TYPE_CHECKING:
    from jaxtyping import Shaped

# Fields that lie on the image's pixels, in raw data.
_ON_PIXELS = ("mask", "segmentation", "instances")


@dataclasses.dataclass(frozen=True)
class Resize(Simple):
    """Covers the nearest of `sizes` and crops around the middle; upstream takes 512 x 512.

    Photos are resized bicubic with antialiasing, classes and masks nearest. An image that has the
    size already keeps its bytes.

    Attributes:
      sizes: (height, width) to choose from, by aspect ratio.
      fields: of the raw records.
      min_side: images with a shorter side are left out, in pixels.
    """

    sizes: tuple[tuple[int, int], ...]
    fields: tuple[str, ...]
    min_side: int = 0
    name: str = "image"
    batch_size: int = 1
    drops: bool = True
    on_device: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """The image and what lies on it."""
        return ("image", *self._present)

    @property
    def adds(self) -> tuple[str, ...]:
        """The same, and the new size."""
        return ("image", "height", "width", *self._present)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What results depend on."""
        return {"sizes": [list(size) for size in self.sizes], "min_side": self.min_side}

    @property
    def _present(self) -> tuple[str, ...]:
        return tuple(name for name in (*_ON_PIXELS, "pose") if name in self.fields)

    def check(self, fields: Sequence[str]) -> list[str]:
        """Returns fields that lie on the image's pixels, but would stay as they are."""
        moved = set(self.needs)
        return [
            f"it cannot resize the field {field!r}; leave the step out, or the field"
            for field in fields
            if BY_NAME[field].kind in PICTURE_KINDS and field not in moved
        ]

    def decode(self, record: Record) -> Record:
        """Returns the record."""
        return record

    def compute(self, values: Sequence[Record]) -> Sequence[Record]:
        """Returns the records: all is done in `encode`, which runs in threads."""
        return values

    def encode(self, result: Record) -> Record | Dropped:
        """Returns the resized pictures."""
        name = f"{result['source']} record {result['id']}"
        photo = decode_field(name, "image", result["image"])
        height, width = photo.shape[:2]
        if min(height, width) < self.min_side:
            return Dropped(f"a side shorter than {self.min_side}")
        size = nearest_size((height, width), self.sizes)
        fields: Record = {"height": size[0], "width": size[1], "image": result["image"]}
        if (height, width) != size or not _is_upright_rgb(result["image"]):
            fields["image"] = encode_picture(_resized(photo, size, "photo"), "photo")
        for field in self._present:
            if field == "pose":
                people = decode_field(name, "pose", result["pose"])
                box = cover_crop_box((height, width), size)
                fields["pose"] = pose.to_json(pose.crop(people, box, size))
                continue
            values = decode_field(name, field, result[field])
            kind = BY_NAME[field].kind
            fields[field] = encode_picture(_resized(values, size, kind), kind)
        return fields


def nearest_size(size: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Returns the size of `sizes` whose shape is nearest: the least is cropped away."""
    ratio = math.log(size[0] / size[1])
    return min(sizes, key=lambda item: (abs(math.log(item[0] / item[1]) - ratio), item))


def _resized(
    values: Shaped[np.ndarray, "..."], size: tuple[int, int], kind: str
) -> Shaped[np.ndarray, "..."]:
    box = cover_crop_box(values.shape[:2], size)
    method = Image.Resampling.BICUBIC if kind == "photo" else Image.Resampling.NEAREST
    picture = Image.fromarray(values).resize((size[1], size[0]), method, box=box)
    return np.array(picture).astype(values.dtype)


def _is_upright_rgb(data: bytes) -> bool:
    with Image.open(io.BytesIO(data)) as image:
        return image.mode == "RGB" and image.getexif().get(0x0112, 1) == 1
