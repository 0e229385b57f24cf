"""A long run that measures itself at every checkpoint: `python steady_run.py WORKDIR INIT STEPS`.

Prints `[[step, programs compiled, MiB allocated on the host, live arrays], ...]` as JSON.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from typing import Any, ClassVar

import jax

from configs import cnc
from launch import train_run, training
from tests.launch.tiny_training import SETTINGS

COMPILED = "/jax/core/compile/backend_compile_duration"


class Mallinfo2(ctypes.Structure):
    """What glibc tells of its memory: `man 3 mallinfo2`."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks")),
        ("keepcost", ctypes.c_size_t),
    )


def allocated_mib() -> float:
    """Returns what is allocated now, in all arenas.

    The resident memory of the process also holds what was freed, in pieces, and what the system
    took back for a while: some 30 MiB to and fro.
    """
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo2
    info = mallinfo2()
    return (info.uordblks + info.hblkhd) / 2**20


class MeasuredRun(train_run.Run):
    """A run that looks at its process before it saves, which is the last that it does at a step."""

    compiled = 0
    # Of the one run in this process.
    found: ClassVar[list[list[float]]] = []

    def _save(self, step: int, state: Any) -> None:
        self._checkpoints.wait()
        gc.collect()
        self.found.append([step, MeasuredRun.compiled, allocated_mib(), len(jax.live_arrays())])
        super()._save(step, state)


def count(event: str, seconds: float, **_: Any) -> None:
    MeasuredRun.compiled += event == COMPILED


def main(workdir: str, init: str, steps: str) -> None:
    jax.monitoring.register_event_duration_secs_listener(count)
    config = cnc.get_config("stage=local,scale=scenes")
    settings = {
        "init": init,
        "global_batch_size": 1,
        "num_steps": int(steps),
        "log_every": 10,
        "eval_every": 100,
        "eval_examples": 2,
        "save_every": 100,
        "writers": "json,tensorboard",
    }
    with config.unlocked():
        config.update({**SETTINGS, **settings})
    plan = training.plan_run(config, workdir)
    with plan.folder.held(), MeasuredRun(plan) as run:
        assert run.train()
    print(json.dumps(MeasuredRun.found))


if __name__ == "__main__":
    main(*sys.argv[1:])
