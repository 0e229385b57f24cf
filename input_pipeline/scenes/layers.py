"""Each solid as a layer of its own, complete even where a nearer one hides it, and its shadow.

A solid is sampled four times in a pixel. It owns the pixels of which it covers at least half; there
its colour covers the samples' part of the pixel, and the maps hold the mean of its samples. It
leaves all other pixels alone, so that a picture without it differs inside its mask and in its
shadow only.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from input_pipeline.scenes.backdrop import ground_nearness
from input_pipeline.scenes.places import PLACE_LOOKS
from input_pipeline.scenes.scene import (
    FOCAL_LENGTH,
    NEAREST,
    Scene,
    SceneObject,
    view_box,
)
from input_pipeline.scenes.solids import Rays, meet, surface
from input_pipeline.scenes.surfaces import shade, to_local
from input_pipeline.scenes.view import SAMPLES, View, finer, view_slices

if TYPE_CHECKING:
    from jaxtyping import Float

    Map = Float[np.ndarray, "h w"]

_LEAST_SAMPLES = SAMPLES * SAMPLES / 2
# The light is as wide as this in slopes, which softens the edges of shadows.
_LIGHT_WIDTH = 0.025
# The ground near a solid gets less light from the sky: up to this part less, to this many reaches.
_CLOSE_SHADE = 0.45
_CLOSE_REACH = 1.5


@dataclasses.dataclass(frozen=True)
class Layer:
    """A solid by itself, in the pixels of a box around it.

    Attributes:
      rows: of the box.
      columns: of the box.
      cover: part of each pixel that it covers, 0 or 0.5 to 1; its mask is where this is over 0.
      colour: 0 to 255, 0 outside of the mask.
      nearness: 0 outside.
      normal: unit vectors x left, y up, z to the viewer; 0 outside.
    """

    rows: slice
    columns: slice
    cover: Map
    colour: Float[np.ndarray, "3 h w"]
    nearness: Map
    normal: Float[np.ndarray, "3 h w"]


def draw_layer(item: SceneObject, scene: Scene, view: View) -> Layer:
    """Returns a solid by itself."""
    rows, columns = view_slices(view, view_box(item, scene.horizon))
    rays = _camera_rays(item, scene, view, rows, columns)
    hits = meet(item, rays)
    row, column = np.nonzero(np.isfinite(hits.t))
    t = hits.t[row, column]
    along_x, along_y, along_z = map(np.asarray, rays[3:])
    x = rays.ox + t * along_x[0, column]
    y = rays.oy + t * along_y[row, 0]
    z = rays.oz + t * along_z[0, column]
    found = surface(item, x, y, z, np.broadcast_to(hits.part, hits.t.shape)[row, column])
    samples = np.zeros((8, *hits.t.shape), np.float32)
    inside = samples.reshape(8, -1)
    index = row * along_x.shape[1] + column
    normal_x, normal_y, normal_z = found.normal
    cosine, sine = item.turn
    inside[:3, index] = shade(item, scene, PLACE_LOOKS[scene.place], found, y)
    inside[3, index] = -cosine * normal_x - sine * normal_z
    inside[4, index] = normal_y
    inside[5, index] = sine * normal_x - cosine * normal_z
    inside[6, index] = NEAREST / t
    inside[7, index] = 1
    ground = ground_nearness(scene, view.rows[rows])
    return _layer(rows, columns, ground, _sum_of_samples(samples))


def _camera_rays(item: SceneObject, scene: Scene, view: View, rows: slice, columns: slice) -> Rays:
    """Returns the rays of samples in the axes of a solid, as long as their depth is 1."""
    slope_x = view.fine_columns[:, finer(columns)] * (1 / FOCAL_LENGTH)
    slope_y = (scene.horizon - view.fine_rows[finer(rows)]) * (1 / FOCAL_LENGTH)
    ox, oy, oz = to_local(item, (-item.x, 1.0, -item.z))
    cosine, sine = item.turn
    return Rays(ox, oy, oz, cosine * slope_x - sine, slope_y, sine * slope_x + cosine)


def _sum_of_samples(samples: Float[np.ndarray, "c h2 w2"]) -> Float[np.ndarray, "c h w"]:
    by_row = samples[:, 0::2] + samples[:, 1::2]
    return by_row[..., 0::2] + by_row[..., 1::2]


def _layer(rows: slice, columns: slice, ground: Map, sums: Float[np.ndarray, "8 h w"]) -> Layer:
    """Returns the layer of sums over samples; `ground` is the nearness of the ground behind it."""
    count = sums[7]
    owned = count >= _LEAST_SAMPLES
    weight = np.where(owned, 1 / np.maximum(count, 1), 0).astype(np.float32, copy=False)
    colour = np.minimum(sums[:3] * weight, 255)
    normal = sums[3:6] * weight
    length = np.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2)
    normal /= np.maximum(length, np.float32(1e-6))
    cover = np.where(owned, count, 0) * np.float32(1 / SAMPLES**2)
    # At a solid's foot its samples may lie above the pixel's middle, where the ground is nearer.
    nearness = np.maximum(sums[6] * weight, ground * owned)
    return Layer(rows, columns, cover, colour, nearness, normal)


@dataclasses.dataclass(frozen=True)
class Shadow:
    """What part of the ground's light remains around a solid, in the pixels of a box."""

    rows: slice
    columns: slice
    light: Map


