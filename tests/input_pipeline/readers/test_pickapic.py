from __future__ import annotations

import math
import pickle
import sys
import threading

import numpy as np
import pytest

from input_pipeline.readers import LayoutError, PickAPicReader
from input_pipeline.readers import pickapic as pickapic_module
from input_pipeline.readers.pickapic import upstream_stop_words
from input_pipeline.schema import RecordError, check_record
from input_pipeline.testing import encoded, picture, write_pickapic

parquet = pytest.importorskip("pyarrow.parquet")


def ids(reader):
    return [record["id"] for record in reader]


def image(index):
    return encoded(picture(index)[0])


def test_a_record_is_the_preferred_image_with_its_prompt(tmp_path):
    reader = PickAPicReader(**write_pickapic(tmp_path, [{}, {"label_0": 0.0, "label_1": 1.0}]))
    assert (reader.name, reader.palette, len(reader)) == ("pickapic", None, 2)
    first, second = reader
    assert check_record(first, reader.fields) == []
    assert (first["id"], second["id"]) == ("uid-0-0", "uid-1-1")
    assert first["captions"] == ["a painting of object 0: in oil"]
    assert first["image"] == image(0)
    assert second["image"] == image(3)
    assert (second["height"], second["width"]) == (48, 64)


TIES = [
    {"label_0": 0.5, "label_1": 0.5},
    {"label_0": math.nan, "label_1": math.nan},
    {"label_0": None, "label_1": None},
    {},
]


@pytest.mark.parametrize(
    ("tie", "expected"),
    [
        ("second", ["uid-0-1", "uid-1-1", "uid-2-1", "uid-3-0"]),
        ("first", ["uid-0-0", "uid-1-0", "uid-2-0", "uid-3-0"]),
        ("drop", ["uid-3-0"]),
    ],
)
def test_ties_go_by_the_rule(tmp_path, tie, expected):
    reader = PickAPicReader(**write_pickapic(tmp_path, TIES), tie=tie)
    assert ids(reader) == expected
    assert reader.left_out == ({"no preference": 3} if tie == "drop" else {})


def test_the_second_image_wins_ties_by_default_as_upstream(tmp_path):
    assert ids(PickAPicReader(**write_pickapic(tmp_path, TIES[:1]))) == ["uid-0-1"]


PROMPTS = [
    "a dog in the rain",
    "A Woman in the rain",
    "two words",
    "the classes of assassins",
    "portrait of a woman, oil",
    "nude: a study in pink",
    "one two: :",
    "",
    None,
    " \n ",
    "a cat\nwith a\u00a0hat: 日本 é",
]


def test_upstreams_filter_is_the_default(tmp_path):
    reader = PickAPicReader(**write_pickapic(tmp_path, [{"caption": text} for text in PROMPTS]))
    # Only whole words count, and what stands beside them does, as upstream compares them.
    assert [record["captions"] for record in reader] == [
        ["a dog in the rain"],
        ["the classes of assassins"],
        ["portrait of a woman, oil"],
        ["a cat with a hat: 日本 é"],
    ]
    assert reader.left_out == {
        "filtered by stop word": 2,
        "fewer than 3 words": 2,
        "no caption": 3,
    }


def test_other_stop_words_and_lengths_can_be_asked_for(tmp_path):
    arguments = write_pickapic(tmp_path, [{"caption": text} for text in PROMPTS])
    assert len(PickAPicReader(**arguments, stop_words=(), min_words=1)) == 8
    reader = PickAPicReader(**arguments, stop_words=["DOG"], min_words=2)
    assert reader.left_out == {"filtered by stop word": 1, "no caption": 3}


def test_the_list_of_upstream_is_whole():
    words = upstream_stop_words()
    assert (len(words), words[0], words[-1]) == (69, "naked", "naturist")
    assert {"woman", "girl", "boy", "女", "risqué"} <= set(words)
    assert all(word == word.strip().lower() for word in words)


def test_an_image_that_wins_twice_is_one_record_with_its_first_prompt(tmp_path):
    rows = [
        {"image_0_uid": "same", "caption": "the first long prompt"},
        {"image_0_uid": "same", "caption": "the second long prompt"},
        {},
    ]
    reader = PickAPicReader(**write_pickapic(tmp_path, rows))
    assert ids(reader) == ["same", "uid-2-0"]
    assert reader[0]["captions"] == ["the first long prompt"]
    assert reader.left_out == {"duplicate image": 1}
    assert reader.left_out_examples == {"duplicate image": ["same"]}


def test_a_filtered_row_does_not_hide_a_later_one_of_the_same_image(tmp_path):
    rows = [
        {"image_0_uid": "same", "caption": "too short"},
        {"image_0_uid": "same", "caption": "a prompt that is long"},
    ]
    assert ids(PickAPicReader(**write_pickapic(tmp_path, rows))) == ["same"]


