"""Checks that the settings of several commands share; all problems are told at once."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from sd_jax.attention import Implementation
from sd_jax.samplers import SAMPLERS
from sd_jax.schedule import Spacing

SIZE_MULTIPLE = 64
MAX_SIZE = 8192
MAX_STEPS = 1000

SAMPLING_CHOICES: Mapping[str, tuple[str, ...]] = {
    "sampler": tuple(sorted(SAMPLERS)),
    "spacing": get_args(Spacing),
    "attention": get_args(Implementation),
    "dtype": ("float32", "bfloat16", "float16"),
    "long_prompts": ("cut", "chunks"),
}
"""Names that the settings of every sampling command may take."""


class RequestError(ValueError):
    """A request that cannot be met; lists every problem.

    Attributes:
      problems: one text each.
    """

    headline = "the request cannot be met:"

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n- ".join([self.headline, *problems]))


def collect(problems: list[str], action: Callable[[], Any]) -> Any:
    """Returns what `action` returns; a ValueError becomes some of `problems` and gives None.

    Args:
      problems: grows.
      action: what may fail.
    """
    try:
        return action()
    except RequestError as error:
        problems.extend(error.problems)
        return None
    except ValueError as error:
        problems.append(str(error))
        return None


def size_problems(config: Any, *names: str) -> list[str]:
    """Returns which heights and widths in pixels are not possible.

    Args:
      config: settings.
      *names: of the sizes.
    """
    problems = []
    for name in names:
        value = config[name]
        if value > MAX_SIZE:
            problems.append(f"{name} must be at most {MAX_SIZE}, got {value}")
        elif value < SIZE_MULTIPLE or value % SIZE_MULTIPLE:
            near = max(1, round(value / SIZE_MULTIPLE)) * SIZE_MULTIPLE
            problems.append(
                f"{name} must be a positive multiple of {SIZE_MULTIPLE}, got {value}; "
                f"{near} is near"
            )
    return problems


def count_problems(config: Any, *names: str) -> list[str]:
    """Returns which counts are less than 1; those of steps may not be too many either.

    Args:
      config: settings.
      *names: of the counts.
    """
    problems = [
        f"{name} must be at least 1, got {config[name]}" for name in names if config[name] < 1
    ]
    problems += [
        f"{name} must be at most {MAX_STEPS}, got {config[name]}"
        for name in names
        if name.endswith("_steps") and config[name] > MAX_STEPS
    ]
    return problems


def scale_problems(config: Any, *names: str) -> list[str]:
    """Returns which scales are no finite numbers of at least 0.

    Args:
      config: settings.
      *names: of the scales.
    """
    return [
        f"{name} must be a finite number of at least 0, got {config[name]}"
        for name in names
        if not math.isfinite(config[name]) or config[name] < 0
    ]


def seed_problems(config: Any, count_name: str) -> list[str]:
    """Returns what is wrong with `seed`, the first of several, and with `eta`.

    Args:
      config: settings.
      count_name: setting that says how many seeds there are.
    """
    problems, count = [], config[count_name]
    last = 2**32 - max(count, 1)
    if not 0 <= config.seed <= last:
        what = count_name.removeprefix("num_")
        problems.append(f"seed must be from 0 to {last} for {count} {what}, got {config.seed}")
    if config.eta != -1 and not 0 <= config.eta <= 1:
        problems.append(f"eta must be from 0 to 1, or -1 for the default, got {config.eta}")
    return problems


def choice_problems(config: Any, choices: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns which settings have none of their names, with the nearest one.

    Args:
      config: settings.
      choices: names by setting.
    """
    problems = []
    for name, known in choices.items():
        if config[name] not in known:
            near = difflib.get_close_matches(config[name], known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            problems.append(f"{name} must be one of {', '.join(known)}, got {config[name]!r}{hint}")
    return problems


def output_problems(config: Any) -> list[str]:
    """Returns why the output folder cannot be used, if it cannot.

    Args:
      config: settings.
    """
    folder = Path(config.output)
    if folder.exists() and not folder.is_dir():
        return [f"output: {folder} is a file; name a folder"]
    if (folder / "record.json").exists() and not config.overwrite:
        return [
            f"output: {folder} holds the record of another run; choose another folder or pass "
            "--config.overwrite=True"
        ]
    return []
