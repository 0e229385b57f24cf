"""Batches of a run, from any step on, for any number of processes and workers.

What a batch holds is settled by `input_pipeline.stream.plan`; here Grain only computes batches in
the background. Its own iterator state is not used, since it belongs to one process and one number
of workers: the step is all the state there is.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import dataclasses
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from input_pipeline.schema import RecordError, RecordSource
from input_pipeline.stream.buckets import nearest_bucket
from input_pipeline.stream.check import check_shared_memory, check_stream, record_sizes
from input_pipeline.stream.config import StreamConfig
from input_pipeline.stream.examples import ExampleReader
from input_pipeline.stream.helpers import Helpers
from input_pipeline.stream.pack import new_shared_zeros, new_zeros, pack
from input_pipeline.stream.plan import Plan, Row, make_plan

# More threads than this only wait for Python's lock.
_MAX_THREADS = 8
_ENDLESS = 2**62
_SHOWN_BAD_RECORDS = 3
# Replacements of one example; if half of a source were bad, one example in 2**100 would fail.
_MAX_TRIES = 100
# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def batches(
    sources: Sequence[RecordSource],
    config: StreamConfig,
    *,
    helpers: Helpers | None = None,
    start_step: int = 0,
    stop_step: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    num_workers: int = 0,
    num_threads: int | None = None,
    prefetch: int = 2,
) -> Stream:
    """Returns the batches of a run, endless unless `stop_step` is given.

    Process k of n gets rows k B/n to (k + 1) B/n of every global batch, so that all processes
    together have the same batches in the same order, whatever n is.

    Args:
      sources: of records; with workers they must be picklable.
      config: what a batch holds and how records become examples.
      helpers: tokenizer, palettes and so on, as far as the keys need them.
      start_step: first step to give; a restored run passes its own.
      stop_step: step before which to end.
      process_index: of this process, as `jax.process_index()`.
      process_count: of all, as `jax.process_count()`.
      num_workers: processes that prepare batches; 0 for a thread of this process.
      num_threads: threads that decode the examples of one batch, in each worker; None for 1 with
        workers, and for as many as there are cores, up to 8, without.
      prefetch: batches that each worker prepares ahead; 0, without workers only, for none.

    Raises:
      ValueError: settings, sources and processes do not fit; the message has all problems.
    """
    helpers = helpers or Helpers()
    check_stream(sources, config, helpers, process_index, process_count)
    _check_counts(start_step, num_workers, prefetch)
    rows = config.batch_size // process_count
    if num_workers:
        check_shared_memory(config, helpers, rows, num_workers * (prefetch + 2))
    if num_threads is None:
        num_threads = 1 if num_workers else min(_MAX_THREADS, os.cpu_count() or 1)
    local = _LocalBatches(
        plan=plan_of(sources, config),
        reader=ExampleReader(tuple(sources), config, helpers),
        first_row=process_index * rows,
        num_rows=rows,
        start_step=start_step,
        num_steps=_ENDLESS if stop_step is None else max(0, stop_step - start_step),
        num_threads=num_threads,
        is_shared=num_workers > 0,
    )
    return Stream(local, num_workers, prefetch)


def plan_of(sources: Sequence[RecordSource], config: StreamConfig) -> Plan:
    """Returns the order of a run: which records every step has.

    Args:
      sources: those without `sizes` count as having the first size.
      config: of the run.
    """
    buckets = None
    if len(config.sizes) > 1:
        sizes = [record_sizes(source) for source in sources]
        buckets = [
            np.zeros(len(source), np.int64)
            if known is None
            else nearest_bucket(known, config.sizes)
            for source, known in zip(sources, sizes, strict=True)
        ]
    return make_plan(
        [len(source) for source in sources],
        config.batch_size,
        seed=config.seed,
        weights=config.weights,
        shuffle=config.shuffle,
        buckets=buckets,
        num_buckets=len(config.sizes),
    )


class Stream(Iterator[dict[str, Any]]):
    """Iterator over the local batches of a run; made by `batches`. Close it, or use `with`.

    Attributes:
      step: that the next batch belongs to; all that a checkpoint needs to hold.
      plan: which records each step has.
      bad_records: what was wrong with the records skipped by this process since it started, by
        source and number of the record.
    """

    def __init__(self, local: _LocalBatches, num_workers: int, prefetch: int):
        self.step = local.start_step
        self.plan = local.plan
        self.bad_records: dict[tuple[str, int], str] = {}
        self._limit = local.reader.config.max_bad_records
        self._elements = _in_background(local, num_workers, prefetch)
        self._is_open = True

    def __next__(self) -> dict[str, Any]:
        if not self._is_open:
            raise StopIteration
        try:
            element = next(self._elements)
            self._count(element["bad_records"])
        except BaseException:
            self.close()
            raise
        self.step += 1
        # Plain arrays, which keep the shared memory that workers wrote them to.
        return {
            key: np.asarray(value) if isinstance(value, np.ndarray) else value
            for key, value in element["batch"].items()
        }

    def close(self) -> None:
        """Ends the threads and processes that prepare batches; no more batches follow."""
        if self._is_open:
            self._is_open = False
            self._elements.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _count(self, bad_records: Sequence[tuple[str, int, str]]) -> None:
        for source, index, problem in bad_records:
            self.bad_records.setdefault((source, index), problem)
        if len(self.bad_records) > self._limit:
            shown = list(self.bad_records.values())[:_SHOWN_BAD_RECORDS]
            raise RecordError(
                f"{len(self.bad_records)} different records cannot be used, over the limit "
                f"max_bad_records={self._limit}; the first are: " + "; ".join(shown)
            )


@dataclasses.dataclass(frozen=True, eq=False)
class _LocalBatches:
    """The batches of one process as a sequence, each computed when it is asked for.

    The element is a whole batch, not an example, because batches differ in size and because the
    order of Grain's own batching depends on the number of workers.
    """

    plan: Plan
    reader: ExampleReader
    first_row: int
    num_rows: int
    start_step: int
    num_steps: int
    num_threads: int
    is_shared: bool

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return self._element(self.start_step + int(index))
        except Exception as error:
            if _is_picklable(error):
                raise
            # Grain would wait for ever for an error that cannot reach the main process.
            raise RuntimeError(f"{type(error).__name__}: {error}") from None

    def _element(self, step: int) -> dict[str, Any]:
        rows = self.plan.rows(step, self.first_row, self.first_row + self.num_rows)
        if self.num_threads > 1:
            with concurrent.futures.ThreadPoolExecutor(self.num_threads) as pool:
                results = list(pool.map(self._read, rows))
        else:
            results = [self._read(row) for row in rows]
        reader, examples = self.reader, [example for example, _ in results]
        size = reader.config.sizes[rows[0].bucket]
        zeros = new_shared_zeros if self.is_shared else new_zeros
        return {
            "batch": pack(examples, size, reader.config, reader.helpers, zeros),
            "bad_records": [record for _, bad_records in results for record in bad_records],
        }

    def _read(self, row: Row) -> tuple[dict[str, Any], list[tuple[str, int, str]]]:
        """Returns an example and the records that were skipped for it."""
        bad_records: list[tuple[str, int, str]] = []
        chosen = row
        while True:
            try:
                return self.reader.read(chosen), bad_records
            except RecordError as error:
                if self.reader.config.bad_records == "fail":
                    raise
                name = self.reader.sources[chosen.source].name
                bad_records.append((name, chosen.index, str(error)))
                if len(bad_records) == _MAX_TRIES:
                    raise RecordError(
                        f"none of {_MAX_TRIES} records tried can be used; the last is {error}"
                    ) from error
                chosen = self.plan.replacement(row, len(bad_records))


def _check_counts(start_step: int, num_workers: int, prefetch: int) -> None:
    problems = []
    if start_step < 0:
        problems.append(f"start_step is {start_step}, expected at least 0")
    if num_workers < 0:
        problems.append(f"num_workers is {num_workers}, expected at least 0")
    if prefetch < (1 if num_workers else 0):
        problems.append(f"prefetch is {prefetch}, expected at least 1 with workers, 0 without")
    if problems:
        raise ValueError("the stream cannot start: " + "; ".join(problems))


def _in_background(local: _LocalBatches, num_workers: int, prefetch: int) -> Any:
    """Returns Grain's iterator over batches that threads or processes prepare."""
    import grain
    from absl import flags

    dataset = grain.MapDataset.source(local)
    if num_workers == 0:
        threads = min(1, prefetch)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
        return iter(dataset.to_iter_dataset(options))
    # Grain reads its own flags, which in a program without absl.app nobody has parsed.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    workers = grain.multiprocessing.MultiprocessingOptions(
        num_workers=num_workers, per_worker_buffer_size=prefetch
    )
    return iter(dataset.to_iter_dataset(options).mp_prefetch(workers, _start_worker))


def _start_worker(index: int, count: int) -> None:
    """Keeps a worker away from accelerators, and from outliving the process it works for."""
    del index, count
    os.environ.update(JAX_PLATFORMS="cpu", CUDA_VISIBLE_DEVICES="")
    # Grain imports jax, which read the environment before this line.
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")
    # Ctrl-C reaches the whole group; the main process closes its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Makes glibc keep what it frees, up to the most that a batch needed.

    By default it hands every larger block back to the system and gets it again page by page for
    the next picture, which can take longer than decoding the picture.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, 2**30)
        set_option(_M_TRIM_THRESHOLD, 2**31 - 1)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _is_picklable(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    # Whatever a foreign class raises here means the same.
    except Exception:
        return False
    return True
