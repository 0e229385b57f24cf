"""A reader of safetensors files that checks every promise of the format by name.

The layout: 8 bytes with the length of the header, the header as JSON, then the tensors' bytes:

    length | {"name": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, ...} | bytes

The bytes belong to exactly one tensor each, which leaves no room to hide anything in a file.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from sd_jax.files.tensors import (
    MAX_JSON_BYTES,
    CorruptFileError,
    LazyTensor,
    is_text,
    lazy_values,
    parse_json_object,
    problem_report,
    shape_problem,
    shown,
)

# In the order in which the safetensors library stores them, so that files come out alike.
DTYPES: dict[str, np.dtype] = {
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
METADATA = "__metadata__"
LENGTH_BYTES = 8
_REMEDY = "The file is cut short, damaged or made by a faulty program: fetch or export it again"
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
    """Return the tensors of a safetensors file by name, none of them read yet.

    Raises:
        CorruptFileError: Any promise of the format is broken; all of them are named.
    """
    header_bytes, buffer_size = _read_header(path)
    try:
        header, duplicates = parse_json_object(header_bytes)
    except ValueError as error:
        raise _corrupt(path, f"the header is not valid JSON ({error})") from error

    problems = [f"key {shown(key)} appears twice in the header" for key in duplicates]
    problems += _metadata_problems(header.pop(METADATA, {}))
    for name, entry in header.items():
        problem = _entry_problem(name, entry, buffer_size)
        if problem:
            problems.append(f"tensor {shown(name)} {problem}")
    # Coverage is only meaningful once each range makes sense by itself.
    if not problems:
        problems = _coverage_problems(header, buffer_size)
    if problems:
        raise _corrupt(path, *problems)

    start = LENGTH_BYTES + len(header_bytes)
    return {
        name: lazy_values(
            path,
            name,
            tuple(entry["shape"]),
            DTYPES[entry["dtype"]],
            start + entry["data_offsets"][0],
        )
        for name, entry in header.items()
    }


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the text stored beside the tensors of a safetensors file.

    Raises:
        CorruptFileError: The header is damaged.
    """
    path = Path(path)
    header_bytes, _ = _read_header(path)
    try:
        metadata = parse_json_object(header_bytes)[0].get(METADATA, {})
    except ValueError as error:
        raise _corrupt(path, f"the header is not valid JSON ({error})") from error
    problems = _metadata_problems(metadata)
    if problems:
        raise _corrupt(path, *problems)
    return metadata


def _read_header(path: Path) -> tuple[bytes, int]:
    """Return the header's bytes and the number of bytes after it."""
    size = path.stat().st_size
    if size < LENGTH_BYTES:
        raise _corrupt(path, f"the file has {size} bytes, expected at least {LENGTH_BYTES}")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if length > MAX_JSON_BYTES:
            raise _corrupt(
                path, f"the header claims {length} bytes, expected at most {MAX_JSON_BYTES}"
            )
        if length > size - LENGTH_BYTES:
            raise _corrupt(
                path,
                f"the header claims {length} bytes at offset {LENGTH_BYTES}, but the file has "
                f"only {size} bytes",
            )
        header = file.read(length)
    if not header.startswith(b"{"):
        raise _corrupt(path, f"the header starts with {shown(header[:8])}, expected '{{'")
    return header, size - LENGTH_BYTES - length


def _metadata_problems(metadata: object) -> list[str]:
    if not isinstance(metadata, dict):
        return [f"{METADATA} is a {type(metadata).__name__}, expected an object of strings"]
    return [
        f"{METADATA} entry {shown(key)} is a {type(value).__name__}, expected a string"
        for key, value in metadata.items()
        if not isinstance(value, str)
    ]


def _entry_problem(name: str, entry: Any, buffer_size: int) -> str | None:
    """Return what is wrong with one entry of the header by itself, or None."""
    if not is_text(name):
        return "has a name that is not valid Unicode"
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        found = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        return f"has {shown(found)}, expected the keys {sorted(_ENTRY_KEYS)}"
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        return f"has dtype {shown(entry['dtype'])}, expected one of {', '.join(DTYPES)}"
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list):
        return f"has shape {shown(shape)}, expected a list of integers"
    problem = shape_problem(shape, dtype.itemsize)
    if problem:
        return problem
    if not _is_range(offsets, buffer_size):
        return (
            f"has data_offsets {shown(offsets)}, expected [begin, end] with "
            f"0 <= begin <= end <= {buffer_size}, the bytes after the header"
        )
    size = math.prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != size:
        return (
            f"has {offsets[1] - offsets[0]} bytes in data_offsets {offsets}, expected {size} for "
            f"{entry['dtype']} {shape}"
        )
    return None


def _is_range(offsets: Any, buffer_size: int) -> bool:
    return (
        isinstance(offsets, list)
        and len(offsets) == 2
        and type(offsets[0]) is type(offsets[1]) is int
        and 0 <= offsets[0] <= offsets[1] <= buffer_size
    )


def _coverage_problems(header: dict[str, Any], buffer_size: int) -> list[str]:
    """Return where the tensors' ranges overlap or leave bytes that belong to none."""
    problems = []
    covered, previous = 0, None
    ranges = sorted((*entry["data_offsets"], name) for name, entry in header.items())
    for begin, end, name in ranges:
        if begin < covered:
            problems.append(
                f"tensor {shown(name)} at data offset {begin} overlaps {_place(previous)}, which "
                f"ends at {covered}"
            )
        elif begin > covered:
            problems.append(
                f"bytes {covered} to {begin} between {_place(previous)} and {_place(name)} belong "
                "to no tensor"
            )
        if end >= covered:
            covered, previous = end, name
    if covered < buffer_size:
        problems.append(
            f"bytes {covered} to {buffer_size} after {_place(previous)} belong to no tensor"
        )
    return problems


def _place(name: str | None) -> str:
    return "the header" if name is None else f"tensor {shown(name)}"


def _corrupt(path: Path, *problems: str) -> CorruptFileError:
    return CorruptFileError(problem_report(path, problems, _REMEDY))
