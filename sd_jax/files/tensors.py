"""Named lazy tensors, the two errors of this package, and the one function that opens a file.

A file is opened by reading its header only. Each tensor is read when it is asked for, into
memory of its own, so that the peak is one tensor however large the file is. Plain reads are used
and not mmap: a file that shrinks meanwhile then gives an error instead of a bus error.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

MAX_JSON_BYTES = 100_000_000
MAX_RANK = 32
SHOWN_PROBLEMS = 10
RESAVE = (
    "Get the file as .safetensors, or re-save it in a trusted place with a recent torch: "
    "torch.save(torch.load(old, weights_only=True), new)"
)
_FETCH_AGAIN = (
    "The file is cut short, damaged or made by a faulty program: fetch or export it again"
)
_INDEX_NAME = re.compile(r"\.(safetensors|bin)\.index(\.[\w-]+)?\.json$", re.ASCII)
_SHARD_SUFFIXES = {"safetensors": (".safetensors",), "bin": (".bin", ".pt", ".pth", ".ckpt")}


class UnsafeFileError(ValueError):
    """A file whose content is refused because reading it could do more than read numbers."""


class CorruptFileError(ValueError):
    """A file that is cut short or contradicts itself."""


@dataclass(frozen=True)
class LazyTensor:
    """A named tensor that has not been read yet.

    Args:
        name: The name in the file.
        shape: Length of each axis.
        dtype: NumPy dtype; bfloat16 and the float8 kinds are those of `ml_dtypes`.
        read: Gives the values as a new, writable, C-contiguous array of `shape` and `dtype`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor once read."""
        return math.prod(self.shape) * self.dtype.itemsize


def open_tensors(path: str | Path) -> dict[str, LazyTensor]:
    """Return the tensors of a file by name, none of them read yet.

    Args:
        path: A `.safetensors` file, a torch zip file (`.ckpt`, `.pt`, `.pth`, `.bin`), or a
            `*.safetensors.index.json` or `*.bin.index.json` that lists shards in its own folder.

    Raises:
        UnsafeFileError: The file holds something that is refused, such as code in a pickle.
        CorruptFileError: The file is cut short or contradicts itself.
        ValueError: There is no such file.
    """
    # Both readers build LazyTensor, so they import this module and not the other way round.
    from sd_jax.files.pickle_file import read_torch_zip
    from sd_jax.files.safetensors_file import read_safetensors

    path = Path(path)
    if not path.is_file():
        kind = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise ValueError(f"{path}: {kind}; expected a tensor file or a shard index: check the path")
    if _INDEX_NAME.search(path.name):
        return _open_shards(path)
    # The suffix is a promise: a file called .safetensors is never read as a pickle.
    if path.name.lower().endswith(".safetensors"):
        return read_safetensors(path)
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK\x03\x04"):
        return read_torch_zip(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_JSON_BYTES:
        return read_safetensors(path)
    if not head:
        raise CorruptFileError(problem_report(path, ["the file is empty"], _FETCH_AGAIN))
    raise UnsafeFileError(problem_report(path, [_unknown_format(head)], RESAVE))


def read_values(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype, offset: int):
    """Return the array stored at byte `offset` of a file, as new memory."""
    values = np.empty(shape, dtype)
    buffer = values.reshape(-1).view(np.uint8).data
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        # One call reads at most 2 GiB on Linux.
        while buffer and (count := file.readinto(buffer)):
            buffer = buffer[count:]
    if buffer:
        problem = (
            f"the file ends {len(buffer)} bytes before the end of {shown(name)}, which takes "
            f"{values.nbytes} bytes at offset {offset}"
        )
        raise CorruptFileError(problem_report(path, [problem], _FETCH_AGAIN))
    return values


def lazy_values(
    path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype, offset: int
) -> LazyTensor:
    """Return the lazy tensor whose bytes lie in C order at byte `offset` of a file."""
    return LazyTensor(name, shape, dtype, partial(read_values, path, name, shape, dtype, offset))


def shape_problem(shape: Sequence[Any], itemsize: int) -> str | None:
    """Return what is wrong with the shape a file states, or None."""
    if len(shape) > MAX_RANK:
        return f"has {len(shape)} axes, expected at most {MAX_RANK}"
    size = itemsize
    for length in shape:
        # bool is an int to Python, yet `true` is no length. The value itself is not shown: a
        # pickle can nest it so that its text has no end.
        if type(length) is not int:
            return f"has a {type(length).__name__} in its shape, expected integers of 0 or more"
        if length < 0:
            return f"has an axis of length {shown(length)} in its shape, expected 0 or more"
        # An axis of length 0 must not hide an overflow: NumPy multiplies the others all the same.
        size *= length or 1
        if size >= 2**63:
            return "has a shape whose size overflows 64 bits"
    return None


def is_text(name: object) -> bool:
    """Return whether `name` is a string that can be written as UTF-8 (no lone surrogates)."""
    if not isinstance(name, str):
        return False
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: object) -> str:
    """Return `value` as one short printable line, safe for a terminal whatever it holds."""
    try:
        text = ascii(value)
    except (RecursionError, ValueError):  # nested too deep, or an integer of too many digits
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"


def problem_report(path: Path, problems: Sequence[str], remedy: str) -> str:
    """Return one message with the first problems, the count of the others, and what to do."""
    if len(problems) == 1:
        return f"{path}: {problems[0]}. {remedy}."
    lines = [f"{path}: {len(problems)} problems:"]
    lines += [f"  - {problem}" for problem in problems[:SHOWN_PROBLEMS]]
    if len(problems) > SHOWN_PROBLEMS:
        lines.append(f"  - and {len(problems) - SHOWN_PROBLEMS} more")
    return "\n".join([*lines, f"{remedy}."])


def parse_json_object(data: bytes) -> tuple[dict[str, Any], list[str]]:
    """Return a JSON object and the keys that appear twice in it or in any object inside it.

    Raises:
        ValueError: The bytes are not one JSON object in UTF-8.
    """
    duplicates = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = dict(pairs)
        if len(seen) != len(pairs):
            counts = Counter(key for key, _ in pairs)
            duplicates.extend(key for key, count in counts.items() if count > 1)
        return seen

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError:
        raise ValueError("objects are nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError(f"it is a {type(value).__name__}, not an object")
    return value, duplicates


def _unknown_format(head: bytes) -> str:
    if head[257:262] == b"ustar":
        found = "this is a tar file, as torch wrote before 0.2"
    elif head.startswith(b"\x80"):
        found = "this is a bare pickle, or a legacy torch file (before torch 1.6)"
    else:
        found = f"the file starts with {shown(head[:8])}, which is no known format"
    return f"{found}; expected safetensors or a torch zip file"


def _open_shards(path: Path) -> dict[str, LazyTensor]:
    kind = _INDEX_NAME.search(path.name)
    assigned = _read_index(path)
    shards = sorted(set(assigned.values()))
    _check_shard_names(path, shards, _SHARD_SUFFIXES[kind.group(1) if kind else "safetensors"])
    opened = {shard: open_tensors(path.parent / shard) for shard in shards}

    problems = [
        f"tensor {shown(name)} is listed in shard {shown(shard)}, which does not hold it"
        for name, shard in assigned.items()
        if name not in opened[shard]
    ]
    problems += [
        f"shard {shown(shard)} holds tensor {shown(name)}, which the index does not list"
        for shard, tensors in opened.items()
        for name in tensors
        if name not in assigned
    ]
    if problems:
        remedy = "The index and its shards come from different exports: fetch all of them again"
        raise CorruptFileError(problem_report(path, problems, remedy))
    return {name: opened[shard][name] for name, shard in assigned.items()}


def _read_index(path: Path) -> dict[str, str]:
    if path.stat().st_size > MAX_JSON_BYTES:
        problem = f"the index has {path.stat().st_size} bytes, expected at most {MAX_JSON_BYTES}"
        raise CorruptFileError(problem_report(path, [problem], _FETCH_AGAIN))
    try:
        index, duplicates = parse_json_object(path.read_bytes())
    except ValueError as error:
        problem = f"the index is not valid JSON ({error})"
        raise CorruptFileError(problem_report(path, [problem], _FETCH_AGAIN)) from error
    assigned = index.get("weight_map")
    problems = [f"key {shown(key)} appears twice" for key in duplicates]
    if not isinstance(assigned, dict):
        problems.append('there is no "weight_map" object from tensor names to shard files')
    else:
        problems += [
            f"weight_map entry {shown(name)}: {shown(shard)} is not a file name"
            for name, shard in assigned.items()
            if not (is_text(name) and is_text(shard))
        ]
    if problems:
        raise CorruptFileError(problem_report(path, problems, _FETCH_AGAIN))
    return dict(assigned or {})


def _check_shard_names(path: Path, shards: Sequence[str], suffixes: tuple[str, ...]) -> None:
    # A download cache keeps links beside each other that all point into one other folder, so a
    # shard may also lie where the index itself really lies.
    folders = {path.parent.resolve(), path.resolve().parent}
    unsafe, missing = [], []
    for shard in shards:
        if re.search(r"[/\\:\0]", shard) or not shard.lower().endswith(suffixes):
            expected = "a plain file name in the same folder, ending in " + " or ".join(suffixes)
            unsafe.append(f"shard {shown(shard)} is not {expected}")
        elif (path.parent / shard).resolve().parent not in folders:
            unsafe.append(f"shard {shown(shard)} is a link that leads out of the folder")
        elif not (path.parent / shard).is_file():
            missing.append(f"shard {shown(shard)} is not in the folder")
    if unsafe:
        remedy = "Do not use this index; fetch it and its shards from a source you trust"
        raise UnsafeFileError(problem_report(path, unsafe + missing, remedy))
    if missing:
        raise CorruptFileError(problem_report(path, missing, "Fetch the missing shards"))
