"""The empty place: sky, mountains or wall, and the ground, with everything known about them.

Patterns of the ground fade where a pixel spans more than a cell of them, so that pictures of all
sizes show the same ground and none flickers in the distance.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from input_pipeline.scenes.classes import CLASS_IDS
from input_pipeline.scenes.noise import noise, smooth_step, wave
from input_pipeline.scenes.places import PLACE_LOOKS, Colour, Place
from input_pipeline.scenes.scene import FOCAL_LENGTH, NEAREST, Scene
from input_pipeline.scenes.view import View

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, UInt8

    Map = Float[np.ndarray, "..."]
    Colours = Float[np.ndarray, "3 h w"]

# Solids end less than 11 units away, and shadows go little farther.
_SEA_FROM = 13.0
_WALL_AT = 13.0
_MOUNTAINS_AT = 60.0
# Beyond this nothing of the ground's pattern is left.
_PATTERN_END = 200.0
_STARS = 60


class Backdrop(NamedTuple):
    """A place without solids.

    Attributes:
      colour: 0 to 255.
      nearness: NEAREST / distance; 0 in the sky.
      upright: by row, 1 where the normal goes up (ground), 0 where it goes to the viewer.
      labels: class of every pixel.
    """

    colour: Colours
    nearness: Float[np.ndarray, "h w"]
    upright: Float[np.ndarray, "h 1"]
    labels: UInt8[np.ndarray, "h w"]


def draw_backdrop(scene: Scene, view: View) -> Backdrop:
    """Returns the place of a scene, without solids and shadows."""
    look = PLACE_LOOKS[scene.place]
    end = scene.horizon + (FOCAL_LENGTH / _WALL_AT if look.wall else 0.0)
    # The row that holds the end of the ground shows both; its middle says which of them it is.
    ground_part = np.clip((view.rows - end) * view.side + 0.5, 0, 1)
    begin = int(np.count_nonzero(ground_part == 0))
    full = view.height - int(np.count_nonzero(ground_part == 1))
    upright = (ground_part > 0.5).astype(np.float32)

    above, above_nearness, above_labels = _above(look, scene, view, end, view.rows[:full])
    ground, ground_labels = _ground(look, scene, view, view.rows[begin:])
    shared = ground_part[begin:full]
    colour = np.concatenate([above, ground[:, full - begin :]], axis=1)
    colour[:, begin:full] += shared * (ground[:, : full - begin] - colour[:, begin:full])

    first = begin + int(np.count_nonzero(shared <= 0.5))
    nearness = np.zeros((view.height, view.width), np.float32)
    nearness[:first] = above_nearness[:first]
    nearness[first:] = ground_nearness(scene, view.rows[first:])
    labels = np.concatenate([above_labels[:first], ground_labels[first - begin :]])
    return Backdrop(colour, nearness, upright, labels)


def ground_nearness(scene: Scene, rows: Float[np.ndarray, "r 1"]) -> Float[np.ndarray, "r 1"]:
    """Returns the nearness of the ground in rows, 0 above the horizon."""
    return np.maximum(rows - scene.horizon, 0) * (NEAREST / FOCAL_LENGTH)


@functools.cache
def _channels(colour: Colour) -> Float[np.ndarray, "3 1 1"]:
    return np.array(colour, np.float32)[:, None, None]


def _mix(one: Colour, other: Colour, part: Map) -> Colours:
    first = _channels(one)
    return first + part * (_channels(other) - first)


def _paint(colours: Colours, colour: Colour, part: Map) -> None:
    """Covers a part of each pixel with a colour."""
    colours += part * (_channels(colour) - colours)


def _above(
    look: Place, scene: Scene, view: View, end: float, rows: Float[np.ndarray, "r 1"]
) -> tuple[Colours, Map, UInt8[np.ndarray, "r w"]]:
    """Returns colour, nearness and labels of the rows above the ground."""
    shape = (len(rows), view.width)
    colours = np.empty((3, *shape), np.float32)
    colours[:] = _mix(*look.sky, np.clip(rows / end, 0, 1) ** 2)
    if look.wall:
        _paint_wall(colours, scene, view, end - rows)
        nearness = np.full(shape, NEAREST / _WALL_AT, np.float32)
        return colours, nearness, np.full(shape, CLASS_IDS["wall"], np.uint8)
    if look.clouds:
        _paint_clouds(colours, look, scene, view, rows)
    if look.stars:
        _paint_night_sky(colours, scene, view)
    nearness = np.zeros(shape, np.float32)
    labels = np.full(shape, CLASS_IDS["sky"], np.uint8)
    if look.hills:
        part = _paint_mountains(colours, look, scene, view, rows)
        is_mountain = part > 0.5
        nearness[is_mountain] = NEAREST / _MOUNTAINS_AT
        labels[is_mountain] = CLASS_IDS["mountain"]
    return colours, nearness, labels


def _paint_wall(colours: Colours, scene: Scene, view: View, height: Map) -> None:
    """Paints light from the light's side, a skirting board and a picture rail on a wall."""
    stains = noise(view.columns * 9 + scene.drift[0], height * 9)
    slope = 0.22 if scene.light[0] > 0 else -0.22
    colours *= 0.97 + slope * np.clip(view.columns, -1, 1) + 0.06 * stains
    board = np.clip((0.025 - height) * view.side + 0.5, 0, 1)
    _paint(colours, (238, 232, 220), 0.8 * board)
    rail = np.clip((0.006 - np.abs(height - 0.27)) * view.side + 0.5, 0, 1)
    _paint(colours, (120, 84, 60), 0.7 * rail)


