from __future__ import annotations

import json

import numpy as np
import pytest

from input_pipeline.codecs import decode_picture
from input_pipeline.palettes import palette
from input_pipeline.readers import Ade20kReader, LayoutError
from input_pipeline.schema import VOID, RecordError, check_record
from input_pipeline.testing import GROUND, OBJECT, SKY, encoded, picture, write_ade20k

FIRST = "ADE_train_00000001"


def annotation(root, name=FIRST):
    return root / "annotations" / "training" / f"{name}.png"


def test_numbers_lose_one_and_0_is_void(tmp_path):
    reader = Ade20kReader(**write_ade20k(tmp_path))
    assert (reader.name, reader.palette, len(reader)) == ("ade20k-training", "ade20k", 3)
    record = reader[0]
    assert check_record(record, reader.fields) == []
    assert record["id"] == FIRST
    assert record["captions"] == ["a meadow, 0", "grass under a sky: number 0"]
    labels, regions = decode_picture(record["segmentation"], "grey"), picture(0)[1]
    names = palette("ade20k").classes
    assert {names[n] for n in labels[regions == SKY]} == {"sky"}
    assert {names[n] for n in labels[regions == GROUND]} == {"grass"}
    assert set(labels[regions == OBJECT]) == {VOID}


def test_every_number_has_its_class(tmp_path):
    arguments = write_ade20k(tmp_path, size=(8, 19))
    numbers = np.minimum(np.arange(8 * 19), 150).reshape(8, 19).astype(np.uint8)
    annotation(tmp_path).write_bytes(encoded(numbers, "PNG"))
    labels = decode_picture(Ade20kReader(**arguments)[0]["segmentation"], "grey").reshape(-1)
    assert labels[0] == VOID
    assert labels[1:151].tolist() == list(range(150))


@pytest.mark.parametrize("number", [151, 255])
def test_numbers_beyond_150_are_refused(tmp_path, number):
    arguments = write_ade20k(tmp_path)
    annotation(tmp_path).write_bytes(encoded(np.full((48, 64), number, np.uint8), "PNG"))
    with pytest.raises(RecordError, match=rf"^ade20k-training/{FIRST}: .*numbers \[{number}\]"):
        Ade20kReader(**arguments)[0]


def test_without_captions_records_have_none_or_one_of_their_classes(tmp_path):
    root = write_ade20k(tmp_path)["root"]
    assert Ade20kReader(root)[0]["captions"] == []
    assert Ade20kReader(root, class_captions=True)[0]["captions"] == ["sky, grass"]


def test_class_captions_list_the_largest_first_and_no_void(tmp_path):
    arguments = write_ade20k(tmp_path)
    numbers = np.full((48, 64), 3, np.uint8)
    numbers[:30] = 13
    numbers[:5] = 0
    annotation(tmp_path).write_bytes(encoded(numbers, "PNG"))
    reader = Ade20kReader(arguments["root"], class_captions=True)
    assert reader[0]["captions"] == ["person, sky"]
    annotation(tmp_path).write_bytes(encoded(np.zeros((48, 64), np.uint8), "PNG"))
    assert reader[0]["captions"] == []


def test_captions_of_the_file_come_before_those_of_classes(tmp_path):
    arguments = write_ade20k(tmp_path)
    arguments["captions"].write_text(json.dumps({FIRST: ["a\n  lawn: green", ""]}), "utf-8")
    reader = Ade20kReader(**arguments)
    assert [record["captions"] for record in reader] == [["a lawn: green"]]
    assert reader.left_out == {"no caption": 2}
    both = Ade20kReader(**arguments, class_captions=True)
    assert both[0]["captions"] == ["a lawn: green"]
    assert len(both) == 3
    assert both[1]["captions"][0] in ("grass, sky", "sky, grass")


def test_images_and_labels_without_their_other_half_are_left_out(tmp_path):
    arguments = write_ade20k(tmp_path)
    annotation(tmp_path).unlink()
    (tmp_path / "images" / "training" / "ADE_train_00000002.jpg").unlink()
    reader = Ade20kReader(**arguments)
    assert [record["id"] for record in reader] == ["ADE_train_00000003"]
    assert reader.left_out == {"label map missing": 1, "image file missing": 1}


def test_what_the_system_leaves_beside_files_is_not_looked_at(tmp_path):
    arguments = write_ade20k(tmp_path)
    annotation(tmp_path).with_name(f"._{FIRST}.png").write_bytes(b"any")
    (tmp_path / "images" / "training" / "ADE_train_00000009.jpg").mkdir()
    (tmp_path / "images" / "training" / "index.txt").write_bytes(b"any")
    assert Ade20kReader(**arguments).left_out == {}


def test_of_two_formats_of_an_image_jpeg_counts(tmp_path):
    arguments = write_ade20k(tmp_path)
    for suffix in (".webp", ".png"):
        (tmp_path / "images" / "training" / f"{FIRST}{suffix}").write_bytes(b"any")
    reader = Ade20kReader(**arguments)
    assert len(reader) == 3
    assert (reader[0]["height"], reader[0]["width"]) == (48, 64)


def test_examples_of_what_is_left_out_are_the_first_ones(tmp_path):
    arguments = write_ade20k(tmp_path, count=12, size=(8, 8))
    for number in range(1, 11):
        annotation(tmp_path, f"ADE_train_{number:08d}").unlink()
    reader = Ade20kReader(**arguments)
    assert reader.left_out == {"label map missing": 10}
    assert reader.left_out_examples == {
        "label map missing": [f"ADE_train_{number:08d}" for number in range(1, 6)]
    }


def test_the_splits_have_their_own_folders(tmp_path):
    reader = Ade20kReader(**write_ade20k(tmp_path, split="validation"))
    assert reader.name == "ade20k-validation"
    assert len(reader) == 3
    with pytest.raises(LayoutError) as caught:
        Ade20kReader(tmp_path, captions=tmp_path / "none.json")
    for name in ("images/training", "annotations/training", "none.json"):
        assert f"{tmp_path / name} cannot be read" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds no object, expected captions as {stem"),
        ('{"a": "one text", "b": ["x"], "c": [1]}', "no list of texts for 2 stems, as 'a', 'c'"),
    ],
)
def test_a_captions_file_of_another_form_is_an_error(tmp_path, content, message):
    arguments = write_ade20k(tmp_path)
    arguments["captions"].write_text(content, "utf-8")
    with pytest.raises(LayoutError, match=message):
        Ade20kReader(**arguments)


def test_a_truncated_image_is_an_error_when_it_is_read(tmp_path):
    reader = Ade20kReader(**write_ade20k(tmp_path))
    path = tmp_path / "images" / "training" / f"{FIRST}.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(RecordError, match=rf"^ade20k-training/{FIRST}: {path} cannot be decoded"):
        reader[0]
