"""Rays against solids: where a ray meets each, and the surface it finds there.

Everything is in the solid's own axes: its foot's middle is the origin, y goes up. Arrays broadcast,
and many of them are a row or a column only, since the rays of a picture share their x by column
and their y by row. Only additions, multiplications, divisions and square roots are used, which
IEEE 754 fixes to the last bit, so that pictures are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from input_pipeline.scenes.scene import HOLE, SceneObject

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    Array = Float[np.ndarray, "..."]
    Numbers = Array | float

_TINY = 1e-9


class Rays(NamedTuple):
    """Origins and directions, x, y, z of each."""

    ox: Numbers
    oy: Numbers
    oz: Numbers
    dx: Numbers
    dy: Numbers
    dz: Numbers


class Hits(NamedTuple):
    """Where rays meet a solid.

    Attributes:
      t: in lengths of the direction; infinite where a ray misses.
      part: which part of the surface it is, in the numbers of the shape.
    """

    t: Array
    part: Int[np.ndarray, "..."]


class Surface(NamedTuple):
    """Points of a surface: the outward normal, and coordinates in tiles of the texture."""

    normal: tuple[Numbers, Numbers, Numbers]
    u: Array
    v: Array


def meet(item: SceneObject, rays: Rays) -> Hits:
    """Returns where rays from outside a solid first meet it."""
    return _MEET[item.shape](item, rays)


def surface(
    item: SceneObject, x: Array, y: Array, z: Array, part: Int[np.ndarray, " n"]
) -> Surface:
    """Returns the surface of a solid at points on it, whose parts `meet` told."""
    return _SURFACE[item.shape](item, x, y, z, part)


def _not_zero(divisor: Numbers) -> Array:
    """Returns a divisor without zeros, which rays along a face have."""
    return np.where(divisor == 0, np.float32(_TINY), divisor).astype(np.float32, copy=False)


def _roots(a: Numbers, b: Numbers, c: Numbers) -> tuple[Array, Array, Bool[np.ndarray, "..."]]:
    """Returns both roots of a t^2 + 2 b t + c, and where they are real."""
    square = b * b - a * c
    root = np.sqrt(np.maximum(square, 0))
    inverse = 1 / _not_zero(a)
    return (-b - root) * inverse, (root - b) * inverse, np.asarray(square > 0)


def _slab(origin: Numbers, direction: Numbers, low: float, high: float) -> tuple[Array, Array]:
    """Returns where rays enter and leave the room between two parallel planes."""
    inverse = 1 / _not_zero(direction)
    one, other = (low - origin) * inverse, (high - origin) * inverse
    return np.minimum(one, other), np.maximum(one, other)


def _hits(t: Array, is_hit: Array, part: Int[np.ndarray, "..."] | int) -> Hits:
    return Hits(np.where(is_hit & (t > 0), t, np.float32(np.inf)), np.asarray(part))


def _meet_ball(item: SceneObject, rays: Rays) -> Hits:
    radius = item.half_width
    oy = rays.oy - radius
    near, _, real = _roots(
        rays.dx * rays.dx + rays.dy * rays.dy + rays.dz * rays.dz,
        rays.ox * rays.dx + oy * rays.dy + rays.oz * rays.dz,
        rays.ox * rays.ox + oy * oy + rays.oz * rays.oz - radius * radius,
    )
    return _hits(near, real, 0)


def _meet_cylinder(item: SceneObject, rays: Rays) -> Hits:
    """Part 0 is the side, 1 the top."""
    near, far, real = _roots(
        rays.dx * rays.dx + rays.dz * rays.dz,
        rays.ox * rays.dx + rays.oz * rays.dz,
        rays.ox * rays.ox + rays.oz * rays.oz - item.half_width * item.half_width,
    )
    enter, leave = _slab(rays.oy, rays.dy, 0.0, item.height)
    t = np.maximum(near, enter)
    return _hits(t, real & (t < np.minimum(far, leave)), enter > near)


def _meet_cone(item: SceneObject, rays: Rays) -> Hits:
    """Rays from outside steeper than the cone, as only the light's can be, miss it above ground."""
    slope = item.half_width / item.height
    square = slope * slope
    oy = rays.oy - item.height
    near, _, real = _roots(
        rays.dx * rays.dx + rays.dz * rays.dz - square * rays.dy * rays.dy,
        rays.ox * rays.dx + rays.oz * rays.dz - square * oy * rays.dy,
        rays.ox * rays.ox + rays.oz * rays.oz - square * oy * oy,
    )
    y = rays.oy + near * rays.dy
    return _hits(near, real & (y >= 0) & (y <= item.height), 0)


