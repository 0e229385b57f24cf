from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from input_pipeline.codecs import decode_picture
from input_pipeline.readers import LayoutError, UpstreamReader
from input_pipeline.schema import RecordError, check_record
from input_pipeline.testing import OBJECT, encoded, picture, write_upstream

FIRST = "000000000000"


def save_array(vector: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, vector)


def read_array(path: Path) -> np.ndarray:
    return np.load(path)


def write(root, **options):
    return {**write_upstream(root, save_array, **options), "read_embedding": read_array}


def set_captions(root, text):
    (root / "train_captions.txt").write_bytes(text.encode())


def test_a_record_has_all_that_upstream_prepared(tmp_path):
    reader = UpstreamReader(**write(tmp_path))
    assert (reader.name, reader.palette, len(reader)) == ("cnc-train", None, 3)
    record = reader[0]
    assert check_record(record, reader.fields) == []
    assert record["id"] == FIRST
    assert record["captions"] == ["object 0 before a wall: by night"]
    assert (record["height"], record["width"]) == (48, 48)
    mask = decode_picture(record["mask"], "grey")
    assert np.array_equal(mask, np.where(picture(0, (48, 64))[1][:, 8:-8] == OBJECT, 255, 0))
    vector = np.random.default_rng(0).standard_normal(768).astype(np.float32)
    assert np.array_equal(record["image_embedding"], vector)
    assert np.array_equal(record["background_embedding"], vector)


def test_depth_of_8_bits_spans_16(tmp_path):
    arguments = write(tmp_path, count=1)
    grey = np.linspace(0, 255.9, 48 * 48).reshape(48, 48).astype(np.uint16)
    three = np.repeat(grey[..., None], 3, axis=-1).astype(np.uint8)
    path = tmp_path / "train_background_depthmaps" / f"{FIRST}.jpg"
    path.write_bytes(encoded(three, quality=100))
    stored = np.asarray(Image.open(path))[..., 0].astype(np.uint16)
    depth = decode_picture(UpstreamReader(**arguments)[0]["background_depth"], "deep")
    assert np.array_equal(depth, stored * 257)
    assert depth.max() == 65535
    path.write_bytes(encoded(grey.astype(np.uint8), quality=100))
    assert np.array_equal(
        decode_picture(UpstreamReader(**arguments)[0]["background_depth"], "deep") // 257,
        np.asarray(Image.open(path)),
    )


def test_a_depth_map_of_16_bits_is_read_whole(tmp_path):
    arguments = write(tmp_path, count=1)
    deep = np.linspace(0, 65535, 48 * 48).reshape(48, 48).astype(np.uint16)
    path = tmp_path / "train_background_depthmaps" / f"{FIRST}.jpg"
    path.unlink()
    path.with_suffix(".png").write_bytes(encoded(deep, "PNG"))
    found = decode_picture(UpstreamReader(**arguments)[0]["background_depth"], "deep")
    assert np.array_equal(found, deep)


def test_a_depth_map_in_colours_is_refused(tmp_path):
    arguments = write(tmp_path, count=1)
    path = tmp_path / "train_foreground_depthmaps" / f"{FIRST}.jpg"
    path.write_bytes(encoded(picture(0, (48, 48))[0]))
    with pytest.raises(RecordError, match=rf"^cnc-train/{FIRST}: {path} has colours"):
        UpstreamReader(**arguments)[0]


def test_a_wide_image_is_cut_to_the_square_of_its_maps(tmp_path):
    arguments = write(tmp_path, count=1)
    wide = picture(0, (48, 64))[0]
    found = decode_picture(UpstreamReader(**arguments)[0]["image"], "photo")
    assert np.abs(found.astype(int) - wide[:, 8:-8]).mean() < 8


def test_a_large_image_is_resized_by_its_short_side_first(tmp_path):
    arguments = write(tmp_path, count=1)
    # Columns tell where they are: 96 high and 145 wide, so that the rest is odd.
    large = np.repeat((np.arange(145) * 1.7).astype(np.uint8)[None, :, None], 96, axis=0)
    (tmp_path / "train" / f"{FIRST}.jpg").write_bytes(encoded(large.repeat(3, 2), quality=100))
    found = decode_picture(UpstreamReader(**arguments)[0]["image"], "photo").astype(float)
    # 48 * 145 / 96 is 72 columns, of which 12 to 59 remain.
    expected = (np.arange(12, 60) + 0.5) * 145 / 72 * 1.7
    assert np.abs(found.mean(axis=(0, 2)) - expected).max() < 3


