"""What the judge of scenes makes of pictures of which everything is known."""

from __future__ import annotations

import numpy as np
import pytest

from input_pipeline.scenes import Scenes
from input_pipeline.scenes.judge import Judge

_COUNT = 60


@pytest.fixture(scope="module")
def judge():
    return Judge.of_scenes(400)


@pytest.fixture(scope="module")
def world():
    return Scenes(1, fields=("image", "mask"))


def test_true_scenes_are_seen_as_they_are(judge, world):
    places = colours = inside = 0
    for index in range(_COUNT):
        scene, arrays = world.scene(index), world.arrays(index)
        colour = scene.objects[0].colour
        places += judge.place(arrays["image"]) == scene.place
        colours += judge.colour(arrays["image"]) == colour
        inside += judge.colour(arrays["image"], scene.place, arrays["mask"] > 0) == colour
    assert places == _COUNT
    assert colours >= 0.9 * _COUNT
    assert inside == _COUNT


def test_a_picture_without_solids_has_no_colour(judge, world):
    empty = world.layers(3)[-1]["image"]
    place = world.scene(3).place
    assert judge.colour(empty, place) is None
    assert judge.share(empty, "red", place) < 0.001


def test_share_counts_the_pixels_of_a_colour(judge, world):
    scene, arrays = world.scene(0), world.arrays(0)
    inside = arrays["mask"] > 0
    colour = scene.objects[0].colour
    assert judge.share(arrays["image"], colour, scene.place, inside) > 0.3
    others = {"red", "green", "blue", "pink"} - {item.colour for item in scene.objects}
    assert all(judge.share(arrays["image"], item, scene.place) < 0.1 for item in others)


def test_other_sizes_are_judged_too(judge):
    world = Scenes(1, (96, 128), fields=("image",))
    seen = [judge.place(world.arrays(index)["image"]) for index in range(12)]
    assert seen == [world.scene(index).place for index in range(12)]


def test_the_judge_is_the_same_every_time(judge):
    np.testing.assert_array_equal(Judge.of_scenes(400).places, judge.places)