def draw_shadow(item: SceneObject, scene: Scene, view: View) -> Shadow:
    """Returns the shadow of a solid on the ground."""
    strength = PLACE_LOOKS[scene.place].shadow
    rows, columns = view_slices(view, _shadow_box(item, scene))
    below = view.fine_rows[finer(rows)] - scene.horizon
    distance = FOCAL_LENGTH / np.maximum(below, np.float32(1e-3))
    x = view.fine_columns[:, finer(columns)] * (distance * (1 / FOCAL_LENGTH)) - item.x
    z = distance - item.z
    hidden = np.isfinite(meet(item, _light_rays(item, scene, x, z)).t)
    dark = _sum_of_samples(hidden.astype(np.float32)[None])[0] * (strength / SAMPLES**2)
    reach_x, reach_z = item.reach
    # One sample in a pixel is enough for what has no edge.
    x = x[::SAMPLES, ::SAMPLES] * (1 / (_CLOSE_REACH * reach_x))
    z = z[::SAMPLES] * (1 / (_CLOSE_REACH * reach_z))
    close = np.maximum(1 - x * x - z * z, 0)
    return Shadow(rows, columns, (1 - dark) * (1 - (_CLOSE_SHADE * strength * 2) * close * close))


def _light_rays(item: SceneObject, scene: Scene, x: Map, z: Map) -> Rays:
    """Returns rays from the ground to the light, to another part of it for each sample."""
    cosine, sine = item.turn
    apart = np.array([-_LIGHT_WIDTH, _LIGHT_WIDTH], np.float32)
    light_x = scene.light[0] + np.tile(apart, x.shape[1] // SAMPLES)[None, :]
    light_z = scene.light[2] + np.tile(apart, x.shape[0] // SAMPLES)[:, None]
    return Rays(
        cosine * x - sine * z,
        0.0,
        sine * x + cosine * z,
        cosine * light_x - sine * light_z,
        scene.light[1],
        sine * light_x + cosine * light_z,
    )


def _shadow_box(item: SceneObject, scene: Scene) -> tuple[float, float, float, float]:
    """Returns left, top, right and bottom of the ground that a shadow may reach."""
    reach_x, reach_z = (_CLOSE_REACH * reach for reach in item.reach)
    away_x, away_z = (
        -component * item.height / scene.light[1] for component in (scene.light[0], scene.light[2])
    )
    left, right = item.x + min(-reach_x, away_x - reach_x), item.x + max(reach_x, away_x + reach_x)
    near = max(item.z + min(-reach_z, away_z - reach_z), 0.5 * NEAREST)
    far = item.z + max(reach_z, away_z + reach_z)
    return (
        FOCAL_LENGTH * left / (near if left < 0 else far),
        scene.horizon + FOCAL_LENGTH / far,
        FOCAL_LENGTH * right / (near if right > 0 else far),
        scene.horizon + FOCAL_LENGTH / near,
    )
