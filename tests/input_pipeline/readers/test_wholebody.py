from __future__ import annotations

import json

import numpy as np
import pytest

from input_pipeline.pose import as_people
from input_pipeline.readers import LayoutError, WholeBodyReader
from input_pipeline.schema import check_record
from input_pipeline.testing import person, write_coco, write_wholebody


def people_of(record):
    return as_people(json.loads(record["pose"]))


def change(arguments, edit):
    content = json.loads(arguments["poses"].read_text("utf-8"))
    edit(content["annotations"])
    arguments["poses"].write_text(json.dumps(content), "utf-8")


def test_records_are_cocos_with_poses(tmp_path):
    arguments = write_wholebody(tmp_path)
    reader = WholeBodyReader(**arguments)
    assert (reader.name, reader.palette) == ("wholebody-train2017", "coco")
    record = reader[1]
    assert check_record(record, reader.fields) == []
    assert (record["id"], record["source"]) == ("000000000025", "wholebody-train2017")
    assert len(record["captions"]) == 5
    people = people_of(record)
    expected = np.stack([person(1), person(2)])
    assert np.array_equal(people[..., :2], expected[..., :2])
    # Labelled points have score 1, and the right hand has no points.
    assert (people[:, :112, 2] == 1).all()
    assert (people[:, 112:] == 0).all()


def test_points_are_body_feet_face_and_hands(tmp_path):
    arguments = write_wholebody(tmp_path)

    def mark(annotations):
        annotations[0]["keypoints"][:3] = [1, 2, 2]
        annotations[0]["foot_kpts"][:3] = [3, 4, 2]
        annotations[0]["face_kpts"][-3:] = [5.25, 6, 0.25]
        annotations[0]["lefthand_kpts"][:3] = [7, 8, 1]
        annotations[0]["righthand_kpts"][-3:] = [9, 10, 1]

    change(arguments, mark)
    (points,) = people_of(WholeBodyReader(**arguments)[0])
    assert points[[0, 17, 90, 91, 132]].tolist() == [
        [1, 2, 1],
        [3, 4, 1],
        [5.25, 6, 0.25],
        [7, 8, 1],
        [9, 10, 1],
    ]


def test_images_without_people_are_left_out_unless_asked_for(tmp_path):
    arguments = write_wholebody(tmp_path)
    reader = WholeBodyReader(**arguments)
    assert [record["id"] for record in reader] == ["000000000009", "000000000025"]
    assert reader.left_out == {"no person": 1}
    everything = WholeBodyReader(**arguments, people_only=False)
    assert len(everything) == 3
    assert everything[2]["pose"] == "[]"


def test_persons_without_any_point_are_no_persons(tmp_path):
    arguments = write_wholebody(tmp_path)

    def clear(annotations):
        for key in ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts"):
            annotations[0][key] = [0] * len(annotations[0][key])

    change(arguments, clear)
    reader = WholeBodyReader(**arguments)
    assert [record["id"] for record in reader] == ["000000000025"]
    assert len(people_of(reader[0])) == 2


def test_what_coco_leaves_out_is_counted_too(tmp_path):
    arguments = write_wholebody(tmp_path)
    (arguments["images"] / "000000000009.jpg").unlink()
    assert WholeBodyReader(**arguments).left_out == {"image file missing": 1, "no person": 1}


def test_labels_are_optional(tmp_path):
    arguments = write_wholebody(tmp_path)
    del arguments["labels"]
    reader = WholeBodyReader(**arguments)
    assert reader.palette is None
    assert check_record(reader[0], reader.fields) == []


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda a: a[1].pop("image_id"), r'annotations\[1\] .* lacks "image_id"'),
        (lambda a: a[0].pop("foot_kpts"), r"annotations\[0\] .* no list 'foot_kpts' of 6 points"),
        (lambda a: a[0]["face_kpts"].pop(), r"no list 'face_kpts' of 68 points, 204 numbers"),
        (lambda a: a[0].update(keypoints=["x"] * 51), "no list 'keypoints' of 17 points"),
        (lambda a: a[0]["keypoints"].__setitem__(0, float("nan")), "NaN or infinite"),
        (lambda a: a.clear(), "no record is left"),
    ],
)
def test_annotations_of_another_form_are_an_error(tmp_path, edit, message):
    arguments = write_wholebody(tmp_path)
    change(arguments, edit)
    with pytest.raises(LayoutError, match=message):
        WholeBodyReader(**arguments)


def test_a_file_without_annotations_is_an_error_with_the_layout(tmp_path):
    arguments = write_coco(tmp_path)
    with pytest.raises(LayoutError, match=r"poses\.json cannot be read(.|\n)*coco_wholebody_train"):
        WholeBodyReader(tmp_path / "poses.json", **arguments)
