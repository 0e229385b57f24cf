from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from input_pipeline.readers.folder import FolderReader
from input_pipeline.readers.layout import LayoutError
from input_pipeline.schema import check_record
from input_pipeline.testing import encoded, picture


def write_images(root: Path, *paths: str) -> None:
    for index, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(encoded(picture(index, (32, 48))[0]))


def test_captions_beside_the_images(tmp_path):
    write_images(tmp_path, "b/2.jpg", "a.jpeg", "b/1.jpg", "none.jpg", ".hidden.jpg", ".git/x.jpg")
    (tmp_path / "a.txt").write_text("a: fox\n\n  un  renard été ☃ \n")
    (tmp_path / "b" / "1.txt").write_text("one")
    (tmp_path / "b" / "2.txt").write_text("two")
    reader = FolderReader(tmp_path, "mine")
    assert [reader[index]["id"] for index in range(len(reader))] == ["a", "b/1", "b/2"]
    record = reader[0]
    assert check_record(record, reader.fields) == []
    assert record["captions"] == ["a: fox", "un renard été ☃"]
    assert (record["source"], record["height"], record["width"]) == ("mine", 32, 48)
    assert record["image"] == (tmp_path / "a.jpeg").read_bytes()
    assert reader.left_out == {"no caption": 1}
    assert pickle.loads(pickle.dumps(reader))[2]["id"] == "b/2"
    assert len(FolderReader(tmp_path, need_captions=False)) == 4


@pytest.mark.parametrize("key", ["text", "caption", "captions"])
def test_captions_in_metadata(key, tmp_path):
    write_images(tmp_path, "train/1.jpg", "train/2.jpg", "train/3.jpg")
    (tmp_path / "train" / "3.txt").write_text("not read where there is metadata")
    value = ["a: b", "c"] if key == "captions" else "a: b"
    rows = [
        {"file_name": "train/1.jpg", key: value},
        {"file_name": "./train/2.jpg", key: ""},
        {"file_name": "train/9.jpg", key: "gone"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    reader = FolderReader(tmp_path)
    assert len(reader) == 1
    assert reader[0]["captions"] == (value if key == "captions" else ["a: b"])
    assert reader.left_out == {"image file missing": 1, "no caption": 2}


def test_damaged_metadata_is_listed(tmp_path):
    write_images(tmp_path, "1.jpg")
    lines = ['{"file_name": "1.jpg"}', "{", '{"text": "a"}', "[]"]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    with pytest.raises(LayoutError) as error:
        FolderReader(tmp_path)
    for number, part in ((1, "no caption under text"), (2, ""), (3, "no text"), (4, "no text")):
        assert f"metadata.jsonl, line {number}: " in str(error.value)
        assert part in str(error.value)


def test_two_images_of_one_name(tmp_path):
    write_images(tmp_path, "1.jpg", "1.png")
    (tmp_path / "1.txt").write_text("one")
    reader = FolderReader(tmp_path)
    assert len(reader) == 1
    assert reader.left_out == {"another image of the same name": 1}


def test_nothing_there(tmp_path):
    with pytest.raises(LayoutError, match=r"no record is left.*\n.*expected layout"):
        FolderReader(tmp_path)
    with pytest.raises(LayoutError, match="cannot be read"):
        FolderReader(tmp_path / "nowhere")
    write_images(tmp_path, "1.jpg")
    (tmp_path / "1.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LayoutError, match=r"1\.txt cannot be read as UTF-8"):
        FolderReader(tmp_path)
