from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from input_pipeline.scenes.classes import CLASS_IDS, CLASSES, VOID_COLOUR, label_colours
from input_pipeline.scenes.layout import draw_scene
from input_pipeline.scenes.render import Rendering, render
from input_pipeline.scenes.scene import (
    FOCAL_LENGTH,
    NEAREST,
    PLACES,
    SHAPES,
    Scene,
    SceneObject,
    unit_vector,
)

SIZES = ((64, 64), (48, 96), (96, 48), (8, 8))


def one_object(shape: str, **changes: object) -> Scene:
    """A scene with one solid in the middle."""
    item = SceneObject(shape, "red", "plain", 0.0, 3.0, 0.6, 1.2, 0.6)
    light = unit_vector(0.5, 0.8, -0.4)
    scene = Scene(0, 0, "meadow", 0.4, light, (3.0, 4.0), (item,))
    return dataclasses.replace(scene, **changes)


def full(mask_of: np.ndarray, rows: slice, columns: slice, size: tuple[int, int]) -> np.ndarray:
    frame = np.zeros(size, mask_of.dtype)
    frame[rows, columns] = mask_of
    return frame


@pytest.fixture(scope="module", params=SIZES, ids=str)
def drawn(request: pytest.FixtureRequest) -> list[tuple[Scene, Rendering, tuple[int, int]]]:
    scenes = [draw_scene(1, index) for index in range(40)]
    return [(scene, render(scene, request.param), request.param) for scene in scenes]


def test_the_background_is_the_picture_without_the_foreground_object(drawn):
    for scene, rendering, size in drawn:
        if len(scene.objects) == 1:
            np.testing.assert_array_equal(rendering.background, rendering.backdrop.colour)
            continue
        without = render(dataclasses.replace(scene, objects=scene.objects[1:]), size)
        np.testing.assert_array_equal(rendering.background, without.image)
        np.testing.assert_array_equal(rendering.background_nearness, without.nearness)


def test_outside_the_mask_only_the_shadow_differs_from_the_background(drawn):
    some_shadow = False
    for _, rendering, size in drawn:
        shadow = rendering.shadows[0]
        light = 1 - full(1 - shadow.light, shadow.rows, shadow.columns, size)
        is_same = ~rendering.mask & (light == 1)
        np.testing.assert_array_equal(rendering.image[:, is_same], rendering.background[:, is_same])
        assert (rendering.image <= rendering.background)[:, ~rendering.mask].all()
        darker = (rendering.image < rendering.background).any(axis=0) & ~rendering.mask
        some_shadow |= bool(darker.any())
    assert some_shadow


def test_depth_is_the_nearer_of_both_layers(drawn):
    for _, rendering, _ in drawn:
        foreground = rendering.nearness * rendering.mask
        nearer = np.maximum(foreground, rendering.background_nearness)
        np.testing.assert_array_equal(rendering.nearness, nearer)
        assert rendering.nearness.min() >= 0
        assert rendering.nearness.max() <= 1


def test_the_foreground_object_is_never_hidden(drawn):
    for _, rendering, size in drawn:
        layer = rendering.layers[0]
        whole = full(layer.cover > 0, layer.rows, layer.columns, size)
        np.testing.assert_array_equal(rendering.mask, whole)


def test_labels_agree_with_instances(drawn):
    for scene, rendering, _ in drawn:
        np.testing.assert_array_equal(rendering.mask, rendering.instances == 1)
        assert rendering.instances.max() <= len(scene.objects)
        shapes = [CLASS_IDS[item.shape] for item in scene.objects]
        for number, label in enumerate(shapes, start=1):
            assert (rendering.labels[rendering.instances == number] == label).all()
        places = rendering.labels[rendering.instances == 0]
        assert not np.isin(places, [CLASS_IDS[shape] for shape in SHAPES]).any()


def test_normals_have_length_one_and_face_the_viewer(drawn):
    for _, rendering, size in drawn:
        np.testing.assert_allclose(np.square(rendering.normal).sum(axis=0), 1, atol=1e-5)
        # At the edge of the view a surface may face the viewer and yet turn from its middle.
        if size == (64, 64):
            assert (rendering.normal[2] > -0.6).all()


def test_nearer_layers_are_nearer_in_every_pixel(drawn):
    for _, rendering, size in drawn:
        depths = [
            full(layer.nearness, layer.rows, layer.columns, size) for layer in rendering.layers
        ]
        for near, far in zip(depths[:1] * (len(depths) - 1), depths[1:], strict=True):
            both = (near > 0) & (far > 0)
            assert (near[both] > far[both]).all()


