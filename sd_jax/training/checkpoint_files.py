"""A folder of checkpoints as Orbax keeps it: what is committed, what is left over, what is read.

All processes of a run call these functions together.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from sd_jax.training.checkpoint_record import CheckpointDamaged
from sd_jax.training.together import failing_together, sync

_UNFINISHED = ".orbax-checkpoint-tmp"
_LONG = 300


def open_manager(folder: Path, keep_last: int, keep_every: int) -> Any:
    """Returns Orbax's manager of a folder, which is made if it is not there.

    Args:
      folder: absolute.
      keep_last: how many of the newest are kept.
      keep_every: checkpoints of steps that this divides are kept; 0 for none.

    Raises:
      OSError: the folder cannot be made or read.
    """
    import orbax.checkpoint as ocp
    from orbax.checkpoint import checkpoint_managers as policies

    kept: list[Any] = [policies.LatestN(keep_last)]
    if keep_every:
        kept.append(policies.EveryNSteps(keep_every))
    options = ocp.CheckpointManagerOptions(
        create=False,
        # Renamed before they are deleted, so that a number never names half a checkpoint.
        todelete_subdir=f"removed{_UNFINISHED}",
        # In the foreground, as threads that wait for a folder in vain hold up the exit.
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        preservation_policy=policies.AnyPreservationPolicy(kept),
    )
    folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger("asyncio").addFilter(_is_news)
    remove_leftovers(folder)
    sync("leftovers of checkpoints removed")
    return ocp.CheckpointManager(folder, options=options)


def committed(folder: Path) -> list[int]:
    """Returns the steps of which all was written, oldest first."""
    names = [path.name for path in folder.iterdir() if path.is_dir()]
    return sorted(int(name) for name in names if name.isdecimal())


def remove_leftovers(folder: Path) -> None:
    """Deletes unfinished checkpoints and those that are not kept any more; none may be on its way.

    What cannot be deleted stays until the next time.
    """
    if jax.process_index() == 0:
        # Not left to Orbax, which keeps those that lacked no more than their name.
        for leftover in folder.glob(f"*{_UNFINISHED}*"):
            shutil.rmtree(leftover, ignore_errors=True)


def read_item(folder: Path, handler: Any, arguments: Any) -> Any:
    """Returns a part of a checkpoint; raises on all processes if it fails on one.

    Not read through the manager, whose processes wait for each other when they are done, in vain
    for one that fails.

    Args:
      folder: of the part.
      handler: Orbax's of its kind.
      arguments: Orbax's for restoring.
    """
    with failing_together(CheckpointDamaged("another process could not read it")):
        return handler.restore(folder, args=arguments)


def set_aside(folder: Path, steps: Sequence[int]) -> None:
    """Renames damaged ones, which the run is going to write anew."""
    if jax.process_index() == 0:
        for step in steps:
            name, number = f"{step}.damaged", 1
            while (folder / name).exists():
                name, number = f"{step}.damaged{number}", number + 1
            (folder / str(step)).rename(folder / name)
    sync("damaged checkpoints set aside")


def _is_news(record: logging.LogRecord) -> bool:
    """Returns False for the second and later arrays that Orbax could not write, each a traceback.

    The first one's error is raised, and would drown in them.
    """
    message = record.getMessage()
    return "never retrieved" not in message or "orbax" not in message


def in_short(error: Exception) -> str:
    """Returns the kind of error, the system's reason where TensorStore gives its number, the text.

    Of a long text the first line's ends.
    """
    line = next(iter(str(error).strip().splitlines()), "")
    if len(line) > _LONG:
        line = f"{line[: _LONG // 3]} ... {line[-_LONG // 3 * 2 :]}"
    number = re.search(r"os_error_code='(\d+)'", str(error))
    reason = f"{os.strerror(int(number[1]))}: " if number else ""
    return f"{type(error).__name__}: {reason}{line}"
