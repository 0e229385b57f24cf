from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from input_pipeline.codecs import decode_field
from input_pipeline.scenes import SCENE_FIELDS, Scenes, foreground_image
from input_pipeline.scenes.render import render
from input_pipeline.schema import BY_NAME, check_record

# A change here is a change of the world: what was trained on it no longer fits.
GOLDEN = "d3a1b47cca5e889004c47d608c066cb03cf9d0214dc5d8c649785f05d80f478c"

DIGEST = """
import hashlib
import numpy as np
from input_pipeline.scenes import Scenes

digest = hashlib.sha256()
for size in ((64, 64), (40, 72)):
    for index in (41, 3, 1000, 12, 77, 5, 999_999, 31):
        for name, value in Scenes(seed=7, size=size).arrays(index).items():
            is_array = isinstance(value, np.ndarray)
            digest.update(value.tobytes() if is_array else repr(value).encode())
print(digest.hexdigest())
"""


def digest_elsewhere(**environment: str) -> str:
    """The digest of some scenes, drawn by another process."""
    root = str(Path(__file__).parents[3])
    result = subprocess.run(
        [sys.executable, "-c", DIGEST],
        env={**os.environ, "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=480,
    )
    return result.stdout.strip()


def same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and (one == other).all()
    return type(one) is type(other) and one == other


def test_scenes_are_the_same_in_other_processes_and_on_other_processors():
    from numpy._core import _multiarray_umath as core

    features = [name for name in core.__cpu_dispatch__ if core.__cpu_features__.get(name)]
    assert digest_elsewhere() == GOLDEN
    assert digest_elsewhere(NPY_DISABLE_CPU_FEATURES=" ".join(features)) == GOLDEN


def test_order_of_calls_does_not_matter():
    scenes = Scenes(seed=3)
    first = [scenes.arrays(index) for index in (5, 2, 9)]
    again = [Scenes(seed=3).arrays(index) for index in (9, 5, 2)]
    for one, other in zip(first, (again[1], again[2], again[0]), strict=True):
        assert all(same(one[name], other[name]) for name in SCENE_FIELDS)
    assert not same(first[0]["image"], Scenes(seed=4).arrays(5)["image"])


def test_words_and_objects_are_the_same_at_every_size():
    small, large = Scenes(seed=2), Scenes(seed=2, size=(96, 128))
    assert small.scene(11) == large.scene(11)
    one, other = small.arrays(11), large.arrays(11)
    assert one["captions"] == other["captions"]
    assert (other["height"], other["width"]) == (96, 128)
    for a, b in zip(one["objects"], other["objects"], strict=True):
        changing = {"box", "visible"}
        assert {k: a[k] for k in a.keys() - changing} == {k: b[k] for k in b.keys() - changing}


@pytest.mark.parametrize("size", [(64, 64), (40, 72), (72, 40)], ids=str)
def test_records_are_whole_and_decode_to_the_arrays(size):
    scenes = Scenes(seed=1, size=size)
    assert scenes.fields == SCENE_FIELDS
    for index in range(5):
        record, arrays = scenes[index], scenes.arrays(index)
        assert check_record(record, scenes.fields) == []
        for name in scenes.fields:
            assert same(decode_field("scenes", name, record[name]), arrays[name]), name
            if BY_NAME[name].kind in ("photo", "rgb"):
                assert arrays[name].shape == (*size, 3)
            elif BY_NAME[name].kind in ("grey", "deep"):
                assert arrays[name].shape == size
        assert record["id"] == f"scenes-1-{index}"


def test_maps_agree():
    scenes = Scenes(seed=8)
    for index in range(40):
        arrays = scenes.arrays(index)
        mask = arrays["mask"]
        assert set(np.unique(mask)) == {0, 255}
        np.testing.assert_array_equal(mask == 255, arrays["instances"] == 1)
        assert (arrays["foreground_depth"][mask == 0] == 0).all()
        assert (arrays["foreground_depth"][mask > 0] > 0).all()
        nearer = np.maximum(arrays["foreground_depth"], arrays["background_depth"])
        np.testing.assert_array_equal(arrays["depth"], nearer)
        middle, far = arrays["middle_depth"], arrays["far_depth"]
        behind = np.where(middle > 0, middle, far)
        np.testing.assert_array_equal(arrays["background_depth"], behind)
        assert bool(middle.any()) == (len(scenes.scene(index).objects) > 1)
        near = render(scenes.scene(index), scenes.size).nearness
        np.testing.assert_allclose(arrays["depth"], near * 65535, atol=0.51)
        cut_out = foreground_image(arrays["image"], mask)
        assert (cut_out[mask == 0] == 0).all()
        np.testing.assert_array_equal(cut_out[mask > 0], arrays["image"][mask > 0])
        normal = arrays["normal"].astype(np.float32) / 127.5 - 1
        np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, atol=0.01)


