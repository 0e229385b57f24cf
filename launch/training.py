"""The work of `launch.train`: a config -> a trained run, or the rest of one.

    config -> request -> starting point, experiment, data    all problems at once, before any work
    plan -> run (`launch.train_run`)

A folder that holds a run goes on with it.
"""

from __future__ import annotations

from typing import Any

from cnc_jax.convert import COMPONENTS
from launch.train_changes import changes
from launch.train_cnc import make_experiment, setting_problems
from launch.train_data import open_data
from launch.train_request import TrainError, collect, parse_request
from launch.train_run import Plan, Run
from launch.train_start import plan_start
from sd_jax.convert.store import is_converted, open_converted
from sd_jax.training.mesh import describe_batch, make_mesh
from sd_jax.training.run_folder import RunFolder


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
    problems += setting_problems(config)
    folder = RunFolder(request.workdir)
    if not request.init and not is_converted(folder.model):
        problems.append("init is empty; name checkpoints to start from, such as Stable Diffusion's")
    if problems:
        # What follows would only repeat them.
        raise TrainError(problems)
    mesh = collect(problems, lambda: make_mesh(request.mesh))
    if mesh is not None:
        batch = (config.global_batch_size, config.accumulation)
        collect(problems, lambda: describe_batch(mesh, *batch))
    old = collect(problems, folder.settings)
    start, model = None, None
    if is_converted(folder.model):
        model = collect(problems, lambda: open_converted(folder.model, COMPONENTS))
    else:
        start = collect(problems, lambda: plan_start(request))
        model = None if start is None else start.opened
    experiment = data = None
    if model is not None:
        experiment = collect(problems, lambda: make_experiment(request, model))
    if experiment is not None:
        data = collect(problems, lambda: open_data(request, experiment.needs))
    if data is not None:
        problems += request.optimizer(data.num_steps).problems()
    if problems or mesh is None or experiment is None or data is None:
        raise TrainError(problems)
    settings = {**config.to_dict(), "data_order": data.fingerprint}
    differing = changes(old, settings) if old is not None else []
    if differing and not config.accept_changes:
        raise TrainError(
            [
                f"{folder.path} was started with other settings: {'; '.join(differing)}. Use "
                "those, another workdir, or go on with --config.accept_changes=True"
            ]
        )
    return Plan(request, folder, start, data, mesh, settings)
