"""Trains on some of this process's devices, or with others: `python mesh_runs.py RUNS`.

RUNS is JSON, a list of `{"workdir": ..., "mesh": [data, fsdp, tensor], "settings": {...}}`. Prints
for each the share of the trained parameters' bytes that a device holds. A signal stops the script
with the run's status.
"""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import jax

from configs import cnc
from launch import train_run, training
from launch.processes import start_processes
from sd_jax.training.mesh import make_mesh
from sd_jax.training.sharding import shardings
from sd_jax.training.signals import EXIT_STOPPED
from tests.launch.tiny_training import SETTINGS


def run(
    workdir: str, mesh: list[int], settings: dict[str, Any], after: list[Any] | None = None
) -> float:
    """Returns the share of the parameters that a device of the mesh holds.

    Args:
      workdir: of the run.
      mesh: data, fsdp, tensor.
      settings: of the run, beside those of the mesh.
      after: another run's folder and the step from which this one goes on.
    """
    if after is not None:
        continue_from(Path(after[0]), after[1], Path(workdir))
    config = cnc.get_config("stage=joint,scale=scenes")
    axes = dict(zip(("data_parallel", "fsdp", "tensor"), mesh, strict=True))
    with config.unlocked():
        config.update({**SETTINGS, **settings, **axes})
    # The library takes all devices, and splits no array as small as these.
    devices = jax.devices()[: math.prod(mesh)]
    training.make_mesh = functools.partial(make_mesh, devices=devices)
    train_run.shardings = functools.partial(shardings, small=0)
    if after is not None:
        # Traced for one figure of the log, in as much time as the step itself.
        train_run.Run._flops = lambda *_: 1.0
    plan = training.plan_run(config, workdir)
    with plan.folder.held(), train_run.Run(plan) as trained:
        leaves = jax.tree.leaves(trained._state.params)
        here = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
        if not trained.train():
            raise SystemExit(EXIT_STOPPED)
    return here / sum(leaf.nbytes for leaf in leaves)


def continue_from(other: Path, step: int, workdir: Path) -> None:
    """Copies a run as it was after a step."""
    shutil.copytree(other, workdir)
    for checkpoint in (workdir / "checkpoints").iterdir():
        if int(checkpoint.name) > step:
            shutil.rmtree(checkpoint)


def main() -> None:
    start_processes("JAX_PROCESS_ID" in os.environ)
    print(json.dumps([run(**arguments) for arguments in json.loads(sys.argv[1])]), flush=True)


if __name__ == "__main__":
    main()
