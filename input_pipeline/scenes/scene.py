"""What a scene is: a place, a light and a few solids on the ground, before any pixel.

The world's unit is the height of the camera above the ground. x goes right, y up and z away from
the camera, which looks along z without tilting: lines that stand upright stay upright. The horizon
lies where the scene says, as if the camera's lens were shifted.
"""

from __future__ import annotations

import dataclasses
import math

SHAPES = ("ball", "box", "cylinder", "cone", "pyramid", "ring")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
TEXTURES = ("plain", "stripes", "dots", "checks")
PLACES = ("meadow", "desert", "snow", "night", "beach", "room")

FOCAL_LENGTH = 1.15
"""In sides of the square that is as wide as the picture's shorter side."""

MIN_HORIZON, MAX_HORIZON = 0.3, 0.44
NEAREST = FOCAL_LENGTH / (1 - MIN_HORIZON)
"""The least distance that any picture shows; nearness is NEAREST / distance, so at most 1."""

HOLE = 0.55
"""Radius of a ring's hole in radii of the ring."""


@dataclasses.dataclass(frozen=True)
class SceneObject:
    """A solid that stands on the ground.

    Attributes:
      shape: one of SHAPES.
      colour: one of COLOURS.
      texture: one of TEXTURES.
      x: of its middle, right of the camera.
      z: of its middle, distance from the camera.
      half_width: half its extent along its own x; the radius of round solids.
      height: above the ground.
      half_depth: half its extent along its own z, which is the axis of a ring.
      turn: cosine and sine of its rotation about the vertical.
    """

    shape: str
    colour: str
    texture: str
    x: float
    z: float
    half_width: float
    height: float
    half_depth: float
    turn: tuple[float, float] = (1.0, 0.0)

    @property
    def reach(self) -> tuple[float, float]:
        """Half of the room that it takes along x and along z."""
        if self.shape in ("ball", "cylinder", "cone"):
            return self.half_width, self.half_width
        cosine, sine = abs(self.turn[0]), abs(self.turn[1])
        return (
            cosine * self.half_width + sine * self.half_depth,
            sine * self.half_width + cosine * self.half_depth,
        )

    @property
    def nearness(self) -> float:
        """Of its middle, 0 to 1, in the unit of the depth maps."""
        return NEAREST / self.z

    @property
    def across(self) -> float:
        """Where its middle is seen: -0.5 left to 0.5 right of the square in the picture."""
        return FOCAL_LENGTH * self.x / self.z


@dataclasses.dataclass(frozen=True)
class Scene:
    """A place with solids, and the light that falls on it.

    Attributes:
      seed: of the world.
      index: in the world.
      place: one of PLACES.
      horizon: where the horizon is seen, from 0 at the top to 1 at the bottom of the square.
      light: unit vector towards the light.
      drift: where the patterns of ground and sky begin, two numbers.
      objects: from near to far, 1 to 4. The first is the foreground object.
    """

    seed: int
    index: int
    place: str
    horizon: float
    light: tuple[float, float, float]
    drift: tuple[float, float]
    objects: tuple[SceneObject, ...]


def view_box(item: SceneObject, horizon: float) -> tuple[float, float, float, float]:
    """Returns left, top, right and bottom of what a solid covers at most.

    Args:
      item: the solid.
      horizon: of the scene. Units are sides of the square; x counts from its middle, y from its
        top.
    """
    reach_x, reach_z = item.reach
    near, far = item.z - reach_z, item.z + reach_z
    left, right = item.x - reach_x, item.x + reach_x
    above = 1 - item.height
    return (
        FOCAL_LENGTH * left / (near if left < 0 else far),
        horizon + FOCAL_LENGTH * above / (near if above < 0 else far),
        FOCAL_LENGTH * right / (near if right > 0 else far),
        horizon + FOCAL_LENGTH / near,
    )


def unit_vector(x: float, y: float, z: float) -> tuple[float, float, float]:
    """Returns the vector scaled to length 1; it must not be zero."""
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length
