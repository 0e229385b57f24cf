"""tensorflow-datasets and Grain read the shards as they are, and TensorFlow is not needed."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np

from input_pipeline.codecs import decode_picture
from input_pipeline.schema import BY_NAME, FIELDS, PICTURE_KINDS
from input_pipeline.shards import shard_name, write_manifest, write_shard
from input_pipeline.shards.tfds_builder import skip_decoders, tfds_features

ROOT = Path(__file__).parents[3]
ALL = tuple(field.name for field in FIELDS)

# What a user writes who knows tensorflow-datasets only; arguments: folder, and fields to skip.
READER = """
import pickle, sys
import tensorflow_datasets as tfds

builder = tfds.builder_from_directory(sys.argv[1])
decoders = {name: tfds.decode.SkipDecoding() for name in sys.argv[2].split()}
source = builder.as_data_source("train", decoders=decoders)
records = [source[row] for row in range(len(source))]
assert "tensorflow" not in sys.modules
assert not any(name.startswith("input_pipeline") for name in sys.modules)
sys.stdout.buffer.write(pickle.dumps((records, builder.info.full_name, len(builder.info.splits))))
"""


def run(script, *arguments):
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, timeout=300, cwd="/")
    assert done.returncode == 0, done.stderr.decode()
    return pickle.loads(done.stdout)


def pictures(*kinds):
    return [name for name in ALL if BY_NAME[name].kind in kinds]


def test_tensorflow_datasets_reads_every_field(folder_of, record_of):
    folder = folder_of(records=7, count=3, fields=ALL)
    # Pillow alone does not decode 16-bit pictures for tensorflow-datasets; OpenCV does.
    records, name, splits = run(READER, str(folder), " ".join(pictures("deep")))
    assert (name, splits, len(records)) == ("zoo/1.0.0", 1, 7)
    for row, read in enumerate(records):
        stored = record_of(row)
        assert read.keys() == stored.keys()
        for field in FIELDS:
            expected, found = stored[field.name], read[field.name]
            if field.kind in ("text", "json"):
                assert found.decode() == expected
            elif field.kind == "texts":
                assert [text.decode() for text in found] == expected
            elif field.kind in ("grey", "photo", "rgb"):
                pixels = decode_picture(expected, field.kind)
                assert np.array_equal(found.reshape(pixels.shape), pixels)
            else:
                assert np.array_equal(found, expected)
                assert getattr(found, "dtype", None) == getattr(expected, "dtype", None)


def test_pictures_are_kept_as_they_are(folder_of, record_of):
    folder = folder_of(records=2, count=1, fields=ALL)
    names = pictures(*PICTURE_KINDS)
    for row, read in enumerate(run(READER, str(folder), " ".join(names))[0]):
        assert {name: read[name] for name in names} == {
            name: record_of(row)[name] for name in names
        }


GRAIN = """
import pickle, sys
import grain
import tensorflow_datasets as tfds

builder = tfds.builder_from_directory(sys.argv[1])
source = builder.as_data_source("train")
dataset = grain.MapDataset.source(source).seed(0).shuffle().map(lambda record: record["id"])
assert "tensorflow" not in sys.modules
sys.stdout.buffer.write(pickle.dumps(list(dataset)))
"""


def test_grain_reads_it_through_tensorflow_datasets(folder_of):
    ids = run(GRAIN, str(folder_of(records=9, count=4)))
    assert sorted(ids) == [f"id {row}".encode() for row in range(9)]
    assert ids != sorted(ids)


def test_empty_shards_and_another_split_are_read(tmp_path, record_of, small_fields):
    import tensorflow_datasets as tfds

    rows = [[], [0], [], [1, 2], []]
    infos = [
        write_shard(
            tmp_path / shard_name("zoo", number, len(rows), "validation"),
            [record_of(row, small_fields) for row in part],
            small_fields,
        )
        for number, part in enumerate(rows)
    ]
    write_manifest(tmp_path, infos)
    builder = tfds.builder_from_directory(tmp_path)
    decoders = skip_decoders(builder.info.features)
    assert sorted(decoders) == ["image", "mask"]
    source = builder.as_data_source("validation", decoders=decoders)
    assert [record["id"] for record in source] == [b"id 0", b"id 1", b"id 2"]
    assert builder.info.splits["validation"].num_examples == 3
    sizes = sum(info.bytes for info in infos)
    assert builder.info.dataset_size == sizes


def test_features_tell_what_fields_mean():
    features = tfds_features(ALL)
    for field in FIELDS:
        assert features[field.name].doc.desc == field.meaning


def test_training_needs_neither_tensorflow_nor_its_data_sets(folder_of):
    script = """
import pickle, sys
from input_pipeline.shards import ShardedRecords, verify

records = list(ShardedRecords(sys.argv[1]))
assert verify(sys.argv[1]) == []
loaded = {"tensorflow", "tensorflow_datasets", "grain", "jax", "torch"} & sys.modules.keys()
sys.stdout.buffer.write(pickle.dumps((len(records), loaded)))
"""
    command_path = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    assert run(command_path + script, str(folder_of(records=5))) == (5, set())
