from __future__ import annotations

import json

import numpy as np
import pytest

from input_pipeline import pose
from input_pipeline.palettes import voc_colour
from input_pipeline.testing import person

LEFT_EYE, RIGHT_EYE = 1, 2
LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_ELBOW, LEFT_HIP, RIGHT_HIP = 5, 6, 7, 11, 12
LEFT_WRIST, RIGHT_WRIST = 9, 10
LEFT_BIG_TOE, RIGHT_HEEL = 17, 22
LEFT_HAND, RIGHT_HAND = 91, 112
JAW, CHIN, NOSE_TIP = 23, 31, 53
SIZE = (40, 60)


def points(**known: tuple[float, ...]) -> np.ndarray:
    """One person of whom only some points are known, by the names above."""
    people = np.zeros((1, pose.POINTS, 3), np.float32)
    for name, values in known.items():
        people[0, globals()[name]] = (*values, 1) if len(values) == 2 else values
    return people


def colours(drawing: np.ndarray) -> set[tuple[int, ...]]:
    found = {tuple(colour) for colour in drawing.reshape(-1, 3).tolist()}
    return found - {(0, 0, 0)}


# ---- mirroring


def test_flipping_swaps_left_and_right_points():
    people = points(
        LEFT_SHOULDER=(10, 5), LEFT_BIG_TOE=(11, 30), LEFT_HAND=(4, 9), JAW=(1, 2), CHIN=(20, 21)
    )
    flipped = pose.flip(people, 60)
    expected = np.zeros_like(people)
    expected[0, RIGHT_SHOULDER] = (49, 5, 1)
    expected[0, 20] = (48, 30, 1)
    expected[0, RIGHT_HAND] = (55, 9, 1)
    expected[0, JAW + 16] = (58, 2, 1)
    expected[0, CHIN] = (39, 21, 1)
    assert np.array_equal(flipped, expected)


def test_every_point_has_one_mirror_point_and_returns():
    order = np.array(pose.MIRROR_ORDER)
    assert sorted(order) == list(range(pose.POINTS))
    assert np.array_equal(order[order], np.arange(pose.POINTS))
    people = person(0, SIZE)[None]
    assert np.array_equal(pose.flip(pose.flip(people, 60), 60), people)


def test_points_that_are_their_own_mirror_points_are_those_of_the_middle():
    own = {number for number in range(pose.POINTS) if pose.MIRROR_ORDER[number] == number}
    face = {23 + number for number in (8, 27, 28, 29, 30, 33, 51, 57, 62, 66)}
    assert own == {0} | face


@pytest.mark.parametrize(
    ("point", "mirror"),
    # Outer corners of the eyes, lids, corners of the mouth, lips, brows.
    [(36, 45), (37, 44), (41, 46), (48, 54), (49, 53), (59, 55), (60, 64), (67, 65), (17, 26)],
)
def test_points_of_the_face_have_the_usual_mirror_points(point, mirror):
    assert pose.MIRROR_ORDER[23 + point] == 23 + mirror


def test_the_drawing_of_a_flipped_person_is_the_mirrored_drawing_in_other_colours():
    people = person(3, SIZE)[None]
    # Ends of lines are not rounded alike in both directions, so the discs alone are compared.
    drawn = pose.draw(people, SIZE, width=0).any(axis=-1)
    flipped = pose.draw(pose.flip(people, SIZE[1]), SIZE, width=0).any(axis=-1)
    assert (drawn[:, ::-1] != flipped).mean() < 0.06
    left = pose.draw(points(LEFT_SHOULDER=(10, 9), LEFT_ELBOW=(20, 9)), SIZE)
    right = pose.draw(pose.flip(points(LEFT_SHOULDER=(10, 9), LEFT_ELBOW=(20, 9)), SIZE[1]), SIZE)
    assert colours(left) == {voc_colour(7)}
    assert colours(right) == {voc_colour(9)}


def test_unknown_points_stay_zero():
    people = points(LEFT_EYE=(5, 5), RIGHT_EYE=(30, 30, 0))
    flipped = pose.flip(people, 60)
    assert flipped[0, RIGHT_EYE].tolist() == [54, 5, 1]
    assert np.count_nonzero(flipped.any(axis=-1)) == 1
    assert np.count_nonzero(pose.crop(people, (0, 0, 30, 20), SIZE).any(axis=-1)) == 1


# ---- cropping


def test_cropping_moves_and_scales_points_about_the_centres_of_pixels():
    people = points(LEFT_EYE=(10, 20), RIGHT_EYE=(0, 0, 0.5))
    cropped = pose.crop(people, (10, 15, 30, 35), (40, 40))
    # The pixel at the box's corner becomes two by two pixels, the centre of which lies at 0.5.
    assert cropped[0, LEFT_EYE].tolist() == [0.5, 10.5, 1]
    assert cropped[0, RIGHT_EYE].tolist() == [-19.5, -29.5, 0.5]


def test_cropping_to_the_whole_changes_nothing():
    people = person(1, SIZE)[None]
    people[0, 112:] = 0
    assert np.array_equal(pose.crop(people, (0, 0, 60, 40), SIZE), people)


def test_flipping_and_cropping_to_the_mirrored_part_agree():
    people = person(2, SIZE)[None]
    left, right = 7.5, 47.5
    cropped = pose.flip(pose.crop(people, (left, 0, right, 40), (20, 20)), 20)
    flipped = pose.crop(pose.flip(people, 60), (60 - right, 0, 60 - left, 40), (20, 20))
    np.testing.assert_allclose(cropped, flipped, atol=1e-5)


