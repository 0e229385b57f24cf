from __future__ import annotations

import numpy as np
import pytest

from input_pipeline.stream.buckets import bucket_sizes, nearest_bucket


def test_sizes_around_a_number_of_pixels() -> None:
    assert bucket_sizes(512 * 512) == ((512, 512), (448, 576), (576, 448), (384, 640), (640, 384))
    assert bucket_sizes(64 * 64) == ((64, 64),)


@pytest.mark.parametrize("pixels", [256 * 256, 512 * 512, 768 * 768])
@pytest.mark.parametrize("max_ratio", [1, 1.5, 4])
def test_sizes_keep_the_limits(pixels: int, max_ratio: float) -> None:
    sizes = bucket_sizes(pixels, max_ratio=max_ratio)
    assert sizes[0][0] == sizes[0][1]
    assert len({height / width for height, width in sizes}) == len(sizes) < 20
    for height, width in sizes:
        assert height % 64 == width % 64 == 0
        assert height * width <= pixels
        assert 1 / max_ratio <= height / width <= max_ratio
        assert (width, height) in sizes


def test_records_go_to_the_nearest_ratio() -> None:
    sizes = ((512, 512), (384, 640), (640, 384))
    records = np.array([[100, 100], [480, 640], [427, 640], [640, 427], [10, 900], [900, 10]])
    assert nearest_bucket(records, sizes).tolist() == [0, 1, 1, 2, 1, 2]


def test_sizes_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 4096"):
        bucket_sizes(100)
