"""What a measure finds: figures with their ceilings, floors and targets, and rows to look at."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from input_pipeline.contact_sheet import Picture

T = TypeVar("T")

SHOWN = 24
"""Cases on a contact sheet."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number that says how good weights are.

    Attributes:
      name: for `quality.json`.
      title: for people.
      unit: "%" or "dB".
      scenes: cases that it is the mean of: scenes, or what is looked for in them.
      value: of the model; None without one.
      target: that the project has set.
      at_most: whether less is better, and the target is the most that is allowed.
      ceiling: what pictures reach that are right; of `at_most`, what they cannot fall below.
      floors: what pictures reach that are wrong in one way, by that way.
      through_autoencoder: what right pictures reach that went through the model's autoencoder:
        what no UNet on it can pass.
      more: further numbers, by name.
    """

    name: str
    title: str
    unit: str
    scenes: int
    value: float | None = None
    target: float | None = None
    at_most: bool = False
    ceiling: float | None = None
    floors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    through_autoencoder: float | None = None
    more: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def is_met(self) -> bool | None:
        """Whether the value meets the target; None if either is missing."""
        if self.value is None or self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target

    def to_json(self) -> dict[str, Any]:
        """Returns it as it stands in `quality.json`."""
        found = dataclasses.asdict(self)
        if self.unit == "%" and self.value is not None:
            part = self.value / 100
            error = 100 * math.sqrt(part * (1 - part) / self.scenes)
            found["standard_error"] = round(error, 2)
        return found | {"is_met": self.is_met}

    def text(self) -> str:
        """Returns a line for people."""
        shown = "-" if self.value is None else f"{self.value:.1f}"
        words = [f"{self.title}: {shown} {self.unit}"]
        if self.target is not None:
            words.append(f"target {'at most' if self.at_most else 'at least'} {self.target:g}")
        if self.ceiling is not None:
            words.append(f"right pictures {self.ceiling:.1f}")
        if self.through_autoencoder is not None:
            words.append(f"through the autoencoder {self.through_autoencoder:.1f}")
        words += [f"{name} {value:.1f}" for name, value in {**self.floors, **self.more}.items()]
        return ", ".join(words)


@dataclasses.dataclass(frozen=True)
class Result:
    """What a measure finds.

    Attributes:
      figures: at least one.
      rows: cases for a contact sheet, by its name; conditions, results and verdicts.
    """

    figures: Sequence[Figure]
    rows: Mapping[str, Sequence[Sequence[Picture]]] = dataclasses.field(default_factory=dict)


def percent(hits: Collection[bool] | np.ndarray) -> float:
    """Returns the share of hits in percent.

    Args:
      hits: a truth for each case; not empty.
    """
    return round(100 * float(np.mean(np.asarray(list(hits)))), 2)


def known_rows(
    trials: Iterable[T],
    first: Callable[[T], Picture],
    drawers: Sequence[Callable[[T], np.ndarray]],
    told: Callable[[T, np.ndarray], str],
) -> list[list[Picture]]:
    """Returns rows that show what the judge makes of right and wrong pictures.

    Args:
      trials: a row each.
      first: what a row begins with.
      drawers: of pictures (`input_pipeline.scenes.known_pictures`).
      told: the verdict on a picture, in words.
    """
    rows = []
    for trial in trials:
        row = [first(trial)]
        for draw in drawers:
            image = draw(trial)
            name = draw.__name__.replace("_", " ")
            row.append(Picture(f"{name}: {told(trial, image)}", image))
        rows.append(row)
    return rows


def verdict(is_right: bool | np.bool_) -> str:
    """Returns the word for a verdict on a contact sheet.

    Args:
      is_right: the verdict.
    """
    return "right" if is_right else "WRONG"


def grey(values: np.ndarray) -> np.ndarray:
    """Returns a map of 16 bits as a picture, uint8 [h w 3].

    Args:
      values: uint16 [h w].
    """
    return np.repeat((values // 257).astype(np.uint8)[..., None], 3, axis=-1)
