from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageFont
from skimage import data

from input_pipeline import contact_sheet as module
from input_pipeline.contact_sheet import Picture, contact_sheet

ASTRONAUT = data.astronaut()
COFFEE = data.coffee()
RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)


def bounds(found: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of the true part."""
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def is_red(sheet: np.ndarray) -> np.ndarray:
    return (sheet[..., 0] > 200) & (sheet[..., 1] < 60)


def is_ink(sheet: np.ndarray) -> np.ndarray:
    return sheet.max(axis=-1) < 120


def test_pictures_say_which_kind_of_array_they_hold():
    values = np.array([[0.0, 0.5, 1.0]], np.float32)
    grey = np.repeat(values[..., None], 3, axis=-1)
    as_photo = Picture.photo("p", grey).pixels[0, :, 0].tolist()
    as_depth = Picture.depth_map("d", grey).pixels[0, :, 0].tolist()
    as_mask = Picture.mask("m", values).pixels[0, :, 0].tolist()
    assert as_photo == [128, 191, 255]
    assert as_depth == as_mask == [0, 128, 255]
    assert Picture.mask("b", values > 0.4).pixels[0, :, 1].tolist() == [0, 255, 255]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Picture("cup", np.zeros((4, 4, 3))), "picture 'cup' .*float64, expected uint8"),
        (lambda: Picture("cup", np.zeros((4, 4), np.uint8)), r"'cup' has shape \(4, 4\)"),
        (lambda: Picture("cup", np.zeros((0, 4, 3), np.uint8)), r"shape \(0, 4, 3\)"),
        (lambda: Picture.depth_map("cup", COFFEE), "'cup' has type uint8"),
        (lambda: Picture.mask("cup", np.zeros((4, 4, 1))), r"shape \(4, 4, 1\), expected \[h w\]"),
        (lambda: Picture.photo("cup", np.full((4, 4, 3), np.nan)), "48 NaN"),
    ],
)
def test_pictures_refuse_other_arrays(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_square_picture_fills_its_cell_above_its_label():
    sheet = contact_sheet([[Picture("red", RED)]], cell=100)
    assert sheet.dtype == np.uint8
    top, left, bottom, right = bounds(is_red(sheet))
    assert (bottom - top, right - left) == (100, 100)
    text_top, text_left, text_bottom, _ = bounds(is_ink(sheet))
    assert text_top > bottom
    assert text_left >= left
    assert text_bottom < sheet.shape[0] - 5
    assert (sheet[0, 0] > 240).all(), "dark on light"


@pytest.mark.parametrize("shape", [(20, 60), (60, 20), (300, 900), (1, 500), (500, 1)])
def test_pictures_of_any_shape_are_letterboxed(shape):
    picture = Picture("", np.full((*shape, 3), (255, 0, 0), np.uint8))
    sheet = contact_sheet([[picture]], cell=90)
    top, left, bottom, right = bounds(is_red(sheet))
    scale = 90 / max(shape)
    assert bottom - top == max(round(shape[0] * scale), 1)
    assert right - left == max(round(shape[1] * scale), 1)
    assert abs(top + bottom - sheet.shape[0]) <= 2
    assert abs(left + right - sheet.shape[1]) <= 2


def test_cells_stand_in_a_grid_and_do_not_touch():
    blue = np.full((8, 8, 3), (0, 0, 255), np.uint8)
    rows = [[Picture("", RED), Picture("", blue)], [None, Picture("", RED)]]
    sheet = contact_sheet(rows, cell=64)
    first, second = is_red(sheet[:, : sheet.shape[1] // 2]), is_red(sheet[:, sheet.shape[1] // 2 :])
    is_blue = (sheet[..., 2] > 200) & (sheet[..., 0] < 60)
    assert is_red(sheet).sum() == 2 * 64 * 64
    assert is_blue.sum() == 64 * 64
    assert bounds(first)[2] < bounds(second)[0]
    assert bounds(is_blue)[1] > bounds(first)[3]


def test_long_labels_are_wrapped_within_their_cell():
    prompt = "a photograph of a cat with green eyes on a sofa, masterpiece, ultra detailed"
    sheet = contact_sheet([[Picture(prompt, RED), Picture("", RED)]], cell=100)
    left, right = bounds(is_red(sheet))[1], bounds(is_red(sheet))[3]
    _, text_left, _, text_right = bounds(is_ink(sheet))
    assert left <= text_left
    assert text_right <= (left + right) // 2
    short = contact_sheet([[Picture("a cat", RED), Picture("", RED)]], cell=100)
    assert sheet.shape[0] > short.shape[0] + 20


def test_rows_are_as_high_as_their_longest_label():
    rows = [[Picture("one", RED), Picture("one\ntwo\nthree", RED)], [Picture("x", RED)]]
    sheet = contact_sheet(rows, cell=80)
    red_rows = np.flatnonzero(is_red(sheet).any(axis=1))
    second_row_top = red_rows[np.flatnonzero(np.diff(red_rows) > 1)[0] + 1]
    ink_rows = np.flatnonzero(is_ink(sheet).any(axis=1))
    between = ink_rows[(ink_rows > red_rows[0]) & (ink_rows < second_row_top)]
    assert second_row_top - between[-1] > 2
    assert len(np.split(between, np.flatnonzero(np.diff(between) > 1) + 1)) >= 3


@pytest.mark.parametrize("width", [40, 100, 333])
def test_wrapped_lines_fit_and_keep_the_words(width):
    font = ImageFont.load_default(14)
    text = "a photo of an astronaut riding a horse in-front-of-a-very-long-word on the moon"
    lines = module._wrap(text, font, width)
    assert all(font.getlength(line) <= width for line in lines)
    if not lines[-1].endswith("..."):
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_endless_labels_are_cut_with_an_ellipsis():
    font = ImageFont.load_default(14)
    for text in ("word " * 500, "x" * 1_000_000, "\n".join("abcdefghij")):
        lines = module._wrap(text, font, 120)
        assert len(lines) == 6
        assert lines[-1].endswith("...")
        assert all(font.getlength(line) <= 120 for line in lines)


def test_letters_that_the_font_lacks_are_replaced():
    assert module._in_font("naïve café – 3 × “q” 猫") == "naive cafe - 3 x “q” ?"  # noqa: RUF001


def test_a_title_stands_above_the_grid():
    plain = contact_sheet([[Picture("", RED)]], cell=128)
    titled = contact_sheet([[Picture("", RED)]], cell=128, title="Samples")
    assert titled.shape[0] > plain.shape[0]
    assert titled.shape[1] == plain.shape[1]
    assert bounds(is_ink(titled))[2] < bounds(is_red(titled))[0]
    assert not is_ink(plain).any()


@pytest.mark.parametrize(
    ("rows", "cell"), [([], 64), ([[]], 64), ([[None]], 64), ([[Picture("", RED)]], 8)]
)
def test_sheets_without_pictures_or_room_are_refused(rows, cell):
    with pytest.raises(ValueError, match=f"cells of {cell}: expected at least one picture"):
        contact_sheet(rows, cell=cell)
