"""What a checkpoint says of itself: the run's meta, and shape, type and checksum of every array.

It is JSON with a checksum of its own, so that no byte of a checkpoint goes unwatched.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from sd_jax.training.integrity import differing, paths_and_leaves

_SHOWN = 20


class CheckpointDamaged(ValueError):
    """A checkpoint is not what was written."""


Json: TypeAlias = dict[str, Any]


class Record(NamedTuple):
    """Of one checkpoint.

    Attributes:
      meta: what the caller gave.
      shapes: of every array, by path.
      dtypes: their names.
      checksums: see `sd_jax.training.integrity`.
    """

    meta: Json
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    checksums: dict[str, int]


def make_record(state: Any, meta: Mapping[str, Any], checksums: Mapping[str, int]) -> Record:
    """Returns the record of a state.

    Args:
      state: tree of arrays.
      meta: anything that JSON can hold.
      checksums: of the state.

    Raises:
      ValueError: JSON cannot hold `meta`.
    """
    try:
        plain = json.loads(json.dumps(dict(meta)))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"meta of a checkpoint: {error}; it can hold numbers, strings, booleans, None, and "
            "lists and dictionaries of them"
        ) from error
    return Record(plain, *_layout(state), dict(checksums))


def to_json(record: Record) -> Json:
    """Returns what is written."""
    arrays = {
        path: [list(shape), record.dtypes[path], record.checksums[path]]
        for path, shape in record.shapes.items()
    }
    body = {"meta": record.meta, "arrays": arrays}
    return {**body, "crc32": _crc(body)}


def from_json(content: Any) -> Record:
    """Returns what `to_json` was given.

    Raises:
      CheckpointDamaged: it is not what was written.
    """
    try:
        body = {"meta": content["meta"], "arrays": content["arrays"]}
        expected = content["crc32"]
    except (TypeError, KeyError) as error:
        raise CheckpointDamaged(f"its record lacks {error}") from error
    if _crc(body) != expected:
        raise CheckpointDamaged("its record is not what was written")
    arrays = body["arrays"]
    return Record(
        body["meta"],
        {path: tuple(shape) for path, (shape, _, _) in arrays.items()},
        {path: dtype for path, (_, dtype, _) in arrays.items()},
        {path: checksum for path, (_, _, checksum) in arrays.items()},
    )


def misfits(record: Record, abstract: Any) -> list[str]:
    """Returns in what a checkpoint's arrays are not those that a run expects, one line each.

    Args:
      record: of the checkpoint.
      abstract: tree with shapes and types.
    """
    shapes, dtypes = _layout(abstract)
    missing = sorted(shapes.keys() - record.shapes.keys())
    extra = sorted(record.shapes.keys() - shapes.keys())
    return [
        *(f"missing in the checkpoint: {path}" for path in missing),
        *(f"only in the checkpoint: {path}" for path in extra),
        *(
            f"{path} is {record.dtypes[path]}{list(record.shapes[path])} in the checkpoint, "
            f"expected {dtypes[path]}{list(shape)}"
            for path, shape in shapes.items()
            if path in record.shapes
            and (record.shapes[path], record.dtypes[path]) != (shape, dtypes[path])
        ),
    ]


def altered(record: Record, checksums: Mapping[str, int]) -> list[str]:
    """Returns the paths of arrays whose checksums are not those of the record."""
    return differing(record.checksums, checksums)


def listed(items: Sequence[str], separator: str = ", ") -> str:
    """Returns the items in one text, the first of them if they are many."""
    more = len(items) - _SHOWN
    return separator.join([*items[:_SHOWN], *([f"and {more} more"] if more > 0 else [])])


def _layout(tree: Any) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    leaves = paths_and_leaves(tree)
    return (
        {path: tuple(leaf.shape) for path, leaf in leaves},
        {path: str(leaf.dtype) for path, leaf in leaves},
    )


def _crc(body: Json) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())
