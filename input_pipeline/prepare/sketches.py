"""Edges as conditions: Canny's, and soft ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFilter

from input_pipeline.codecs import decode_field, encode_picture
from input_pipeline.edges import canny
from input_pipeline.prepare.step import Simple
from input_pipeline.schema import Record

if TYPE_CHECKING:
    from jaxtyping import UInt8

# Standard deviations of the blurs whose edges are summed, in pixels of a 512-pixel image.
_SCALES = (1.0, 2.0, 4.0)


@dataclasses.dataclass(frozen=True)
class Edges(Simple):
    """Adds Canny edges (OpenCV's thresholds, ControlNet's 100 and 200) and soft edges.

    Attributes:
      low: gradient above which a pixel joins an edge.
      high: gradient above which a pixel starts one.
    """

    low: float = 100
    high: float = 200
    name: str = "edges"
    needs: tuple[str, ...] = ("image",)
    adds: tuple[str, ...] = ("canny", "sketch")
    batch_size: int = 1
    drops: bool = False
    on_device: bool = False

    @property
    def settings(self) -> Mapping[str, Any]:
        """What results depend on."""
        return {"low": self.low, "high": self.high, "scales": list(_SCALES)}

    def check(self, fields: Sequence[str]) -> list[str]:
        """Returns thresholds that are out of order."""
        del fields
        if 0 <= self.low <= self.high < np.inf:
            return []
        return [f"thresholds are low={self.low}, high={self.high}, expected 0 <= low <= high"]

    def decode(self, record: Record) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the image."""
        return decode_field(f"{record['source']} record {record['id']}", "image", record["image"])

    def compute(self, values: Sequence[np.ndarray]) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Returns both maps."""
        return [
            (canny(photo, self.low, self.high).astype(np.uint8) * 255, soft_edges(photo))
            for photo in values
        ]

    def encode(self, result: tuple[np.ndarray, np.ndarray]) -> Record:
        """Returns the fields."""
        edges, sketch = result
        return {"canny": encode_picture(edges, "grey"), "sketch": encode_picture(sketch, "grey")}


def soft_edges(photo: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """Returns soft edges without a network: mean gradient magnitude over three scales, stretched.

    The papers' HED and PiDiNet see objects where this sees contrast; it needs no weights.

    Args:
      photo: RGB in 0..255.
    """
    grey = Image.fromarray(photo).convert("L")
    unit = max(photo.shape[:2]) / 512
    total = np.zeros(photo.shape[:2], np.float32)
    for scale in _SCALES:
        blurred = np.asarray(grey.filter(ImageFilter.GaussianBlur(scale * unit)), np.float32)
        rows, columns = np.gradient(blurred) if min(blurred.shape) > 1 else (blurred, blurred)
        total += scale * np.hypot(rows, columns)
    # A few strong pixels must not make all others faint.
    highest = np.percentile(total, 99)
    if highest <= 0:
        return np.zeros(photo.shape[:2], np.uint8)
    return np.rint(np.clip(total / highest, 0, 1) * 255).astype(np.uint8)
