"""Runs one step on one shard: decode and encode in threads, compute in between."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from input_pipeline.prepare.joined import Joined
from input_pipeline.prepare.pipeline import PACK, RAW, UNREADABLE, Pipeline
from input_pipeline.prepare.step import Dropped, Step
from input_pipeline.schema import Record, RecordError
from input_pipeline.shards.shard import ShardInfo

_AHEAD = 2
Report = Callable[[int], object]
Results = Iterator[tuple[str, Record | Dropped]]


def make_shard(
    pipeline: Pipeline,
    step: str,
    shard: int,
    *,
    threads: int = 4,
    report: Report = lambda n: None,
) -> ShardInfo:
    """Makes a shard of a step and returns what is known about it.

    Only as many records are in memory as are being worked on.

    Args:
      pipeline: of the step.
      step: its name, or "raw" or "shards", the first and the last.
      shard: number; the shards of earlier steps are finished.
      threads: for decoding and encoding.
      report: called with the number of records done since the last call.

    Raises:
      RecordError: more records are unreadable than the pipeline allows.
    """
    if step == PACK:
        info = pipeline.pack(shard)
        report(len(pipeline.rows(shard)))
        return info
    left_out: dict[str, str] = {}
    if step == RAW:
        results = _read_raw(pipeline, shard)
    else:
        (definition,) = (item for item in pipeline.steps if item.name == step)
        definition.start()
        joined = pipeline.join(step, shard, definition.needs)
        sizes = _sizes(pipeline, step, shard) if definition.on_device else {}
        results = _run(definition, joined, sizes, threads)
    kept = _kept(pipeline, (step, shard), results, left_out, report)
    return pipeline.write(step, shard, kept, left_out)


def _kept(
    pipeline: Pipeline,
    place: tuple[str, int],
    results: Results,
    left_out: dict[str, str],
    report: Report,
) -> Iterator[Record]:
    """Yields the records that are kept and notes the others in `left_out`."""
    bad: list[str] | None = None
    for name, result in results:
        report(1)
        if not isinstance(result, Dropped):
            yield result
            continue
        left_out[name] = result.reason
        if result.reason.startswith(UNREADABLE):
            bad = pipeline.unreadable(but=place) if bad is None else bad
            bad.append(result.reason.partition(": ")[2])
            pipeline.check_unreadable(bad)


def _read_raw(pipeline: Pipeline, shard: int) -> Results:
    for index in pipeline.rows(shard):
        try:
            record = pipeline.source[index]
        except RecordError as error:
            yield f"{pipeline.source.name} {index}", Dropped(f"{UNREADABLE}: {error}")
        else:
            yield record["id"], record


def _sizes(pipeline: Pipeline, step: str, shard: int) -> dict[str, Any]:
    """Returns (height, width) of the records' images."""
    joined = pipeline.join(step, shard, ("height", "width"))
    return {record["id"]: (record["height"], record["width"]) for record in joined}


def _run(step: Step, joined: Joined, sizes: Mapping[str, Any], threads: int) -> Results:
    """Yields the new fields of every record, or why it is left out, in the records' order."""
    done: dict[str, Dropped | Future[Record | Dropped]] = {}
    order = collections.deque(joined.ids)
    ahead = _AHEAD * step.batch_size + threads
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for batch in _decoded_batches(step, joined, sizes, pool):
            good = {name: value for name, value in batch.items() if not _is_dropped(value)}
            done |= {name: value for name, value in batch.items() if _is_dropped(value)}
            for name, result in _computed(step, good).items():
                done[name] = pool.submit(_encode, step, joined, name, result)
            while len(done) > ahead and order[0] in done:
                yield _taken(order.popleft(), done)
        while order:
            yield _taken(order.popleft(), done)


def _computed(step: Step, values: Mapping[str, Any]) -> dict[str, Any]:
    if not values:
        return {}
    try:
        results = step.compute(list(values.values()))
    except ValueError as error:
        raise ValueError(f"step {step.name!r}, records {', '.join(values)}: {error}") from error
    return dict(zip(values, results, strict=True))


def _taken(
    name: str, done: dict[str, Dropped | Future[Record | Dropped]]
) -> tuple[str, Record | Dropped]:
    waiting = done.pop(name)
    result = waiting.result() if isinstance(waiting, Future) else waiting
    return name, result if isinstance(result, Dropped) else {"id": name, **result}


def _is_dropped(value: Any) -> bool:
    return isinstance(value, Dropped)


def _decode(step: Step, joined: Joined, name: str) -> Any:
    try:
        return step.decode(joined.record(name))
    except ValueError as error:
        return _unreadable(step, joined, name, error)


def _encode(step: Step, joined: Joined, name: str, result: Any) -> Record | Dropped:
    try:
        return step.encode(result)
    except ValueError as error:
        return _unreadable(step, joined, name, error)


def _unreadable(step: Step, joined: Joined, name: str, error: ValueError) -> Dropped:
    # A RecordError names its record.
    named = "" if isinstance(error, RecordError) else f"{joined.source} record {name}: "
    return Dropped(f"{UNREADABLE}: {named}{error} (step {step.name!r})")


def _decoded_batches(
    step: Step, joined: Joined, sizes: Mapping[str, Any], pool: ThreadPoolExecutor
) -> Iterator[dict[str, Any]]:
    """Yields decoded values by id, some batches being decoded ahead."""
    waiting: collections.deque[list[tuple[str, Future[Any]]]] = collections.deque()
    for names in _batches(joined.ids, sizes, step.batch_size):
        waiting.append([(name, pool.submit(_decode, step, joined, name)) for name in names])
        if len(waiting) > _AHEAD:
            yield {name: future.result() for name, future in waiting.popleft()}
    while waiting:
        yield {name: future.result() for name, future in waiting.popleft()}


def _batches(
    ids: Sequence[str], sizes: Mapping[str, Any], batch_size: int
) -> Iterator[Sequence[str]]:
    """Yields ids; the images of one batch have one size, if sizes are given."""
    gathering: dict[Any, list[str]] = {}
    for name in ids:
        size = sizes.get(name)
        gathering.setdefault(size, []).append(name)
        if len(gathering[size]) == batch_size:
            yield gathering.pop(size)
    yield from gathering.values()
