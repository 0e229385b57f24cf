"""Fusers and adapters that ship with the project are small, and as good as their cards say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from benchmarks.scenes_quality.depths import depths
from benchmarks.scenes_quality.following import following
from benchmarks.scenes_quality.looks import looks
from benchmarks.scenes_quality.occlusion import occlusion
from benchmarks.scenes_quality.prior import as_picture
from benchmarks.scenes_quality.segmentation import segmentation
from benchmarks.scenes_quality.settings import Settings
from benchmarks.scenes_quality.studio import Studio
from fgdm_jax.graph import parse_graph
from input_pipeline.scenes import Scenes
from input_pipeline.scenes.judge import Judge
from launch.components import AnyConfig, components_of
from sd_jax.embedded import embedded_folders
from sd_jax.load import open_checkpoints

pytestmark = pytest.mark.optimized

_MOST_BYTES = 12_000_000
_COUNT = 32
# Bounds below are the card's figures less about three standard errors of so few.
_SETTINGS = Settings(scenes=_COUNT, strengths=(0.0, 1.0), draws=4, controls=False)
# Each as it was trained: some are drawn from another one.
_MAPS = {
    "segmentation": "segmentation",
    "depth": "segmentation, depth<segmentation",
    "normal": "normal",
    "sketch": "sketch",
    "foreground_depth": "foreground_depth",
    "background_depth": "foreground_depth, background_depth<foreground_depth",
}


def test_they_are_small():
    folders = {*embedded_folders("scenes"), *embedded_folders("scenes-three")}
    folders -= set(embedded_folders("scenes-prior"))
    assert {folder.name for folder in folders} == {"cnc", "three", "fgdm"}
    files = [path for folder in folders for path in folder.rglob("*") if not path.is_symlink()]
    assert sum(path.stat().st_size for path in files if path.is_file()) <= _MOST_BYTES


def test_all_parts_are_there():
    both = {"local_fuser", "global_fuser", "adapter_image", *(f"adapter_{name}" for name in _MAPS)}
    opened = open_checkpoints(["scenes"], components_of())
    assert both <= set(opened.configs)
    three = open_checkpoints(["scenes-three"], components_of()).load(AnyConfig)
    assert three.config.local_fuser.num_layers == 3


@pytest.fixture(scope="module")
def judge():
    return Judge.of_scenes(100)


@pytest.fixture(scope="module")
def studio():
    return Studio.open(["scenes"], batch_size=_COUNT)


def values_of(result):
    return {figure.name: figure.value for figure in result.figures}


def test_the_foreground_is_in_front(studio, judge):
    assert values_of(occlusion(studio, judge, _SETTINGS))["occlusion"] > 71


def test_three_layers_stand_in_order(judge):
    studio = Studio.open(["scenes-three"], batch_size=_COUNT)
    assert values_of(occlusion(studio, judge, _SETTINGS))["occlusion"] > 71


def test_a_look_is_in_its_layer_and_stays_there(studio, judge):
    look, leak = looks(studio, judge, _SETTINGS).figures
    assert look.value > 82
    assert leak.value < 28
    # Without the exemplar the colour is there by chance.
    assert look.more["strength 0"] < look.value / 2


def test_segmentations_show_what_the_prompt_asks_for(studio, judge):
    value = values_of(segmentation(studio, judge, _SETTINGS))
    assert value["segmentation_1"] > 55
    assert value["segmentation_4"] > 65


def test_images_and_depth_follow_their_parents(studio, judge):
    (image,) = following(studio, judge, dataclasses.replace(_SETTINGS, controls=True)).figures
    assert image.value > 60
    assert image.value > image.more["the model with text alone"] + 10
    for figure in depths(studio, judge, _SETTINGS).figures:
        assert figure.value < 0.9 * figure.floors["true maps of other scenes"]
    for name in ("depth", "background_depth", "image"):
        assert getattr(studio.model.config, f"adapter_{name}").clean_parents


@pytest.mark.parametrize("name", _MAPS)
def test_an_adapter_draws_its_own_kind_of_map(studio, truth, name):
    captions = [item["captions"][0] for item in truth]
    (drawn,) = studio.maps(captions, name, 1, parse_graph(_MAPS[name]))
    distances = {}
    for kind in ("image", *_MAPS):
        pictures = np.stack([as_picture(kind, item[kind]) for item in truth])
        difference = statistics_of(drawn) - statistics_of(pictures)
        distances[kind] = np.sqrt(np.mean(difference**2))
    assert min(distances, key=distances.__getitem__) == name


@pytest.fixture(scope="module")
def truth():
    world = Scenes(seed=1, fields=("captions", "image", *_MAPS))
    return [world.arrays(index) for index in range(_COUNT)]


def statistics_of(pictures):
    """Mean and deviation of many pictures, at each place of 8 x 8."""
    places = pictures.reshape(-1, 8, 8, 8, 8, 3)
    return np.stack([places.mean((0, 2, 4)), places.std((0, 2, 4))])
