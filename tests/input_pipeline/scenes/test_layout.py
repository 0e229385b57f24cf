from __future__ import annotations

from collections import Counter

import pytest

from input_pipeline.scenes.layout import draw_scene
from input_pipeline.scenes.scene import COLOURS, NEAREST, PLACES, SHAPES, TEXTURES, view_box

SCENES = [draw_scene(5, index) for index in range(600)]


def test_a_scene_is_a_function_of_seed_and_index_alone():
    assert draw_scene(5, 17) == SCENES[17]
    assert draw_scene(6, 17).objects != SCENES[17].objects
    assert len({scene.objects for scene in SCENES}) == len(SCENES)
    # The largest keys are keys like others.
    assert draw_scene(2**64 - 1, 2**64 - 1).objects != draw_scene(0, 2**64 - 1).objects


def test_everything_occurs():
    objects = [item for scene in SCENES for item in scene.objects]
    assert {scene.place for scene in SCENES} == set(PLACES)
    assert {item.shape for item in objects} == set(SHAPES)
    assert {item.colour for item in objects} == set(COLOURS)
    assert {item.texture for item in objects} == set(TEXTURES)
    counts = Counter(len(scene.objects) for scene in SCENES)
    assert set(counts) == {1, 2, 3, 4}
    assert min(counts.values()) > 20


def test_the_foreground_object_is_nearest_and_largest():
    for scene in SCENES:
        first, *others = scene.objects
        for other in others:
            assert first.z + first.reach[1] < other.z - other.reach[1]
            assert first.height / first.z > other.height / other.z
        assert list(others) == sorted(others, key=lambda item: item.z)


def test_all_objects_lie_in_the_square_and_in_the_range_of_depth():
    for scene in SCENES:
        for item in scene.objects:
            left, top, right, bottom = view_box(item, scene.horizon)
            assert -0.5 < left < right < 0.5
            assert 0 < top < bottom < 1
            assert item.z - item.reach[1] > NEAREST


def test_names_are_unique_in_a_scene():
    for scene in SCENES:
        names = {(item.colour, item.shape) for item in scene.objects}
        assert len(names) == len(scene.objects)


@pytest.mark.parametrize("part", ["light", "turn"])
def test_directions_have_length_one(part):
    for scene in SCENES[:100]:
        vectors = [scene.light] if part == "light" else [item.turn for item in scene.objects]
        for vector in vectors:
            assert sum(value * value for value in vector) == pytest.approx(1)
