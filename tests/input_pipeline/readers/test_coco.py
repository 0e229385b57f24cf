from __future__ import annotations

import json

import numpy as np
import pytest

from input_pipeline.codecs import decode_picture
from input_pipeline.palettes import palette
from input_pipeline.readers import CocoReader, LayoutError
from input_pipeline.schema import VOID, RecordError, check_record
from input_pipeline.testing import GROUND, OBJECT, SKY, encoded, picture, write_coco

FIRST, SECOND, THIRD = "000000000009", "000000000025", "000000000041"


def change(path, edit):
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_record_has_the_image_as_it_came_and_all_five_captions(tmp_path):
    arguments = write_coco(tmp_path)
    reader = CocoReader(**arguments)
    assert (reader.name, reader.palette, len(reader)) == ("coco-train2017", "coco", 3)
    record = reader[1]
    assert check_record(record, reader.fields) == []
    assert (record["id"], record["source"]) == (SECOND, "coco-train2017")
    assert (record["height"], record["width"]) == (48, 64)
    assert record["captions"] == [f"Object 1 by the sea: view {view}." for view in range(5)]
    assert record["image"] == (arguments["images"] / f"{SECOND}.jpg").read_bytes()
    assert reader.left_out == {}


def test_labels_are_coco_stuff_numbers_with_255_for_void(tmp_path):
    reader = CocoReader(**write_coco(tmp_path))
    labels = decode_picture(reader[0]["segmentation"], "grey")
    regions = picture(0)[1]
    assert (labels[:2, :2] == VOID).all()
    rest = np.ones((48, 64), bool)
    rest[:2, :2] = False
    names = palette("coco").classes
    for region, name in ((SKY, "sky-other"), (GROUND, "sea"), (OBJECT, "person")):
        assert {names[n] for n in labels[rest & (regions == region)]} == {name}


def test_without_labels_there_is_no_segmentation(tmp_path):
    arguments = write_coco(tmp_path, split="val2017")
    reader = CocoReader(arguments["captions"], arguments["images"])
    assert (reader.name, reader.palette) == ("coco-val2017", None)
    assert "segmentation" not in reader.fields
    assert check_record(reader[0], reader.fields) == []


def test_records_are_sorted_by_file_name_whatever_the_files_order(tmp_path):
    arguments = write_coco(tmp_path)
    change(arguments["captions"], lambda content: content["images"].reverse())
    reader = CocoReader(**arguments)
    assert [record["id"] for record in reader] == [FIRST, SECOND, THIRD]
    assert reader.image_ids == (9, 25, 41)
    assert reader[-1]["id"] == THIRD
    with pytest.raises(IndexError):
        reader[3]


def test_captions_keep_colons_and_unicode_and_lose_line_breaks(tmp_path):
    odd = [
        "At 10:30: a cat\nsits\r\n  here. ",
        "Ein Käse, größer als… 日本語:テスト 🐈",
        "line separator and\u00a0space",
        "",
        " \n\t",
    ]
    reader = CocoReader(**write_coco(tmp_path, captions={0: odd}))
    assert reader[0]["captions"] == [
        "At 10:30: a cat sits here.",
        "Ein Käse, größer als… 日本語:テスト 🐈",
        "line separator and space",
    ]


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path):
    arguments = write_coco(tmp_path, count=6, captions={1: ["", " \n"], 5: []})
    (arguments["images"] / f"{FIRST}.jpg").unlink()
    (arguments["labels"] / f"{THIRD}.png").unlink()
    (arguments["images"] / "unknown.jpg").write_bytes(b"any")
    reader = CocoReader(**arguments)
    assert reader.left_out == {
        "image not in the captions file": 1,
        "image file missing": 1,
        "no caption": 2,
        "label map missing": 1,
    }
    assert reader.left_out_examples["image file missing"] == [f"{FIRST}.jpg"]
    assert [record["id"] for record in reader] == ["000000000057", "000000000073"]


def test_an_image_listed_twice_is_one_record(tmp_path):
    arguments = write_coco(tmp_path)
    change(arguments["captions"], lambda content: content["images"].append(content["images"][0]))
    assert len(CocoReader(**arguments)) == 3


def test_one_number_for_two_images_is_an_error(tmp_path):
    arguments = write_coco(tmp_path)
    change(arguments["captions"], lambda content: content["images"][2].update(id=9))
    with pytest.raises(LayoutError, match=r"images\[2\] .* has the id 9 of another one"):
        CocoReader(**arguments)


def test_two_numbers_for_one_image_are_an_error(tmp_path):
    arguments = write_coco(tmp_path)
    change(
        arguments["captions"], lambda content: content["images"][2].update(file_name=f"{FIRST}.jpg")
    )
    with pytest.raises(LayoutError, match="two images of the captions file have one file name"):
        CocoReader(**arguments)