def test_rows_without_an_image_id_are_left_out(tmp_path):
    reader = PickAPicReader(**write_pickapic(tmp_path, [{"image_0_uid": None}, {}]))
    assert ids(reader) == ["uid-1-0"]
    assert reader.left_out == {"no image id": 1}


def test_records_follow_the_files_names_and_rows(tmp_path):
    reader = PickAPicReader(**write_pickapic(tmp_path, 7, files=3))
    assert ids(reader) == [f"uid-{index}-0" for index in range(7)]


def test_any_order_of_reading_gives_the_same_records(tmp_path):
    reader = PickAPicReader(**write_pickapic(tmp_path, 9, files=2), cached_columns=1)
    forward = list(reader)
    order = np.random.default_rng(0).permutation(9)
    assert [reader[i] for i in order] == [forward[i] for i in order]
    assert len(reader._columns._kept) == 1


def test_a_row_group_is_read_once_and_few_are_kept(tmp_path, monkeypatch):
    reader = PickAPicReader(**write_pickapic(tmp_path, 8, rows_a_group=4), cached_columns=2)
    opened = []
    real = pickapic_module._parquet()

    class Counting:
        @staticmethod
        def ParquetFile(path):
            opened.append(path)
            return real.ParquetFile(path)

    monkeypatch.setattr(pickapic_module, "_parquet", lambda: Counting)
    for _ in range(2):
        assert len([reader[index] for index in range(8)]) == 8
    assert len(opened) == 2
    assert len(reader._columns._kept) == 2


def test_a_reader_can_be_pickled_after_use_and_read_by_threads(tmp_path):
    reader = PickAPicReader(**write_pickapic(tmp_path, 6))
    expected = list(reader)
    copy = pickle.loads(pickle.dumps(reader))
    found = {}

    def read(index):
        found[index] = copy[index]

    threads = [threading.Thread(target=read, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[index] for index in range(6)] == expected


# ---- what is wrong


@pytest.mark.parametrize(
    ("jpg", "message"),
    [(b"no picture", "is no picture"), (b"", "holds no image"), (None, "holds no image")],
)
def test_a_damaged_image_is_an_error_when_it_is_read(tmp_path, jpg, message):
    reader = PickAPicReader(**write_pickapic(tmp_path, [{}, {"jpg_0": jpg}, {}]))
    assert reader[2]["id"] == "uid-2-0"
    where = r"^pickapic/uid-1-0: .*\.parquet, row 1 of group 0, jpg_0"
    with pytest.raises(RecordError, match=f"{where} {message}"):
        reader[1]


def test_a_file_that_vanished_is_an_error_when_it_is_read(tmp_path):
    reader = PickAPicReader(**write_pickapic(tmp_path))
    next(tmp_path.iterdir()).unlink()
    with pytest.raises(RecordError, match=r"^pickapic/uid-0-0: .* cannot be read"):
        reader[0]


def test_missing_columns_and_damaged_files_are_told_at_once(tmp_path):
    import pyarrow

    write_pickapic(tmp_path, 4, files=2)
    parquet.write_table(pyarrow.table({"caption": ["one"]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(LayoutError) as caught:
        PickAPicReader(tmp_path)
    message = str(caught.value)
    assert "a.parquet has no columns image_0_uid, image_1_uid, jpg_0, jpg_1, label_0" in message
    assert "b.parquet cannot be read" in message
    assert "FOLDER/*.parquet" in message


def test_a_folder_without_parquet_files_is_an_error(tmp_path):
    (tmp_path / "train.csv").touch()
    with pytest.raises(LayoutError, match="holds no parquet file"):
        PickAPicReader(tmp_path)
    with pytest.raises(LayoutError, match="missing cannot be read: No such file"):
        PickAPicReader(tmp_path / "missing")


def test_a_filter_that_leaves_nothing_is_an_error_that_says_why(tmp_path):
    with pytest.raises(
        LayoutError, match=r"no record is left \(fewer than 99 words: 4, as uid-0-0"
    ):
        PickAPicReader(**write_pickapic(tmp_path), min_words=99)


def test_options_are_checked(tmp_path):
    arguments = write_pickapic(tmp_path)
    with pytest.raises(ValueError, match="tie is 'both', expected one of"):
        PickAPicReader(**arguments, tie="both")
    with pytest.raises(ValueError, match="stop_words is the text 'nude'"):
        PickAPicReader(**arguments, stop_words="nude")


def test_without_pyarrow_the_error_says_what_to_install(tmp_path, monkeypatch):
    arguments = write_pickapic(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"needs pyarrow.*pip install"):
        PickAPicReader(**arguments)
