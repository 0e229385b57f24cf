"""Which pixels are foreground: classes of a label map, or what a saliency network sees."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from input_pipeline.codecs import decode_field, encode_picture
from input_pipeline.prepare.identity import identity
from input_pipeline.prepare.step import Dropped, Simple
from input_pipeline.schema import Record

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, UInt8

# COCO-Stuff's things are classes 0 (person) to 90; upstream's foreground.
COCO_THINGS = tuple(range(91))
_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


@dataclasses.dataclass(frozen=True)
class Coverage:
    """How much of an image its foreground may cover.

    Attributes:
      least: share of the image; a mask with no more is left out. 0 leaves out empty ones.
      most: a mask with no less is left out. 1 leaves out full ones.
    """

    least: float = 0.0
    most: float = 1.0

    def encode(self, mask: Bool[np.ndarray, "h w"]) -> Record | Dropped:
        """Returns the field of a mask, or why its record is left out."""
        share = float(mask.mean())
        if share <= self.least:
            return Dropped("mask empty" if share == 0 else f"mask under {self.least:g}")
        if share >= self.most:
            return Dropped("mask full" if share == 1 else f"mask over {self.most:g}")
        return {"mask": encode_picture(np.where(mask, np.uint8(255), np.uint8(0)), "grey")}


@dataclasses.dataclass(frozen=True)
class LabelMask(Simple):
    """The foreground is some classes of the segmentation (COCO-Stuff: all things).

    Attributes:
      classes: labels of the foreground.
      coverage: of masks that are kept.
    """

    classes: tuple[int, ...] = COCO_THINGS
    coverage: Coverage = Coverage()
    name: str = "mask"
    needs: tuple[str, ...] = ("segmentation",)
    adds: tuple[str, ...] = ("mask",)
    batch_size: int = 1
    drops: bool = True
    on_device: bool = False

    @property
    def settings(self) -> Mapping[str, Any]:
        """What results depend on."""
        return {"classes": list(self.classes), **dataclasses.asdict(self.coverage)}

    def decode(self, record: Record) -> np.ndarray:
        """Returns the label map."""
        name = f"{record['source']} record {record['id']}"
        return decode_field(name, "segmentation", record["segmentation"])

    def compute(self, values: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Returns the masks."""
        table = np.zeros(256, bool)
        table[list(self.classes)] = True
        return [table[labels] for labels in values]

    def encode(self, result: Bool[np.ndarray, "h w"]) -> Record | Dropped:
        """Returns the mask."""
        return self.coverage.encode(result)


@dataclasses.dataclass(frozen=True)
class SaliencyMask(Simple):
    """The foreground is what U2-Net sees (Pick-a-Pic, and the papers' demo).

    Attributes:
      model: ONNX file of U2-Net; its first output is the saliency map.
      threshold: of the map, stretched to [0, 1].
      coverage: of masks that are kept.
    """

    model: Path
    threshold: float = 0.5
    coverage: Coverage = Coverage()
    name: str = "mask"
    needs: tuple[str, ...] = ("image",)
    adds: tuple[str, ...] = ("mask",)
    batch_size: int = 1
    drops: bool = True
    on_device: bool = False

    @property
    def settings(self) -> Mapping[str, Any]:
        """What results depend on."""
        return {
            "saliency": identity(self.model),
            "threshold": self.threshold,
            **dataclasses.asdict(self.coverage),
        }

    def check(self, fields: Sequence[str]) -> list[str]:
        """Returns why the network cannot be loaded."""
        del fields
        try:
            self.start()
        except (ImportError, ValueError) as error:
            return [str(error)]
        return []

    def start(self) -> None:
        """Loads the network."""
        _ = self._network

    @functools.cached_property
    def _network(self) -> Any:
        return load_saliency(self.model)

    def decode(self, record: Record) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the image."""
        return decode_field(f"{record['source']} record {record['id']}", "image", record["image"])

    def compute(self, values: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Returns the masks."""
        return [self._network(photo) > self.threshold for photo in values]

    def encode(self, result: Bool[np.ndarray, "h w"]) -> Record | Dropped:
        """Returns the mask."""
        return self.coverage.encode(result)


def load_saliency(path: Path) -> Any:
    """Returns a function from a photo in 0..255 to its saliency in [0, 1], of the same size.

    The photo is resized and normalised as U2-Net was trained; a constant map becomes zero.

    Args:
      path: ONNX file: one input [1 3 h w], first output [1 1 h w].

    Raises:
      ImportError: onnxruntime is not installed.
      ValueError: the file is no such network.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError('masks by saliency need onnxruntime: pip install ".[prepare]"') from error
    options = onnxruntime.SessionOptions()
    # One thread of one kind of processor: workers share the cores, and masks are the same for all.
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime has an error class of its own for each status
        raise ValueError(f"{path}: cannot be loaded as an ONNX network: {error}") from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[1] != 3:
        shapes = [item.shape for item in inputs]
        raise ValueError(f"{path}: takes {shapes}, expected one input of [1, 3, height, width]")
    height, width = (side if isinstance(side, int) else 320 for side in inputs[0].shape[2:])
    output = session.get_outputs()[0].name

    def saliency(photo: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
        picture = Image.fromarray(photo)
        small = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), np.float32)
        pixels = (small / max(small.max(), 1.0) - _IMAGENET_MEAN) / _IMAGENET_STD
        values = session.run([output], {inputs[0].name: pixels.transpose(2, 0, 1)[None]})[0]
        values = np.asarray(values, np.float32).reshape(height, width)
        lowest, highest = values.min(), values.max()
        if not np.isfinite(values).all() or highest - lowest < 1e-6:
            return np.zeros(photo.shape[:2], np.float32)
        stretched = Image.fromarray((values - lowest) / (highest - lowest))
        return np.asarray(stretched.resize(picture.size, Image.Resampling.BILINEAR))

    return saliency
