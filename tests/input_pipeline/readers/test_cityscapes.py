from __future__ import annotations

import json

import numpy as np
import pytest

from input_pipeline.codecs import decode_picture
from input_pipeline.palettes import palette
from input_pipeline.readers import CityscapesReader, LayoutError
from input_pipeline.schema import VOID, RecordError, check_record
from input_pipeline.testing import GROUND, OBJECT, SKY, encoded, picture, write_cityscapes

NAMES = ["aachen_000000_000019", "aachen_000002_000019", "ulm_000001_000019"]


def label_file(root, name=NAMES[0]):
    city = name.split("_")[0]
    return root / "gtFine" / "train" / city / f"{name}_gtFine_labelIds.png"


def test_cities_are_read_in_the_order_of_names(tmp_path):
    reader = CityscapesReader(**write_cityscapes(tmp_path))
    assert (reader.name, reader.palette) == ("cityscapes-train", "cityscapes")
    assert [record["id"] for record in reader] == NAMES
    assert all(check_record(record, reader.fields) == [] for record in reader)
    assert reader[0]["captions"] == []


def test_ids_become_the_19_trained_classes_and_the_rest_is_void(tmp_path):
    reader = CityscapesReader(**write_cityscapes(tmp_path))
    labels, regions = decode_picture(reader[0]["segmentation"], "grey"), picture(0)[1]
    names = palette("cityscapes").classes
    assert {names[n] for n in labels[regions == SKY]} == {"sky"}
    assert {names[n] for n in labels[regions == GROUND]} == {"road"}
    assert set(labels[regions == OBJECT]) == {VOID}


@pytest.mark.parametrize(
    ("number", "name"),
    [(8, "sidewalk"), (13, "fence"), (17, "pole"), (24, "person"), (26, "car"), (33, "bicycle")],
)
def test_numbers_have_their_names(tmp_path, number, name):
    arguments = write_cityscapes(tmp_path)
    label_file(tmp_path).write_bytes(encoded(np.full((48, 64), number, np.uint8), "PNG"))
    labels = decode_picture(CityscapesReader(**arguments)[0]["segmentation"], "grey")
    assert palette("cityscapes").classes[labels[0, 0]] == name


@pytest.mark.parametrize("number", [0, 6, 9, 10, 14, 18, 29, 30, 255])
def test_classes_that_are_not_trained_on_are_void(tmp_path, number):
    arguments = write_cityscapes(tmp_path)
    label_file(tmp_path).write_bytes(encoded(np.full((48, 64), number, np.uint8), "PNG"))
    labels = decode_picture(CityscapesReader(**arguments)[0]["segmentation"], "grey")
    assert (labels == VOID).all()


def test_a_number_that_is_no_id_is_refused(tmp_path):
    arguments = write_cityscapes(tmp_path)
    label_file(tmp_path).write_bytes(encoded(np.full((48, 64), 100, np.uint8), "PNG"))
    with pytest.raises(RecordError, match=rf"^cityscapes-train/{NAMES[0]}: .* numbers \[100\]"):
        CityscapesReader(**arguments)[0]


def test_captions_come_from_a_file_or_from_classes(tmp_path):
    arguments = write_cityscapes(tmp_path)
    file = tmp_path / "captions.json"
    file.write_text(json.dumps({NAMES[1]: ["a street: wet"]}), "utf-8")
    reader = CityscapesReader(**arguments, captions=file)
    assert [record["captions"] for record in reader] == [["a street: wet"]]
    assert reader.left_out == {"no caption": 2}
    assert CityscapesReader(**arguments, class_captions=True)[0]["captions"] == ["sky, road"]


def test_other_files_of_the_tree_are_not_looked_at(tmp_path):
    arguments = write_cityscapes(tmp_path)
    label_file(tmp_path).with_name(f"{NAMES[0]}_gtFine_color.png").write_bytes(b"any")
    label_file(tmp_path).with_name(f"{NAMES[0]}_gtFine_polygons.json").write_bytes(b"any")
    assert len(CityscapesReader(**arguments)) == 3


def test_missing_halves_are_counted_and_missing_folders_an_error(tmp_path):
    arguments = write_cityscapes(tmp_path)
    label_file(tmp_path).unlink()
    assert CityscapesReader(**arguments).left_out == {"label map missing": 1}
    with pytest.raises(LayoutError) as caught:
        CityscapesReader(tmp_path, "val")
    assert f"{tmp_path / 'leftImg8bit' / 'val'} cannot be read" in str(caught.value)
    assert f"{tmp_path / 'gtFine' / 'val'} cannot be read" in str(caught.value)