def test_normals_go_left_up_and_to_the_viewer():
    rendering = render(one_object("ball"), (128, 128))
    rows, columns = np.nonzero(rendering.mask)
    middle_row, middle_column = round(rows.mean()), round(columns.mean())
    x, y, _ = rendering.normal[:, middle_row, columns.min()]
    assert x > 0.8
    assert abs(y) < 0.4
    assert rendering.normal[0, middle_row, columns.max()] < -0.8
    assert rendering.normal[1, rows.min(), middle_column] > 0.8
    assert rendering.normal[2, middle_row, middle_column] > 0.95
    # The ground goes up, the sky faces the viewer.
    np.testing.assert_array_equal(rendering.normal[:, -1, 0], [0, 1, 0])
    np.testing.assert_array_equal(rendering.normal[:, 0, 0], [0, 0, 1])


def test_depth_is_the_distance_of_what_is_seen():
    scene = one_object("box")
    rendering = render(scene, (256, 256))
    item = scene.objects[0]
    front = NEAREST / (item.z - item.half_depth)
    middle = rendering.nearness[200, 128]
    assert middle == pytest.approx(front, rel=1e-5)
    row = 250
    below = (row + 0.5) / 256 - scene.horizon
    assert rendering.nearness[row, 3] == pytest.approx(NEAREST * below / FOCAL_LENGTH, rel=1e-4)
    assert rendering.nearness[0, 0] == 0


def test_size_and_place_follow_from_distance():
    def extent(z: float) -> tuple[int, int]:
        item = dataclasses.replace(one_object("box").objects[0], z=z, half_depth=0.01)
        rows = np.nonzero(render(one_object("box", objects=(item,)), (512, 512)).mask)[0]
        return int(np.ptp(rows)) + 1, int(rows.max())

    near, far = extent(3.0), extent(6.0)
    assert near[0] == pytest.approx(2 * far[0], abs=3)
    # The foot comes half as far below the horizon.
    assert near[1] - 0.4 * 512 == pytest.approx(2 * (far[1] - 0.4 * 512), abs=4)


def test_shadows_fall_away_from_the_light():
    for side in (1, -1):
        light = unit_vector(0.8 * side, 0.7, -0.3)
        rendering = render(one_object("cylinder", light=light), (64, 64))
        dark = (rendering.background - rendering.image).sum(axis=0) * ~rendering.mask
        left, right = dark[:, :32].sum(), dark[:, 32:].sum()
        assert (right < left) == (side > 0)


def test_the_hole_of_a_ring_shows_what_is_behind():
    rendering = render(one_object("ring"), (64, 64))
    rows, columns = np.nonzero(rendering.mask)
    assert not rendering.mask[round(rows.mean()), round(columns.mean())]


@pytest.mark.parametrize("place", PLACES)
def test_places_look_different_and_are_labelled(place):
    rendering = render(one_object("ball", place=place), (64, 64))
    names = {CLASSES[label].name for label in np.unique(rendering.labels)}
    expected = {
        "meadow": {"sky", "mountain", "grass"},
        "desert": {"sky", "mountain", "sand"},
        "snow": {"sky", "mountain", "snow"},
        "night": {"sky", "mountain", "grass"},
        "beach": {"sky", "water", "sand"},
        "room": {"wall", "floor"},
    }[place]
    assert names == {*expected, "ball"}
    others = [render(one_object("ball", place=other), (64, 64)) for other in PLACES]
    alike = [np.array_equal(rendering.background, other.background) for other in others]
    assert sum(alike) == 1


@pytest.mark.parametrize("size", [(64, 192), (192, 64)], ids=str)
def test_all_sizes_show_the_same_square(size):
    for index in range(10):
        scene = draw_scene(2, index)
        square, larger = render(scene, (64, 64)), render(scene, size)
        left = (size[1] - 64) // 2
        window = (slice(size[0] - 64, None), slice(left, left + 64))
        for name in ("labels", "instances", "mask"):
            same = getattr(square, name) == getattr(larger, name)[window]
            assert same.mean() > 0.999
        np.testing.assert_allclose(square.nearness, larger.nearness[window], atol=0.1)


def test_class_colours_are_far_enough_apart_for_a_radius_of_28():
    colours = [item.colour for item in CLASSES] + [VOID_COLOUR]
    for index, one in enumerate(colours):
        for other in colours[:index]:
            assert max(abs(a - b) for a, b in zip(one, other, strict=True)) >= 57
    table = label_colours()
    assert table.shape == (256, 3)
    np.testing.assert_array_equal(table[: len(CLASSES)], colours[:-1])
    assert (table[len(CLASSES) :] == VOID_COLOUR).all()
    assert set(SHAPES) <= CLASS_IDS.keys()