def test_an_empty_part_is_refused():
    with pytest.raises(ValueError, match="expected areas above 0"):
        pose.crop(points(), (5, 5, 5, 9), SIZE)


# ---- drawing


def test_nobody_is_black():
    assert pose.draw([], SIZE).shape == (40, 60, 3)
    assert not pose.draw([], SIZE).any()
    assert not pose.draw(points(), SIZE).any()


def test_a_link_is_a_line_of_its_colour_with_discs_at_its_ends():
    drawing = pose.draw(points(LEFT_SHOULDER=(10, 20), LEFT_ELBOW=(40, 20)), SIZE)
    # Link 7 of the table: left shoulder to left elbow.
    assert colours(drawing) == {voc_colour(7)}
    lit = drawing.any(axis=-1)
    assert lit[:, 25].nonzero()[0].tolist() == [19, 20, 21]
    assert lit[:, 10].nonzero()[0].tolist() == list(range(17, 24))
    assert lit[20].nonzero()[0].tolist() == list(range(7, 44))


def test_neck_and_hips_are_halfway_between_two_points():
    drawing = pose.draw(points(LEFT_SHOULDER=(40, 10), RIGHT_SHOULDER=(20, 10)), SIZE)
    assert colours(drawing) == {voc_colour(5), voc_colour(6)}
    assert tuple(drawing[10, 38]) == voc_colour(5)
    assert tuple(drawing[10, 22]) == voc_colour(6)
    both = points(
        LEFT_SHOULDER=(40, 10), RIGHT_SHOULDER=(20, 10), LEFT_HIP=(36, 30), RIGHT_HIP=(24, 30)
    )
    drawing = pose.draw(both, SIZE)
    assert tuple(drawing[20, 30]) == voc_colour(12)
    assert {voc_colour(13), voc_colour(14)} <= colours(drawing)
    assert not pose.draw(points(LEFT_SHOULDER=(40, 10)), SIZE).any()


def test_all_links_are_numbered_as_fgdm_numbers_them():
    assert len(pose.LINKS) == 124
    assert pose.LINKS[:4] == ((0, 1), (0, 2), (1, 3), (2, 4))
    assert pose.LINKS[10] == (17, 18)
    assert pose.LINKS[18:24] == ((20, 22), (25, 23), (21, 22), (24, 25), (15, 22), (16, 25))
    assert pose.LINKS[24] == (26, 27)
    assert pose.LINKS[40] == (43, 44)
    assert pose.LINKS[83] == (92, 93)
    assert pose.LINKS[84:89] == ((94, 95), (95, 96), (96, 97), (97, 98), (94, 99))
    assert pose.LINKS[104] == (115, 116)
    assert pose.LINKS[-1] == (134, 135)
    everybody = np.ones((1, pose.POINTS, 3))
    everybody[..., :2] = 5
    assert pose.draw(everybody, SIZE, radius=0)[5, 5].tolist() == list(voc_colour(124))


def test_points_below_the_threshold_are_not_drawn():
    people = points(LEFT_SHOULDER=(10, 20, 0.34), LEFT_ELBOW=(40, 20))
    assert not pose.draw(people, SIZE).any()
    assert pose.draw(people, SIZE, threshold=0.3).any()
    people[0, LEFT_SHOULDER, 2] = 0.35
    assert pose.draw(people, SIZE).any()
    people[0, LEFT_SHOULDER, 2] = 0
    assert not pose.draw(people, SIZE, threshold=0).any()


def test_points_outside_the_picture_are_drawn_as_far_as_it_goes():
    drawing = pose.draw(points(LEFT_SHOULDER=(-1e30, 20), LEFT_ELBOW=(10, 20)), SIZE)
    assert drawing[20, :10].any(axis=-1).all()
    assert not drawing[20, 20:].any()


def test_width_and_radius_are_pixels():
    people = points(LEFT_SHOULDER=(10, 20), LEFT_ELBOW=(40, 20))
    lit = pose.draw(people, SIZE, width=1, radius=1).any(axis=-1)
    assert lit[:, 25].sum() == 1
    assert lit[:, 10].sum() == 3


# ---- texts


def test_texts_hold_pixels_to_two_digits_and_zeros_for_unknown_points():
    people = points(LEFT_EYE=(1.23456, 2, 0.5), RIGHT_EYE=(7, 8, 0))
    text = pose.to_json(people)
    (found,) = json.loads(text)
    assert found[LEFT_EYE] == [1.23, 2, 0.5]
    assert found[RIGHT_EYE] == [0, 0, 0]
    assert text.startswith("[[[0,0,0],[1.23,2,0.5],[0,0,0],")
    assert pose.to_json([]) == "[]"
    np.testing.assert_allclose(pose.as_people(json.loads(text)), pose.as_people([found]))


@pytest.mark.parametrize(
    ("people", "message"),
    [
        (np.zeros((1, 132, 3)), r"shape \(1, 132, 3\), expected \(n, 133, 3\)"),
        (np.zeros((133, 3)), r"shape \(133, 3\), expected"),
        ([[[1, 2], [3]]], "no numbers"),
        (np.full((1, 133, 3), np.nan), "NaN or infinite"),
    ],
)
def test_what_is_no_people_is_refused(people, message):
    with pytest.raises(ValueError, match=message):
        pose.draw(people, SIZE)
