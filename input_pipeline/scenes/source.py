"""The world as a source of records, for shards and for the stream alike."""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from input_pipeline.codecs import encode_picture
from input_pipeline.edges import canny
from input_pipeline.image_files import MAX_PIXELS
from input_pipeline.scenes.captions import captions, name, place_in_words
from input_pipeline.scenes.layers import Layer
from input_pipeline.scenes.layout import draw_scene
from input_pipeline.scenes.outlines import soft_edges
from input_pipeline.scenes.render import Rendering, render
from input_pipeline.scenes.scene import Scene
from input_pipeline.schema import BY_NAME, PICTURE_KINDS, Record

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Shaped, UInt8, UInt16

    Map = Float[np.ndarray, "h w"]

_SEEDS = 2**64


class Scenes:
    """An endless world of simple solids, of which everything is known.

    Scene `index` of world `seed` is the same on every machine, in every order and at every size.

    Attributes:
      name: of the source.
      palette: of the label maps; see `input_pipeline.scenes.classes`.
      fields: that every record has.
      seed: which world.
      size: height and width of the pictures.
    """

    name = "scenes"
    palette: str | None = "scenes"

    def __init__(
        self,
        seed: int = 0,
        size: tuple[int, int] = (64, 64),
        length: int = 1_000_000,
        fields: Sequence[str] | None = None,
    ):
        """Checks the settings; draws nothing.

        Args:
          seed: 0 to 2^64 - 1.
          size: height and width, multiples of 8.
          length: number of records.
          fields: those that are wanted, in any order; None for all that scenes have.

        Raises:
          ValueError: something is out of range; names all problems.
        """
        fields = SCENE_FIELDS if fields is None else tuple(fields)
        problems = _problems(seed, size, length, fields)
        if problems:
            raise ValueError("scenes: " + "; ".join(problems))
        self.seed = operator.index(seed)
        self.size = (int(size[0]), int(size[1]))
        self.fields = tuple(field for field in SCENE_FIELDS if field in fields)
        self._length = operator.index(length)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Record:
        """Returns a record as it is stored; its pictures are PNG files, photos too."""
        return {field: _stored(field, value) for field, value in self.arrays(index).items()}

    def scene(self, index: int) -> Scene:
        """Returns what stands where in a scene.

        Raises:
          IndexError: there is no such scene.
        """
        index = operator.index(index)
        if not 0 <= index < self._length:
            raise IndexError(f"scenes: index is {index}, expected 0 to {self._length - 1}")
        return draw_scene(self.seed, index)

    def arrays(self, index: int) -> dict[str, Any]:
        """Returns a record as it is decoded, without the cost of encoding it."""
        example = _Example(self.scene(index), self.size)
        return {field: _MAKERS[field](example) for field in self.fields}

    def layers(self, index: int) -> list[dict[str, Shaped[np.ndarray, "..."]]]:
        """Returns every object by itself, from near to far, and last the empty place.

        Each has `image`, `mask`, `depth` and `normal` as in records: the whole object on black,
        also where a nearer one hides it. The empty place has no shadows.
        """
        example = _Example(self.scene(index), self.size)
        rendering, size = example.rendering, self.size
        empty = rendering.backdrop
        facing = np.zeros((3, *size), np.float32)
        facing[1], facing[2] = empty.upright, 1 - empty.upright
        place = {
            "image": _bytes(empty.colour),
            "mask": np.full(size, 255, np.uint8),
            "depth": _deep(empty.nearness),
            "normal": _encoded_normal(facing),
        }
        return [*(_layer_arrays(layer, size) for layer in rendering.layers), place]


def _problems(seed: int, size: tuple[int, int], length: int, fields: Sequence[str]) -> list[str]:
    problems = []
    if not _is_whole(seed) or not 0 <= seed < _SEEDS:
        problems.append(f"seed is {seed!r}, expected 0 to 2^64 - 1")
    if not _is_whole(length) or not 0 < length <= _SEEDS:
        problems.append(f"length is {length!r}, expected at least 1")
    if (
        not isinstance(size, Sequence)
        or len(size) != 2
        or not all(_is_whole(side) and side > 0 and side % 8 == 0 for side in size)
        or size[0] * size[1] > MAX_PIXELS
    ):
        problems.append(
            f"size is {size!r}, expected (height, width), both multiples of 8 and together at most "
            f"{MAX_PIXELS} pixels"
        )
    unknown = [field for field in fields if field not in SCENE_FIELDS]
    if unknown or not fields:
        problems.append(f"fields are {tuple(fields)}, expected some of {', '.join(SCENE_FIELDS)}")
    return problems


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


