"""What a joint run is made of: how each factor is drawn, and whether the factors fit together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

from fgdm_jax.graph import VARIABLES, unknown_name
from fgdm_jax.timetable import JointRows
from sd_jax.sampling import SamplerState
from sd_jax.typing import Array

FactorDenoiseFn: TypeAlias = Callable[[Array, Array, Mapping[str, SamplerState]], Array]
"""(latents [batch height width channels], timesteps [], parents by name) -> predicted noise.

A parent comes with its noisy latents of this step and the clean latents predicted from them, in its
own size.
"""

# Sizes that are multiples of 64 pixels cannot always have exactly the same shape.
_LARGEST_STRETCH = 1.1


@dataclasses.dataclass(frozen=True)
class FactorRun:
    """How one factor is drawn. It lives inside a compiled program and is no pytree.

    Attributes:
      denoise: predicts its noise.
      latents_size: (height, width) of its latents.
      channels: of its latents.
      parents: the variables that `denoise` gets, run or given.
    """

    denoise: FactorDenoiseFn
    latents_size: tuple[int, int]
    channels: int = 4
    parents: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of its latents."""
        return (*self.latents_size, self.channels)


def check_runs(
    runs: Mapping[str, FactorRun],
    rows: JointRows,
    states: Mapping[str, SamplerState],
    kept: Mapping[str, Array],
    batch: int,
    given: Mapping[str, Array],
) -> None:
    """Checks that a joint run has all that it needs.

    Args:
      runs: in the order in which they advance.
      rows: of their samplers.
      states: of the same variables.
      kept: kept predictions of the same variables, if any are kept.
      batch: number of images.
      given: clean latents of other variables.

    Raises:
      ValueError: lists everything that does not fit.
    """
    problems = [] if runs else ["there is nothing to draw; give at least one run"]
    problems += [
        unknown_name("variable", name, VARIABLES)
        for name in dict.fromkeys((*runs, *given))
        if name not in VARIABLES
    ]
    problems += [f"{name!r} is both run and given; leave one out" for name in runs if name in given]
    for what, names in (("sampler table", rows.factors), ("state", states)):
        problems += [f"no {what} for {name!r}" for name in runs if name not in names]
        problems += [
            f"a {what} for {name!r}, which is not run" for name in names if name not in runs
        ]
    for name, run in runs.items():
        expected = (batch, *run.shape)
        if name in states and states[name].latents.shape != expected:
            shape = states[name].latents.shape
            problems.append(f"the state of {name!r} must have shape {expected}, got {shape}")
        room = len(kept[name]) if name in kept else 0
        if room != rows.num_kept:
            problems.append(
                f"the rows keep {rows.num_kept} steps and the state of {name!r} has room for "
                f"{room}; make it with num_kept={rows.num_kept}"
            )
    for name, latents in given.items():
        if latents.ndim != 4 or latents.shape[0] != batch:
            problems.append(
                f"given {name!r} must be latents [{batch}, height, width, channels], one for each "
                f"of the {batch} keys, got shape {latents.shape}"
            )
    shapes = {name: run.shape for name, run in runs.items()}
    shapes |= {name: latents.shape[1:] for name, latents in given.items() if latents.ndim == 4}
    problems += _parent_problems(runs, given, shapes)
    if problems:
        raise ValueError("\n".join(problems))


def _parent_problems(
    runs: Mapping[str, FactorRun], given: Collection[str], shapes: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Returns what is wrong with parents: absent, too late, or of another shape."""
    problems = []
    there = set(given)
    for name, run in runs.items():
        height, width, channels = run.shape
        for parent in run.parents:
            if parent not in there:
                problems.append(
                    f"{name!r} comes before its parent {parent!r}; order runs by sampling_order"
                    if parent in runs
                    else f"parent {parent!r} of {name!r} is neither run nor given"
                )
            if parent not in shapes:
                continue
            parent_height, parent_width, parent_channels = shapes[parent]
            if parent_channels != channels:
                problems.append(
                    f"{name!r} has {channels} channels, its parent {parent!r} {parent_channels}; "
                    "give latents of the same autoencoder"
                )
            across = (parent_height * width, parent_width * height)
            if max(across) > _LARGEST_STRETCH * min(across):
                problems.append(
                    f"parent {parent!r} of {name!r} is {parent_height} x {parent_width}, which "
                    f"would be stretched to {height} x {width}; use sizes of the same shape"
                )
        there.add(name)
    return problems
