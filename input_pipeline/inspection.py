"""What a data set looks like: pictures of records, and numbers over many of them."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from input_pipeline.codecs import decode_field
from input_pipeline.palettes import Palette, colourise
from input_pipeline.schema import BY_NAME, PICTURE_KINDS, Record, RecordError, RecordSource

if TYPE_CHECKING:
    from jaxtyping import UInt8

BINS = 20


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
      problems: what is said of records that could not be read; they are not counted.
    """

    records: int
    sizes: Mapping[str, int]
    captions: Mapping[int, int]
    words: Mapping[int, int]
    mask_area: Sequence[int]
    depth: Mapping[str, Sequence[float]]
    classes: Mapping[str, float]
    bytes: Mapping[str, float]
    problems: Sequence[str] = ()


def spread(count: int, wanted: int) -> list[int]:
    """Returns up to `wanted` numbers below `count`, evenly spread."""
    wanted = min(count, wanted)
    return [index * count // wanted for index in range(wanted)]


def statistics(
    records: RecordSource,
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
    tally, problems = _Tally(), []
    for index in indices:
        try:
            tally.add(records[index])
        except ValueError as error:
            problems.append(str(error))
        report(1)
    count = max(tally.records, 1)
    order = [int(label) for label in np.argsort(-tally.pixels) if tally.pixels[label] > 0]
    return Statistics(
        records=tally.records,
        sizes=dict(tally.sizes.most_common()),
        captions=dict(sorted(tally.captions.items())),
        words=dict(sorted(tally.words.items())),
        mask_area=[int(value) for value in tally.mask_area],
        depth={field: (shares / count).tolist() for field, shares in tally.depth.items()},
        classes={_class_name(label, palette): tally.pixels[label] / count for label in order},
        bytes={field: total / count for field, total in tally.stored.items()},
        problems=tuple(problems),
    )


class _Tally:
    """Sums over records."""

    def __init__(self) -> None:
        self.records = 0
        self.sizes: collections.Counter[str] = collections.Counter()
        self.captions: collections.Counter[int] = collections.Counter()
        self.words: collections.Counter[int] = collections.Counter()
        self.stored: collections.Counter[str] = collections.Counter()
        self.mask_area = np.zeros(BINS, np.int64)
        self.depth: dict[str, Any] = {}
        self.pixels = np.zeros(256)

    def add(self, record: Record) -> None:
        """Counts a record, if all of it can be decoded."""
        name = f"{record['source']} record {record['id']}"
        wanted = [
            field
            for field in record
            if field in ("mask", "segmentation")
            or (BY_NAME[field].kind == "deep" and field != "instances")
        ]
        decoded = {field: decode_field(name, field, record[field]) for field in wanted}
        self.records += 1
        self.sizes[f"{record.get('height', '?')}x{record.get('width', '?')}"] += 1
        self.captions[len(record["captions"])] += 1
        self.words.update(len(caption.split()) for caption in record["captions"])
        self.stored.update({field: _size(value) for field, value in record.items()})
        for field, values in decoded.items():
            if field == "mask":
                share = float((values > 127).mean())
                self.mask_area[min(int(share * BINS), BINS - 1)] += 1
            elif field == "segmentation":
                self.pixels += np.bincount(values.ravel(), minlength=256) / values.size
            else:
                bins = values.ravel().astype(np.int64) * BINS // 65536
                shares = np.bincount(bins, minlength=BINS) / values.size
                self.depth[field] = self.depth.get(field, 0) + shares


def pictures(
    record: Record, palette: Palette | None, draw_pose: Callable[..., Any] | None = None
) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
    """Returns all that can be seen of a record, by field; with `foreground`, on black.

    Args:
      record: any.
      palette: of its segmentation, or None for grey.
      draw_pose: (people, size) -> picture; poses are left out without it.

    Raises:
      RecordError: a picture cannot be decoded, or does not fit the others.
    """
    name = f"{record['source']} record {record['id']}"
    found: dict[str, UInt8[np.ndarray, "h w 3"]] = {}
    for field, value in record.items():
        if BY_NAME[field].kind not in PICTURE_KINDS:
            continue
        decoded = decode_field(name, field, value)
        try:
            found[field] = _visible(field, decoded, palette)
            if field == "mask" and "image" in found:
                found["foreground"] = found["image"] * (found["mask"] > 127).astype(np.uint8)
        except ValueError as error:
            raise RecordError(f"{name}: field {field!r}: {error}") from error
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
