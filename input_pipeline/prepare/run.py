"""Runs one step on one shard: decode and encode in threads, compute in between."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from input_pipeline.prepare.pipeline import PACK, RAW, UNREADABLE, Joined, Pipeline
from input_pipeline.prepare.step import Dropped, Step
from input_pipeline.schema import Record, RecordError
from input_pipeline.shards.shard import ShardInfo

_AHEAD = 2
Report = Callable[[int], object]


def make_shard(
    pipeline: Pipeline, step: str, shard: int, *, threads: int = 4, report: Report = lambda n: None
) -> ShardInfo:
    """Returns a shard of a step, made now unless it is finished.

    Args:
      pipeline: of the step.
      step: its name, or "raw" or "shards", the first and the last.
      shard: number; the shards of earlier steps are finished.
      threads: for decoding and encoding.
      report: called with the number of records done since the last call.

    Raises:
      RecordError: more records are unreadable than the pipeline allows.
    """
    finished = pipeline.finished(step, shard)
    if finished is not None:
        report(len(pipeline.rows(shard)))
        return finished
    if step == PACK:
        report(len(pipeline.rows(shard)))
        return pipeline.pack(shard)
    if step == RAW:
        results = _read_raw(pipeline, shard, report)
    else:
        (definition,) = (item for item in pipeline.steps if item.name == step)
        joined = pipeline.join(step, shard, definition.needs)
        sizes = _sizes(pipeline, step, shard) if definition.on_device else {}
        results = _run(definition, joined, sizes, threads, report)
    left_out = {name: value.reason for name, value in results.items() if isinstance(value, Dropped)}
    _check_limit(pipeline, step, left_out)
    records = [value for value in results.values() if not isinstance(value, Dropped)]
    return pipeline.write(step, shard, records, left_out)


def _read_raw(pipeline: Pipeline, shard: int, report: Report) -> dict[str, Record | Dropped]:
    results: dict[str, Record | Dropped] = {}
    for index in pipeline.rows(shard):
        try:
            record = pipeline.source[index]
            results[record["id"]] = record
        except RecordError as error:
            results[f"{pipeline.source.name} {index}"] = Dropped(f"{UNREADABLE}: {error}")
        report(1)
    return results


def _sizes(pipeline: Pipeline, step: str, shard: int) -> dict[str, Any]:
    """Returns (height, width) of the records' images."""
    joined = pipeline.join(step, shard, ("height", "width"))
    return {record["id"]: (record["height"], record["width"]) for record in joined}


def _run(
    step: Step, joined: Joined, sizes: Mapping[str, Any], threads: int, report: Report
) -> dict[str, Record | Dropped]:
    """Returns the new fields of every record, or why it is left out, in the records' order."""
    results: dict[str, Record | Dropped] = {}
    encoding: collections.deque[tuple[str, Future[Record | Dropped]]] = collections.deque()

    def take() -> None:
        name, future = encoding.popleft()
        try:
            result = future.result()
        except RecordError as error:
            result = Dropped(f"{UNREADABLE}: {error}")
        results[name] = result if isinstance(result, Dropped) else {"id": name, **result}
        report(1)

    with ThreadPoolExecutor(max(1, threads)) as pool:
        for batch in _decoded_batches(step, joined, sizes, pool):
            bad = {name: value for name, value in batch.items() if isinstance(value, Dropped)}
            good = {name: value for name, value in batch.items() if name not in bad}
            results |= bad
            report(len(bad))
            if good:
                computed = step.compute(list(good.values()))
                encoding.extend(
                    (name, pool.submit(step.encode, result))
                    for name, result in zip(good, computed, strict=True)
                )
            while len(encoding) > _AHEAD * step.batch_size + threads:
                take()
        while encoding:
            take()
    return {name: results[name] for name in joined.ids}


def _decoded_batches(
    step: Step, joined: Joined, sizes: Mapping[str, Any], pool: ThreadPoolExecutor
) -> Iterator[dict[str, Any]]:
    """Yields decoded values by id, some batches being decoded ahead."""

    def decode(name: str) -> Any:
        try:
            return step.decode(joined.record(name))
        except RecordError as error:
            return Dropped(f"{UNREADABLE}: {error}")

    waiting: collections.deque[list[tuple[str, Future[Any]]]] = collections.deque()
    for names in _batches(joined.ids, sizes, step.batch_size):
        waiting.append([(name, pool.submit(decode, name)) for name in names])
        if len(waiting) > _AHEAD:
            yield {name: future.result() for name, future in waiting.popleft()}
    while waiting:
        yield {name: future.result() for name, future in waiting.popleft()}


def _batches(
    ids: Sequence[str], sizes: Mapping[str, Any], batch_size: int
) -> Iterator[Sequence[str]]:
    """Yields ids; the images of one batch have one size, if sizes are given."""
    groups: dict[Any, list[str]] = {}
    for name in ids:
        groups.setdefault(sizes.get(name), []).append(name)
    for names in groups.values():
        for start in range(0, len(names), batch_size):
            yield names[start : start + batch_size]


def _check_limit(pipeline: Pipeline, step: str, left_out: Mapping[str, str]) -> None:
    """Checks how many records cannot be read, in this shard and those that are finished.

    Raises:
      RecordError: too many; the first few are named.
    """
    bad = [text for text in left_out.values() if text.startswith(UNREADABLE)]
    if not bad:
        return
    for other in range(pipeline.num_shards):
        if pipeline.finished(step, other) is not None:
            reasons = pipeline.left_out(step, other).values()
            bad += [text for text in reasons if text.startswith(UNREADABLE)]
    if len(bad) > pipeline.max_unreadable:
        shown = "\n- ".join(bad[:5])
        raise RecordError(
            f"{len(bad)} records are unreadable in step {step!r}, allowed are "
            f"{pipeline.max_unreadable} (max_unreadable):\n- {shown}"
        )
