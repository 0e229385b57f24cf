"""A run on its way: model and state on the devices, programs, stream, checkpoints.

    WORKDIR/model -> parameters on the mesh -> state, or the newest checkpoint
    stream -> step -> metrics, evaluation, pictures, checkpoints

What can be wrong with the settings was found before (`launch.training`).
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from launch.processes import is_main
from launch.train_data import RunData
from launch.train_pictures import Pictures
from launch.train_request import TrainRequest
from launch.train_system import Start, System
from launch.train_watch import Watch, say
from sd_jax.convert.store import Converted, open_converted
from sd_jax.training.checkpoints import Checkpoints
from sd_jax.training.evaluation import evaluate, make_eval_step
from sd_jax.training.flops import flops_of
from sd_jax.training.loop import StepReport, Task, fit
from sd_jax.training.mesh import describe_batch, global_batch, replicated
from sd_jax.training.optim import make_optimizer
from sd_jax.training.partition import split_params
from sd_jax.training.preflight import parameter_table
from sd_jax.training.programs import Programs
from sd_jax.training.run_folder import RunFolder
from sd_jax.training.sharding import REPLICATED, RULES, shardings
from sd_jax.training.signals import StopRequest
from sd_jax.training.state import TrainState, make_state
from sd_jax.training.step import make_train_step
from sd_jax.training.together import failing_together
from sd_jax.typing import KeyArray, Params

_EVAL_BUCKETS = 10
# What the seed is used for, beside the order of the data and new weights.
_TRAIN, _EVAL = range(2)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run that can start.

    Attributes:
      request: its settings.
      system: whose run it is.
      folder: its folder.
      start: what it starts from; None if the folder has that already.
      data: its data.
      mesh: its devices.
      settings: what a later command is compared with.
    """

    request: TrainRequest
    system: System
    folder: RunFolder
    start: Start | None
    data: RunData
    mesh: Mesh
    settings: dict[str, Any]


