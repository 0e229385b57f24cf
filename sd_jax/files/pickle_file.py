"""A reader of torch zip files (`.ckpt`, `.pt`, `.pth`, `.bin`) that cannot run code.

A torch file is an uncompressed zip: `<root>/data.pkl` is a pickle of the object, in which each
tensor is a call of `torch._utils._rebuild_tensor_v2` on a storage, and `<root>/data/<key>` holds
the bytes of one storage. The pickle is run by `sd_jax.files.pickle_machine`.
"""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sd_jax.files.pickle_machine import MAX_NAME, Machine, Record, RefusedError, TensorView
from sd_jax.files.tensors import (
    RESAVE,
    CorruptFileError,
    LazyTensor,
    UnsafeFileError,
    is_text,
    lazy_values,
    problem_report,
    read_values,
    shape_problem,
    shown,
)

MAX_PICKLE_BYTES = 64_000_000
MAX_ENTRIES = 500_000
BARE_TENSOR = "tensor"
"""Name of the tensor of a file that holds one without a name."""

_DAMAGED = "The file is damaged or was made by a faulty program: fetch or export it again"
_HOSTILE = f"Nothing of it was run; never load it with weights_only=False. {RESAVE}"


def read_torch_zip(path: Path) -> dict[str, LazyTensor]:
    """Return the tensors of a torch zip file by name, none of them read yet.

    The tensors are those of the object's "state_dict" if it has one, else of the object; dicts
    inside are flattened with ".", and whatever is no tensor is left out. A tensor alone is called
    "tensor".

    Raises:
        UnsafeFileError: The file asks for anything but tensors and known bookkeeping.
        CorruptFileError: The file is cut short or contradicts itself.
    """
    records = _read_archive(path)
    data = _read_bytes(path, "data.pkl", records["data.pkl"])
    if records["data.pkl"].crc not in (0, zlib.crc32(data)):
        raise _corrupt(path, "data.pkl does not match its checksum")
    machine = Machine(data, records)
    try:
        root = machine.run()
    except RefusedError as error:
        problem = f"data.pkl, offset {machine.position}: {error}"
        raise UnsafeFileError(problem_report(path, [problem], _HOSTILE)) from None
    # The machine runs whatever a file holds, so a broken pickle may fail in any of these ways.
    except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        problem = f"data.pkl, offset {machine.position}: {type(error).__name__}: {error}"
        raise _corrupt(path, problem) from error
    return _lazy_tensors(path, root)


def _read_archive(path: Path) -> dict[str, Record]:
    """Return where each record of a torch zip file lies, by its name below the root folder."""
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            entries = zipfile.ZipFile(file).infolist()
        # All that zipfile raises on damaged input.
        except (
            zipfile.BadZipFile,
            struct.error,
            ValueError,
            NotImplementedError,
            OSError,
        ) as error:
            raise _corrupt(path, f"the zip directory is unreadable ({error})") from error
        records, problems = {}, []
        for entry in entries:
            problem = _entry_problem(entry)
            if entry.filename in records:
                problem = "appears twice"
            if problem:
                problems.append(f"zip entry {shown(entry.filename)} {problem}")
            else:
                records[entry.filename] = _locate(path, file, entry, size)
    problems += _overlap_problems(records)
    roots = [name[: -len("data.pkl")] for name in records if re.fullmatch("[^/]+/data.pkl", name)]
    if not problems and len(roots) != 1:
        problems.append(f"the zip holds {len(roots)} entries <root>/data.pkl, expected one")
    if problems:
        raise UnsafeFileError(problem_report(path, problems, RESAVE))
    below = {n[len(roots[0]) :]: record for n, record in records.items() if n.startswith(roots[0])}
    _check_header(path, below)
    return below


def _entry_problem(entry: zipfile.ZipInfo) -> str | None:
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        return "is compressed, which torch never does"
    if entry.flag_bits & 1:
        return "is encrypted, which torch never does"
    return None


def _locate(path: Path, file: BinaryIO, entry: zipfile.ZipInfo, size: int) -> Record:
    """Return where an entry's bytes lie, from its own header in front of them."""
    # name and offset come from the directory; the header must agree, or two programs would
    # read two different files.
    name = entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437")
    offset = entry.header_offset
    if 0 <= offset <= size:
        file.seek(offset)
        head = file.read(30)
        if len(head) == 30 and head.startswith(b"PK\x03\x04"):
            name_length, extra_length = struct.unpack("<HH", head[26:30])
            begin = offset + 30 + name_length + extra_length
            if file.read(name_length) == name and begin + entry.file_size <= size:
                return Record(begin, entry.file_size, entry.CRC)
    raise _corrupt(path, f"zip entry {shown(entry.filename)} is not at offset {offset}")


def _overlap_problems(records: dict[str, Record]) -> list[str]:
    ordered = sorted(records.items(), key=lambda item: (item[1].offset, item[1].nbytes))
    return [
        f"zip entries {shown(name)} and {shown(next_name)} overlap"
        for (name, record), (next_name, next_record) in pairwise(ordered)
        if next_record.offset < record.offset + record.nbytes
    ]


