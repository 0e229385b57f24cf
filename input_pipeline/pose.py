"""Poses: people as points, mirrored, cropped and drawn.

A person is 133 COCO-WholeBody points [x, y, score]: body 17, feet 6, face 68, left hand 21 and
right hand 21. x and y count pixels from the centre of the top left one; a score of 0 means that
the point is not known, and then x and y mean nothing. Left and right are those of the person.

Drawings follow FG-DM: points are joined in chains, every link has a colour of its own from PASCAL
VOC's map, and neck and middle of the hips are halfway between two shoulders and two hips.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from input_pipeline.palettes import voc_colour

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

    People = Float[np.ndarray, "n 133 3"] | Sequence[Any]

POINTS = 133
VISIBLE = 0.35
"""Least score of a point that is drawn."""

# The 136 points of drawings: 17 of the body, one that is never known, neck, middle of the hips,
# then those that follow the body in COCO-WholeBody.
_BODY = 17
_UNKNOWN, _NECK, _HIPS = 17, 18, 19
_SHOULDERS, _HIP_POINTS = (5, 6), (11, 12)
_FOOT_LINKS = ((20, 22), (25, 23), (21, 22), (24, 25), (15, 22), (16, 25))
_BODY_LINKS = (
    *((0, 1), (0, 2), (1, 3), (2, 4)),
    *((5, _NECK), (6, _NECK), (5, 7), (7, 9), (6, 8), (8, 10)),
    # The unknown point's link is never drawn, but later links keep their colours by it.
    *((_UNKNOWN, _NECK), (_NECK, _HIPS), (_HIPS, 11), (_HIPS, 12)),
    *((11, 13), (12, 14), (13, 15), (14, 16)),
)
# Jaw, two brows, nose, nostrils, two eyes, mouth: the first and the last point of each.
_FACE_CHAINS = ((26, 42), (43, 47), (48, 52), (53, 56), (57, 61), (62, 67), (68, 73), (74, 93))
_WRISTS = (94, 115)
_FINGERS, _FINGER_JOINTS = 5, 4


def _links() -> Iterator[tuple[int, int]]:
    """Yields the pairs of points that are joined, in the order of their colours."""
    yield from _BODY_LINKS
    yield from _FOOT_LINKS
    for first, last in _FACE_CHAINS:
        yield from pairwise(range(first, last + 1))
    for wrist in _WRISTS:
        for finger in range(_FINGERS):
            start = wrist + 1 + finger * _FINGER_JOINTS
            yield from pairwise((wrist, *range(start, start + _FINGER_JOINTS)))


def _mirror_order() -> tuple[int, ...]:
    """Returns the point that takes the place of each in a mirror."""
    body = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    feet = [20, 21, 22, 17, 18, 19]
    face = [
        *range(16, -1, -1),  # jaw
        *range(26, 16, -1),  # brows
        *(27, 28, 29, 30),  # bridge of the nose
        *range(35, 30, -1),  # nostrils
        *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),  # eyes
        *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),  # outer line of the lips
        *(64, 63, 62, 61, 60, 67, 66, 65),  # inner line
    ]
    hands = [*range(112, 133), *range(91, 112)]
    return (*body, *feet, *(23 + point for point in face), *hands)


MIRROR_ORDER = _mirror_order()
LINKS = tuple(_links())


def as_people(people: People) -> Float[np.ndarray, "n 133 3"]:
    """Returns people as float32, after a look at their shape.

    Args:
      people: as decoded from a record's field `pose`; may be empty.

    Raises:
      ValueError: they are no people of 133 points with finite x, y and score.
    """
    try:
        points = np.asarray(people, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"people are no numbers [n {POINTS} 3]: {error}") from error
    if points.size == 0:
        return np.zeros((0, POINTS, 3), np.float32)
    if points.shape[1:] != (POINTS, 3):
        raise ValueError(f"people have shape {points.shape}, expected (n, {POINTS}, 3)")
    if not np.isfinite(points).all():
        raise ValueError("people have points that are NaN or infinite")
    return points


def to_json(people: People) -> str:
    """Returns the text that a record holds: pixels to two digits, unknown points as zeros."""
    points = _with_zeros(as_people(people))
    rows = np.round(points.astype(np.float64), 2).tolist()
    short = [[[_short(value) for value in point] for point in person] for person in rows]
    return json.dumps(short, separators=(",", ":"))


def flip(people: People, width: int) -> Float[np.ndarray, "n 133 3"]:
    """Returns people as they are in the mirrored picture: left points become right ones.

    Args:
      people: any number.
      width: of the picture in pixels.
    """
    points = as_people(people)[:, list(MIRROR_ORDER)]
    points[..., 0] = width - 1 - points[..., 0]
    return _with_zeros(points)


def crop(
    people: People, box: tuple[float, float, float, float], size: tuple[int, int]
) -> Float[np.ndarray, "n 133 3"]:
    """Returns people as they are in a part of the picture that is resized.

    Points outside the part are kept, so that links to them can be drawn.

    Args:
      people: any number.
      box: left, top, right and bottom of the part, in pixels from the picture's corner.
      size: height and width to which the part is resized.
    """
    left, top, right, bottom = box
    if not (left < right and top < bottom and min(size) >= 1):
        raise ValueError(f"cannot resize the part {box} to {size}: expected areas above 0")
    points = as_people(people).copy()
    scale = np.array([size[1] / (right - left), size[0] / (bottom - top)], np.float32)
    # Half a pixel lies between a picture's corner and the centre of its first pixel.
    corner = np.array([left - 0.5, top - 0.5], np.float32)
    points[..., :2] = (points[..., :2] - corner) * scale - 0.5
    return _with_zeros(points)


def draw(
    people: People,
    size: tuple[int, int],
    *,
    width: int = 3,
    radius: int = 3,
    threshold: float = VISIBLE,
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the picture of people on black, later ones over earlier ones.

    Args:
      people: any number, in pixels of this picture.
      size: height and width of the picture.
      width: of links in pixels.
      radius: of the discs at both ends of a link.
      threshold: least score of points; a link is drawn if both its ends have it.
    """
    image = Image.new("RGB", (size[1], size[0]))
    pen = ImageDraw.Draw(image)
    for person in _drawn_points(as_people(people), threshold):
        for number, (start, end) in enumerate(LINKS, start=1):
            if person[start, 2] and person[end, 2]:
                _draw_link(pen, person[[start, end], :2], voc_colour(number), width, radius)
    return np.asarray(image)


