from __future__ import annotations

import numpy as np
import pytest
from skimage import data

from input_pipeline.edges import canny_edges
from input_pipeline.scenes import Scenes
from input_pipeline.scenes.layout import draw_scene
from input_pipeline.scenes.outlines import canny, soft_edges
from input_pipeline.scenes.render import render


def assert_same_edges(photo: np.ndarray) -> None:
    expected = (canny_edges(photo)[..., 0] * 255).astype(np.uint8)
    np.testing.assert_array_equal(canny(photo), expected)


def test_canny_is_that_of_all_other_photos(rng):
    for index in range(20):
        assert_same_edges(Scenes(size=(64, 88), fields=("image",)).arrays(index)["image"])
    assert_same_edges(data.coffee())
    assert_same_edges(rng.integers(0, 256, (67, 91, 3)).astype(np.uint8))
    assert_same_edges(np.zeros((8, 8, 3), np.uint8))


def test_a_long_edge_is_found_from_its_strong_end():
    # Bands that wind over the picture, and fade from strong to weak.
    photo = np.zeros((64, 64), np.uint8)
    photo[8:56:4] = np.linspace(90, 30, 64).astype(np.uint8)
    assert_same_edges(np.repeat(photo[..., None], 3, axis=-1))


@pytest.mark.parametrize("size", [(64, 64), (256, 128)], ids=str)
def test_soft_edges_follow_outlines_and_not_textures(size):
    for index in range(10):
        rendering = render(draw_scene(0, index), size)
        lines = soft_edges(rendering.labels, rendering.instances, rendering.normal)
        assert lines.dtype == np.uint8
        outline = rendering.mask[1:] != rendering.mask[:-1]
        # Lines are weaker at corners.
        assert lines[1:][outline].min() > 150
        assert (lines[1:][outline] > 200).mean() > 0.9
        flat = np.zeros_like(rendering.labels)
        facing = np.zeros_like(rendering.normal)
        facing[2] = 1
        assert soft_edges(flat, rendering.instances * 0, facing).max() == 0
        assert 0.005 < (lines > 200).mean() < 0.4
        assert len(np.unique(lines)) > 5
