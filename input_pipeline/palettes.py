"""Classes of label sets and their colours.

    set          classes   colours                          void, the label 255
    coco         183       PASCAL VOC's colour map          as class 182, unlabeled
    ade20k       151       SceneParsing's, as ControlNet's  as class 150, other
    cityscapes   19        the data set's                   black
    celebamask   19        the data set's                   white
    scenes       the procedural world's own, see `input_pipeline.scenes.classes`

`coco` numbers its classes as the COCO-Stuff label pictures do (class 0 is a person, which is
painted black); of its names, eleven never occur in the data set.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from input_pipeline.schema import VOID

if TYPE_CHECKING:
    from jaxtyping import UInt8

PALETTE_NAMES = ("coco", "ade20k", "cityscapes", "celebamask", "scenes")

_COCO_UNLABELED = 182


@dataclasses.dataclass(frozen=True, eq=False)
class Palette:
    """The classes of a label set, by number.

    Attributes:
      name: of the label set.
      classes: names, fewer than 256.
      colours: of the classes; two classes may share one.
      void_colour: of pixels that belong to no class.
    """

    name: str
    classes: tuple[str, ...]
    colours: UInt8[np.ndarray, "n 3"]
    void_colour: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        colours = np.array(self.colours)
        if colours.dtype != np.uint8 or colours.shape != (len(self.classes), 3):
            raise ValueError(
                f"palette {self.name!r} has {len(self.classes)} classes and colours of type "
                f"{colours.dtype} and shape {colours.shape}, expected uint8 "
                f"({len(self.classes)}, 3): one row for each class"
            )
        if not 1 <= len(self.classes) <= VOID:
            raise ValueError(
                f"palette {self.name!r} has {len(self.classes)} classes, expected 1 to {VOID}: "
                f"labels are bytes, and {VOID} is void"
            )
        colours.flags.writeable = False
        object.__setattr__(self, "colours", colours)


class LegendRow(NamedTuple):
    """A class that occurs in a label map: its name, its colour and its share of the pixels."""

    name: str
    colour: tuple[int, int, int]
    share: float


def palette(name: str) -> Palette:
    """Returns the palette of a label set.

    Args:
      name: one of `PALETTE_NAMES`.

    Raises:
      ValueError: there is no such palette.
    """
    if name not in PALETTE_NAMES:
        raise ValueError(f"there is no palette {name!r}; expected one of {list(PALETTE_NAMES)}")
    return _scenes_palette() if name == "scenes" else _stored_palette(name)


def voc_colour(number: int) -> tuple[int, int, int]:
    """Returns a colour of PASCAL VOC's map, in which the bits of a number are dealt to R, G, B.

    Bit 3j of the number becomes bit 7-j of R, bit 3j+1 that of G and bit 3j+2 that of B.

    Args:
      number: 0 to 255.
    """
    if not 0 <= number <= 255:
        raise ValueError(f"the colour map has colours 0 to 255, got {number}")
    red, green, blue = (
        sum((number >> (3 * j + channel) & 1) << (7 - j) for j in range(3)) for channel in range(3)
    )
    return red, green, blue


def colourise(labels: UInt8[np.ndarray, "h w"], palette: Palette) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a label map in colours.

    Args:
      labels: class of every pixel, or `VOID`.
      palette: of the classes.

    Raises:
      ValueError: a label is no class of the palette.
    """
    _require_classes(labels, palette)
    return colour_table(palette)[labels]


def colour_table(palette: Palette) -> UInt8[np.ndarray, "256 3"]:
    """Returns the colour of every label; labels without a class have that of the void."""
    table = np.full((VOID + 1, 3), palette.void_colour, np.uint8)
    table[: len(palette.classes)] = palette.colours
    return table


