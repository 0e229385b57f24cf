from __future__ import annotations

import numpy as np
import pytest

from input_pipeline.codecs import encode_picture
from input_pipeline.schema import FIELDS, Record
from input_pipeline.shards import shard_name, shard_rows, write_manifest, write_shard

HEIGHT, WIDTH = 16, 24
SMALL = ("id", "captions", "height", "width", "image", "mask")


def make_record(row: int, fields=tuple(field.name for field in FIELDS)) -> Record:
    record = {}
    for column, field in enumerate(FIELDS):
        if field.name not in fields:
            continue
        rng = np.random.default_rng([row, column])
        if field.kind == "array":
            shape = rng.integers(1, 6, field.rank)
            record[field.name] = rng.normal(size=shape).astype(field.dtype)
        elif field.kind in ("text", "json"):
            record[field.name] = f"[{row}]" if field.kind == "json" else f"{field.name} {row}"
        elif field.kind == "texts":
            record[field.name] = [f"a: dög {row}", "", "猫"][: row % 4]
        elif field.kind == "number":
            record[field.name] = {"height": HEIGHT, "width": WIDTH}[field.name]
        elif field.kind in ("photo", "rgb"):
            pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            record[field.name] = encode_picture(pixels, field.kind)
        else:
            dtype = np.uint16 if field.kind == "deep" else np.uint8
            pixels = rng.integers(0, np.iinfo(dtype).max, (HEIGHT, WIDTH), dtype)
            record[field.name] = encode_picture(pixels, field.kind)
    return record


def write_folder(folder, records=10, count=3, fields=SMALL, name="zoo"):
    infos = []
    for number in range(count):
        rows = shard_rows(records, number, count)
        path = folder / shard_name(name, number, count)
        infos.append(write_shard(path, (make_record(row, fields) for row in rows), fields))
    write_manifest(folder, infos, "colours", {"size": 512}, {"url": "nowhere"})
    return folder


@pytest.fixture
def record_of():
    return make_record


@pytest.fixture
def folder_of(tmp_path):
    """Writes a data set below the test's folder: (name of the folder, **of `write_folder`)."""
    return lambda place="data", **keywords: write_folder(tmp_path / place, **keywords)


@pytest.fixture
def small_fields():
    return SMALL


@pytest.fixture
def same():
    """Whether two records hold the same."""

    def compare(first: Record, second: Record) -> bool:
        return first.keys() == second.keys() and all(
            type(first[name]) is type(second[name])
            and np.array_equal(first[name], second[name])
            and getattr(first[name], "dtype", None) == getattr(second[name], "dtype", None)
            for name in first
        )

    return compare
