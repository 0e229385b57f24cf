from __future__ import annotations

import json

import numpy as np
import pytest

from input_pipeline.codecs import decode_picture
from input_pipeline.palettes import palette
from input_pipeline.readers import CelebAMaskReader, LayoutError
from input_pipeline.readers.celebamask import PARTS
from input_pipeline.schema import RecordError, check_record
from input_pipeline.testing import encoded, picture, write_celebamask

CLASSES = palette("celebamask").classes


def mask_file(root, number, part):
    return root / "CelebAMask-HQ-mask-anno" / str(number // 2000) / f"{number:05d}_{part}.png"


def named(labels):
    return {CLASSES[n] for n in np.unique(labels)}


def test_masks_are_merged_and_doubled_to_the_images_size(tmp_path):
    reader = CelebAMaskReader(**write_celebamask(tmp_path))
    assert (reader.name, reader.palette, len(reader)) == ("celebamask", "celebamask", 3)
    record = reader[1]
    assert check_record(record, reader.fields) == []
    assert (record["id"], record["height"], record["captions"]) == ("00001", 64, [])
    labels = decode_picture(record["segmentation"], "grey")
    # Skin covers sky and ground, then hair the sky and the nose the object.
    names = np.array([CLASSES.index(name) for name in ("hair", "skin", "nose")])
    small = names[picture(1, (64, 64))[1][::2, ::2]]
    assert np.array_equal(labels, small.repeat(2, axis=0).repeat(2, axis=1))


def test_later_parts_cover_earlier_ones_in_the_data_sets_order(tmp_path):
    arguments = write_celebamask(tmp_path, count=1)
    everywhere = encoded(np.full((32, 32), 255, np.uint8), "PNG")
    for part in reversed(PARTS[:14]):
        mask_file(tmp_path, 0, part).write_bytes(everywhere)
    labels = decode_picture(CelebAMaskReader(**arguments)[0]["segmentation"], "grey")
    assert named(labels) == {"hat"}


def test_every_part_has_its_class(tmp_path):
    (tmp_path / "CelebA-HQ-img").mkdir()
    mask_file(tmp_path, 0, "skin").parent.mkdir(parents=True)
    for number, part in enumerate(PARTS):
        (tmp_path / "CelebA-HQ-img" / f"{number}.jpg").write_bytes(encoded(picture(0)[0]))
        one = np.zeros((48, 64), np.uint8)
        one[0, 0] = 255
        mask_file(tmp_path, number, part).write_bytes(encoded(one, "PNG"))
    found = [
        named(decode_picture(record["segmentation"], "grey")) - {"background"}
        for record in CelebAMaskReader(tmp_path)
    ]
    assert found == [{name} for name in CLASSES[1:]]


def test_records_are_sorted_by_number_not_by_letters(tmp_path):
    reader = CelebAMaskReader(**write_celebamask(tmp_path, count=12, size=(16, 16)))
    assert [record["id"] for record in reader] == [f"{n:05d}" for n in range(12)]


def test_masks_are_looked_for_in_the_folder_of_their_number(tmp_path):
    arguments = write_celebamask(tmp_path, count=2)
    images = tmp_path / "CelebA-HQ-img"
    (images / "0.jpg").rename(images / "2000.jpg")
    # In folder 0, where masks of image 2000 do not belong.
    mask_file(tmp_path, 0, "skin").rename(tmp_path / "CelebAMask-HQ-mask-anno/0/02000_skin.png")
    reader = CelebAMaskReader(**arguments)
    assert [record["id"] for record in reader] == ["00001"]
    assert reader.left_out == {"no masks": 1}
    mask_file(tmp_path, 2000, "nose").parent.mkdir()
    mask_file(tmp_path, 0, "nose").rename(mask_file(tmp_path, 2000, "nose"))
    reader = CelebAMaskReader(**arguments)
    assert [record["id"] for record in reader] == ["00001", "02000"]
    labels = decode_picture(reader[1]["segmentation"], "grey")
    assert named(labels) == {"background", "nose"}


def test_captions_are_told_by_file_stem_or_by_classes(tmp_path):
    arguments = write_celebamask(tmp_path)
    file = tmp_path / "captions.json"
    file.write_text(json.dumps({"0": ["a face: smiling"], "2": []}), "utf-8")
    reader = CelebAMaskReader(**arguments, captions=file)
    assert [record["captions"] for record in reader] == [["a face: smiling"]]
    assert reader.left_out == {"no caption": 2}
    (caption,) = CelebAMaskReader(**arguments, class_captions=True)[0]["captions"]
    assert set(caption.split(", ")) == {"skin", "hair", "nose"}


def test_files_that_do_not_belong_are_left_out(tmp_path):
    arguments = write_celebamask(tmp_path)
    for name in ("zoe", "max", "cover", "about"):
        (tmp_path / "CelebA-HQ-img" / f"{name}.jpg").write_bytes(b"any")
    mask_file(tmp_path, 0, "moustache").write_bytes(b"any")
    reader = CelebAMaskReader(**arguments)
    assert reader.left_out_examples == {
        "file name is no number": ["about.jpg", "cover.jpg", "max.jpg", "zoe.jpg"]
    }
    assert reader[0]["id"] == "00000"


def test_masks_of_several_sizes_are_an_error(tmp_path):
    arguments = write_celebamask(tmp_path)
    mask_file(tmp_path, 0, "hair").write_bytes(encoded(np.zeros((16, 16), np.uint8), "PNG"))
    with pytest.raises(
        RecordError,
        match=r"^celebamask/00000: .*00000_hair\.png has 16 x 16 pixels, expected 32 x 32",
    ):
        CelebAMaskReader(**arguments)[0]


def test_masks_of_other_proportions_are_an_error(tmp_path):
    arguments = write_celebamask(tmp_path)
    (tmp_path / "CelebA-HQ-img" / "0.jpg").write_bytes(encoded(picture(0, (64, 80))[0]))
    with pytest.raises(RecordError, match=r"^celebamask/00000: .*00000_\*\.png has 32 x 32 pixels"):
        CelebAMaskReader(**arguments)[0]


def test_a_damaged_mask_is_an_error_when_it_is_read(tmp_path):
    reader = CelebAMaskReader(**write_celebamask(tmp_path))
    path = mask_file(tmp_path, 2, "hair")
    path.write_bytes(path.read_bytes()[:-30])
    assert reader[1]["id"] == "00001"
    with pytest.raises(RecordError, match=rf"^celebamask/00002: {path} cannot be decoded"):
        reader[2]


def test_missing_folders_are_told_at_once(tmp_path):
    with pytest.raises(LayoutError) as caught:
        CelebAMaskReader(tmp_path)
    assert f"{tmp_path / 'CelebA-HQ-img'} cannot be read" in str(caught.value)
    assert f"{tmp_path / 'CelebAMask-HQ-mask-anno'} cannot be read" in str(caught.value)
