"""What a step of preparation is: fields it needs, fields it adds, and how.

A step works in three parts, so that decoding and encoding can run beside the computation:

    record --decode--> values --compute, a batch at a time--> values --encode--> new fields

and says of every record either its new fields or why the record is left out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from input_pipeline.schema import BY_NAME, Record


@dataclasses.dataclass(frozen=True)
class Dropped:
    """A record that is left out of the data set.

    Attributes:
      reason: a few words, the same for all records that are left out for it.
    """

    reason: str


class Simple:
    """A step that needs no check and no start."""

    def check(self, fields: Sequence[str]) -> list[str]:
        """Returns nothing: there is nothing to check."""
        del fields
        return []

    def start(self) -> None:
        """Does nothing."""


class Step(Protocol):
    """A step of preparation.

    Attributes:
      name: of its folder.
      needs: fields that it reads.
      adds: fields that it makes; of a field made before, the later step's counts.
      settings: everything that its results depend on beside the record, as JSON holds it.
      batch_size: values that `compute` takes at once.
      drops: whether it may leave records out.
      on_device: whether it wants an accelerator, of which one process has all.
    """

    @property
    def name(self) -> str:
        """Of its folder."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Fields that it reads."""
        ...

    @property
    def adds(self) -> tuple[str, ...]:
        """Fields that it makes."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its results depend on."""
        ...

    @property
    def batch_size(self) -> int:
        """Values that `compute` takes at once."""
        ...

    @property
    def drops(self) -> bool:
        """Whether it may leave records out."""
        ...

    @property
    def on_device(self) -> bool:
        """Whether it wants an accelerator."""
        ...

    def check(self, fields: Sequence[str]) -> list[str]:
        """Returns what is wrong with it, told from settings and headers, before anything runs.

        Args:
          fields: that records have when they come to it.
        """
        ...

    def start(self) -> None:
        """Loads what it needs; called once, before threads use it."""
        ...

    def decode(self, record: Record) -> Any:
        """Returns what `compute` takes of a record; runs in threads."""
        ...

    def compute(self, values: Sequence[Any]) -> Sequence[Any]:
        """Returns the results of up to `batch_size` values, in order."""
        ...

    def encode(self, result: Any) -> Record | Dropped:
        """Returns the new fields; runs in threads."""
        ...


def fingerprints(steps: Sequence[Step], source: Mapping[str, Any]) -> dict[str, str]:
    """Returns for each step what its results are a function of, as JSON.

    They depend on its settings, on the steps that make the fields it needs, and on the earlier
    steps that leave records out. What does not change keeps its results when another step does.

    Args:
      steps: in order.
      source: of the raw records: its settings, as JSON holds them.
    """
    found: dict[str, str] = {}
    makers = dict.fromkeys(BY_NAME, _digest(source))
    droppers: list[str] = []
    for step in steps:
        inputs = sorted({makers[field] for field in step.needs}) + droppers
        recipe = {"inputs": inputs, "adds": sorted(step.adds), **step.settings}
        found[step.name] = json.dumps(recipe, sort_keys=True)
        own = _digest([step.name, recipe])
        makers |= dict.fromkeys(step.adds, own)
        if step.drops:
            droppers.append(own)
    return found


def check_steps(steps: Sequence[Step], raw_fields: Sequence[str]) -> list[str]:
    """Returns what is wrong with a list of steps, one text each.

    Args:
      steps: in order.
      raw_fields: fields of the raw records.
    """
    problems = []
    known = set(raw_fields)
    names = [step.name for step in steps]
    problems += [
        f"step {name!r} is there twice" for name in sorted(set(names)) if names.count(name) > 1
    ]
    for step in steps:
        for field in step.needs:
            if field not in known:
                makers = [other.name for other in steps if field in other.adds]
                hint = f"; put step {makers[0]!r} before it" if makers else ""
                problems.append(
                    f"step {step.name!r} needs the field {field!r}, which no step before it makes "
                    f"and the raw data lack{hint}"
                )
        problems += [f"step {step.name!r}: {problem}" for problem in step.check(sorted(known))]
        unknown = [field for field in step.adds if field not in BY_NAME]
        problems += [f"step {step.name!r} adds the unknown field {field!r}" for field in unknown]
        known |= set(step.adds)
    return problems


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
