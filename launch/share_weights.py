"""Stores the tensors that two components share once: a file, to which the other folder links.

    python -m launch.share_weights --component=cnc/local_fuser --other=three/local_fuser

Both are folders of safetensors in diffusers' layout, and stay so: each gets an index of its two
files. Fusers that were made by `extend_local` and trained in stage layers share most of theirs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from absl import flags

from launch.command import command, run
from sd_jax.files.tensors import LazyTensor, open_tensors
from sd_jax.files.write import write_safetensors

_COMPONENT = flags.DEFINE_string("component", None, "Folder that keeps the file.", required=True)
_OTHER = flags.DEFINE_string("other", None, "Folder that links to it.", required=True)

_WHOLE = "diffusion_pytorch_model.safetensors"
_INDEX, _SHARED = f"{_WHOLE}.index.json", "shared.safetensors"
# The other's files lie in the first folder too: an index leads nowhere else.
_OWN, _OTHERS, _OTHERS_INDEX = "own.safetensors", "other.safetensors", "other.index.json"
_METADATA = {"format": "pt"}


def main() -> None:
    """Runs the command."""
    with command():
        saved = share_weights(Path(_COMPONENT.value), Path(_OTHER.value))
        print(f"{_OTHER.value}: {saved / 1e6:.2f} MB are now a link", file=sys.stderr)


def share_weights(component: Path, other: Path) -> int:
    """Stores what two folders share in the first; returns the bytes that the second saves.

    The second folder's index and files are links into the first one, as those of download caches
    are, so that both must move together.

    Args:
      component: folder with one file of weights.
      other: likewise.

    Raises:
      ValueError: a folder has no such file, both are the same, or they share nothing.
    """
    component, other = component.resolve(), other.resolve()
    if component == other:
        raise ValueError(f"{component}: is named twice; give the folders of two components")
    missing = [str(folder) for folder in (component, other) if not (folder / _WHOLE).is_file()]
    if missing:
        raise ValueError(
            f"{', '.join(missing)}: no {_WHOLE}; expected folders that launch.export wrote"
        )
    ours, theirs = open_tensors(component / _WHOLE), open_tensors(other / _WHOLE)
    shared = {name: item for name, item in ours.items() if _is_equal(item, theirs.get(name))}
    if not shared:
        raise ValueError(f"{component} and {other} share no tensor")
    write_safetensors(component / _SHARED, list(shared.values()), _METADATA)
    for tensors, file, index in ((ours, _OWN, _INDEX), (theirs, _OTHERS, _OTHERS_INDEX)):
        rest = {key: item for key, item in tensors.items() if key not in shared}
        write_safetensors(component / file, list(rest.values()), _METADATA)
        files = {key: _SHARED if key in shared else file for key in tensors}
        _write_index(component / index, files, tensors)
    for link, target in ((_SHARED, _SHARED), (_OTHERS, _OTHERS), (_INDEX, _OTHERS_INDEX)):
        (other / link).unlink(missing_ok=True)
        (other / link).symlink_to(os.path.relpath(component / target, other))
    # Readers prefer the one file, so that all above counts from here on.
    for folder in (component, other):
        (folder / _WHOLE).unlink()
    return sum(item.nbytes for item in shared.values())


def _is_equal(ours: LazyTensor, theirs: LazyTensor | None) -> bool:
    if theirs is None or (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        return False
    # Bits, not values: a NaN equals itself.
    return np.array_equal(ours.read().view(np.uint8), theirs.read().view(np.uint8))


def _write_index(path: Path, files: Mapping[str, str], tensors: Mapping[str, LazyTensor]) -> None:
    size = sum(item.nbytes for item in tensors.values())
    content = {"metadata": {"total_size": size}, "weight_map": dict(sorted(files.items()))}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
