"""What a record holds: the names, kinds and meanings of all fields, in one place.

A record is one example as it is stored. Readers make records with a few fields, the steps of
preparation add fields, shards keep them, and the stream makes batches of them. Which fields there
are is the same for all records of a data set.

    kind      stored as                      decoded as
    text      str                            str
    texts     list of str                    list of str
    json      str                            what it holds
    number    int                            int
    photo     JPEG, PNG or WebP              uint8 [h w 3]
    grey      PNG, 8 bit                     uint8 [h w]
    deep      PNG, 16 bit                    uint16 [h w]
    rgb       PNG                            uint8 [h w 3]
    array     float16 or float32 array       the same
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

Kind = Literal["text", "texts", "json", "number", "photo", "grey", "deep", "rgb", "array"]
PICTURE_KINDS: tuple[Kind, ...] = ("photo", "grey", "deep", "rgb")

Record: TypeAlias = dict[str, Any]
"""Stored values by field name; pictures are encoded."""

VOID = 255
"""Label of pixels that belong to no class."""


class RecordError(ValueError):
    """A record that cannot be used; the message names the data set, the record and the field."""


class RecordSource(Protocol):
    """Records by number, the same for the same number every time: readers, scenes, shards.

    Attributes:
      name: of the data set.
      fields: of each record.
      palette: name of its classes and colours, if it has a segmentation.

    A source may also have `sizes()`, the heights and widths of its records as an array [n 2];
    `arrays(index)`, a record whose values are decoded already; `describe(index)`, where a record
    is, for messages; and, if it reads raw data, `contents`, a text that tells one choice of records
    and captions from another, `left_out` and `left_out_examples`, what it leaves out by reason.
    """

    @property
    def name(self) -> str:
        """Name of the data set."""
        ...

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of each record."""
        ...

    @property
    def palette(self) -> str | None:
        """Name of its palette."""
        ...

    def __len__(self) -> int:
        """Returns the number of records."""
        ...

    def __getitem__(self, index: int) -> Record:
        """Returns a record; raises RecordError if it cannot be read."""
        ...


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a record.

    Attributes:
      name: its key.
      kind: see the module's docstring.
      meaning: for readers of documentation and of data sets.
      rank: axes of an array.
      dtype: of an array.
    """

    name: str
    kind: Kind
    meaning: str
    rank: int = 0
    dtype: str = ""


FIELDS: tuple[Field, ...] = (
    Field("id", "text", "unique in its data set"),
    Field("source", "text", "name of the data set it comes from"),
    Field("captions", "texts", "descriptions of the image, any number of them"),
    Field("height", "number", "of the image in pixels, upright"),
    Field("width", "number", "of the image in pixels, upright"),
    Field("image", "photo", "the image, upright, as it came if that is possible"),
    Field("mask", "grey", "foreground 255, background 0"),
    Field("background", "photo", "what is behind the foreground: exact, or inpainted"),
    Field("depth", "deep", "of the image; near 65535, far 0"),
    Field("foreground_depth", "deep", "of the foreground on black; near 65535"),
    Field("background_depth", "deep", "of the background; near 65535"),
    Field("middle_depth", "deep", "of what is nearest in the background, alone on black"),
    Field("far_depth", "deep", "of what is behind foreground and middle; near 65535"),
    # ControlNet's axes, which follow from gradients of nearness: a ball's left side has x = +1.
    Field("normal", "rgb", "127.5 n + 127.5 of unit normals: x left, y up, z to the viewer"),
    Field("segmentation", "grey", "class of every pixel in the data set's own classes; 255 void"),
    Field("instances", "deep", "object of every pixel, 0 for none"),
    Field("canny", "grey", "Canny edges 255, else 0"),
    Field("sketch", "grey", "soft edges, 0 to 255"),
    Field("pose", "json", "people: for each, 133 COCO-WholeBody points [x, y, score] in pixels"),
    Field("objects", "json", "objects: name, colour, shape, place, box"),
    Field("image_embedding", "array", "CLIP image_embeds of the image", 1, "float32"),
    Field("background_embedding", "array", "CLIP image_embeds of the background", 1, "float32"),
    Field("latent_mean", "array", "mean of the autoencoder's posterior [h w c]", 3, "float16"),
    Field("latent_logvar", "array", "its log-variance [h w c]", 3, "float16"),
    Field("text_embeddings", "array", "text encoder's states [caption token c]", 3, "float16"),
)

BY_NAME: Mapping[str, Field] = {field.name: field for field in FIELDS}


def check_record(record: Mapping[str, Any], fields: Iterable[str]) -> list[str]:
    """Returns what is wrong with the stored values of a record, one text each.

    Looks at names and types, not into pictures.

    Args:
      record: any.
      fields: names that it must have, no more and no fewer.
    """
    expected = set(fields)
    problems = [f"field {name!r} is missing" for name in sorted(expected - record.keys())]
    problems += [f"field {name!r} is unknown" for name in sorted(record.keys() - expected)]
    problems += [
        problem
        for name in sorted(expected & record.keys())
        if (problem := _value_problem(BY_NAME[name], record[name])) is not None
    ]
    return problems


def _value_problem(field: Field, value: Any) -> str | None:
    if field.kind == "array":
        if not isinstance(value, np.ndarray):
            return f"field {field.name!r} is {_shown(value)}, expected an array"
        if value.ndim != field.rank or value.dtype.name != field.dtype:
            return (
                f"field {field.name!r} is {value.dtype} of shape {value.shape}, expected "
                f"{field.dtype} with {field.rank} axes"
            )
        return None
    good, expected = _is_stored_as(field.kind, value)
    return None if good else f"field {field.name!r} is {_shown(value)}, expected {expected}"


def _is_stored_as(kind: Kind, value: Any) -> tuple[bool, str]:
    """Returns whether a value is of a kind, and what the kind is called."""
    if kind in ("text", "json"):
        return isinstance(value, str), "text"
    if kind == "texts":
        good = isinstance(value, list) and all(isinstance(item, str) for item in value)
        return good, "a list of texts"
    if kind == "number":
        return isinstance(value, int) and not isinstance(value, bool), "a whole number"
    return isinstance(value, bytes) and len(value) > 0, "an encoded picture"


def _shown(value: Any) -> str:
    # Cut before it is shown: a value may be of megabytes.
    text = repr(value[:60] if isinstance(value, bytes | str) else value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
