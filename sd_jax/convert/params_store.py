"""One component's parameters on disk: Orbax, and a checksum of every array beside it.

Orbax tells damage to its own structure, but not a flipped bit in the data; the checksums do.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from sd_jax.convert.source import CheckpointError
from sd_jax.typing import Params, flat_params, nested_params

_SHOWN = 40
_AGAIN = "copy it or convert the source again"


def save_params(folder: Path, params: Params) -> None:
    """Writes a tree of arrays to `folder`, and their checksums to `folder`.json."""
    # Orbax takes arrays on devices for parts of what all processes write together.
    params = jax.tree.map(np.asarray, params)
    with ocp.StandardCheckpointer(multiprocessing_options=alone()) as checkpointer:
        checkpointer.save(folder.absolute(), params)
    _checksum_file(folder).write_text(json.dumps(_checksums(params)) + "\n", encoding="utf-8")


def params_shapes(folder: Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shape and type of every array by path, without reading any.

    Raises:
      CheckpointError: the folder is damaged.
    """
    with tree_reader() as checkpointer:
        try:
            metadata = checkpointer.metadata(folder.absolute()).item_metadata
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{folder}: damaged ({error}); {_AGAIN}") from error
    if metadata is None:
        raise CheckpointError(f"{folder}: its metadata is missing or not readable; {_AGAIN}")
    return {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for path, leaf in flat_params(metadata.tree).items()
    }


def load_params(folder: Path, abstract: Params | None = None) -> Params:
    """Returns what `save_params` wrote, as NumPy arrays in the types they were written with.

    Args:
      folder: that it was written to.
      abstract: tree of the expected shapes; those that are stored unless given.

    Raises:
      CheckpointError: names every path that is missing, too much, of another shape, or whose
        values are not those that were written.
    """
    stored = params_shapes(folder)
    if abstract is not None:
        _check_shapes(folder, stored, abstract)
    tree = nested_params(stored)
    on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    try:
        with tree_reader() as checkpointer:
            params = checkpointer.restore(
                folder.absolute(), args=ocp.args.PyTreeRestore(restore_args=on_host)
            )
        expected = json.loads(_checksum_file(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder}: damaged, or copied in part ({error}); {_AGAIN}"
        ) from error
    found = _checksums(params)
    _raise(folder, [f"altered: {path}" for path in found if found[path] != expected.get(path)])
    return params


def alone() -> ocp.options.MultiprocessingOptions:
    """Returns what keeps Orbax from waiting for the other processes of a run."""
    process = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=process, active_processes={process})


def tree_reader() -> ocp.Checkpointer:
    """Returns a reader of trees of arrays that needs no other process."""
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone())
    return ocp.Checkpointer(handler, multiprocessing_options=alone())


def _checksums(params: Params) -> dict[str, int]:
    return {
        # A view of bytes, as zlib takes no bfloat16.
        path: zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        for path, array in flat_params(params).items()
    }


def _checksum_file(folder: Path) -> Path:
    return folder.with_name(folder.name + ".json")


def _check_shapes(folder: Path, stored: dict[str, jax.ShapeDtypeStruct], abstract: Params) -> None:
    found = {path: tuple(leaf.shape) for path, leaf in stored.items()}
    expected = {path: tuple(leaf.shape) for path, leaf in flat_params(abstract).items()}
    problems = [f"missing: {path}" for path in sorted(expected.keys() - found.keys())]
    problems += [f"unexpected: {path}" for path in sorted(found.keys() - expected.keys())]
    problems += [
        f"wrong shape: {path} is {found[path]}, expected {expected[path]}"
        for path in sorted(found.keys() & expected.keys())
        if found[path] != expected[path]
    ]
    _raise(folder, problems)


def _raise(folder: Path, problems: list[str]) -> None:
    if not problems:
        return
    more = len(problems) - _SHOWN
    lines = [f"{folder}: does not fit config.json; {_AGAIN}", *problems[:_SHOWN]]
    lines += [f"... and {more} more"] if more > 0 else []
    raise CheckpointError("\n- ".join(lines))
