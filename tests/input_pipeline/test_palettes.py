from __future__ import annotations

import hashlib
import json
from importlib import resources

import numpy as np
import pytest

from input_pipeline.palettes import (
    PALETTE_NAMES,
    Palette,
    coco_to_ade,
    colour_table,
    colourise,
    legend,
    mirrored_classes,
    palette,
    voc_colour,
)
from input_pipeline.schema import VOID

TWO = Palette("two", ("sky", "sea"), np.array([[1, 2, 3], [4, 5, 6]], np.uint8), (9, 9, 9))


def labels(*rows: tuple[int, ...]) -> np.ndarray:
    return np.array(rows, np.uint8)


# ---- the stored sets


@pytest.mark.parametrize(
    ("number", "colour"),
    [
        (0, (0, 0, 0)),
        (1, (128, 0, 0)),
        (2, (0, 128, 0)),
        (4, (0, 0, 128)),
        (8, (64, 0, 0)),
        (15, (192, 128, 128)),
        (182, (0, 224, 192)),
        (255, (224, 224, 192)),
    ],
)
def test_voc_colours_deal_bits_to_channels(number, colour):
    assert voc_colour(number) == colour


@pytest.mark.parametrize("number", [-1, 256])
def test_voc_colours_end_at_255(number):
    with pytest.raises(ValueError, match=f"0 to 255, got {number}"):
        voc_colour(number)


@pytest.mark.parametrize(
    ("name", "count", "some"),
    [
        ("coco", 183, {0: "person", 11: "street sign", 90: "hair brush", 182: "unlabeled"}),
        ("ade20k", 151, {0: "wall", 12: "person", 149: "flag", 150: "other"}),
        ("cityscapes", 19, {0: "road", 10: "sky", 13: "car", 18: "bicycle"}),
        ("celebamask", 19, {0: "background", 1: "skin", 13: "hair", 18: "cloth"}),
    ],
)
def test_sets_have_their_classes(name, count, some):
    found = palette(name)
    assert (found.name, len(found.classes), found.colours.shape) == (name, count, (count, 3))
    assert {number: found.classes[number] for number in some} == some
    assert len(set(found.classes)) == count


def test_colours_are_those_of_the_sets():
    assert palette("coco").colours[[0, 1, 182]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 224, 192],
    ]
    assert palette("coco").void_colour == (0, 224, 192)
    assert palette("ade20k").colours[[0, 2, 12, 150]].tolist() == [
        [120, 120, 120],
        [6, 230, 230],
        [150, 5, 61],
        [255, 255, 255],
    ]
    assert palette("ade20k").void_colour == (255, 255, 255)
    assert palette("cityscapes").colours[[0, 11, 18]].tolist() == [
        [128, 64, 128],
        [220, 20, 60],
        [119, 11, 32],
    ]
    assert palette("celebamask").colours[[0, 1, 13]].tolist() == [
        [0, 0, 0],
        [204, 0, 0],
        [0, 0, 204],
    ]


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("coco", "d4f39d1ae3ca4127"),
        ("ade20k", "bd67ce3b499ae9cc"),
        ("cityscapes", "7be4f36fb94ba19e"),
        ("celebamask", "b65a4464a5e6f997"),
    ],
)
def test_no_colour_of_a_set_changes_unnoticed(name, digest):
    table = colour_table(palette(name)).tobytes()
    assert hashlib.sha256(table).hexdigest()[:16] == digest


def test_the_scenes_have_a_palette_too():
    assert palette("scenes").name == "scenes"
    assert "sky" in palette("scenes").classes
    assert "scenes" in PALETTE_NAMES


def test_an_unknown_set_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no palette 'coca'.*'coco'.*'scenes'"):
        palette("coca")


def test_the_data_file_is_small():
    file = resources.files("input_pipeline") / "data" / "palettes.json"
    assert len(file.read_bytes()) < 60 * 1024
    assert len(json.loads(file.read_text(encoding="utf-8"))["coco_to_ade"]) == 183


# ---- palettes


def test_colours_of_a_palette_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        palette("coco").colours[0] = 1


@pytest.mark.parametrize(
    ("classes", "colours"),
    [
        (("one",), np.zeros((2, 3), np.uint8)),
        (("one",), np.zeros((1, 3), np.int64)),
        ((), np.zeros((0, 3), np.uint8)),
        (tuple("c" + str(n) for n in range(256)), np.zeros((256, 3), np.uint8)),
    ],
)
def test_a_palette_that_does_not_fit_bytes_or_colours_is_refused(classes, colours):
    with pytest.raises(ValueError, match=r"palette 'bad'.*expected"):
        Palette("bad", classes, colours)


def test_labels_get_their_colours_and_void_its_own():
    coloured = colourise(labels((0, 1, VOID)), TWO)
    assert coloured.dtype == np.uint8
    assert coloured.tolist() == [[[1, 2, 3], [4, 5, 6], [9, 9, 9]]]


def test_labels_beyond_the_palette_are_refused_by_their_number():
    with pytest.raises(ValueError, match=r"labels \[2, 254\] are no classes of palette 'two'"):
        colourise(labels((0, 2), (254, VOID)), TWO)


def test_labels_must_be_bytes():
    with pytest.raises(ValueError, match="int64, expected uint8"):
        colourise(np.zeros((2, 2), np.int64), TWO)


def test_a_legend_lists_what_occurs_by_its_area():
    rows = legend(labels((1, 1, 0, VOID), (1, VOID, VOID, VOID)), TWO)
    assert rows == [
        ("sea", (4, 5, 6), 0.375),
        ("sky", (1, 2, 3), 0.125),
        ("void", (9, 9, 9), 0.5),
    ]
    assert [row.name for row in legend(labels((1, 1)), TWO)] == ["sea"]


def test_mirroring_swaps_left_and_right_parts_of_a_face():
    names = palette("celebamask").classes
    left, right, nose = (names.index(name) for name in ("left eye", "right eye", "nose"))
    face = labels((left, nose, right, VOID))
    mirrored = mirrored_classes(face, palette("celebamask"))
    assert mirrored.tolist() == [[right, nose, left, VOID]]
    assert np.array_equal(mirrored_classes(mirrored, palette("celebamask")), face)
    everything = labels(tuple(range(183)))
    assert np.array_equal(mirrored_classes(everything, palette("coco")), everything)


def test_coco_classes_become_ade_classes():
    coco, ade = palette("coco").classes, palette("ade20k").classes
    pairs = {
        "person": "person",
        "car": "car",
        "grass": "grass",
        "sky-other": "sky",
        "wall-brick": "wall",
        "dog": "other",
        "unlabeled": "other",
    }
    numbers = labels((*(coco.index(name) for name in pairs), VOID))
    mapped = coco_to_ade(numbers)[0]
    assert [ade[number] for number in mapped[:-1]] == list(pairs.values())
    assert mapped[-1] == VOID


def test_the_table_to_ade_is_fgdms():
    mapped = coco_to_ade(np.arange(183, dtype=np.uint8)[None])
    assert hashlib.sha256(mapped.tobytes()).hexdigest()[:16] == "c157e64116ac0298"
    with pytest.raises(ValueError, match="183"):
        coco_to_ade(labels((183,)))