def test_an_image_of_the_maps_size_is_kept_as_it_came(tmp_path):
    arguments = write(tmp_path, count=1)
    data = encoded(picture(0, (48, 48))[0])
    (tmp_path / "train" / f"{FIRST}.jpg").write_bytes(data)
    assert UpstreamReader(**arguments)[0]["image"] == data


def test_soft_rims_of_masks_become_hard(tmp_path):
    arguments = write(tmp_path, count=1)
    soft = np.zeros((48, 48, 3), np.uint8)
    soft[:, 10:] = 127
    soft[:, 20:] = 128
    soft[:, 30:] = 255
    (tmp_path / "train_mask" / f"{FIRST}.png").write_bytes(encoded(soft, "PNG"))
    mask = decode_picture(UpstreamReader(**arguments)[0]["mask"], "grey")
    assert (mask[:, :20] == 0).all()
    assert (mask[:, 20:] == 255).all()


# ---- captions


def test_captions_keep_their_colons(tmp_path):
    arguments = write(tmp_path)
    set_captions(
        tmp_path, "000000000001:12:30: a clock\n000000000000: größer: 日本\n\n000000000002:x"
    )
    assert [record["captions"] for record in UpstreamReader(**arguments)] == [
        ["größer: 日本"],
        ["12:30: a clock"],
        ["x"],
    ]


def test_a_line_that_goes_on_belongs_to_the_caption_before(tmp_path):
    arguments = write(tmp_path)
    set_captions(
        tmp_path,
        "stray\n000000000000:a cat\r\nin the style of\n  night: dark\n\n"
        "000000000001:two\u2028lines: one\n000000000002:x\rlast",
    )
    reader = UpstreamReader(**arguments)
    assert [record["captions"][0] for record in reader] == [
        "a cat in the style of night: dark",
        "two lines: one",
        "x last",
    ]
    assert reader.left_out == {"line without uid": 1}


def test_empty_captions_and_second_ones_are_left_out(tmp_path):
    arguments = write(tmp_path)
    set_captions(tmp_path, "000000000000: \n000000000001:first\n000000000001:second\n")
    reader = UpstreamReader(**arguments)
    assert [record["captions"] for record in reader] == [["first"]]
    assert reader.left_out == {"no caption": 1, "duplicate uid": 1}


def test_a_captions_file_that_is_no_text_is_an_error(tmp_path):
    arguments = write(tmp_path)
    (tmp_path / "train_captions.txt").write_bytes(b"1:caf\xe9\n")
    with pytest.raises(LayoutError, match=r"train_captions\.txt is no UTF-8 text"):
        UpstreamReader(**arguments)


# ---- missing files


def test_records_with_missing_files_are_left_out_and_named(tmp_path):
    arguments = write(tmp_path, count=5)
    (tmp_path / "train" / "000000000001.jpg").unlink()
    (tmp_path / "train_mask" / "000000000002.png").unlink()
    for layer in ("foreground", "background"):
        (tmp_path / f"train_{layer}_depthmaps" / "000000000003.jpg").unlink()
    reader = UpstreamReader(**arguments)
    assert [record["id"] for record in reader] == [FIRST, "000000000004"]
    assert reader.left_out == {
        "image file missing": 1,
        "mask file missing": 1,
        "foreground_depth and background_depth file missing": 1,
    }
    assert reader.left_out_examples["mask file missing"] == ["000000000002"]


def test_folders_that_do_not_exist_are_no_fields(tmp_path):
    arguments = write(tmp_path)
    for folder in ("train_mask", "train_foreground_depthmaps"):
        (tmp_path / folder).rename(tmp_path / f"no_{folder}")
    reader = UpstreamReader(**arguments)
    assert "mask" not in reader.fields
    assert "foreground_depth" not in reader.fields
    assert check_record(reader[0], reader.fields) == []


def test_parts_that_are_asked_for_must_exist(tmp_path):
    arguments = write(tmp_path)
    (tmp_path / "train_mask").rename(tmp_path / "masks")
    with pytest.raises(LayoutError, match="train_mask cannot be read: No such file"):
        UpstreamReader(**arguments, parts=["mask", "background"])
    with pytest.raises(LayoutError, match="part 'depth' is unknown, expected some of"):
        UpstreamReader(**arguments, parts=["depth"])


