"""Runs of `launch.train` on scenes with the smallest model, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnc_jax.testing import random_model, smallest_config
from sd_jax.convert.store import save_model
from sd_jax.model import Model
from sd_jax.training.checkpoints import Checkpoints
from sd_jax.training.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 900

SETTINGS: dict[str, Any] = {
    "global_batch_size": 4,
    "num_steps": 40,
    "log_every": 1,
    "save_every": 5,
    "eval_every": 0,
    "sample_every": 0,
    "writers": "json",
    # The runs compared here may end at other steps, so their rate is one.
    "optimizer": "adamw",
    "warmup_steps": 50,
    "learning_rate": 1e-3,
    "schedule": "constant",
    "ema_decay": 0.0,
}
"""Quick and talkative."""


def write_start(folder: Path, components: tuple[str, ...], seed: int = 0) -> Model:
    """Writes a converted directory of random weights; returns the model."""
    model = random_model(smallest_config(), seed, components)
    save_model(
        model.params,
        {name: getattr(model.config, name) for name in model.params},
        folder,
        model.config.schedule,
    )
    return model


def arguments(workdir: Path, stage: str, **settings: Any) -> list[str]:
    values = {**SETTINGS, **settings}
    return [
        f"--config={ROOT}/configs/cnc.py:stage={stage},scale=scenes",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in values.items()),
    ]


def start(workdir: Path, stage: str, *, devices: int = 1, **settings: Any) -> subprocess.Popen[str]:
    """Starts a run; its output is a pipe."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "launch.train", *arguments(workdir, stage, **settings)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train(workdir: Path, stage: str, *, status: int = 0, **settings: Any) -> str:
    """Runs to the end; returns the output."""
    with start(workdir, stage, **settings) as process:
        try:
            output, _ = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
    assert process.returncode == status, output
    return output


def metrics(workdir: Path, name: str = "train/loss") -> dict[int, float]:
    """Returns a metric by step."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    found = {}
    for line in map(json.loads, lines):
        if name in line:
            assert line["step"] not in found, f"step {line['step']} is there twice"
            found[line["step"]] = line[name]
    return found


def state_bytes(workdir: Path, step: int) -> dict[str, bytes]:
    """Returns the bytes of every array of a checkpoint by path, and of its record's key."""
    import orbax.checkpoint as ocp

    place = RunFolder(workdir).checkpoints / str(step)
    with ocp.PyTreeCheckpointer() as checkpointer:
        folder = place.absolute() / "state"
        stored = checkpointer.metadata(folder).item_metadata.tree
        on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
        tree = checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=on_host))
    with Checkpoints(RunFolder(workdir).checkpoints) as checkpoints:
        meta = checkpoints.meta(step)
    assert meta is not None
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf).tobytes()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    found["meta"] = json.dumps([meta["data"], meta["key"]]).encode()
    return found