class Run:
    """A run whose model and state are on the devices; made anew or restored.

    Args:
      plan: of `launch.training.plan_run`; its folder is held (`RunFolder.held`).
    """

    def __init__(self, plan: Plan) -> None:
        self._plan, self._config = plan, plan.request.config
        self._folder, self._mesh = plan.folder, plan.mesh
        self._num_steps = plan.data.num_steps
        self._keys = _make_keys(self._config.seed, self._mesh)
        self._optimizer = make_optimizer(plan.request.optimizer(self._num_steps))
        self._write_folder()
        self._checkpoints = Checkpoints(
            self._folder.checkpoints,
            keep_last=self._config.keep_last,
            keep_every=self._config.keep_every,
        )
        model = open_converted(self._folder.model, plan.system.components)
        self._experiment = plan.system.make_experiment(plan.request, model)
        self._frozen, self._state = self._load(model)
        self._first_step = int(self._state.step)
        with failing_together(OSError("process 0 could not write its log, and tells why")):
            self._watch = Watch(plan.request, self._folder, self._num_steps, self._first_step)
        self._steps, self._eval_steps = self._programs()
        # Operations of a step by the shapes of its batch, and of the steps not yet reported.
        self._flops: dict[Any, float] = {}
        self._flops_of_steps: collections.deque[float] = collections.deque()
        # Number of the last step whose batch is on the devices.
        self._placed = self._first_step
        self._eval_batches: list[dict[str, jax.Array]] = []

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._watch.close()
        finally:
            self._checkpoints.close()

    def train(self) -> bool:
        """Returns whether the run's last step was done."""
        with (
            StopRequest(notify=lambda name: say(f"{name}: stopping after this step")) as stopper,
            self._plan.data.stream(self._mesh, self._first_step) as stream,
        ):
            self._preflight()
            self._state, is_done = fit(
                self._state,
                self._steps,
                self._frozen,
                stream,
                self._keys[_TRAIN],
                num_steps=self._num_steps,
                place=self._place_for_step,
                report=self._report,
                tasks=self._tasks(),
                stopper=stopper,
                max_skipped=self._config.max_skipped,
            )
            self._checkpoints.wait()
        if is_done:
            say(f"done: {self._folder.path}")
        else:
            step = int(self._state.step)
            done = f"after step {step}, which is saved" if step > self._first_step else "at once"
            say(f"stopped by {stopper.reason} {done}; the same command goes on")
        return is_done

    def _write_folder(self) -> None:
        """Writes what the run starts from, and its settings, before anything is computed."""
        folder = self._folder
        with failing_together(OSError(f"process 0 could not write {folder.path}, and tells why")):
            if is_main():
                if self._plan.start is not None:
                    say(f"writing {folder.model} ...")
                    say(self._plan.start.write(folder.model))
                folder.write(self._plan.settings)

    def _load(self, base: Converted) -> tuple[Params, TrainState]:
        """Returns the frozen parameters and the state: the newest one, or that of a new run."""
        config = self._config
        names = [name for name in base.configs if name in self._used()]
        say(f"loading {', '.join(names)} ...")
        params = {name: base.read(name) for name in names}
        trainable, frozen = split_params(params, self._experiment.trainable)
        dtype = jnp.dtype(config.frozen_dtype)
        rules = RULES if config.frozen == "sharded" else REPLICATED
        frozen = _placed(frozen, shardings(frozen, self._mesh, rules), dtype)
        has_ema = config.ema_decay > 0

        def make(params: Params) -> TrainState:
            return make_state(params, self._optimizer, has_ema=has_ema)

        abstract = jax.eval_shape(make, trainable)
        self._state_shardings = shardings(abstract, self._mesh)
        self._abstract_state = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            abstract,
            self._state_shardings,
        )
        found = self._checkpoints.restore(
            self._abstract_state, on_damage=config.on_damaged_checkpoint
        )
        if found is not None:
            say(f"goes on from step {found[0]} of {self._num_steps}")
            return frozen, found[1]
        placed = _placed(trainable, self._state_shardings.params, jnp.dtype(jnp.float32))
        return frozen, jax.jit(make, out_shardings=self._state_shardings)(placed)

    def _used(self) -> set[str]:
        """Returns the components that the run reads; others would only take memory."""
        used = set(self._experiment.components)
        if self._config.sample_every and self._config.num_samples:
            used |= {"vae", "text_encoder"}
        return used

    def _programs(self) -> tuple[Programs, Programs]:
        """Returns the training step and the evaluation's, to be compiled when they are used."""
        config, loss = self._config, self._experiment.loss
        step = make_train_step(
            loss, self._optimizer, accumulation=config.accumulation, ema_decay=config.ema_decay
        )
        whole, state = replicated(self._mesh), self._state_shardings
        frozen = jax.tree.map(lambda leaf: leaf.sharding, self._frozen)
        train = Programs(step, {0: state, 1: frozen}, (state, whole), self._mesh, donate=(0,))
        evaluation = make_eval_step(loss.per_example)
        return train, Programs(evaluation, {0: state.params, 1: frozen}, whole, self._mesh)

    def _preflight(self) -> None:
        """Tells what is about to run, compiles it, and checks that it fits the devices."""
        config = self._config
        say(parameter_table(self._state.params, self._frozen))
        say(describe_batch(self._mesh, config.global_batch_size, config.accumulation))
        batches = self._plan.data.one_of_each_size(self._mesh)
        for size, batch in zip(self._plan.data.sizes, batches, strict=True):
            name = "a step" if len(batches) == 1 else f"a step of {size[0]}x{size[1]}"
            say(f"compiling {name} ...")
            arguments = (self._state, self._frozen, batch, self._keys[_TRAIN])
            program, flops = self._steps.program(*arguments), self._count_flops(*arguments)
            self._watch.preflight(name, program, flops)
            self._flops[_shapes(batch)] = flops
        if config.eval_every:
            say("compiling the evaluation ...")
            self._eval_batches = self._plan.data.eval_batches(self._mesh, config.eval_examples)
            for batch in self._eval_batches[:1]:
                rows = jax.tree.leaves(batch)[0].shape[0]
                numbers = self._place_numbers(np.int32(0)), self._place_numbers(np.zeros(rows))
                state = (_looked_at(self._state), self._frozen, batch, self._keys[_EVAL])
                self._watch.preflight("evaluation", self._eval_steps.program(*state, *numbers))

    def _count_flops(self, *arguments: Any) -> float:
        """Returns the operations of a step, without those that save memory by being done twice."""
        loss = self._experiment.loss
        settings = dataclasses.replace(loss.settings, remat="none")
        step = make_train_step(
            dataclasses.replace(loss, settings=settings),
            self._optimizer,
            accumulation=self._config.accumulation,
            ema_decay=self._config.ema_decay,
        )
        return flops_of(jax.jit(step).trace(*arguments))

    def _place_for_step(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        placed = global_batch(self._mesh, batch, self._config.global_batch_size)
        self._flops_of_steps.append(self._flops[_shapes(placed)])
        self._placed += 1
        self._watch.begins(self._placed)
        return placed

    def _place_numbers(self, numbers: Any) -> jax.Array:
        return _placed(np.asarray(numbers), replicated(self._mesh), np.int32)

    def _report(self, report: StepReport) -> None:
        self._watch.report(report, self._flops_of_steps.popleft())

    def _tasks(self) -> list[Task]:
        """Returns what is done between steps; saving comes last, so that it stands for the rest."""
        config = self._config
        tasks = [Task(config.eval_every, self._evaluate, at_start=True)]
        if config.sample_every and config.num_samples:
            plan = self._plan
            pictures = Pictures(plan.request, plan.system, self._experiment, plan.data)

            def sample(step: int, state: TrainState) -> None:
                say(f"step {step}: sampling pictures ...")
                sheet = pictures.sheet(_looked_at(state), self._frozen, step)
                if sheet is not None:
                    self._watch.images(step, {"samples": sheet})

            tasks.append(Task(config.sample_every, sample, at_start=True))
        # The last state is saved always.
        return [*tasks, Task(config.save_every or self._num_steps, self._save, at_stop=True)]

    def _evaluate(self, step: int, state: TrainState) -> None:
        values = evaluate(
            self._eval_steps,
            _looked_at(state),
            self._frozen,
            self._eval_batches,
            self._keys[_EVAL],
            num_buckets=_EVAL_BUCKETS if self._experiment.has_timesteps else 1,
            num_train_timesteps=self._experiment.config.schedule.num_train_timesteps,
            place=self._place_numbers,
        )
        self._watch.evaluated(step, values)

    def _save(self, step: int, state: TrainState) -> None:
        self._watch.flush()
        meta = {
            "settings": self._plan.settings,
            "data": {"step": step, "order": self._plan.data.fingerprint},
            "key": jax.random.key_data(self._keys[_TRAIN]).tolist(),
        }
        self._checkpoints.save(step, state, meta)


def _make_keys(seed: int, mesh: Mesh) -> list[KeyArray]:
    """Returns the run's keys by purpose, made on the devices: no process may put one on others'."""

    def make() -> list[KeyArray]:
        key = jax.random.key(seed)
        return [jax.random.fold_in(key, purpose) for purpose in (_TRAIN, _EVAL)]

    return jax.jit(make, out_shardings=replicated(mesh))()


def _shapes(batch: Mapping[str, jax.Array]) -> Any:
    return tuple((name, batch[name].shape) for name in sorted(batch))


def _looked_at(state: TrainState) -> Params:
    """Returns the parameters that evaluations and pictures use: the average, where one is kept."""
    return state.params if state.ema is None else state.ema


def _placed(tree: Any, tree_of_shardings: Any, dtype: Any) -> Any:
    """Returns host arrays on the mesh; each process hands over the parts that it holds."""

    def place(array: Any, sharding: Any) -> jax.Array:
        array = array.astype(dtype)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(place, tree, tree_of_shardings)
