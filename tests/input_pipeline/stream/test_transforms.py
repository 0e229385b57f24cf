from __future__ import annotations

import numpy as np
import pytest

from input_pipeline.stream.transforms import (
    PICTURES,
    View,
    centre_view,
    random_view,
    show,
    show_pose,
    write_scaled,
)
from tests.input_pipeline.stream.fakes import decoded_record, draw_pose, pattern

SIZE = (128, 192)
VIEWS = {
    "centre": centre_view((200, 320), SIZE),
    "centre, flipped": centre_view((200, 320), SIZE, flip=True),
    "corner": random_view((200, 320), SIZE, scale=0.7, down=1, across=0, flip=True),
    "anywhere": random_view((200, 320), SIZE, scale=0.83, down=0.3, across=0.8),
    "enlarged": random_view((200, 320), SIZE, scale=0.3, down=0.5, across=0.5),
}


def black_and_white(values: np.ndarray) -> np.ndarray:
    grey = values[..., -1] if values.ndim == 3 else values
    return grey.astype(np.float64) > grey.max() / 2


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("field", [name for name in PICTURES if not name.startswith("background")])
@pytest.mark.parametrize("resolution", [(200, 320), (400, 640), (100, 160)])
def test_maps_stay_on_the_image(field: str, view: View, resolution: tuple[int, int]) -> None:
    image = decoded_record(1, (200, 320))["image"]
    picture = decoded_record(1, (200, 320))[field]
    rows, columns = (np.arange(n) * m // n for n, m in zip(resolution, picture.shape, strict=False))
    shown = show(field, picture[rows][:, columns], view)
    assert shown.shape[:2] == SIZE
    expected, marks = black_and_white(show("image", image, view)), black_and_white(shown)
    differs = (marks != expected).mean()
    for axis in (0, 1):
        for shift in (-2, 2):
            assert (np.roll(marks, shift, axis) != expected).mean() > 3 * differs


def test_a_view_without_resizing_has_the_very_pixels() -> None:
    record = decoded_record(2, (100, 160))
    view = random_view((100, 160), (64, 160), scale=1, down=0.62, across=0.4)
    assert view.box == (0, 22, 160, 86)
    for field in PICTURES:
        assert np.array_equal(show(field, record[field], view), record[field][22:86])


def test_random_views_reach_every_edge_and_stay_inside() -> None:
    for down in (0, 0.37, 1):
        for scale in (0.01, 0.8, 1):
            view = random_view((101, 203), (64, 64), scale=scale, down=down, across=1 - down)
            left, top, right, bottom = view.box
            assert 0 <= left < right <= 203
            assert 0 <= top < bottom <= 101
            assert (bottom - top) / (right - left) == pytest.approx(1)
            assert bottom - top == pytest.approx(101 * scale)
    assert random_view((101, 203), (64, 64), scale=1, down=1, across=1).box[2:] == (203, 101)


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_nothing_is_invented_between_labels(view: View) -> None:
    labels = np.random.default_rng(0).choice([3, 200, 255], (200, 320)).astype(np.uint8)
    assert set(np.unique(show("segmentation", labels, view))) == {3, 200, 255}
    assert set(np.unique(show("mask", labels, view))) == {3, 200, 255}


def test_depth_keeps_sixteen_bits_and_its_range() -> None:
    ramp = np.linspace(1000, 1100, 320).astype(np.uint16)[None].repeat(200, 0)
    shown = show("depth", ramp, VIEWS["enlarged"])
    assert shown.dtype == np.float32
    assert len(np.unique(np.round(shown))) > 25
    step = np.repeat(pattern(200, 320, 0).astype(np.uint16) * 257, 1, axis=0)
    shown = show("depth", step, VIEWS["enlarged"])
    assert shown.min() == 0
    assert shown.max() == 65535


def test_a_mirrored_normal_points_the_other_way() -> None:
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(64, 64, 3))
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    stored = np.rint(normals * 127.5 + 127.5).astype(np.uint8)
    plain = show("normal", stored, centre_view((64, 64), (64, 64))).astype(np.float64) / 127.5 - 1
    mirrored = show("normal", stored, centre_view((64, 64), (64, 64), flip=True)) / 127.5 - 1
    np.testing.assert_allclose(mirrored, plain[:, ::-1] * [-1, 1, 1], atol=1e-6)
    # Twice mirrored is the same again, to the bit.
    flip = centre_view((64, 64), (64, 64), flip=True)
    assert np.array_equal(show("normal", show("normal", stored, flip), flip), stored)


def test_a_map_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'mask' has 64 x 100 pixels.*image's 64 x 64"):
        show("mask", np.zeros((64, 100), np.uint8), centre_view((64, 64), (64, 64)))


def test_people_lie_on_the_image() -> None:
    image = np.zeros((200, 320, 3), np.uint8)
    people = np.zeros((2, 133, 3), np.float32)
    for number, (x, y) in enumerate([(100, 60), (200, 130), (150, 100)]):
        people[number % 2, number] = x, y, 1
        image[y - 2 : y + 3, x - 2 : x + 3] = 255
    for view in VIEWS.values():
        marks = show("image", image, view)[..., 0] > 60
        drawn = draw_pose(show_pose(people.tolist(), view), view.size)[..., 0] > 0
        assert (drawn & marks).sum() == drawn.sum() > 0


def test_a_mirrored_person_changes_sides() -> None:
    left_wrist, right_wrist = 9, 10
    people = np.zeros((1, 133, 3))
    people[0, left_wrist] = [10, 20, 0.8]
    flipped = show_pose(people, centre_view((64, 64), (64, 64), flip=True))
    np.testing.assert_allclose(flipped[0, right_wrist], [53, 20, 0.8], rtol=1e-6)
    assert not flipped[0, left_wrist].any()
    # What is not there must not appear at the other side.
    assert not np.delete(flipped[0], right_wrist, axis=0).any()


def test_people_of_another_form_are_refused() -> None:
    with pytest.raises(ValueError, match="expected \\(n, 133, 3\\)"):
        show_pose([[[1, 2, 3]]], VIEWS["centre"])


def test_values_are_scaled_by_their_type() -> None:
    out = np.empty((1, 2, 3), np.float32)
    write_scaled(np.array([[0, 255]], np.uint8), out, -1)
    assert out.tolist() == [[[-1] * 3, [1] * 3]]
    write_scaled(np.array([[0, 65535]], np.uint16), out, 0)
    assert out.tolist() == [[[0] * 3, [1] * 3]]
    write_scaled(np.array([[0, 32767.5]], np.float32), out, 0)
    assert out.tolist() == [[[0] * 3, [0.5] * 3]]
