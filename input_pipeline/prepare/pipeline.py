"""A data set in the making: raw records, steps, and the fields that each step has made so far.

    WORKDIR/raw/NAME-train.array_record-00003-of-00016        raw records, as the source gives them
    WORKDIR/STEP/NAME-train.array_record-00003-of-00016       id and the fields that the step adds
    WORKDIR/STEP/NAME-train.array_record-00003-of-00016.left_out.json   which records, and why
    OUTPUT/NAME-train.array_record-00003-of-00016             all fields, for training

A shard of a step holds the records of the raw shard of the same number that the step and those
before it keep. It is a function of the raw shard and the settings, so it does not matter who makes
it, when, or how often: what is finished under the same recipe is not made again.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from input_pipeline.prepare.step import Step, check_steps, fingerprints
from input_pipeline.schema import Record
from input_pipeline.shards.assemble import write_manifest
from input_pipeline.shards.atomic import write_file
from input_pipeline.shards.manifest import Manifest
from input_pipeline.shards.readers import Shard
from input_pipeline.shards.shard import (
    ShardInfo,
    finished_shard,
    read_shard_info,
    schema_order,
    shard_name,
    shard_rows,
    write_shard,
)

RAW = "raw"
PACK = "shards"
UNREADABLE = "unreadable"


class RecordSource(Protocol):
    """Raw records by number, the same each time.

    Attributes:
      name: of the data set, in small letters.
      fields: of each record.
      palette: name of its classes and colours, if it has a segmentation.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def fields(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def palette(self) -> str | None: ...  # noqa: D102

    def __len__(self) -> int:
        """Returns the number of records."""
        ...

    def __getitem__(self, index: int) -> Record:
        """Returns a record; raises RecordError if it cannot be read."""
        ...


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """What is made of what, and where.

    Attributes:
      source: raw records.
      source_settings: what the raw records are a function of, as JSON holds it.
      steps: in order.
      workdir: for what the steps make.
      output: for the data set.
      num_shards: parts that the work is done in.
      limit: how many raw records are taken; all if None.
      max_unreadable: how many records may be unreadable before the work stops.
    """

    source: RecordSource
    source_settings: Mapping[str, Any]
    steps: tuple[Step, ...]
    workdir: Path
    output: Path
    num_shards: int
    limit: int | None = None
    max_unreadable: int = 0

    def check(self) -> list[str]:
        """Returns everything that is wrong with it."""
        problems = check_steps(self.steps, self.source.fields)
        if not len(self.source):
            problems.append(f"data set {self.source.name!r} has no records")
        if self.num_shards < 1:
            problems.append(f"num_shards must be at least 1, got {self.num_shards}")
        if self.limit is not None and self.limit < 1:
            problems.append(f"limit must be at least 1, got {self.limit}")
        return problems

    @property
    def num_records(self) -> int:
        """Raw records that are taken."""
        return min(len(self.source), self.limit or len(self.source))

    @property
    def fields(self) -> tuple[str, ...]:
        """Of the records in the end."""
        return schema_order([*self.source.fields, *(n for step in self.steps for n in step.adds)])

    @functools.cached_property
    def recipes(self) -> dict[str, str]:
        """What tells the results of one pipeline from another's, by step."""
        source = {
            **self.source_settings,
            "name": self.source.name,
            "records": self.num_records,
            "shards": self.num_shards,
        }
        raw = json.dumps(source, sort_keys=True)
        steps = fingerprints(self.steps, source)
        return {RAW: raw, **steps, PACK: " ".join([*steps.values(), raw])}

    def path(self, step: str, shard: int) -> Path:
        """Returns where a shard of a step is, or will be."""
        folder = self.output if step == PACK else self.workdir / step
        return folder / shard_name(self.source.name, shard, self.num_shards)

    def finished(self, step: str, shard: int) -> ShardInfo | None:
        """Returns what is known about a shard, or None if it is still to be made."""
        return finished_shard(self.path(step, shard), self.recipes[step])

    def rows(self, shard: int) -> range:
        """Returns which raw records go into a shard."""
        return shard_rows(self.num_records, shard, self.num_shards)

    def write(
        self, step: str, shard: int, records: Sequence[Record], left_out: Mapping[str, str]
    ) -> ShardInfo:
        """Writes a shard, and before it which records are left out and why."""
        adds = next((item.adds for item in self.steps if item.name == step), self.source.fields)
        path = self.path(step, shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"recipe": self.recipes[step], "left_out": dict(left_out)}, indent=1)
        write_file(_left_out_path(path), text.encode())
        return write_shard(path, records, ["id", *adds], self.recipes[step])

    def pack(self, shard: int) -> ShardInfo:
        """Writes a shard of the data set; all steps have finished theirs."""
        joined = self.join(None, shard, self.fields)
        return write_shard(self.path(PACK, shard), joined, self.fields, self.recipes[PACK])

    def finish(self) -> Manifest | None:
        """Describes the data set when all its shards are there; returns None before."""
        shards = [self.finished(PACK, shard) for shard in range(self.num_shards)]
        present = [shard for shard in shards if shard is not None]
        if len(present) < self.num_shards:
            return None
        return write_manifest(
            self.output,
            present,
            self.source.palette,
            settings={step.name: dict(step.settings) for step in self.steps},
            sources={**self.source_settings, "left_out": self.summary()},
        )

    def left_out(self, step: str, shard: int) -> dict[str, str]:
        """Returns the records that a finished shard leaves out, and why."""
        return json.loads(_left_out_path(self.path(step, shard)).read_text())["left_out"]

    def summary(self) -> dict[str, dict[str, int]]:
        """Returns for each step how many records were left out for what, as far as it is done."""
        counts: dict[str, dict[str, int]] = {}
        for step in [RAW, *(step.name for step in self.steps)]:
            reasons: collections.Counter[str] = collections.Counter()
            for shard in range(self.num_shards):
                if self.finished(step, shard):
                    reasons.update(
                        text.partition(":")[0] for text in self.left_out(step, shard).values()
                    )
            counts[step] = dict(sorted(reasons.items()))
        return counts

    def join(self, before: str | None, shard: int, fields: Sequence[str]) -> Joined:
        """Returns what there is of a shard's records before a step.

        Args:
          before: the step; None for after the last.
          shard: number.
          fields: that are wanted.
        """
        names = [step.name for step in self.steps]
        earlier = self.steps if before is None else self.steps[: names.index(before)]
        makers = dict.fromkeys(self.source.fields, RAW)
        dropped: set[str] = set()
        for step in earlier:
            makers |= dict.fromkeys(step.adds, step.name)
            dropped |= self.left_out(step.name, shard).keys()
        wanted: dict[str, list[str]] = {}
        for field in dict.fromkeys(["id", "source", *fields]):
            wanted.setdefault(RAW if field == "id" else makers[field], []).append(field)
        shards = [Shard(self.path(maker, shard), names) for maker, names in wanted.items()]
        raw = read_shard_info(self.path(RAW, shard))
        return Joined([name for name in raw.ids if name not in dropped], shards)


class Joined:
    """Records of one shard, put together from the shards of several steps when asked for.

    Attributes:
      ids: of the records.
    """

    def __init__(self, ids: Sequence[str], shards: Sequence[Shard]) -> None:
        """Remembers where every record is.

        Args:
          ids: of the records, which all shards hold.
          shards: each with the fields to take from it.
        """
        self.ids = tuple(ids)
        self._shards = [
            (shard, {name: row for row, name in enumerate(shard.info.ids)}) for shard in shards
        ]

    def record(self, name: str) -> Record:
        """Returns a record by its id."""
        record: Record = {}
        for shard, rows in self._shards:
            record |= shard[rows[name]]
        return record

    def __iter__(self) -> Iterator[Record]:
        """Yields the records in order."""
        return (self.record(name) for name in self.ids)


def _left_out_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.left_out.json")