def test_objects_are_those_in_the_pixels():
    scenes = Scenes(seed=8)
    hidden = 0
    for index in range(60):
        arrays, layers = scenes.arrays(index), scenes.layers(index)
        objects = arrays["objects"]
        assert [item["is_foreground"] for item in objects] == [True] + [False] * (len(objects) - 1)
        assert objects[0]["visible"] == 1
        for item, layer in zip(objects, layers[:-1], strict=True):
            seen = arrays["instances"] == item["instance"]
            left, top, right, bottom = item["box"]
            assert seen[top:bottom, left:right].sum() == seen.sum() > 0
            assert seen[top].any()
            assert seen[bottom - 1].any()
            assert seen[:, left].any()
            assert seen[:, right - 1].any()
            whole = layer["mask"] > 0
            assert (whole | ~seen).all()
            assert item["visible"] == pytest.approx(seen.sum() / whole.sum(), abs=1e-6)
            assert item["visible"] > 0.2
            assert all(item[word] in item["name"] for word in ("colour", "shape"))
            hidden += item["visible"] < 1
        depths = [item["depth"] for item in objects]
        assert depths == sorted(depths, reverse=True)
    assert hidden > 5


def test_layers_are_whole_objects_that_make_up_the_scene():
    scenes = Scenes(seed=8)
    for index in range(20):
        arrays, layers = scenes.arrays(index), scenes.layers(index)
        *objects, place = layers
        depth, instances = place["depth"].copy(), np.zeros(scenes.size, np.uint16)
        normal = place["normal"].copy()
        for number in range(len(objects), 0, -1):
            layer = objects[number - 1]
            inside = layer["mask"] > 0
            assert all((layer[name][~inside] == 0).all() for name in layer)
            depth[inside], instances[inside] = layer["depth"][inside], number
            normal[inside] = layer["normal"][inside]
        np.testing.assert_array_equal(depth, arrays["depth"])
        np.testing.assert_array_equal(instances, arrays["instances"])
        np.testing.assert_array_equal(normal, arrays["normal"])
        # Away from edges, which show two layers, colours are those of the layer.
        inner = (objects[0]["mask"] > 0) & (objects[0]["depth"] > 0)
        for shift in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            inner &= np.roll(objects[0]["mask"], shift, (0, 1)) > 0
        np.testing.assert_array_equal(objects[0]["image"][inner], arrays["image"][inner])


def test_it_is_a_record_source():
    scenes = Scenes(seed=1, length=10, fields=("mask", "image"))
    assert len(scenes) == 10
    assert (scenes.name, scenes.palette) == ("scenes", "scenes")
    # In the order of all fields.
    assert scenes.fields == ("image", "mask")
    assert tuple(scenes[3]) == ("image", "mask")
    copy = pickle.loads(pickle.dumps(scenes))
    assert copy[3] == scenes[3]
    assert len(pickle.dumps(scenes)) < 1000
    assert scenes[np.int64(3)] == scenes[3]
    assert len(Scenes()) == 1_000_000
    texts = hashlib.sha256(repr(Scenes(fields=("captions",))[0]).encode())
    assert texts.digest() == hashlib.sha256(repr(Scenes(fields=["captions"])[0]).encode()).digest()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (60, 64)}, r"size is \(60, 64\), expected .* multiples of 8"),
        ({"size": (0, 64)}, "multiples of 8"),
        ({"size": 64}, "size is 64"),
        ({"size": (64, 64, 3)}, "size is"),
        ({"size": (64.0, 64)}, "size is"),
        ({"size": (80_000, 80_000)}, "at most"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is"),
        ({"seed": True}, "seed is True"),
        ({"length": 0}, "length is 0"),
        ({"fields": ("image", "pose")}, "expected some of id, source"),
        ({"fields": ()}, "fields are"),
        ({"size": (1, 1), "seed": -5}, "seed is -5.*size is"),
    ],
    ids=str,
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Scenes(**settings)


@pytest.mark.parametrize("index", [-1, 10])
def test_an_index_out_of_range_is_an_error(index):
    scenes = Scenes(length=10)
    for call in (scenes.__getitem__, scenes.scene, scenes.arrays, scenes.layers):
        with pytest.raises(IndexError, match=f"index is {index}, expected 0 to 9"):
            call(index)


def test_iteration_ends():
    assert len(list(Scenes(length=3, fields=("id",)))) == 3