def test_only_the_parts_asked_for_are_read(tmp_path):
    arguments = write(tmp_path, count=1)
    reader = UpstreamReader(**arguments, parts=["background"])
    record = reader[0]
    assert check_record(record, reader.fields) == []
    assert reader.fields[-1] == "background"
    # The background tells the size too.
    assert (record["height"], record["width"]) == (48, 48)
    bare = UpstreamReader(**arguments, parts=[])
    assert (bare[0]["height"], bare[0]["width"]) == (48, 64)


def test_all_that_is_missing_is_told_at_once(tmp_path):
    with pytest.raises(LayoutError) as caught:
        UpstreamReader(tmp_path, "val", read_array)
    assert f"{tmp_path / 'val_captions.txt'} cannot be read" in str(caught.value)
    assert f"{tmp_path / 'val'} cannot be read" in str(caught.value)
    assert "BASE/<split>_mask/<uid>.png" in str(caught.value)


# ---- embeddings


def test_embeddings_need_a_function_that_reads_them(tmp_path):
    arguments = write(tmp_path)
    del arguments["read_embedding"]
    with pytest.raises(LayoutError, match="cannot be read without the argument read_embedding"):
        UpstreamReader(**arguments)
    reader = UpstreamReader(**arguments, parts=["mask"])
    assert check_record(reader[0], reader.fields) == []


def test_an_embedding_may_have_an_axis_of_one(tmp_path):
    arguments = write(tmp_path, count=1)
    path = tmp_path / "train_foreground_embeddings" / f"{FIRST}.pt"
    save_array(np.ones((1, 768), np.float16), path)
    embedding = UpstreamReader(**arguments)[0]["image_embedding"]
    assert (embedding.shape, embedding.dtype) == ((768,), np.float32)


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.ones((2, 768), np.float32), r"has shape \(2, 768\), expected one vector"),
        (np.float32(1), r"has shape \(\), expected one vector"),
        (np.full(768, np.nan, np.float32), "has values that are NaN or infinite"),
        (np.array(["x"]), "cannot be read"),
    ],
)
def test_what_is_no_embedding_is_an_error(tmp_path, vector, message):
    arguments = write(tmp_path, count=1)
    path = tmp_path / "train_background_embeddings" / f"{FIRST}.pt"
    save_array(vector, path)
    with pytest.raises(RecordError, match=rf"^cnc-train/{FIRST}: {path} {message}"):
        UpstreamReader(**arguments)[0]


def test_a_function_that_refuses_a_file_is_quoted(tmp_path):
    arguments = write(tmp_path, count=1)
    (tmp_path / "train_background_embeddings" / f"{FIRST}.pt").write_bytes(b"os.system")
    with pytest.raises(RecordError, match=rf"^cnc-train/{FIRST}: .*\.pt cannot be read"):
        UpstreamReader(**arguments)[0]


# ---- sizes


def test_maps_of_several_sizes_are_an_error(tmp_path):
    arguments = write(tmp_path, count=1)
    (tmp_path / "train_mask" / f"{FIRST}.png").write_bytes(
        encoded(np.zeros((32, 32), np.uint8), "PNG")
    )
    with pytest.raises(RecordError, match=rf"^cnc-train/{FIRST} has maps of several sizes"):
        UpstreamReader(**arguments)[0]


def test_an_image_is_not_cut_to_maps_that_are_not_square(tmp_path):
    arguments = write(tmp_path, count=1)
    mask = encoded(np.zeros((32, 48), np.uint8), "PNG")
    (tmp_path / "train_mask" / f"{FIRST}.png").write_bytes(mask)
    with pytest.raises(RecordError, match=r"has 48 x 64 pixels and the rest of the record 32 x 48"):
        UpstreamReader(**arguments, parts=["mask"])[0]


def test_a_reader_can_be_pickled(tmp_path):
    reader = UpstreamReader(**write(tmp_path))
    copy = pickle.loads(pickle.dumps(reader))
    for one, other in zip(reader, copy, strict=True):
        assert {key: np.array(value).tolist() for key, value in one.items()} == {
            key: np.array(value).tolist() for key, value in other.items()
        }


def test_a_line_that_begins_with_a_word_and_a_colon_is_no_uid(tmp_path):
    arguments = write_upstream(tmp_path, save_array, 2)
    path = tmp_path / "train_captions.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "Style:oil painting", *lines[1:], "00000000ffff:gone"]))
    reader = UpstreamReader(**arguments, read_embedding=read_array)
    assert reader[0]["captions"][0].endswith("Style:oil painting")
    assert len(reader) == 2
    assert sum(reader.left_out.values()) == 1
