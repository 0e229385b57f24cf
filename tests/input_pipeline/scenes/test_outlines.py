from __future__ import annotations

import numpy as np
import pytest

from input_pipeline.scenes.layout import draw_scene
from input_pipeline.scenes.outlines import soft_edges
from input_pipeline.scenes.render import render


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
