"""Trains on some of this process's devices, or with others: `python mesh_runs.py RUNS`.

RUNS is JSON, a list of `{"workdir": ..., "mesh": [data, fsdp, tensor], "settings": {...}}`. Prints
for each the largest share of the state's bytes on a device.
"""

from __future__ import annotations

import functools
import json
import math
import os
import sys
from typing import Any

import jax

from configs import cnc
from launch import train_run, training
from launch.processes import start_processes
from sd_jax.training.mesh import make_mesh
from sd_jax.training.sharding import shardings
from tests.launch.tiny_training import SETTINGS

# So that arrays as small as these are split too.
split_all = functools.partial(shardings, small=0)


def run(workdir: str, mesh: list[int], settings: dict[str, Any]) -> float:
    """Returns the share of the state's bytes that a device of the mesh holds."""
    config = cnc.get_config("stage=joint,scale=scenes")
    axes = dict(zip(("data_parallel", "fsdp", "tensor"), mesh, strict=True))
    with config.unlocked():
        config.update({**SETTINGS, **settings, **axes})
    devices = jax.devices()[: math.prod(mesh)]
    training.make_mesh = functools.partial(make_mesh, devices=devices)
    train_run.shardings = split_all
    with train_run.Run(training.plan_run(config, workdir)) as trained:
        leaves = jax.tree.leaves(trained._state.params)
        here = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
        assert trained.train()
    return here / sum(leaf.nbytes for leaf in leaves)


def main() -> None:
    start_processes("JAX_PROCESS_ID" in os.environ)
    print(json.dumps([run(**arguments) for arguments in json.loads(sys.argv[1])]), flush=True)


if __name__ == "__main__":
    main()
