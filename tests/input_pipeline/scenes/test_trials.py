"""Verdicts on pictures that are right, and on those that are wrong in one way."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from input_pipeline.scenes import Scenes, known_pictures
from input_pipeline.scenes.judge import Judge
from input_pipeline.scenes.trials import occlusions, transfers

_COUNT = 40


@pytest.fixture(scope="module")
def judge():
    return Judge.of_scenes(400)


@pytest.fixture(scope="module")
def hidden():
    return list(itertools.islice(occlusions(1), _COUNT))


@pytest.fixture(scope="module")
def looks():
    return list(itertools.islice(transfers(1), _COUNT))


def in_front(judge, trials, draw):
    return np.mean([trial.is_in_front(judge, draw(trial)) for trial in trials])


def test_true_scenes_are_in_front_and_others_are_not(judge, hidden):
    assert in_front(judge, hidden, known_pictures.true_picture) >= 0.9
    assert in_front(judge, hidden, known_pictures.wrong_order) <= 0.1
    assert in_front(judge, hidden, known_pictures.from_text_alone) <= 0.45


def test_an_object_that_is_not_there_is_not_in_front(judge, hidden):
    world = Scenes(1, fields=("background",))
    backgrounds = [world.arrays(trial.scene.index)["background"] for trial in hidden]
    seen = [t.is_in_front(judge, image) for t, image in zip(hidden, backgrounds, strict=True)]
    assert np.mean(seen) <= 0.05


def test_the_overlap_is_where_a_solid_of_another_colour_is_hidden(hidden):
    for trial in hidden[:10]:
        world = Scenes(1)
        layers = world.layers(trial.scene.index)[1:-1]
        others = np.zeros_like(trial.mask)
        for item, layer in zip(trial.scene.objects[1:], layers, strict=True):
            if item.colour != trial.scene.objects[0].colour:
                others |= layer["mask"] > 0
        assert trial.overlap.sum() >= 16
        assert not (trial.overlap & ~(others & trial.mask)).any()
        np.testing.assert_array_equal(world.arrays(trial.scene.index)["mask"] > 0, trial.mask)


def test_the_true_picture_is_that_of_the_world(hidden):
    trial = hidden[0]
    image = Scenes(1, fields=("image",)).arrays(trial.scene.index)["image"]
    np.testing.assert_array_equal(known_pictures.true_picture(trial), image)
    assert np.any(known_pictures.wrong_order(trial)[trial.mask] != image[trial.mask])


def test_a_look_is_seen_where_it_is_and_nowhere_else(judge, looks):
    for draw, least, most in (
        (known_pictures.look_inside, 0.97, 1.0),
        (known_pictures.true_picture, 0.0, 0.03),
    ):
        pictures = [draw(trial) for trial in looks]
        pairs = list(zip(looks, pictures, strict=True))
        assert least <= np.mean([t.has_look(judge, p) for t, p in pairs]) <= most
        assert np.mean([t.leaks(judge, p) for t, p in pairs]) <= 0.05


def test_a_look_that_is_on_everything_leaks(judge, looks):
    crowds = [trial for trial in looks if len(trial.scene.objects) > 1]
    leaks = [t.leaks(judge, known_pictures.look_everywhere(t)) for t in crowds]
    assert np.mean(leaks) >= 0.85


def test_the_colour_of_a_look_is_nowhere_else(looks):
    assert [trial.scene.index for trial in looks] == list(range(_COUNT))
    for trial in looks:
        others = [*trial.scene.objects, *trial.donor.objects[1:]]
        assert trial.look.colour not in {item.colour for item in others}


def test_a_rim_around_the_mask_is_neither_inside_nor_outside(looks):
    trial = looks[0]
    apart = trial.mask | trial.outside
    assert not (trial.mask & trial.outside).any()
    assert 0 < (~apart).sum() < 0.2 * apart.size
    everything = dataclasses.replace(trial, mask=np.ones_like(trial.mask))
    assert not everything.outside.any()


def test_trials_of_other_sizes(judge):
    trial = next(occlusions(1, (96, 128)))
    assert trial.mask.shape == (96, 128)
    assert known_pictures.true_picture(trial).shape == (96, 128, 3)
    assert isinstance(trial.is_in_front(judge, known_pictures.true_picture(trial)), bool)


def test_solid_says_when_a_region_shows_the_place(judge, hidden):
    world = Scenes(1, fields=("image", "mask"))
    right = 0
    for trial in hidden:
        arrays = world.arrays(trial.scene.index)
        empty = world.layers(trial.scene.index)[-1]["image"]
        place, colour = trial.scene.place, trial.scene.objects[0].colour
        assert judge.solid(arrays["image"], trial.mask, place=place) == colour
        right += judge.solid(empty, trial.mask, place=place) is None
    assert right >= 0.95 * len(hidden)