def _check_header(path: Path, records: dict[str, Record]) -> None:
    if records["data.pkl"].nbytes > MAX_PICKLE_BYTES:
        problem = f"data.pkl has {records['data.pkl'].nbytes} bytes, expected at most "
        raise UnsafeFileError(problem_report(path, [f"{problem}{MAX_PICKLE_BYTES}"], RESAVE))
    order = records.get("byteorder")
    # Files from before torch 2.1 do not say; they come from little-endian machines.
    if order is not None and _read_bytes(path, "byteorder", order, limit=16) != b"little":
        problem = "the byteorder record is not 'little'; expected a little-endian file"
        raise UnsafeFileError(problem_report(path, [problem], RESAVE))


def _read_bytes(path: Path, name: str, record: Record, limit: int = MAX_PICKLE_BYTES) -> bytes:
    shape = (min(record.nbytes, limit),)
    return read_values(path, name, shape, np.dtype(np.uint8), record.offset).tobytes()


def _lazy_tensors(path: Path, root: object) -> dict[str, LazyTensor]:
    tree = root.get("state_dict", root) if isinstance(root, dict) else root
    if isinstance(tree, TensorView):
        # As `torch.save(embedding)` writes it.
        tree = {BARE_TENSOR: tree}
    if not isinstance(tree, dict):
        problem = f"the file holds {type(tree).__name__}, expected a tensor or a dict of tensors"
        raise _corrupt(path, problem)
    tensors, problems = {}, []
    for name, tensor in _flatten(path, tree):
        problem = _view_problem(name, tensor)
        if name in tensors:
            problem = "appears twice once nested dicts are joined with '.'"
        if problem:
            problems.append(f"tensor {shown(name)} {problem}")
        else:
            tensors[name] = _lazy(path, name, tensor)
    if tree and not tensors and not problems:
        problems.append("the file holds no tensor, expected a dict of tensors")
    if problems:
        raise _corrupt(path, *problems)
    return tensors


def _flatten(path: Path, tree: dict[str, Any]) -> Iterator[tuple[str, TensorView]]:
    """Yield the tensors in nested dicts; limits end those that hold each other."""
    stack = [("", iter(tree.items()))]
    for _ in range(MAX_ENTRIES):
        prefix, items = stack[-1]
        key, value = next(items, (None, None))
        if key is None:
            stack.pop()
            if not stack:
                return
        elif isinstance(value, (TensorView, dict)):
            if len(prefix) + len(key) > MAX_NAME:
                break
            if isinstance(value, dict):
                stack.append((f"{prefix}{key}.", iter(value.items())))
            else:
                yield prefix + key, value
    problem = (
        f"the dicts hold more than {MAX_ENTRIES} entries or names of more than {MAX_NAME} "
        "characters, or hold each other without end"
    )
    raise UnsafeFileError(problem_report(path, [problem], RESAVE))


def _view_problem(name: str, tensor: TensorView) -> str | None:
    """Return why a view cannot be read from its storage, or None."""
    if not is_text(name):
        return "has a name that is not valid Unicode"
    problem = shape_problem(tensor.shape, tensor.dtype.itemsize)
    if problem:
        return problem
    capacity = tensor.record.nbytes // tensor.dtype.itemsize
    numbers = (tensor.offset, *tensor.stride)
    if len(numbers) != len(tensor.shape) + 1:
        return f"has {len(tensor.shape)} axes but {len(tensor.stride)} strides"
    if any(type(number) is not int or not 0 <= number < 2**63 for number in numbers):
        return "has an offset or a stride that is no integer of 0 or more"
    place = f"offset {tensor.offset}, shape {tensor.shape} and stride {tensor.stride}"
    count = math.prod(tensor.shape)
    if count and tensor.offset + _span(tensor) > capacity:
        return f"has {place}, which leaves its storage of {capacity} elements"
    if count > capacity:
        return (
            f"has {place}, which repeats the {capacity} elements of its storage into {count}; "
            "save a contiguous copy"
        )
    return None


def _span(tensor: TensorView) -> int:
    """Return the number of elements from a view's first to its last."""
    steps = zip(tensor.shape, tensor.stride, strict=True)
    return 1 + sum((length - 1) * step for length, step in steps)


def _lazy(path: Path, name: str, tensor: TensorView) -> LazyTensor:
    if math.prod(tensor.shape) == 0:
        return lazy_values(path, name, tensor.shape, tensor.dtype, tensor.record.offset)
    return LazyTensor(name, tensor.shape, tensor.dtype, partial(_read_view, path, name, tensor))


def _read_view(path: Path, name: str, tensor: TensorView) -> np.ndarray:
    """Return the values of a view as new memory in C order."""
    itemsize = tensor.dtype.itemsize
    contiguous = _is_contiguous(tensor)
    shape = tensor.shape if contiguous else (_span(tensor),)
    begin = tensor.record.offset + tensor.offset * itemsize
    values = read_values(path, name, shape, tensor.dtype, begin)
    if values.nbytes == tensor.record.nbytes and tensor.record.crc:
        found = zlib.crc32(values.reshape(-1).view(np.uint8).data)
        if found != tensor.record.crc:
            raise _corrupt(path, f"tensor {shown(name)} does not match its checksum")
    if contiguous:
        return values
    strides = [step * itemsize for step in tensor.stride]
    return np.lib.stride_tricks.as_strided(values, tensor.shape, strides).copy()


def _is_contiguous(tensor: TensorView) -> bool:
    expected = 1
    for length, step in zip(reversed(tensor.shape), reversed(tensor.stride), strict=True):
        if length != 1 and step != expected:
            return False
        expected *= length
    return True


def _corrupt(path: Path, *problems: str) -> CorruptFileError:
    return CorruptFileError(problem_report(path, problems, _DAMAGED))
