"""Runs a pipeline's steps over its shards: in this process, in several, or on Apache Beam.

Steps run one after another over the shards of one task; a shard needs only the shards of the same
number, so any number of tasks on any number of machines share the work without talking to each
other: task i of n takes the shards i, i + n, i + 2n, ...
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import multiprocessing
import multiprocessing.connection
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool

from tqdm import tqdm

from input_pipeline.prepare.pipeline import PACK, Pipeline
from input_pipeline.prepare.run import make_shard

_PLATFORMS = "JAX_PLATFORMS"

Build = Callable[[], Pipeline]
"""Makes the pipeline; picklable, so that workers can make it for themselves."""


@dataclasses.dataclass(frozen=True)
class Engine:
    """How the work is done; results do not depend on it.

    Attributes:
      workers: processes for steps on the CPU; 0 works in this one.
      threads: of each process, for decoding and encoding.
      task_index: which part of the shards is this task's.
      task_count: parts.
      beam_options: options of Apache Beam's pipeline, such as "--runner=FlinkRunner"; steps on the
        CPU run there if this is not None.
    """

    workers: int = 0
    threads: int = 4
    task_index: int = 0
    task_count: int = 1
    beam_options: Sequence[str] | None = None

    def shards(self, count: int) -> range:
        """Returns the shards of this task."""
        return range(self.task_index, count, self.task_count)


@dataclasses.dataclass(frozen=True)
class StepReport:
    """What a step took.

    Attributes:
      step: its name.
      records: that went in, of the shards made now.
      seconds: of wall time.
      shards_made: now.
      shards_kept: that were finished.
    """

    step: str
    records: int
    seconds: float
    shards_made: int
    shards_kept: int

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds if self.seconds else 0.0


def run_steps(
    build: Build, engine: Engine, pipeline: Pipeline | None = None
) -> Iterator[StepReport]:
    """Yields a report of each step when this task's shards of it are finished.

    Args:
      build: makes the pipeline.
      engine: how.
      pipeline: what `build` makes, if it is there already.

    Raises:
      ValueError: lists what is wrong with the pipeline.
    """
    pipeline = build() if pipeline is None else pipeline
    problems = pipeline.check()
    if problems:
        raise ValueError("\n- ".join(["the preparation cannot start:", *problems]))
    on_device = {step.name: step.on_device for step in pipeline.steps}
    with contextlib.ExitStack() as stack:
        pool = _worker_pool(engine.workers, stack) if engine.workers else None
        for step in pipeline.recipes:
            if step == PACK:
                _check_any_left(pipeline)
            shards = list(engine.shards(pipeline.num_shards))
            todo = [
                shard
                for shard in shards
                if pipeline.finished(step, shard) is None or pipeline.has_unreadable(step, shard)
            ]
            records = sum(len(pipeline.rows(shard)) for shard in todo)
            start = time.perf_counter()
            if todo:
                with tqdm(total=records, desc=step, unit="record") as bar:
                    if on_device.get(step, False):
                        _run_here(pipeline, step, todo, engine, bar.update)
                    elif engine.beam_options is not None:
                        _run_on_beam(build, step, todo, engine)
                        bar.update(records)
                    elif pool is not None:
                        _run_in_processes(pool, build, step, todo, engine, bar.update)
                    else:
                        _run_here(pipeline, step, todo, engine, bar.update)
            seconds = time.perf_counter() - start
            yield StepReport(step, records, seconds, len(todo), len(shards) - len(todo))


def _check_any_left(pipeline: Pipeline) -> None:
    """Checks that not every record was left out, before good shards are replaced by empty ones.

    Raises:
      ValueError: no record is left in any shard.
    """
    last = list(pipeline.recipes)[-2]
    infos = [pipeline.finished(last, shard) for shard in range(pipeline.num_shards)]
    if all(info is not None and not info.ids for info in infos):
        reasons = {step: counts for step, counts in pipeline.summary().items() if counts}
        raise ValueError(f"every record was left out, so nothing is written: {reasons}")


def _run_here(
    pipeline: Pipeline,
    step: str,
    shards: Sequence[int],
    engine: Engine,
    report: Callable[[int], object],
) -> None:
    for shard in shards:
        make_shard(pipeline, step, shard, threads=engine.threads, report=report)


def _worker_pool(workers: int, stack: contextlib.ExitStack) -> ProcessPoolExecutor:
    """Returns processes that leave accelerators to this one, until the stack ends."""
    # Spawned, not forked: the parent may hold locks of an accelerator's runtime. Spawned processes
    # import before any initialiser runs, so the environment is what reaches them in time.
    before = os.environ.get(_PLATFORMS)
    os.environ[_PLATFORMS] = "cpu"
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _end_with_parent)
    try:
        # All are started now, while the environment is theirs.
        wait([pool.submit(time.sleep, 0.05) for _ in range(workers)])
    finally:
        os.environ.pop(_PLATFORMS)
        if before is not None:
            os.environ[_PLATFORMS] = before
    stack.callback(pool.shutdown, cancel_futures=True)
    return pool


def _end_with_parent() -> None:
    """Makes a worker end when the process that started it does, even if that was killed."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            multiprocessing.connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run_in_processes(
    pool: ProcessPoolExecutor,
    build: Build,
    step: str,
    shards: Sequence[int],
    engine: Engine,
    report: Callable[[int], object],
) -> None:
    make = functools.partial(_make_shard, pickle.dumps(build), step, engine.threads)
    futures = [pool.submit(make, shard) for shard in shards]
    try:
        for future in as_completed(futures):
            report(future.result())
    except BrokenProcessPool as error:
        raise ChildProcessError(
            f"a worker was killed in step {step!r}, often for want of memory; what is finished is "
            "kept: run again with fewer workers"
        ) from error
    finally:
        # After an error, what has not begun is not begun.
        for future in futures:
            future.cancel()


@functools.lru_cache(maxsize=1)
def _built(build: bytes) -> Pipeline:
    return pickle.loads(build)()


def _make_shard(build: bytes, step: str, threads: int, shard: int) -> int:
    """Returns the number of records that went into the shard.

    Args:
      build: pickled, as bytes are equal for every task and unpickled functions are not: a worker
        makes the pipeline once.
      step: name of the step.
      threads: for decoding and encoding.
      shard: number of the shard.
    """
    pipeline = _built(build)
    make_shard(pipeline, step, shard, threads=threads)
    return len(pipeline.rows(shard))


def _run_on_beam(build: Build, step: str, shards: Sequence[int], engine: Engine) -> None:
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ImportError(
            'beam_options need Apache Beam: pip install ".[beam]"; without them, workers= runs '
            "steps in processes of this machine"
        ) from error
    make = functools.partial(_make_shard, pickle.dumps(build), step, engine.threads)
    with beam.Pipeline(options=PipelineOptions(list(engine.beam_options or ()))) as pipeline:
        # Reshuffled, since runners fuse a step with its source, which is one bundle here.
        _ = pipeline | beam.Create(list(shards)) | beam.Reshuffle() | beam.Map(make)


def unfinished(pipeline: Pipeline) -> dict[str, list[int]]:
    """Returns the shards that are still to be made, by step."""
    left = {
        step: [n for n in range(pipeline.num_shards) if pipeline.finished(step, n) is None]
        for step in pipeline.recipes
    }
    return {step: shards for step, shards in left.items() if shards}
