"""Writers of safetensors and torch files that leave a whole file or none."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sd_jax.files.safetensors_file import DTYPES, LENGTH_BYTES, METADATA
from sd_jax.files.tensors import (
    MAX_JSON_BYTES,
    LazyTensor,
    is_text,
    problem_report,
    shape_problem,
    shown,
)

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_RANK = {dtype: rank for rank, dtype in enumerate(DTYPES.values())}
_FIX_ENTRIES = "Nothing was written; correct the tensors that are passed in"


def write_safetensors(
    path: str | Path, entries: Sequence[LazyTensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file, holding one tensor in memory at a time.

    The bytes are laid out as the safetensors library lays them out. An existing file is replaced
    in one step once the new one is complete, and stays as it is on any error.

    Args:
        path: The file to write, in an existing folder.
        entries: The tensors, in any order; each is read once.
        metadata: Text to store beside them, such as {"format": "pt"}.

    Raises:
        ValueError: The folder, a name, dtype or shape, or the metadata cannot be written.
    """
    path = Path(path)
    problems = _entry_problems(entries) + _metadata_problems(metadata or {})
    if problems:
        raise ValueError(problem_report(path, problems, _FIX_ENTRIES))
    ordered = sorted(entries, key=lambda entry: (_RANK[entry.dtype], entry.name.encode()))
    header = _header(ordered, metadata)
    if len(header) > MAX_JSON_BYTES:
        problem = f"the header takes {len(header)} bytes, expected at most {MAX_JSON_BYTES}"
        raise ValueError(problem_report(path, [problem], "Write several files"))
    with _replacing(path) as file:
        file.write(len(header).to_bytes(LENGTH_BYTES, "little"))
        file.write(header)
        for entry in ordered:
            file.write(_checked_values(path, entry).reshape(-1).view(np.uint8).data)


def write_torch(path: str | Path, entries: Sequence[LazyTensor]) -> None:
    """Write {"state_dict": {name: tensor}} as `torch.save` does, in the order of `entries`.

    All tensors are in memory at once. The file loads with `torch.load(weights_only=True)`. An
    existing file is replaced in one step once the new one is complete.

    Args:
        path: The file to write, in an existing folder.
        entries: The tensors; each is read once.

    Raises:
        ValueError: The folder, a name, dtype or shape cannot be written.
        ImportError: torch is not installed.
    """
    path = Path(path)
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path}: writing torch files needs torch. Install this project with its [torch] "
            "extra, or write a .safetensors file, which needs nothing more."
        ) from error
    problems = _entry_problems(entries)
    if problems:
        raise ValueError(problem_report(path, problems, _FIX_ENTRIES))
    with _replacing(path) as file:
        state = {entry.name: _torch_tensor(_checked_values(path, entry)) for entry in entries}
        torch.save({"state_dict": state}, file)


def _entry_problems(entries: Sequence[LazyTensor]) -> list[str]:
    counts = Counter(entry.name for entry in entries)
    problems = [f"tensor {shown(name)} is passed {n} times" for name, n in counts.items() if n > 1]
    for entry in entries:
        problem = shape_problem(entry.shape, entry.dtype.itemsize)
        if entry.dtype not in _DTYPE_NAMES:
            problem = f"has dtype {entry.dtype}, expected one of {', '.join(DTYPES)}"
        if not is_text(entry.name) or entry.name == METADATA:
            problem = f"has a name that is not valid Unicode, or is {METADATA}"
        if problem:
            problems.append(f"tensor {shown(entry.name)} {problem}")
    return problems


def _metadata_problems(metadata: dict[str, str]) -> list[str]:
    return [
        f"metadata {shown(key)}: {shown(value)}, expected text for both"
        for key, value in metadata.items()
        if not (is_text(key) and is_text(value))
    ]


def _header(ordered: Sequence[LazyTensor], metadata: dict[str, str] | None) -> bytes:
    header: dict[str, Any] = {}
    if metadata is not None:
        header[METADATA] = dict(sorted(metadata.items()))
    begin = 0
    for entry in ordered:
        end = begin + math.prod(entry.shape) * entry.dtype.itemsize
        header[entry.name] = {
            "dtype": _DTYPE_NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    # Spaces put the tensors at a multiple of 8 bytes, which readers that map the file rely on.
    return text + b" " * (-len(text) % 8)


def _checked_values(path: Path, entry: LazyTensor) -> np.ndarray:
    """Return an entry's values, provided that they are what the entry states."""
    values = np.asarray(entry.read())
    if values.shape != tuple(entry.shape) or values.dtype != entry.dtype:
        problem = (
            f"tensor {shown(entry.name)} was read as {values.dtype} {values.shape}, expected "
            f"{entry.dtype} {entry.shape}"
        )
        raise ValueError(problem_report(path, [problem], _FIX_ENTRIES))
    return values


def _torch_tensor(values: np.ndarray) -> Any:
    import torch

    # torch.from_numpy knows NumPy's own dtypes only; the others travel as unsigned integers.
    own = values.dtype.isbuiltin == 1
    carrier = values if own else values.view(f"u{values.dtype.itemsize}")
    # The copy gives each tensor a storage of its own, and memory that torch may write to.
    tensor = torch.from_numpy(carrier.copy())
    return tensor if own else tensor.view(getattr(torch, values.dtype.name))


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file that takes the place of `path` when the block ends without an error."""
    if path.is_dir() or not path.parent.is_dir():
        problem = "it is a folder" if path.is_dir() else "its folder does not exist"
        raise ValueError(f"{path}: {problem}; expected a file in an existing folder")
    # In the same folder, so that the last step is a rename and not a copy.
    draft = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        with draft.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # Not every file system can do this, and the file itself is safe by now.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
