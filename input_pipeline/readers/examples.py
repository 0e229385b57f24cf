"""Records of data sets in which an image is a file and its label map another."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from input_pipeline.palettes import Palette, legend, palette
from input_pipeline.readers.pictures import (
    ClassNumbers,
    Photo,
    read_bytes,
    read_numbers,
    stored_labels,
    stored_photo,
)
from input_pipeline.schema import VOID, Record

if TYPE_CHECKING:
    from jaxtyping import UInt8

PHOTO_FIELDS = ("id", "source", "captions", "height", "width", "image")


@dataclasses.dataclass(frozen=True)
class Example:
    """What is known of a record before its files are read.

    Attributes:
      id: of the record.
      captions: of the image.
      image: path of its file.
      labels: path of its label map; none if empty.
    """

    id: str
    captions: tuple[str, ...]
    image: str
    labels: str = ""


@dataclasses.dataclass(frozen=True)
class LabelSet:
    """What label maps mean.

    Attributes:
      numbers: what the numbers in their files mean.
      palette: name of the palette of their classes.
    """

    numbers: ClassNumbers
    palette: str


def read_example(
    source: str,
    example: Example,
    label_set: LabelSet | None = None,
    *,
    class_captions: bool = False,
) -> Record:
    """Returns the record of an example.

    Args:
      source: name of the data set.
      example: of the data set.
      label_set: of its label maps; None leaves them out.
      class_captions: whether an example without captions gets one from its label map.

    Raises:
      RecordError: a file of the example cannot be used.
    """
    image_at = place(source, example.id, example.image)
    photo = stored_photo(read_bytes(example.image, image_at), image_at)
    record = photo_record(source, example.id, example.captions, photo)
    if label_set is not None:
        labels_at = place(source, example.id, example.labels)
        numbers = read_numbers(read_bytes(example.labels, labels_at), labels_at)
        labels = label_set.numbers.labels(numbers, labels_at)
        record["segmentation"] = stored_labels(labels, photo.size, labels_at)
        if class_captions and not record["captions"]:
            record["captions"] = class_caption(labels, palette(label_set.palette))
    return record


def photo_record(source: str, name: str, captions: Iterable[str], photo: Photo) -> Record:
    """Returns the record of a photo: the fields `PHOTO_FIELDS`."""
    return {
        "id": name,
        "source": source,
        "captions": list(captions),
        "height": photo.height,
        "width": photo.width,
        "image": photo.data,
    }


def class_caption(labels: UInt8[np.ndarray, "h w"], palette: Palette) -> list[str]:
    """Returns one caption that lists the classes of a label map, the largest first.

    There is none if all pixels are void.
    """
    names = [row.name for row in legend(labels[labels != VOID], palette)]
    return [", ".join(names)] if names else []


def joined(folder: str | os.PathLike[str], names: Mapping[str, str]) -> dict[str, str]:
    """Returns the paths of files in a folder, by the keys of their names."""
    return {key: os.path.join(folder, name) for key, name in names.items()}


def place(source: str, name: str, path: str) -> str:
    """Returns how errors name a file of a record: data set, record and path."""
    return f"{source}/{name}: {path}"