def _meet_box(item: SceneObject, rays: Rays) -> Hits:
    """Part 0 are the faces along x, 1 those along z, 2 the top."""
    enter_x, leave_x = _slab(rays.ox, rays.dx, -item.half_width, item.half_width)
    enter_z, leave_z = _slab(rays.oz, rays.dz, -item.half_depth, item.half_depth)
    enter_y, leave_y = _slab(rays.oy, rays.dy, 0.0, item.height)
    sides = np.maximum(enter_x, enter_z)
    t = np.maximum(sides, enter_y)
    part = np.where(enter_y > sides, 2, enter_z > enter_x)
    return _hits(t, t < np.minimum(np.minimum(leave_x, leave_z), leave_y), part)


def _pyramid_planes(item: SceneObject) -> tuple[tuple[float, float, float], ...]:
    """Returns the sides' outward directions; all have the same distance from the origin."""
    height, half = item.height, item.half_width
    return ((height, half, 0), (-height, half, 0), (0, half, height), (0, half, -height))


def _meet_pyramid(item: SceneObject, rays: Rays) -> Hits:
    """Parts are the four sides."""
    t, leave = _slab(rays.oy, rays.dy, 0.0, item.height)
    part = np.zeros((), np.intp)
    reach = item.height * item.half_width
    for index, (x, y, z) in enumerate(_pyramid_planes(item)):
        along = _not_zero(x * rays.dx + y * rays.dy + z * rays.dz)
        at = (reach - (x * rays.ox + y * rays.oy + z * rays.oz)) / along
        enters = along < 0
        leave = np.where(enters, leave, np.minimum(leave, at))
        is_later = enters & (at > t)
        t = np.where(is_later, at, t)
        part = np.where(is_later, index, part)
    return _hits(t, t < leave, part)


def _meet_ring(item: SceneObject, rays: Rays) -> Hits:
    """A short pipe that stands on its rim: part 0 is the rim, 1 the flat sides, 2 the hole."""
    radius = item.half_width
    oy = rays.oy - radius
    a = rays.dx * rays.dx + rays.dy * rays.dy
    b = rays.ox * rays.dx + oy * rays.dy
    c = rays.ox * rays.ox + oy * oy
    enter_rim, leave_rim, real = _roots(a, b, c - radius * radius)
    hole = HOLE * radius
    enter_hole, leave_hole, through = _roots(a, b, c - hole * hole)
    enter_side, leave_side = _slab(rays.oz, rays.dz, -item.half_depth, item.half_depth)
    t = np.maximum(enter_rim, enter_side)
    leave = np.minimum(leave_rim, leave_side)
    in_hole = through & (enter_hole <= t) & (t < leave_hole)
    part = np.where(in_hole, 2, enter_side > enter_rim)
    t = np.where(in_hole, leave_hole, t)
    return _hits(t, real & (t < leave), part)


_MEET: dict[str, Callable[[SceneObject, Rays], Hits]] = {
    "ball": _meet_ball,
    "box": _meet_box,
    "cylinder": _meet_cylinder,
    "cone": _meet_cone,
    "pyramid": _meet_pyramid,
    "ring": _meet_ring,
}


