"""What holds for every reader: it is a record source."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from input_pipeline.codecs import decode_field, decode_picture
from input_pipeline.palettes import colourise, palette
from input_pipeline.readers import (
    Ade20kReader,
    CelebAMaskReader,
    CityscapesReader,
    CocoReader,
    PickAPicReader,
    UpstreamReader,
    WholeBodyReader,
)
from input_pipeline.schema import BY_NAME, PICTURE_KINDS, check_record
from input_pipeline.testing import (
    write_ade20k,
    write_celebamask,
    write_cityscapes,
    write_coco,
    write_pickapic,
    write_upstream,
    write_wholebody,
)


def save_array(vector, path):
    with path.open("wb") as file:
        np.save(file, vector)


def make_pickapic(root):
    pytest.importorskip("pyarrow")
    return PickAPicReader(**write_pickapic(root))


MAKERS = {
    "coco": lambda root: CocoReader(**write_coco(root)),
    "wholebody": lambda root: WholeBodyReader(**write_wholebody(root)),
    "pickapic": make_pickapic,
    "ade20k": lambda root: Ade20kReader(**write_ade20k(root)),
    "cityscapes": lambda root: CityscapesReader(**write_cityscapes(root)),
    "celebamask": lambda root: CelebAMaskReader(**write_celebamask(root)),
    "upstream": lambda root: UpstreamReader(
        **write_upstream(root, save_array), read_embedding=np.load
    ),
}


@pytest.fixture(params=MAKERS)
def reader(request, tmp_path):
    return MAKERS[request.param](tmp_path)


def plain(record):
    return {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in record.items()
    }


def test_records_have_the_fields_that_are_promised_and_can_be_decoded(reader):
    for record in reader:
        assert check_record(record, reader.fields) == []
        assert record["source"] == reader.name
        decoded = {name: decode_field(record["id"], name, value) for name, value in record.items()}
        for name, value in decoded.items():
            if BY_NAME[name].kind in PICTURE_KINDS:
                assert value.shape[:2] == (record["height"], record["width"]), name


def test_ids_are_sorted_and_unique(reader):
    ids = [record["id"] for record in reader]
    assert ids == sorted(set(ids))
    assert len(ids) == len(reader) > 1


def test_the_same_index_gives_the_same_record_in_copies_and_new_readers(reader, request, tmp_path):
    copy = pickle.loads(pickle.dumps(reader))
    maker = request.node.callspec.params["reader"]
    again = MAKERS[maker](tmp_path / "again")
    for index in reversed(range(len(reader))):
        assert plain(reader[index]) == plain(copy[index]) == plain(again[index])
    assert (copy.name, copy.fields, copy.palette) == (reader.name, reader.fields, reader.palette)


def test_nothing_is_left_out_of_whole_data_sets_but_images_without_people(reader):
    expected = {"no person": 1} if reader.name.startswith("wholebody") else {}
    assert reader.left_out == expected


def test_labels_are_classes_of_the_palette(reader):
    if reader.palette is None:
        pytest.skip("no label maps")
    for record in reader:
        labels = decode_picture(record["segmentation"], "grey")
        assert colourise(labels, palette(reader.palette)).any()