def legend(labels: UInt8[np.ndarray, "h w"], palette: Palette) -> list[LegendRow]:
    """Returns the classes that occur in a label map, the largest first, and void last.

    Args:
      labels: class of every pixel, or `VOID`.
      palette: of the classes.

    Raises:
      ValueError: a label is no class of the palette.
    """
    _require_classes(labels, palette)
    counts = np.bincount(labels.reshape(-1), minlength=VOID + 1)
    present = sorted(np.flatnonzero(counts[:VOID]).tolist(), key=lambda n: -counts[n])
    rows = [
        LegendRow(palette.classes[n], _rgb(palette.colours[n]), float(counts[n] / labels.size))
        for n in present
    ]
    if counts[VOID]:
        rows.append(LegendRow("void", palette.void_colour, float(counts[VOID] / labels.size)))
    return rows


def mirrored_classes(
    labels: UInt8[np.ndarray, "h w"], palette: Palette
) -> UInt8[np.ndarray, "h w"]:
    """Returns labels in which the classes of left and right have changed places.

    To be used with a mirrored picture: its left eye is the right eye of the original. The pixels
    themselves are not moved. Only celebamask has such classes.

    Args:
      labels: class of every pixel, or `VOID`.
      palette: of the classes.
    """
    table = np.arange(VOID + 1, dtype=np.uint8)
    for number, name in enumerate(palette.classes):
        if name.startswith("left ") and (twin := f"right {name[5:]}") in palette.classes:
            other = palette.classes.index(twin)
            table[number], table[other] = other, number
    return table[labels]


def coco_to_ade(labels: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Returns the labels of COCO-Stuff as labels of ADE20K, for networks trained on those.

    This is FG-DM's table. Classes without a counterpart, among them most animals and vehicles,
    become 150, other; void stays void.

    Args:
      labels: classes of the palette `coco`.

    Raises:
      ValueError: a label is no class of the palette `coco`.
    """
    _require_classes(labels, palette("coco"))
    table = np.full(VOID + 1, VOID, np.uint8)
    numbers = _stored()["coco_to_ade"]
    table[: len(numbers)] = numbers
    return table[labels]


def _require_classes(labels: UInt8[np.ndarray, "h w"], palette: Palette) -> None:
    if labels.dtype != np.uint8:
        raise ValueError(f"labels have type {labels.dtype}, expected uint8")
    counts = np.bincount(labels.reshape(-1), minlength=VOID + 1)
    unknown = len(palette.classes) + np.flatnonzero(counts[len(palette.classes) : VOID])
    if unknown.size:
        raise ValueError(
            f"the labels {unknown[:10].tolist()} are no classes of palette {palette.name!r}, "
            f"which has 0 to {len(palette.classes) - 1}, and {VOID} for void"
        )


@functools.cache
def _stored_palette(name: str) -> Palette:
    stored = _stored()[name]
    classes = tuple(stored["classes"])
    if name == "coco":
        colours = [voc_colour(number) for number in range(len(classes))]
        return Palette(name, classes, np.array(colours, np.uint8), voc_colour(_COCO_UNLABELED))
    colours = [_parsed(colour) for colour in stored["colours"]]
    return Palette(name, classes, np.array(colours, np.uint8), _parsed(stored["void"]))


@functools.cache
def _scenes_palette() -> Palette:
    # Imported here, as other label sets need no scenes.
    from input_pipeline.scenes.classes import CLASSES, VOID_COLOUR

    names = tuple(item.name for item in CLASSES)
    colours = np.array([item.colour for item in CLASSES], np.uint8)
    return Palette("scenes", names, colours, VOID_COLOUR)


@functools.cache
def _stored() -> dict[str, Any]:
    file = resources.files("input_pipeline") / "data" / "palettes.json"
    return json.loads(file.read_text(encoding="utf-8"))


def _parsed(colour: str) -> tuple[int, int, int]:
    """Returns the colour written as "#rrggbb"."""
    return _rgb(bytes.fromhex(colour[1:]))


def _rgb(colour: UInt8[np.ndarray, " 3"] | bytes) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in colour)
    return red, green, blue
