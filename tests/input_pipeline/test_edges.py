from __future__ import annotations

import hashlib

import numpy as np
import pytest
from skimage import data

from input_pipeline.edges import canny, canny_edges

# Counts and digests of the edges that cv2.Canny of OpenCV 5.0.0 finds.
GOLDEN = {
    ("astronaut", 100, 200): (23596, "e0c465e78711a70b"),
    ("coffee", 50, 150): (36401, "a109252bfb37db3e"),
    ("chelsea", 30, 100): (27369, "618fcfbf9ec7892d"),
}


def grey_square(grey: int) -> np.ndarray:
    """A grey square on black."""
    photo = np.zeros((16, 20, 3), np.uint8)
    photo[4:12, 5:15] = grey
    return photo


@pytest.mark.parametrize(("name", "low", "high"), GOLDEN)
def test_edges_are_those_that_opencv_found(name, low, high):
    edge_map = canny_edges(getattr(data, name)(), low, high)
    found = edge_map[..., 0] > 0
    digest = hashlib.sha256(np.packbits(found).tobytes()).hexdigest()[:16]
    assert (int(found.sum()), digest) == GOLDEN[name, low, high]


def test_edges_are_those_of_opencv():
    cv2 = pytest.importorskip("cv2")
    noise = np.random.default_rng(0).integers(0, 256, (67, 91, 3)).astype(np.uint8)
    for photo in (data.astronaut(), noise, np.kron(noise[:9, :9], np.ones((7, 5, 1), np.uint8))):
        for low, high in ((100, 200), (0, 0), (30, 1000), (49.5, 150.5)):
            np.testing.assert_array_equal(canny(photo, low, high), cv2.Canny(photo, low, high) > 0)


def test_a_long_edge_is_found_from_its_strong_end():
    # Bands that wind over the picture, and fade from strong to weak; scikit-image joins them.
    from skimage.measure import label

    photo = np.zeros((64, 64), np.uint8)
    photo[8:56:4] = np.linspace(90, 30, 64).astype(np.uint8)
    photo = np.repeat(photo[..., None], 3, axis=-1)
    weak, strong = canny(photo, 100, 100), canny(photo, 300, 300)
    regions = np.asarray(label(weak, connectivity=2))
    expected = weak & np.isin(regions, np.unique(regions[strong]))
    assert strong.any()
    np.testing.assert_array_equal(canny(photo, 100, 300), expected)


def test_result_is_a_map_of_three_equal_channels_of_zeros_and_ones():
    edge_map = canny_edges(data.coffee())
    assert edge_map.dtype == np.float32
    assert edge_map.shape == data.coffee().shape
    assert set(np.unique(edge_map)) == {0, 1}
    assert (edge_map == edge_map[..., :1]).all()


def test_thresholds_are_in_units_of_the_sobel_gradient():
    def step(height: int) -> np.ndarray:
        """A straight border, whose gradient is 4 * height."""
        photo = np.zeros((16, 20, 3), np.uint8)
        photo[:, 10:] = height
        return photo

    assert not canny_edges(step(50), 100, 200).any()
    assert canny_edges(step(51), 100, 200).any()
    assert canny_edges(step(50), 100, 199.9).any()


def test_edges_run_once_around_a_square():
    found = canny_edges(grey_square(255))[..., 0] > 0
    inside = np.zeros_like(found)
    inside[5:11, 6:14] = True
    assert not found[inside].any()
    assert (found[6:10].sum(axis=1) == 2).all(), "one pixel for each of two sides"
    assert (found[:, 7:13].sum(axis=0) == 2).all()


def test_weak_edges_count_only_where_they_touch_strong_ones():
    photo = np.zeros((40, 20, 3), np.uint8)
    photo[:15, 10:] = 40
    photo[15:22, 10:] = 200
    photo[30:, 10:] = 40
    found = canny_edges(photo, 100, 400)[..., 0] > 0
    assert found[2:13, 9:11].any(axis=1).all(), "weak, joined to the strong edge below"
    assert not found[33:].any(), "just as weak, joined to nothing"


def test_an_edge_of_one_channel_is_found():
    photo = grey_square(255)
    photo[..., :2] = 0
    np.testing.assert_array_equal(canny_edges(photo), canny_edges(grey_square(255)))


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 3), (9, 1, 3)])
def test_tiny_and_flat_photos_have_no_edges(shape):
    assert not canny_edges(np.full(shape, 77, np.uint8)).any()


@pytest.mark.parametrize(
    ("photo", "low", "high", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), 100, 200, "type float32, expected uint8"),
        (np.zeros((4, 4), np.uint8), 100, 200, r"shape \(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), 100, 200, r"shape \(0, 4, 3\)"),
        (np.zeros((4, 4, 3), np.uint8), 200, 100, "low=200, high=100, expected 0 <= low"),
        (np.zeros((4, 4, 3), np.uint8), -1, 100, "low=-1"),
        (np.zeros((4, 4, 3), np.uint8), 0, float("nan"), "high=nan"),
        (np.zeros((4, 4, 3), np.uint8), 0, float("inf"), "high=inf"),
        (np.zeros((4, 4)), 2, 1, "float64.*low=2"),
    ],
)
def test_bad_arguments_are_refused(photo, low, high, message):
    with pytest.raises(ValueError, match=message):
        canny_edges(photo, low, high)