def test_a_file_name_cannot_lead_out_of_the_folder(tmp_path):
    arguments = write_coco(tmp_path / "data")
    (tmp_path / "secret.jpg").write_bytes(encoded(picture(0)[0]))
    change(
        arguments["captions"],
        lambda content: content["images"][0].update(file_name="../../secret.jpg"),
    )
    reader = CocoReader(**arguments)
    assert reader.left_out["image file missing"] == 1
    assert [record["id"] for record in reader] == [SECOND, THIRD]


# ---- trees that are not as expected


def test_all_that_is_missing_is_told_at_once_with_the_expected_layout(tmp_path):
    with pytest.raises(LayoutError) as caught:
        CocoReader(tmp_path / "captions.json", tmp_path / "images", tmp_path / "maps")
    message = str(caught.value)
    for name in ("captions.json", "images", "maps"):
        assert f"{tmp_path / name} cannot be read: No such file" in message
    assert "coco-images: the raw data set" in message
    assert "IMAGES/<file_name>" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "has no list 'images' and no list 'annotations'"),
        ('{"images": {}, "annotations": []}', "has no list 'images'"),
        (
            '{"images": [{"id": 9}], "annotations": []}',
            r'images\[0\] .* no number "id" or "file_name"',
        ),
        ('{"images": [{"id": true, "file_name": "a"}], "annotations": []}', r"images\[0\]"),
        ('{"images": [], "annotations": [{"image_id": 9}]}', r"annotations\[0\] .* lacks"),
        ('{"images": [], "annotations": []}', "no record is left"),
    ],
)
def test_a_captions_file_of_another_form_is_an_error(tmp_path, content, message):
    arguments = write_coco(tmp_path)
    arguments["captions"].write_text(content, encoding="utf-8")
    with pytest.raises(LayoutError, match=message):
        CocoReader(**arguments)


def test_captions_of_another_split_leave_no_record_and_say_why(tmp_path):
    arguments = write_coco(tmp_path, count=2)

    def rename(content):
        for image in content["images"]:
            image["file_name"] = f"{image['id']}.jpg"

    change(arguments["captions"], rename)
    with pytest.raises(LayoutError) as caught:
        CocoReader(**arguments)
    assert "no record is left" in str(caught.value)
    assert f"image not in the captions file: 2, as {FIRST}.jpg" in str(caught.value)
    assert "image file missing: 2, as 25.jpg, 9.jpg" in str(caught.value)


# ---- files that are damaged


def test_a_damaged_image_is_an_error_when_it_is_read(tmp_path):
    arguments = write_coco(tmp_path)
    path = arguments["images"] / f"{SECOND}.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    reader = CocoReader(**arguments)
    assert reader[0]["id"] == FIRST
    with pytest.raises(
        RecordError, match=rf"^coco-train2017/{SECOND}: .*{SECOND}\.jpg cannot be decoded"
    ):
        reader[1]


def test_an_image_that_vanished_is_an_error_when_it_is_read(tmp_path):
    arguments = write_coco(tmp_path)
    reader = CocoReader(**arguments)
    (arguments["images"] / f"{SECOND}.jpg").unlink()
    with pytest.raises(RecordError, match=rf"^coco-train2017/{SECOND}: .*\.jpg cannot be read"):
        reader[1]


def test_a_label_map_of_another_size_is_resized_to_the_nearest(tmp_path):
    arguments = write_coco(tmp_path)
    two = np.full((24, 32), 181, np.uint8)
    two[:, :16] = 1
    (arguments["labels"] / f"{FIRST}.png").write_bytes(encoded(two, "PNG"))
    labels = decode_picture(CocoReader(**arguments)[0]["segmentation"], "grey")
    assert labels.shape == (48, 64)
    assert (labels[:, :32] == 1).all()
    assert (labels[:, 32:] == 181).all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((48, 48), np.uint8), "has 48 x 48 pixels and its photo 48 x 64"),
        (np.full((48, 64), 182, np.uint8), r"numbers \[182\], expected 0 to 181, or 255 for void"),
        (np.full((48, 64), 300, np.uint16), r"numbers \[300\]"),
        (np.zeros((48, 64, 3), np.uint8), "mode RGB"),
    ],
)
def test_a_label_map_that_does_not_fit_is_an_error_when_it_is_read(tmp_path, labels, message):
    arguments = write_coco(tmp_path)
    (arguments["labels"] / f"{FIRST}.png").write_bytes(encoded(labels, "PNG"))
    with pytest.raises(RecordError, match=rf"^coco-train2017/{FIRST}: .*{FIRST}\.png .*{message}"):
        CocoReader(**arguments)[0]


def test_a_label_map_of_16_bits_is_read(tmp_path):
    arguments = write_coco(tmp_path)
    path = arguments["labels"] / f"{FIRST}.png"
    expected = decode_picture(CocoReader(**arguments)[0]["segmentation"], "grey")
    path.write_bytes(encoded(expected.astype(np.uint16), "PNG"))
    again = decode_picture(CocoReader(**arguments)[0]["segmentation"], "grey")
    assert np.array_equal(again, expected)