def turns(x: Array, y: Array) -> Array:
    """Returns the angle of a point from the x axis in turns, 0 to 1, to 0.001."""
    wide, high = np.abs(x), np.abs(y)
    longer = np.maximum(np.maximum(wide, high), np.float32(_TINY))
    ratio = np.minimum(wide, high) / longer
    # arctan by a parabola, as np.arctan2 differs between machines in the last bit.
    eighth = ratio * (0.16845 - 0.04345 * ratio)
    quarter = np.where(high > wide, 0.25 - eighth, eighth)
    half = np.where(x < 0, 0.5 - quarter, quarter)
    return np.where(y < 0, 1 - half, half).astype(np.float32, copy=False)


def _tiles(item: SceneObject) -> int:
    """Returns how many tiles of the texture fit on the height of a solid."""
    return 2 if item.texture == "checks" else 3


def _tiles_around(item: SceneObject) -> int:
    """Returns how many tiles go around a round solid, so that they are about square."""
    return max(round(6.28 * item.half_width / item.height * _tiles(item)), 3)


def _surface_ball(item: SceneObject, x: Array, y: Array, z: Array, part: Array) -> Surface:
    inverse = 1 / item.half_width
    normal = (x * inverse, y * inverse - 1, z * inverse)
    return Surface(normal, turns(x, z) * (2 * _tiles(item)), y * (_tiles(item) / item.height))


def _surface_cylinder(item: SceneObject, x: Array, y: Array, z: Array, part: Array) -> Surface:
    scale = _tiles(item) / item.height
    side = 1 - part
    inverse = side * np.float32(1 / item.half_width)
    u = np.where(part, x * scale + 0.5, turns(x, z) * _tiles_around(item))
    v = np.where(part, z * scale + 0.5, y * scale)
    return Surface((x * inverse, part.astype(np.float32), z * inverse), u, v)


def _surface_cone(item: SceneObject, x: Array, y: Array, z: Array, part: Array) -> Surface:
    slope = item.half_width / item.height
    level = 1 / np.sqrt(np.float32(1 + slope * slope))
    inverse = level / np.maximum(np.sqrt(x * x + z * z), np.float32(_TINY))
    normal = (x * inverse, np.full_like(x, slope * level), z * inverse)
    return Surface(normal, turns(x, z) * _tiles_around(item), y * (_tiles(item) / item.height))


def _surface_box(item: SceneObject, x: Array, y: Array, z: Array, part: Array) -> Surface:
    scale = _tiles(item) / item.height
    along_x, along_z, top = part == 0, part == 1, part == 2
    normal = (along_x * np.sign(x), top.astype(np.float32), along_z * np.sign(z))
    u = np.where(along_x, z, x) * scale + 0.5
    v = np.where(top, z * scale + 0.5, y * scale)
    return Surface(normal, u, v)


def _surface_pyramid(item: SceneObject, x: Array, y: Array, z: Array, part: Array) -> Surface:
    scale = _tiles(item) / item.height
    planes = np.array(_pyramid_planes(item), np.float32)
    planes /= np.sqrt(np.float32(item.height * item.height + item.half_width * item.half_width))
    normal = planes.take(part, axis=0)
    u = np.where(part < 2, z, x) * scale + 0.5
    return Surface((normal[:, 0], normal[:, 1], normal[:, 2]), u, y * scale)


def _surface_ring(item: SceneObject, x: Array, y: Array, z: Array, part: Array) -> Surface:
    radius = item.half_width
    high = y - radius
    flat = part == 1
    outward = np.array([1 / radius, 0, -1 / (HOLE * radius)], np.float32).take(part)
    normal = (x * outward, high * outward, flat * np.sign(z))
    across = np.sqrt(x * x + high * high) / radius
    # Bands go along v on all solids; on a ring they would be circles, so its angle is v.
    u = np.where(flat, (across - HOLE) / (1 - HOLE), z / (2 * item.half_depth) + 0.5)
    return Surface(normal, u, turns(x, high) * (6 if item.texture == "checks" else 8))


_SURFACE: dict[str, Callable[..., Surface]] = {
    "ball": _surface_ball,
    "box": _surface_box,
    "cylinder": _surface_cylinder,
    "cone": _surface_cone,
    "pyramid": _surface_pyramid,
    "ring": _surface_ring,
}
