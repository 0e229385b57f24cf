from __future__ import annotations

import re

from input_pipeline.scenes.captions import captions, long_name, name, place_in_words
from input_pipeline.scenes.layout import draw_scene
from input_pipeline.scenes.scene import COLOURS, SHAPES, SceneObject

SCENES = [draw_scene(9, index) for index in range(300)]
NAMED = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\b")
WORDS = {
    "meadow": "meadow",
    "desert": "desert",
    "snow": "snow",
    "night": "night|dark",
    "beach": "beach",
    "room": "room",
}


def test_captions_are_at_least_four_and_all_different():
    for scene in SCENES:
        found = captions(scene)
        assert len(found) >= 4
        assert len(set(found)) == len(found)
        assert all(text == text.strip() and text for text in found)


def test_captions_name_the_foreground_the_place_and_nothing_that_is_not_there():
    for scene in SCENES:
        there = {(item.colour, item.shape) for item in scene.objects}
        first = scene.objects[0]
        for text in captions(scene):
            named = NAMED.findall(text)
            assert named[0] == (first.colour, first.shape)
            assert set(named) <= there
            assert len(set(named)) == len(named)
            assert re.search(WORDS[scene.place], text)


def test_some_caption_names_all_objects_and_some_their_number():
    for scene in SCENES:
        found = captions(scene)
        there = {(item.colour, item.shape) for item in scene.objects}
        assert any(set(NAMED.findall(text)) == there for text in found)
        number = ("one object ", "two objects", "three objects", "four objects")
        assert any(number[len(scene.objects) - 1] in text for text in found)


def test_sides_are_true():
    told = 0
    for scene in SCENES:
        first, *others = scene.objects
        text = captions(scene)[3]
        for other in others:
            match = re.search(
                rf"{other.colour} {other.shape}[a-z ]*? behind it( to the (left|right))?", text
            )
            assert match, text
            if match[2]:
                told += 1
                assert (other.across < first.across) == (match[2] == "left")
    assert told > 50


def test_textures_are_told_unless_plain():
    for scene in SCENES:
        first = scene.objects[0]
        told = re.search("striped|dotted|checkered|with (white|black)", captions(scene)[0])
        assert bool(told) == (first.texture != "plain")


def test_names():
    item = SceneObject("cone", "orange", "dots", -1.0, 8.0, 0.5, 1.0, 0.5)
    assert name(item) == "a dotted orange cone"
    assert long_name(item) == "an orange cone with white dots"
    assert place_in_words(item, is_foreground=False) == "far away on the left"
    assert place_in_words(item, is_foreground=True) == "in the foreground on the left"
