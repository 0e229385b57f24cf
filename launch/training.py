"""The work of `launch.train`: a config -> a trained run, or the rest of one.

    config -> request -> starting point, experiment, data    all problems at once, before any work
    plan -> run (`launch.train_run`)

A folder that holds a run goes on with it.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import jax

from launch.setting_checks import collect
from launch.train_changes import ORDER, PALETTE, changes, starts_anew
from launch.train_data import open_data
from launch.train_request import TrainError, parse_request
from launch.train_run import Plan, Run
from launch.train_system import Sizes, system_of
from launch.train_watch import say
from sd_jax.convert.store import is_converted, open_converted
from sd_jax.embedded import is_embedded
from sd_jax.training.mesh import describe_batch, make_mesh
from sd_jax.training.run_folder import RunFolder
from sd_jax.training.trained import committed_steps


def train(config: Any, workdir: str) -> bool:
    """Trains until the run's last step; returns whether it came so far, or was asked to stop.

    Args:
      config: of `configs/cnc.py`.
      workdir: folder of the run.

    Raises:
      TrainError: the run cannot start; lists every problem.
      OSError: the folder cannot be written to, or another run does so.
    """
    plan = plan_run(config, workdir)
    done, wanted = committed_steps(plan.folder), plan.data.num_steps
    if done and done[-1] >= wanted:
        say(f"{plan.folder.path} is at step {done[-1]} of {wanted}: all steps are done already")
        return True
    with plan.folder.held(), Run(plan) as run:
        return run.train()


def plan_run(config: Any, workdir: str) -> Plan:
    """Returns a run that can start; reads sizes and manifests, no weights, and writes nothing.

    Args:
      config: of `configs/cnc.py`.
      workdir: folder of the run.

    Raises:
      TrainError: lists every problem.
    """
    request, problems = parse_request(config, workdir)
    system = system_of(config)
    problems += system.setting_problems(config)
    folder = RunFolder(request.workdir)
    has_model = is_converted(folder.model)
    if not request.init and not has_model and system.needs_init:
        problems.append("init is empty; name checkpoints to start from, such as Stable Diffusion's")
    if problems:
        if request.init and not has_model:
            paths = collect(problems, lambda: system.init_paths(request.init)) or []
            problems += [
                f"init: there is no file or folder {path}"
                for path in paths
                if not is_embedded(path) and not Path(path).exists()
            ]
        # What follows would only repeat them.
        raise TrainError(problems)
    mesh = collect(problems, lambda: make_mesh(request.mesh))
    if mesh is not None:
        batch = (config.global_batch_size, config.accumulation)
        collect(problems, lambda: describe_batch(mesh, *batch))
    old = collect(problems, folder.settings)
    is_new = not committed_steps(folder)
    start, model = None, None
    may_start = bool(request.init) or not system.needs_init
    if has_model and not (is_new and may_start and starts_anew(old, config.to_dict())):
        model = collect(problems, lambda: open_converted(folder.model, system.components))
    else:
        start = collect(problems, lambda: system.plan_start(request))
        model = None if start is None else start.opened
    experiment = data = None
    if model is not None:
        problems += _unfit(config, model)
        experiment = collect(problems, lambda: system.make_experiment(request, model))
    if experiment is not None:
        data = collect(problems, lambda: open_data(request, experiment.needs))
    if data is not None:
        problems += request.optimizer(data.num_steps).problems()
    if problems or mesh is None or experiment is None or data is None:
        raise TrainError(problems)
    settings = {**config.to_dict(), ORDER: data.fingerprint, PALETTE: data.palette}
    # A run that was refused before its first checkpoint may be tried again in any other way.
    differing = changes(old, settings) if old is not None and not is_new else []
    if differing and not config.accept_changes:
        raise TrainError(
            [
                f"{folder.path} was started with other settings: {'; '.join(differing)}. Use "
                "those, another workdir, or go on with --config.accept_changes=True"
            ]
        )
    if differing:
        warnings.warn(f"goes on with other settings: {'; '.join(differing)}", stacklevel=2)
    if old is not None and not is_new and old.get("init") != config.init:
        warnings.warn(
            f"init is {config.init!r} and is not read: the run began with {old.get('init')!r}, "
            f"which {folder.model} holds",
            stacklevel=2,
        )
    return Plan(request, system, folder, start, data, mesh, settings)


def _unfit(config: Any, model: Sizes) -> list[str]:
    """Returns settings that this model or machine cannot do."""
    problems = []
    if config.sample_every and config.num_samples and "vae" not in model.configs:
        problems.append(
            "pictures need the autoencoder, which the checkpoints lack; name one that has it in "
            "init, or set sample_every to 0"
        )
    if config.sample_steps > model.schedule.num_train_timesteps:
        problems.append(
            f"sample_steps is {config.sample_steps}, expected at most the "
            f"{model.schedule.num_train_timesteps} timesteps of the model"
        )
    if config.attention == "cudnn" and jax.default_backend() != "gpu":
        problems.append(
            f"attention is cudnn, but the devices are of kind {jax.default_backend()}; use auto"
        )
    return problems
