"""What a data set looks like: pictures of records, and numbers over many of them."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from input_pipeline.codecs import decode_field
from input_pipeline.palettes import Palette, colourise
from input_pipeline.schema import BY_NAME, PICTURE_KINDS, Record

if TYPE_CHECKING:
    from jaxtyping import UInt8

BINS = 20


class Records(Protocol):
    """Any record source."""

    @property
    def fields(self) -> tuple[str, ...]: ...  # noqa: D102

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Record: ...


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Numbers over some records of a data set.

    Attributes:
      records: that were looked at.
      sizes: records of each "HEIGHTxWIDTH".
      captions: records with each number of captions.
      words: captions with each number of words.
      mask_area: records in each of `BINS` shares of the image, from empty to full.
      depth: for each depth field, the mean share of pixels in each of `BINS` depths, far to near.
      classes: mean share of pixels of each class, the largest first.
      bytes: mean size of each field as stored.
    """

    records: int
    sizes: Mapping[str, int]
    captions: Mapping[int, int]
    words: Mapping[int, int]
    mask_area: Sequence[int]
    depth: Mapping[str, Sequence[float]]
    classes: Mapping[str, float]
    bytes: Mapping[str, float]


def spread(count: int, wanted: int) -> list[int]:
    """Returns up to `wanted` numbers below `count`, evenly spread."""
    wanted = min(count, wanted)
    return [index * count // wanted for index in range(wanted)]


def statistics(
    records: Records,
    palette: Palette | None,
    indices: Sequence[int],
    report: Callable[[int], object] = lambda done: None,
) -> Statistics:
    """Returns numbers over the records at `indices`.

    Args:
      records: of the data set.
      palette: of its segmentations, or None.
      indices: of the records to look at; at least one.
      report: called with 1 after each record.
    """
    sizes: collections.Counter[str] = collections.Counter()
    captions: collections.Counter[int] = collections.Counter()
    words: collections.Counter[int] = collections.Counter()
    stored: collections.Counter[str] = collections.Counter()
    mask_area = np.zeros(BINS, np.int64)
    depth: dict[str, Any] = {}
    pixels = np.zeros(256)
    for index in indices:
        record = records[index]
        name = f"{record['source']} record {record['id']}"
        sizes[f"{record.get('height', '?')}x{record.get('width', '?')}"] += 1
        captions[len(record["captions"])] += 1
        words.update(len(caption.split()) for caption in record["captions"])
        for field, value in record.items():
            stored[field] += _size(value)
        if "mask" in record:
            share = float((decode_field(name, "mask", record["mask"]) > 127).mean())
            mask_area[min(int(share * BINS), BINS - 1)] += 1
        for field in (item for item in record if BY_NAME[item].kind == "deep"):
            if field != "instances":
                values = decode_field(name, field, record[field])
                bins = values.ravel().astype(np.int64) * BINS // 65536
                shares = np.bincount(bins, minlength=BINS) / values.size
                depth[field] = depth.get(field, 0) + shares
        if "segmentation" in record:
            labels = decode_field(name, "segmentation", record["segmentation"])
            pixels += np.bincount(labels.ravel(), minlength=256) / labels.size
        report(1)
    count = len(indices)
    order = [int(label) for label in np.argsort(-pixels) if pixels[label] > 0]
    return Statistics(
        records=count,
        sizes=dict(sizes.most_common()),
        captions=dict(sorted(captions.items())),
        words=dict(sorted(words.items())),
        mask_area=[int(value) for value in mask_area],
        depth={field: (shares / count).tolist() for field, shares in depth.items()},
        classes={_class_name(label, palette): pixels[label] / count for label in order},
        bytes={field: total / count for field, total in stored.items()},
    )


def pictures(
    record: Record, palette: Palette | None, draw_pose: Callable[..., Any] | None = None
) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
    """Returns all that can be seen of a record, by field; with `foreground`, on black.

    Args:
      record: any.
      palette: of its segmentation, or None for grey.
      draw_pose: (people, size) -> picture; poses are left out without it.
    """
    name = f"{record['source']} record {record['id']}"
    found: dict[str, UInt8[np.ndarray, "h w 3"]] = {}
    for field, value in record.items():
        if BY_NAME[field].kind not in PICTURE_KINDS:
            continue
        found[field] = _visible(field, decode_field(name, field, value), palette)
        if field == "mask" and "image" in found:
            found["foreground"] = found["image"] * (found["mask"] > 127).astype(np.uint8)
    if "pose" in record and draw_pose is not None and "image" in found:
        people = decode_field(name, "pose", record["pose"])
        found["pose"] = draw_pose(people, found["image"].shape[:2])
    return found


def _visible(field: str, values: np.ndarray, palette: Palette | None) -> UInt8[np.ndarray, "h w 3"]:
    if field == "segmentation" and palette is not None:
        return colourise(values, palette)
    if field == "instances":
        # Neighbouring numbers get colours that are far apart.
        hues = values.astype(np.uint32)[..., None] * np.array([97, 57, 151], np.uint32)
        return (hues % 256).astype(np.uint8)
    if values.dtype == np.uint16:
        values = (values >> 8).astype(np.uint8)
    return values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=-1)


def _size(value: Any) -> int:
    """Returns how many bytes a stored value takes."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, list):
        return sum(map(_size, value))
    if isinstance(value, int):
        return 8
    return len(value.encode() if isinstance(value, str) else value)


def _class_name(label: int, palette: Palette | None) -> str:
    if palette is not None and label < len(palette.classes):
        return palette.classes[label]
    return "void" if label == 255 else f"class {label}"
