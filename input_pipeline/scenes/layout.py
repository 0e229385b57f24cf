"""Draws scenes: which place, which solids, and where they stand.

Every number comes from one Philox stream with the key (seed, index), so that a scene depends on
nothing else. Angles are drawn as tangents of half angles, which leaves only arithmetic that IEEE
754 fixes to the last bit: the same scene on every machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from input_pipeline.scenes.scene import (
    COLOURS,
    FOCAL_LENGTH,
    MAX_HORIZON,
    MIN_HORIZON,
    PLACES,
    SHAPES,
    TEXTURES,
    Scene,
    SceneObject,
    unit_vector,
    view_box,
)

_DRAWS = 512
_TRIES = 12
_MARGIN = 0.02
# Ground this far below the horizon is where the farthest solids stand, all in front of the sea
# and of the walls.
_FARTHEST_GROUND = 0.11
# A box that covers more than this of another would leave too little to see and to name.
_MOST_HIDDEN = 0.45
_SMALLEST = 0.15
_GAP = 0.08


class _Draws:
    """Numbers of a scene, drawn at once, which costs less than one by one."""

    def __init__(self, seed: int, index: int):
        generator = np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))
        self._numbers = iter(generator.random(_DRAWS).tolist())

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * next(self._numbers)

    def choice(self, items: Sequence[str]) -> str:
        return items[int(len(items) * next(self._numbers))]


def draw_scene(seed: int, index: int) -> Scene:
    """Returns scene `index` of the world `seed`, both in 0..2^64 - 1."""
    draws = _Draws(seed, index)
    place = draws.choice(PLACES)
    horizon = draws.uniform(MIN_HORIZON, MAX_HORIZON)
    side = draws.uniform(0.35, 0.8) * (1 if draws.uniform(0, 1) < 0.5 else -1)
    light = unit_vector(side, draws.uniform(0.7, 1.0), -draws.uniform(0.45, 0.9))
    drift = (draws.uniform(0, 64), draws.uniform(0, 64))
    objects = [_draw_foreground(draws, horizon)]
    wanted = int(draws.uniform(0, 4))
    for _ in range(wanted):
        other = _draw_other(draws, horizon, objects)
        if other is not None:
            objects.append(other)
    objects = [objects[0], *sorted(objects[1:], key=lambda item: item.z)]
    return Scene(seed, index, place, horizon, light, drift, tuple(objects))


def _draw_look(draws: _Draws) -> SceneObject:
    """Returns a solid one unit tall at the camera's foot."""
    shape, colour = draws.choice(SHAPES), draws.choice(COLOURS)
    texture = draws.choice(("plain", "plain", *TEXTURES))
    slim, slim_too, half_tangent = draws.uniform(0, 1), draws.uniform(0, 1), draws.uniform(-1, 1)
    half_width = {
        "ball": 0.5,
        "box": 0.36 + 0.26 * slim,
        "cylinder": 0.26 + 0.16 * slim,
        "cone": 0.33 + 0.13 * slim,
        "pyramid": 0.4 + 0.16 * slim,
        "ring": 0.5,
    }[shape]
    half_depth = {"box": 0.36 + 0.26 * slim_too, "ring": 0.1 + 0.07 * slim_too}.get(
        shape, half_width
    )
    # A ring seen from its rim has no hole to be known by.
    half_tangent *= {"box": 0.41, "pyramid": 0.41, "ring": 0.3}.get(shape, 0.0)
    square = half_tangent * half_tangent
    turn = ((1 - square) / (1 + square), 2 * half_tangent / (1 + square))
    return SceneObject(shape, colour, texture, 0.0, 0.0, half_width, 1.0, half_depth, turn)


def _placed(item: SceneObject, z: float, height: float, across: float) -> SceneObject:
    """Returns a solid of unit height scaled and moved; `across` is where its middle is seen."""
    return dataclasses.replace(
        item,
        x=across * z / FOCAL_LENGTH,
        z=z,
        half_width=item.half_width * height,
        height=height,
        half_depth=item.half_depth * height,
    )


def _draw_foreground(draws: _Draws, horizon: float) -> SceneObject:
    """Returns a large solid near the camera, whole in the square."""
    look = _draw_look(draws)
    reach_x, reach_z = look.reach
    # Wide solids are drawn less tall, so that they fit.
    seen_height = draws.uniform(0.38, 0.6) / max(1.0, 2.2 * reach_x)
    front = FOCAL_LENGTH / (draws.uniform(0.8, 0.95) - horizon)
    part_across = draws.uniform(-1, 1)
    while True:
        z = front / (1 - reach_z * seen_height / FOCAL_LENGTH)
        height = seen_height * z / FOCAL_LENGTH
        # Its near end is at z = front, and seen farther out than its middle.
        room = (0.5 - _MARGIN) * front / z - FOCAL_LENGTH * reach_x * height / z
        item = _placed(look, z, height, part_across * max(room, 0.0))
        if room >= 0 and view_box(item, horizon)[1] > _MARGIN:
            return item
        seen_height *= 0.9


def _draw_other(draws: _Draws, horizon: float, placed: Sequence[SceneObject]) -> SceneObject | None:
    """Returns a solid behind the foreground object that fits in, or None if none was found."""
    foreground = placed[0]
    nearest = foreground.z + foreground.reach[1]
    foreground_seen = foreground.height / foreground.z
    for _ in range(_TRIES):
        look = _draw_look(draws)
        z = FOCAL_LENGTH / draws.uniform(_FARTHEST_GROUND, FOCAL_LENGTH / nearest)
        height = max(draws.uniform(0.55, 1.3), _SMALLEST * z / FOCAL_LENGTH)
        across = draws.uniform(-0.5, 0.5)
        item = _placed(look, z, height, across)
        if (
            z - item.reach[1] > nearest + _GAP
            and height / z < 0.8 * foreground_seen
            and _fits(item, horizon, placed)
        ):
            return item
    return None


def _fits(item: SceneObject, horizon: float, placed: Sequence[SceneObject]) -> bool:
    """Returns whether a solid can be seen, hides no other, and has a name of its own."""
    left, top, right, _ = view_box(item, horizon)
    inside = left > -0.5 + _MARGIN and right < 0.5 - _MARGIN and top > _MARGIN
    if not inside or any((item.shape, item.colour) == (o.shape, o.colour) for o in placed):
        return False
    if not all(_apart(item, other, horizon) for other in placed):
        return False
    together = [*placed, item]
    return all(
        sum(_hidden(far, near, horizon) for near in together if near.z < far.z) < _MOST_HIDDEN
        for far in together
    )


def _apart(one: SceneObject, other: SceneObject, horizon: float) -> bool:
    """Returns whether drawing the farther first and the nearer over it is right everywhere."""
    if abs(one.z - other.z) > one.reach[1] + other.reach[1] + _GAP:
        return True
    first, second = view_box(one, horizon), view_box(other, horizon)
    return first[2] + _MARGIN < second[0] or second[2] + _MARGIN < first[0]


def _hidden(far: SceneObject, near: SceneObject, horizon: float) -> float:
    """Returns the part of the far solid's box that the near one's covers."""
    a, b = view_box(far, horizon), view_box(near, horizon)
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0) / ((a[2] - a[0]) * (a[3] - a[1]))
