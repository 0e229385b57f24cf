"""Records as bytes: they come back as they were, and tensorflow-datasets reads the same bytes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from input_pipeline.schema import BY_NAME, RecordError, check_record
from input_pipeline.shards import example_bytes
from input_pipeline.shards.example_bytes import decode_record, encode_record
from input_pipeline.shards.tfds_builder import tfds_features

NAMES = tuple(BY_NAME)


@pytest.mark.parametrize("row", range(4))
def test_every_kind_of_field_comes_back(row, record_of, same):
    record = record_of(row)
    restored = decode_record(encode_record(record, NAMES), NAMES)
    assert same(restored, record)
    assert check_record(restored, NAMES) == []


@pytest.mark.parametrize("shape", [(0, 3, 4), (1, 1, 1), (300, 1, 2)])
def test_arrays_of_any_shape_come_back(shape, same):
    record = {"latent_mean": np.full(shape, -0.5, np.float16), "image_embedding": np.ones(0, "f4")}
    assert same(decode_record(encode_record(record, record), record), record)


def test_arrays_that_are_no_plain_block_come_back(same):
    values = np.arange(60, dtype=np.float16).reshape(3, 4, 5)
    for array in (values.transpose(2, 0, 1), values[::2, ::-1], values.astype(">f2")):
        data = encode_record({"latent_mean": array}, ["latent_mean"])
        assert np.array_equal(decode_record(data, ["latent_mean"])["latent_mean"], array)


@given(st.integers(-(2**63), 2**63 - 1), st.text(), st.lists(st.text(), max_size=3))
def test_any_number_and_text_comes_back(number, text, texts):
    record = {"height": number, "source": text, "captions": texts}
    assert decode_record(encode_record(record, record), record) == record


def test_bytes_depend_on_the_values_alone(record_of):
    record = record_of(1)
    turned = {name: record[name] for name in reversed(NAMES)}
    assert encode_record(record, NAMES) == encode_record(turned, reversed(NAMES))
    assert encode_record(record, NAMES) != encode_record(record_of(2), NAMES)


@pytest.mark.parametrize("row", range(4))
def test_message_is_the_one_of_tensorflow_datasets(row, record_of):
    from tensorflow_datasets.proto import tf_example_pb2

    record = record_of(row)
    ours = tf_example_pb2.Example.FromString(encode_record(record, NAMES))
    theirs = tf_example_pb2.Example.FromString(tfds_features(NAMES).serialize_example(record))
    assert ours == theirs
    assert len(ours.features.feature) > len(NAMES)


def test_only_fields_that_are_asked_for_are_read(record_of):
    data = encode_record(record_of(0), NAMES)
    assert list(decode_record(data, ("width", "id"))) == ["width", "id"]


def test_arrays_share_the_bytes_and_cannot_be_written_to(record_of):
    values = decode_record(encode_record(record_of(0), NAMES), NAMES)["latent_mean"]
    assert not values.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        values[:] = 0


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"height": 2**63}, "'height' cannot be stored: 9223372036854775808 has more than 64"),
        ({"source": "\ud800"}, "'source' cannot be stored: .*surrogates"),
    ],
)
def test_what_cannot_be_stored_is_refused(record, problem):
    with pytest.raises(RecordError, match=problem):
        encode_record(record, record)


def test_missing_field_is_refused(record_of):
    data = encode_record(record_of(0, ("id",)), ["id"])
    with pytest.raises(RecordError, match="'width' is missing"):
        decode_record(data, ["id", "width"])


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ("height", "source"),
        ("source", "height"),
        ("height", "sketch"),
        ("image", "width"),
        ("sketch", "source"),
        ("captions", "segmentation"),
        ("height", "image_embedding"),
    ],
)
def test_field_of_another_kind_is_refused(stored, read, monkeypatch, record_of):
    # Two captions, and a height, as they would be stored under another name.
    renamed = dataclasses.replace(BY_NAME[stored], name=read)
    monkeypatch.setattr(example_bytes, "BY_NAME", {read: renamed})
    data = encode_record({read: record_of(2)[stored]}, [read])
    monkeypatch.undo()
    with pytest.raises(RecordError, match=f"{read!r} is not stored as"):
        decode_record(data, [read])


@given(st.binary(max_size=40))
def test_other_bytes_are_refused(data):
    with pytest.raises(RecordError):
        decode_record(data, ["id"])


def test_damaged_bytes_raise_nothing_but_record_errors(record_of):
    fields = ("id", "captions", "height", "latent_mean")
    good = encode_record(record_of(3, fields), fields)
    refused = 0
    for position in range(len(good)):
        for bit in range(8):
            damaged = bytearray(good)
            damaged[position] ^= 1 << bit
            try:
                decode_record(bytes(damaged), fields)
            except RecordError:
                refused += 1
        with pytest.raises(RecordError):
            decode_record(good[:position], fields)
    assert refused > len(good)