class _Example:
    """A scene and what is drawn of it, once it is asked for."""

    def __init__(self, scene: Scene, size: tuple[int, int]):
        self.scene = scene
        self.size = size

    @functools.cached_property
    def rendering(self) -> Rendering:
        return render(self.scene, self.size)

    @functools.cached_property
    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        return _bytes(self.rendering.image)

    @functools.cached_property
    def background(self) -> UInt8[np.ndarray, "h w 3"]:
        return _bytes(self.rendering.background)


def _nearness(layers: Sequence[Layer], behind: Map) -> Map:
    """Returns the nearness of whole solids, from near to far, before what is behind them."""
    nearness = behind.astype(np.float32)
    for layer in reversed(layers):
        np.copyto(nearness[layer.rows, layer.columns], layer.nearness, where=layer.cover > 0)
    return nearness


def _bytes(colours: Float[np.ndarray, "3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    rounded = np.rint(np.clip(colours, 0, 255)).astype(np.uint8)
    return np.ascontiguousarray(rounded.transpose(1, 2, 0))


def _deep(nearness: Map) -> UInt16[np.ndarray, "h w"]:
    return np.rint(nearness * 65535).astype(np.uint16)


def _grey(mask: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    return mask.astype(np.uint8) * np.uint8(255)


def _encoded_normal(normal: Float[np.ndarray, "3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    return _bytes(normal * 127.5 + 127.5)


def _objects(example: _Example) -> list[dict[str, Any]]:
    """Returns the objects from near to far."""
    found = []
    for number, item in enumerate(example.scene.objects, start=1):
        seen = example.rendering.instances == number
        whole = int(np.count_nonzero(example.rendering.layers[number - 1].cover))
        found.append(
            {
                "name": name(item),
                "colour": item.colour,
                "texture": item.texture,
                "shape": item.shape,
                "place": place_in_words(item, is_foreground=number == 1),
                "box": _box(seen),
                "depth": round(item.nearness, 6),
                "visible": round(int(np.count_nonzero(seen)) / max(whole, 1), 6),
                "instance": number,
                "is_foreground": number == 1,
            }
        )
    return found


def _box(seen: Bool[np.ndarray, "h w"]) -> list[int]:
    """Returns left, top, right and bottom of pixels, the last two exclusive; zeros for none."""
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if not len(rows):
        return [0, 0, 0, 0]
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def _layer_arrays(layer: Layer, size: tuple[int, int]) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Returns the pictures of a layer in a whole frame."""
    box = layer.rows, layer.columns
    mask = layer.cover > 0
    image, normal = np.zeros((*size, 3), np.uint8), np.zeros((*size, 3), np.uint8)
    whole_mask, depth = np.zeros(size, np.uint8), np.zeros(size, np.uint16)
    image[box] = _bytes(layer.colour)
    normal[box] = _encoded_normal(layer.normal) * mask[..., None]
    whole_mask[box] = _grey(mask)
    depth[box] = _deep(layer.nearness)
    return {"image": image, "mask": whole_mask, "depth": depth, "normal": normal}


_MAKERS: Mapping[str, Callable[[_Example], Any]] = {
    "id": lambda e: f"scenes-{e.scene.seed}-{e.scene.index}",
    "source": lambda e: Scenes.name,
    "captions": lambda e: captions(e.scene),
    "height": lambda e: e.size[0],
    "width": lambda e: e.size[1],
    "image": lambda e: e.image,
    "mask": lambda e: _grey(e.rendering.mask),
    "background": lambda e: e.background,
    "depth": lambda e: _deep(e.rendering.nearness),
    "foreground_depth": lambda e: _deep(e.rendering.nearness * e.rendering.mask),
    "background_depth": lambda e: _deep(e.rendering.background_nearness),
    "normal": lambda e: _encoded_normal(e.rendering.normal),
    "segmentation": lambda e: e.rendering.labels,
    "instances": lambda e: e.rendering.instances,
    "canny": lambda e: canny(e.image).astype(np.uint8) * 255,
    "sketch": lambda e: soft_edges(e.rendering.labels, e.rendering.instances, e.rendering.normal),
    "objects": _objects,
    "middle_depth": lambda e: _deep(_nearness(e.rendering.layers[1:2], np.zeros(e.size))),
    "far_depth": lambda e: _deep(_nearness(e.rendering.layers[2:], e.rendering.backdrop.nearness)),
}

SCENE_FIELDS = tuple(_MAKERS)
"""All fields that scenes have."""


def _stored(field: str, value: Any) -> Any:
    kind = BY_NAME[field].kind
    if kind in PICTURE_KINDS:
        # Photos as PNG, too: what is stored is exactly what was drawn.
        return encode_picture(value, "rgb" if kind == "photo" else kind)
    return json.dumps(value) if kind == "json" else value


def foreground_image(
    image: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the foreground of an image on black.

    Args:
      image: of a record.
      mask: of the same record, 0 or 255.
    """
    return image * (mask > 0)[..., None]
