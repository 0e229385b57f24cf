"""What solids look like: their colours and textures, and how light falls on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from input_pipeline.scenes.places import Colour, Place
from input_pipeline.scenes.scene import Scene, SceneObject, unit_vector
from input_pipeline.scenes.solids import Surface

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    Vector = tuple[float, float, float]

_PAINTS: dict[str, Colour] = {
    "red": (216, 36, 36),
    "orange": (248, 132, 24),
    "yellow": (250, 218, 40),
    "green": (36, 160, 64),
    "blue": (36, 84, 220),
    "purple": (128, 48, 176),
    "pink": (250, 136, 188),
    "white": (244, 244, 244),
}
_ACCENT_PAINTS: dict[str, Colour] = {"white": (250, 250, 250), "black": (30, 30, 34)}
_DOT_RADIUS_SQUARED = 0.1
# Light that reaches the foot of a solid, where the ground is near, in parts of the light above.
_FOOT_LIGHT = 0.62


def accent(colour: str) -> str:
    """Returns the name of the texture's second colour on a solid of a colour."""
    return "black" if colour in ("yellow", "white") else "white"


def shade(
    item: SceneObject,
    scene: Scene,
    look: Place,
    found: Surface,
    height: Float[np.ndarray, " n"],
) -> Float[np.ndarray, "3 n"]:
    """Returns the colours of points of a solid, 0 to 255 and more where light is strong.

    Args:
      item: the solid.
      scene: whose light it is.
      look: of the place.
      found: the points' surface.
      height: of the points above the ground.
    """
    light = to_local(item, scene.light)
    x, y, z = found.normal
    facing = np.maximum(x * light[0] + y * light[1] + z * light[2], 0)
    open_sky = np.minimum(_FOOT_LIGHT + height * ((1 - _FOOT_LIGHT) / (0.4 * item.height)), 1)
    above, below = _channels(look.sky_light), _channels(look.ground_light)
    ambient = (0.5 * (above + below)) + (0.5 * (above - below)) * y
    colours = ambient * open_sky + _channels(look.sun) * facing
    colours *= _paint(item, found)
    colours += 255 * look.gloss * _gloss(item, scene, found)
    return colours


def to_local(item: SceneObject, vector: Vector) -> Vector:
    """Returns a direction of the world in the axes of a solid."""
    cosine, sine = item.turn
    x, y, z = vector
    return cosine * x - sine * z, y, sine * x + cosine * z


def _channels(colour: Colour) -> Float[np.ndarray, "3 1"]:
    return np.array(colour, np.float32)[:, None]


def _paint(item: SceneObject, found: Surface) -> Float[np.ndarray, "3 n"]:
    base = _channels(_PAINTS[item.colour])
    if item.texture == "plain":
        return base
    second = _channels(_ACCENT_PAINTS[accent(item.colour)])
    return np.where(_is_accent(item.texture, found), second, base)


def _is_accent(texture: str, found: Surface) -> Bool[np.ndarray, " n"]:
    """Returns where the texture shows its second colour."""
    part_v = found.v - np.floor(found.v)
    if texture == "stripes":
        return part_v > 0.5
    part_u = found.u - np.floor(found.u)
    if texture == "dots":
        return (part_u - 0.5) ** 2 + (part_v - 0.5) ** 2 < _DOT_RADIUS_SQUARED
    return (part_u > 0.5) != (part_v > 0.5)


def _gloss(item: SceneObject, scene: Scene, found: Surface) -> Float[np.ndarray, " n"]:
    """Returns the strength of the highlight, by Blinn's half vector."""
    to_camera = unit_vector(-item.x, 1 - 0.5 * item.height, -item.z)
    both = [one + other for one, other in zip(scene.light, to_camera, strict=True)]
    half = to_local(item, unit_vector(both[0], both[1], both[2]))
    x, y, z = found.normal
    strength = np.maximum(x * half[0] + y * half[1] + z * half[2], 0)
    for _ in range(5):
        strength = strength * strength
    return strength
