"""Depths of image, foreground and background, and normals, by one depth network.

The foreground's depth is that of the image with the background blacked out, as the papers' maps
were made (and as the released weights expect); the background's that of the painted background.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from input_pipeline.codecs import decode_field, encode_picture
from input_pipeline.depth_estimator import (
    DepthEstimator,
    check_depth_estimator,
    load_depth_estimator,
    normalise_depth,
)
from input_pipeline.prepare.identity import identity
from input_pipeline.prepare.step import Simple
from input_pipeline.schema import Record

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

_DEEPEST = 65535
# ControlNet's recipe: this many units of depth for a pixel make a slope of one.
_NORMAL_SCALE = 2 * np.pi
_FAR = 0.1


@dataclasses.dataclass(frozen=True)
class Depths(Simple):
    """Adds depths, and normals if asked.

    Attributes:
      model: folder or hub id of the network.
      layers: also the depths of foreground and background, which need mask and background.
      normals: also the normals of the image.
      batch_size: records at once.
      hardware: that it runs on, as other devices round otherwise.
    """

    model: str
    layers: bool = True
    normals: bool = True
    batch_size: int = 8
    hardware: str = ""
    name: str = "depth"
    drops: bool = False
    on_device: bool = True

    @property
    def needs(self) -> tuple[str, ...]:
        """What it looks at."""
        return ("image", "mask", "background") if self.layers else ("image",)

    @property
    def adds(self) -> tuple[str, ...]:
        """What it makes."""
        layers = ("foreground_depth", "background_depth") if self.layers else ()
        return ("depth", *layers, *(("normal",) if self.normals else ()))

    @property
    def settings(self) -> Mapping[str, Any]:
        """What results depend on."""
        fields = ("layers", "normals", "batch_size", "hardware")
        return {**{name: getattr(self, name) for name in fields}, "model": identity(self.model)}

    def check(self, fields: Sequence[str]) -> list[str]:
        """Returns why the network cannot be loaded."""
        del fields
        return check_depth_estimator(self.model)

    def start(self) -> None:
        """Loads the network."""
        _ = self._network

    @functools.cached_property
    def _network(self) -> DepthEstimator:
        return load_depth_estimator(self.model)

    def decode(self, record: Record) -> list[UInt8[np.ndarray, "h w 3"]]:
        """Returns image, and foreground on black and background."""
        name = f"{record['source']} record {record['id']}"
        image = decode_field(name, "image", record["image"])
        if not self.layers:
            return [image]
        mask = decode_field(name, "mask", record["mask"]) > 127
        background = decode_field(name, "background", record["background"])
        return [image, image * mask[..., None], background]

    def compute(self, values: Sequence[list[np.ndarray]]) -> Sequence[list[np.ndarray]]:
        """Returns the raw depths of each record's pictures."""
        pictures = [picture for item in values for picture in item]
        depths = iter(self._network.raw(pictures))
        return [[next(depths) for _ in item] for item in values]

    def encode(self, result: list[Float[np.ndarray, "h w"]]) -> Record:
        """Returns 16-bit depths, stretched over the whole range one by one, and normals."""
        names = [name for name in self.adds if name != "normal"]
        fields: Record = {
            name: encode_picture(_deep(normalise_depth(raw)), "deep")
            for name, raw in zip(names, result, strict=True)
        }
        if self.normals:
            fields["normal"] = encode_picture(normals_from_depth(result[0]), "rgb")
        return fields


def normals_from_depth(raw: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Returns normals by ControlNet's recipe: x left, y up, z to the viewer.

    Slopes are 3x3 Sobel derivatives of raw inverse depth against a constant of 2 pi; where the
    stretched depth is under 0.1 there is no telling, and the normal faces the viewer.

    Args:
      raw: inverse depth in the network's unit.
    """
    padded = np.pad(raw, 1, mode="reflect")
    smooth_rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    smooth_columns = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    x = smooth_rows[:, 2:] - smooth_rows[:, :-2]
    y = smooth_columns[2:] - smooth_columns[:-2]
    near = normalise_depth(raw) >= _FAR
    normals = np.stack([x * near, y * near, np.full_like(x, _NORMAL_SCALE)], axis=-1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    return np.rint(normals * 127.5 + 127.5).astype(np.uint8)


def _deep(depth: Float[np.ndarray, "h w"]) -> np.ndarray:
    return np.rint(depth * _DEEPEST).astype(np.uint16)