def _paint_clouds(colours: Colours, look: Place, scene: Scene, view: View, rows: Map) -> None:
    # Clouds shrink towards the horizon, where they are farther away.
    depth = 1 / (scene.horizon + 0.1 - np.minimum(rows, scene.horizon))
    x = view.columns * (depth * 0.9) + scene.drift[0]
    y = depth * 1.1 + scene.drift[1]
    density = 0.7 * noise(x, y) + 0.3 * noise(x * 3.1, y * 3.1)
    cover = smooth_step((density - (0.9 - look.clouds)) * 3.5)
    fade = np.clip((scene.horizon - rows) * 8, 0, 1)
    _paint(colours, look.cloud, cover * (0.85 * fade))


@functools.cache
def _stars() -> Float[np.ndarray, "n 3"]:
    """Returns place across, place from the top and brightness of stars, all in 0..1."""
    return np.random.Generator(np.random.Philox(key=1)).random((_STARS, 3)).astype(np.float32)


def _paint_night_sky(colours: Colours, scene: Scene, view: View) -> None:
    """Paints stars, the same again beside and above the square, and a moon on the light's side."""
    across, up, bright = _stars().T
    beside = (view.width // view.side + 1) // 2
    more_x = np.arange(-beside, beside + 1)[:, None, None]
    more_y = np.arange(int(view.height / (view.side * scene.horizon)) + 1)[:, None]
    x = ((across + scene.drift[0]) % 1 - 0.5 + more_x) * view.side + 0.5 * view.width
    y = (up - more_y) * (scene.horizon * view.side) + (view.height - view.side)
    x, y, bright = (item.ravel() for item in np.broadcast_arrays(x, y, bright))
    size = view.side // 128 + 1
    inside = (x >= 0) & (y >= 0) & (x < view.width - size) & (y < colours.shape[1] - size)
    columns, rows = x[inside].astype(np.int32), y[inside].astype(np.int32)
    light = 60 + 130 * bright[inside]
    for row, column in np.ndindex(size, size):
        colours[:, rows + row, columns + column] += light
    moon = 0.34 if scene.light[0] > 0 else -0.34
    square = (view.columns - moon) ** 2 + (view.rows[: colours.shape[1]] - 0.12) ** 2
    disc = np.clip((0.06 - np.sqrt(square)) * view.side + 0.5, 0, 1)
    _paint(colours, (236, 236, 214), disc)
    colours += 26 * np.clip(1 - square * 12, 0, 1) ** 2


def _paint_mountains(colours: Colours, look: Place, scene: Scene, view: View, rows: Map) -> Map:
    """Paints mountains; returns what part of each pixel they cover."""
    x = view.columns + np.float32(scene.drift[0])
    shape = noise(x * 3, np.float32(scene.drift[1])) + 0.45 * noise(
        x * 11, np.float32(scene.drift[1] + 5)
    )
    top = scene.horizon - look.hills * (0.25 + 0.8 * shape)
    part = np.clip((rows - top) * view.side + 0.5, 0, 1)
    rise = np.clip((scene.horizon - rows) / look.hills, 0, 1)
    horizon = _channels(look.sky[1])
    hill = horizon + (0.55 + 0.35 * rise) * (_channels(look.hill) - horizon)
    colours += part * (hill - colours)
    return part


def _fade(cell: float, distance: Map, view: View) -> Map:
    """Returns how much of a pattern is left, 1 near and 0 where a pixel spans a cell of it."""
    pixel = distance * distance * (1 / (FOCAL_LENGTH * view.side))
    return np.clip(1.5 - 1.5 * pixel / cell, 0, 1)


def _ground(
    look: Place, scene: Scene, view: View, rows: Float[np.ndarray, "r 1"]
) -> tuple[Colours, UInt8[np.ndarray, "r w"]]:
    """Returns colour and labels of the rows below the ground's end."""
    distance = FOCAL_LENGTH / np.maximum(rows - scene.horizon, FOCAL_LENGTH / _PATTERN_END)
    x = view.columns * (distance * (1 / FOCAL_LENGTH))
    tone = _tone(look, scene, view, x, distance)
    colours = _mix(*look.soil, tone)
    labels = np.full(tone.shape, CLASS_IDS[look.ground], np.uint8)
    if look.sea:
        labels[_paint_sea(colours, look, scene, view, x, distance)] = CLASS_IDS["water"]
    if look.haze:
        part = distance * distance
        _paint(colours, look.sky[1], look.haze * part / (part + 100))
    return colours, labels


def _tone(look: Place, scene: Scene, view: View, x: Map, z: Map) -> Map:
    """Returns the ground's pattern, 0 dark to 1 light."""
    drift_x, drift_z = np.float32(scene.drift[0]), np.float32(scene.drift[1])
    if look.tiles:
        # Boards that run away from the viewer, each of its own tone.
        board = x * (1 / look.tiles) + drift_x
        number = np.floor(board)
        seam = np.clip((0.5 - np.abs(board - number - 0.5)) * 12 + 0.3, 0, 1)
        tone = noise(number * 7.3, np.floor(z * 0.5 + number * 0.37) * 3.7)
        return np.clip(0.15 + 0.7 * tone, 0, 1) * seam
    coarse = noise(x * look.patches + drift_x, z * look.patches + drift_z) - 0.5
    fine = noise(x * (5.1 * look.patches), z * (5.1 * look.patches)) - 0.5
    tone = 0.5 + 0.75 * _fade(1 / look.patches, z, view) * coarse
    tone += 0.45 * _fade(0.2 / look.patches, z, view) * fine
    if look.ripples:
        bend = z * look.ripples + x * 0.25 + 1.2 * coarse
        tone += 0.2 * _fade(0.5 / look.ripples, z, view) * wave(bend)
    return np.clip(tone, 0, 1)


def _paint_sea(
    colours: Colours, look: Place, scene: Scene, view: View, x: Map, z: Map
) -> Bool[np.ndarray, "r w"]:
    """Paints water and foam; returns where the water is."""
    shore = _SEA_FROM + 2 * noise(x * 0.15 + np.float32(scene.drift[0]), np.float32(0))
    # Seen height above the shore in pixels.
    above = (FOCAL_LENGTH * view.side) * (1 / shore - 1 / z)
    wet = np.clip(above + 0.5, 0, 1)
    _paint(colours, (58, 140, 176), wet)
    _paint(colours, (28, 96, 156), wet * np.clip(above * (24 / view.side), 0, 1))
    foam = np.clip(1 - np.abs(above - 0.006 * view.side) * (80 / view.side), 0, 1)
    _paint(colours, (250, 252, 252), 0.8 * foam * np.clip(above + 1, 0, 1))
    return above > 0
