from __future__ import annotations

import numpy as np
import pytest

from input_pipeline.scenes.scene import HOLE, SHAPES, SceneObject
from input_pipeline.scenes.solids import Rays, meet, surface, turns

STEP = 1 / 512


def solid(shape: str) -> SceneObject:
    half_depth = {"box": 0.4, "ring": 0.15}.get(shape, 0.5)
    return SceneObject(shape, "red", "plain", 0.0, 0.0, 0.5, 1.0, half_depth)


def inside(item: SceneObject, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Which points are in a solid, by its definition."""
    half, height, depth = item.half_width, item.height, item.half_depth
    standing = (y >= 0) & (y <= height)
    away = np.hypot(x, z)
    rim = np.hypot(x, y - half)
    return {
        "ball": x**2 + (y - half) ** 2 + z**2 <= half**2,
        "box": standing & (abs(x) <= half) & (abs(z) <= depth),
        "cylinder": standing & (away <= half),
        "cone": standing & (away <= half * (1 - y / height)),
        "pyramid": standing & (np.maximum(abs(x), abs(z)) <= half * (1 - y / height)),
        "ring": (abs(z) <= depth) & (rim <= half) & (rim >= HOLE * half),
    }[item.shape]


def random_rays(rng: np.random.Generator, count: int, *, from_ground: bool) -> Rays:
    """Rays like the camera's, which look down from afar, or like the light's from the ground."""
    target = rng.uniform(-0.6, 0.6, (3, count)) + np.array([[0], [0.5], [0]])
    angle = rng.uniform(0, 2 * np.pi, count)
    origin = np.stack([2 * np.cos(angle), rng.uniform(1.1, 1.6, count), 2 * np.sin(angle)])
    if from_ground:
        origin *= [[0.6], [0], [0.6]]
    direction = target - origin
    # The light stands high, and a ray that leaves the ground never comes back.
    direction[1] = np.abs(direction[1]) if from_ground else direction[1]
    return Rays(*origin.astype(np.float32), *direction.astype(np.float32))


def marched(item: SceneObject, rays: Rays) -> np.ndarray:
    """Where rays enter a solid, found by small steps; infinite where they do not."""
    t = np.arange(0, 3, STEP)[:, None]
    is_in = inside(item, rays.ox + t * rays.dx, rays.oy + t * rays.dy, rays.oz + t * rays.dz)
    return np.where(is_in.any(axis=0), t[is_in.argmax(axis=0), 0], np.inf)


@pytest.mark.parametrize("from_ground", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_rays_meet_a_solid_where_they_enter_it(shape, from_ground, rng):
    item = solid(shape)
    rays = random_rays(rng, 1500, from_ground=from_ground)
    expected, found = marched(item, rays), meet(item, rays).t
    assert 100 < np.isfinite(expected).sum() < 1400
    # Steps can miss a corner that a ray only grazes.
    assert (np.isfinite(expected) != np.isfinite(found)).mean() < 0.01
    both = np.isfinite(expected) & np.isfinite(found)
    assert (np.abs(expected[both] - found[both]) <= 1.5 * STEP).mean() > 0.99


@pytest.mark.parametrize("shape", SHAPES)
def test_normals_point_out_of_the_surface(shape, rng):
    item = solid(shape)
    rays = random_rays(rng, 1500, from_ground=False)
    hits = meet(item, rays)
    is_hit = np.isfinite(hits.t)
    t, part = hits.t[is_hit], np.broadcast_to(hits.part, hits.t.shape)[is_hit]
    assert t.size > 100
    point = [
        origin[is_hit] + t * along[is_hit]
        for origin, along in ((rays.ox, rays.dx), (rays.oy, rays.dy), (rays.oz, rays.dz))
    ]
    found = surface(item, *point, part)
    normal = [np.broadcast_to(component, t.shape) for component in found.normal]
    np.testing.assert_allclose(sum(n * n for n in normal), 1, atol=1e-4)
    near = 2e-3
    outward = [p + near * n for p, n in zip(point, normal, strict=True)]
    inward = [p - near * n for p, n in zip(point, normal, strict=True)]
    # Within the step of an edge the other face decides.
    assert (~inside(item, *outward)).mean() > 0.97
    assert inside(item, *inward).mean() > 0.97
    assert np.isfinite(found.u).all()
    assert np.isfinite(found.v).all()


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "ring"])
def test_rays_along_faces_are_rays_like_others(shape):
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    height = np.array([0.2, 0.4, 2.0], np.float32)
    hits = meet(solid(shape), Rays(zero, height, -2 * one, zero, zero, one))
    np.testing.assert_array_equal(np.isfinite(hits.t), [True, True, False])


def test_turns_are_the_angle():
    angle = np.linspace(0.001, 0.999, 500)
    radians = 2 * np.pi * angle
    found = turns(np.cos(radians).astype(np.float32), np.sin(radians).astype(np.float32))
    np.testing.assert_allclose(found, angle, atol=1e-3)
