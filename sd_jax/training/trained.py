"""A training run as a checkpoint: what it started from, with what it has learned in its place.

Whatever takes a converted directory takes a run too: its folder stands for the newest checkpoint,
and WORKDIR/checkpoints/STEP for that of a step.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sd_jax.convert.component import Component
from sd_jax.convert.params_store import alone, tree_reader
from sd_jax.convert.source import CheckpointError
from sd_jax.convert.store import Converted, is_converted, open_converted
from sd_jax.training.checkpoint_record import CheckpointDamaged, from_json
from sd_jax.training.integrity import checksums
from sd_jax.training.run_folder import RunFolder
from sd_jax.typing import flat_params, nested_params


def is_directory(path: str | Path) -> bool:
    """Returns whether `path` is a converted directory, a run, or a checkpoint of a run."""
    return is_converted(path) or _find_run(Path(path)) is not None


def open_directory(path: str | Path, components: Sequence[Component]) -> Converted:
    """Returns a converted directory, or a run as one, without reading weights.

    Of a run that keeps an average of its parameters, that is what is read.

    Args:
      path: of the directory.
      components: known ones.

    Raises:
      CheckpointError: it is incomplete, damaged or of another version, or has no such checkpoint.
    """
    found = _find_run(Path(path))
    if found is None:
        return open_converted(path, components)
    folder, step = found
    converted = open_converted(folder.model, components)
    steps = committed_steps(folder)
    if not steps and step is None:
        # Nothing has been learned yet.
        return converted
    if step is not None and step not in steps:
        raise CheckpointError(
            f"{folder.path}: has no checkpoint of step {step}, but of {steps or 'none'}"
        )
    read = functools.lru_cache(maxsize=1)(functools.partial(_read, folder, step or steps[-1]))

    def replaced(component: str) -> Mapping[str, np.ndarray]:
        prefix = f"{component}/"
        return {
            name.removeprefix(prefix): array
            for name, array in read().items()
            if name.startswith(prefix)
        }

    return dataclasses.replace(converted, replaced=replaced)


def committed_steps(folder: RunFolder) -> list[int]:
    """Returns the steps of which a run has checkpoints, oldest first."""
    if not folder.checkpoints.is_dir():
        return []
    names = [path.name for path in folder.checkpoints.iterdir() if path.is_dir()]
    return sorted(int(name) for name in names if name.isdecimal())


def _find_run(path: Path) -> tuple[RunFolder, int | None] | None:
    if RunFolder(path).record.is_file():
        return RunFolder(path), None
    folder = RunFolder(path.parent.parent)
    if path.name.isdecimal() and path.parent == folder.checkpoints and folder.record.is_file():
        return folder, int(path.name)
    return None


def _read(folder: RunFolder, step: int) -> Mapping[str, np.ndarray]:
    """Returns the trained parameters by path, checked against their checksums."""
    import orbax.checkpoint as ocp

    place = (folder.checkpoints / str(step)).absolute()
    try:
        handler = ocp.JsonCheckpointHandler(multiprocessing_options=alone())
        with ocp.Checkpointer(handler, multiprocessing_options=alone()) as checkpointer:
            record = from_json(checkpointer.restore(place / "meta"))
        kept = "ema" if any(path.startswith("ema/") for path in record.shapes) else "params"
        paths = [path for path in record.shapes if path.startswith(f"{kept}/")]
        tree = nested_params(
            {path: jax.ShapeDtypeStruct(record.shapes[path], record.dtypes[path]) for path in paths}
        )
        on_host: Any = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        with tree_reader() as checkpointer:
            arguments = ocp.args.PyTreeRestore(
                item=tree, restore_args=on_host, partial_restore=True
            )
            flat = flat_params(checkpointer.restore(place / "state", args=arguments))
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{place}: damaged ({error}); use another step's") from error
    found = checksums(flat)
    altered = [path for path in paths if found[path] != record.checksums[path]]
    if altered:
        raise CheckpointDamaged(f"{place}: damaged, altered {', '.join(altered[:5])}")
    return {path.removeprefix(f"{kept}/"): array for path, array in flat.items()}