def _draw_link(
    pen: ImageDraw.ImageDraw,
    ends: Float[np.ndarray, "2 2"],
    colour: tuple[int, int, int],
    width: int,
    radius: int,
) -> None:
    # Whole pixels, as in the originals; far points would overflow Pillow's integers.
    (x0, y0), (x1, y1) = np.clip(ends, -1e6, 1e6).astype(int).tolist()
    pen.line((x0, y0, x1, y1), fill=colour, width=width)
    for x, y in ((x0, y0), (x1, y1)):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _drawn_points(
    people: Float[np.ndarray, "n 133 3"], threshold: float
) -> Float[np.ndarray, "n 136 3"]:
    """Returns the points of drawings: neck and hips among them, 1 for visible as third value."""
    drawn = np.zeros((len(people), POINTS + 3, 3), np.float32)
    drawn[:, :_BODY] = people[:, :_BODY]
    drawn[:, _BODY + 3 :] = people[:, _BODY:]
    drawn[..., 2] = (drawn[..., 2] >= threshold) & (drawn[..., 2] > 0)
    for middle, ends in ((_NECK, _SHOULDERS), (_HIPS, _HIP_POINTS)):
        drawn[:, middle, :2] = drawn[:, ends, :2].mean(axis=1)
        drawn[:, middle, 2] = drawn[:, ends, 2].min(axis=1)
    return drawn


def _with_zeros(points: Float[np.ndarray, "n 133 3"]) -> Float[np.ndarray, "n 133 3"]:
    """Returns points of which those that are not known are all zero."""
    return np.where(points[..., 2:] > 0, points, np.float32(0))


def _short(value: float) -> int | float:
    """Returns whole numbers as int, which take less room in a text."""
    return int(value) if value == int(value) else value
