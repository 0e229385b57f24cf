"""A data set in the making: raw records, steps, and the fields that each step has made so far.

    WORKDIR/raw/NAME-train.array_record-00003-of-00016        raw records, as the source gives them
    WORKDIR/STEP/NAME-train.array_record-00003-of-00016       id and the fields that the step adds
    OUTPUT/NAME-train.array_record-00003-of-00016             all fields, for training

A shard of a step holds the records of the raw shard of the same number that the step and those
before it keep; the note beside it says which it leaves out, and why. It is a function of the raw
shard, the settings and, for networks, the kind and number of devices: what is finished under the
same recipe, of the same shards and records, is not made again.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from input_pipeline.codecs import CODEC_VERSION
from input_pipeline.prepare.joined import Joined
from input_pipeline.prepare.step import Step, check_steps, fingerprints
from input_pipeline.schema import Record, RecordError, RecordSource
from input_pipeline.shards.assemble import write_manifest
from input_pipeline.shards.manifest import MANIFEST, SCHEMA_VERSION, Manifest
from input_pipeline.shards.readers import Shard
from input_pipeline.shards.shard import (
    SHARD_NAME,
    ShardInfo,
    finished_shard,
    info_path,
    read_shard_info,
    schema_order,
    shard_name,
    shard_rows,
    write_shard,
)

RAW = "raw"
PACK = "shards"
UNREADABLE = "unreadable"


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
      max_unreadable: how many records may be unreadable, of all steps together.
      split: of the data set.
      provenance: more that the manifest is to tell, as JSON holds it.
    """

    source: RecordSource
    source_settings: Mapping[str, Any]
    steps: tuple[Step, ...]
    workdir: Path
    output: Path
    num_shards: int
    limit: int | None = None
    max_unreadable: int = 0
    split: str = "train"
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def check(self) -> list[str]:
        """Returns everything that is wrong with it."""
        problems = check_steps(self.steps, self.source.fields)
        if not len(self.source):
            problems.append(f"data set {self.source.name!r} has no records")
        if self.num_shards < 1:
            problems.append(f"num_shards must be at least 1, got {self.num_shards}")
        if self.limit is not None and self.limit < 1:
            problems.append(f"limit must be at least 1, got {self.limit}")
        others = [path.name for path in self._strangers()]
        if others:
            problems.append(
                f"{self.output} holds {len(others)} shards of another data set or number of shards "
                f"(such as {others[0]}); remove them, or choose another output"
            )
        return problems

    def _strangers(self) -> list[Path]:
        """Returns shards in the output folder that this pipeline does not make."""
        own = {self.path(PACK, shard).name for shard in range(max(self.num_shards, 0))}
        found = self.output.glob("*.array_record-*") if self.output.is_dir() else ()
        return sorted(
            path for path in found if SHARD_NAME.fullmatch(path.name) and path.name not in own
        )

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
            "fields": list(self.source.fields),
            "schema": SCHEMA_VERSION,
            "codecs": CODEC_VERSION,
        }
        raw = json.dumps(source, sort_keys=True)
        steps = fingerprints(self.steps, source)
        packed = {"raw": source, **{name: json.loads(text) for name, text in steps.items()}}
        return {RAW: raw, **steps, PACK: json.dumps(packed, sort_keys=True)}

    def path(self, step: str, shard: int) -> Path:
        """Returns where a shard of a step is, or will be."""
        folder = self.output if step == PACK else self.workdir / step
        return folder / shard_name(self.source.name, shard, self.num_shards, self.split)

    def finished(self, step: str, shard: int) -> ShardInfo | None:
        """Returns what is known about a shard, or None if it is still to be made.

        It is still to be made if the shards that it was made of are others now, or if the step
        before it keeps other records: so a raw file that was mended makes the later shards anew.
        """
        info = self._written(step, shard)
        if info is None or step == RAW:
            return info
        names = list(self.recipes)
        earlier = self._written(names[names.index(step) - 1], shard)
        if earlier is None or {*info.ids, *info.left_out} != set(earlier.ids):
            return None
        return info if info.inputs == self._inputs(step, shard) else None

    def is_packed(self) -> bool:
        """Returns whether the data set is there, without looking at what it was made of."""
        return (self.output / MANIFEST).is_file() and all(
            self._written(PACK, shard) is not None for shard in range(self.num_shards)
        )

    def _written(self, step: str, shard: int) -> ShardInfo | None:
        """Returns what is known about a shard if it was made by the same recipe."""
        return finished_shard(self.path(step, shard), self.recipes[step])

    def _inputs(self, step: str, shard: int) -> str:
        """Returns a digest of the shards that hold what a step needs, as they are now."""
        makers = self._makers(step)
        needs = self.fields
        if step != PACK:
            (needs,) = (item.needs for item in self.steps if item.name == step)
        infos = {maker: self._written(maker, shard) for maker in {makers[field] for field in needs}}
        digests = {maker: info and info.sha256 for maker, info in infos.items()}
        return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()

    def _earlier(self, step: str) -> tuple[Step, ...]:
        """Returns the steps before a step; all of them before the data set is put together."""
        names = [*(item.name for item in self.steps), PACK]
        return self.steps[: names.index(step)]

    def _makers(self, step: str) -> dict[str, str]:
        """Returns which step has made each field that there is before a step."""
        makers = dict.fromkeys(self.source.fields, RAW)
        for item in self._earlier(step):
            makers |= dict.fromkeys(item.adds, item.name)
        return makers

    def stale(self) -> list[str]:
        """Returns for each step how many shards were made with other settings, and which ones.

        Running would replace them. The data set itself is told of only if its steps' shards are
        gone: else it is quickly put together again.
        """
        found = []
        for step, recipe in self.recipes.items():
            infos = [
                read_shard_info(path)
                for shard in range(self.num_shards)
                if info_path(path := self.path(step, shard)).is_file()
            ]
            others = [info for info in infos if info.recipe != recipe]
            if others and (step != PACK or not self.has_work()):
                changes = _changes(others[0].recipe, recipe)
                found.append(f"{len(others)} of step {step!r}: {changes}")
        return found

    def has_work(self) -> bool:
        """Returns whether anything is left of what the steps made."""
        return any(self.workdir.glob("*"))

    def rows(self, shard: int) -> range:
        """Returns which raw records go into a shard."""
        return shard_rows(self.num_records, shard, self.num_shards)

    def write(
        self, step: str, shard: int, records: Iterable[Record], left_out: Mapping[str, str]
    ) -> ShardInfo:
        """Writes a shard while its records come, and which are left out and why."""
        adds = next((item.adds for item in self.steps if item.name == step), self.source.fields)
        inputs = "" if step == RAW else self._inputs(step, shard)
        path, recipe = self.path(step, shard), self.recipes[step]
        return write_shard(path, records, ["id", *adds], recipe, left_out, inputs)

    def pack(self, shard: int) -> ShardInfo:
        """Writes a shard of the data set; all steps have finished theirs."""
        # A manifest describes all shards or none: it must not stand beside new ones.
        (self.output / MANIFEST).unlink(missing_ok=True)
        joined, inputs = self.join(PACK, shard, self.fields), self._inputs(PACK, shard)
        path, recipe = self.path(PACK, shard), self.recipes[PACK]
        return write_shard(path, joined, self.fields, recipe, inputs=inputs)

    def finish(self) -> Manifest | None:
        """Describes the data set when all its shards are there; returns None before.

        Raises:
          RecordError: more records are unreadable than are allowed.
        """
        shards = [self.finished(PACK, shard) for shard in range(self.num_shards)]
        present = [shard for shard in shards if shard is not None]
        if len(present) < self.num_shards:
            return None
        self.check_unreadable(self.unreadable())
        return write_manifest(
            self.output,
            present,
            self.source.palette,
            settings={step.name: dict(step.settings) for step in self.steps},
            sources={
                **self.source_settings,
                **self.provenance,
                "left_out": self.summary(),
                "unreadable": self.unreadable(),
            },
        )

    def left_out(self, step: str, shard: int) -> Mapping[str, str]:
        """Returns the records that a shard leaves out and why; none if it is not finished."""
        info = self._written(step, shard)
        return {} if info is None else info.left_out

    def unreadable(self, but: tuple[str, int] | None = None) -> list[str]:
        """Returns what is said of the records that could not be read, as far as it is done.

        Args:
          but: step and shard that do not count, as they are being made.
        """
        names = [RAW, *(step.name for step in self.steps)]
        return [
            text.partition(": ")[2]
            for name in names
            for shard in range(self.num_shards)
            if (name, shard) != but
            for text in self.left_out(name, shard).values()
            if text.startswith(UNREADABLE)
        ]

    def has_unreadable(self, step: str, shard: int) -> bool:
        """Returns whether a finished shard left out what could not be read, so may be now."""
        return any(text.startswith(UNREADABLE) for text in self.left_out(step, shard).values())

    def check_unreadable(self, bad: Sequence[str]) -> None:
        """Checks how many records could not be read.

        Args:
          bad: what is said of each.

        Raises:
          RecordError: too many; the first few are named.
        """
        if len(bad) > self.max_unreadable:
            shown = "\n- ".join(bad[:5])
            raise RecordError(
                f"{len(bad)} records are unreadable, allowed are {self.max_unreadable} "
                f"(max_unreadable):\n- {shown}\nMend the files and run again, or allow more."
            )

    def summary(self) -> dict[str, dict[str, int]]:
        """Returns for each step how many records were left out for what, as far as it is done."""
        counts: dict[str, dict[str, int]] = {}
        for step in [RAW, *(step.name for step in self.steps)]:
            reasons: collections.Counter[str] = collections.Counter()
            for shard in range(self.num_shards):
                reasons.update(
                    text.partition(":")[0] for text in self.left_out(step, shard).values()
                )
            counts[step] = dict(sorted(reasons.items()))
        return counts

    def join(self, step: str, shard: int, fields: Sequence[str]) -> Joined:
        """Returns what there is of a shard's records before a step.

        Args:
          step: its name, or "shards" for after the last.
          shard: number.
          fields: that are wanted.
        """
        makers, earlier = self._makers(step), self._earlier(step)
        wanted: dict[str, list[str]] = {}
        for field in dict.fromkeys(["id", "source", *fields]):
            wanted.setdefault(RAW if field == "id" else makers[field], []).append(field)
        shards = [Shard(self.path(maker, shard), names) for maker, names in wanted.items()]
        # Each shard holds what those before it kept, so the last one has the records that are left.
        last = earlier[-1].name if earlier else RAW
        ids = read_shard_info(self.path(last, shard)).ids
        return Joined(self.source.name, ids, shards)


def _flat(recipe: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Returns the settings in a recipe; in that of a whole data set, those of all its steps."""
    found: dict[str, Any] = {}
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{key} ")
        elif key != "inputs":
            found[f"{before}{key}"] = value
    return found


def _changes(old: str, new: str) -> str:
    """Returns which settings of a recipe are others now."""
    before, now = _flat(json.loads(old)), _flat(json.loads(new))
    changed = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    return "; ".join(changed) or "what it is made of has changed"
