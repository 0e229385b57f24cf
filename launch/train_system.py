"""What tells one system's runs from another's: Compose and Conquer, or FG-DM.

A system turns settings into a starting point, a loss with what it trains and wants in a batch, and
pictures to look at. All else is the same for both (`launch.training`, `launch.train_run`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from launch.train_data import BatchNeeds, RunData
from launch.train_request import TrainRequest
from sd_jax.convert.component import Component
from sd_jax.schedule import ScheduleConfig
from sd_jax.typing import Params


class Sizes(Protocol):
    """What is known of a model before its weights are read."""

    @property
    def configs(self) -> Mapping[str, Any]:
        """Sizes by component."""
        ...

    @property
    def schedule(self) -> ScheduleConfig:
        """The noise schedule."""
        ...

    @property
    def tokenizer(self) -> Path | None:
        """Folder with the tokenizer's files; None for CLIP's own."""
        ...


class Start(Protocol):
    """A starting point, checked, of which no weight has been read."""

    @property
    def opened(self) -> Sizes:
        """Sizes of what it starts from."""
        ...

    def write(self, folder: Path) -> str:
        """Writes it as a converted directory, anew; returns in words what was done."""
        ...


class Pictures(Protocol):
    """Samples of a few examples of the evaluation set, each with the same noise every time."""

    def sheet(self, params: Params, frozen: Params, step: int) -> np.ndarray | None:
        """Returns them on one sheet; all processes must call it, and only the main one gets it."""
        ...


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A run as the loop sees it.

    Attributes:
      config: sizes of the model.
      loss: function of the run, with `per_example` for evaluation and `settings` of its networks.
      trainable: patterns of the parameters that it trains.
      components: of the model that the loss uses.
      needs: what it wants in a batch.
    """

    config: Any
    loss: Any
    trainable: tuple[str, ...]
    components: frozenset[str]
    needs: BatchNeeds


@dataclasses.dataclass(frozen=True)
class System:
    """One of the two systems.

    Attributes:
      components: that its checkpoints hold.
      setting_problems: what is wrong with the settings that only this system has.
      plan_start: where a run starts; raises TrainError or ValueError.
      make_experiment: the run that a request asks for, of a model.
      make_pictures: of a run.
    """

    components: Sequence[Component]
    setting_problems: Callable[[Any], list[str]]
    plan_start: Callable[[TrainRequest], Start]
    make_experiment: Callable[[TrainRequest, Sizes], Experiment]
    make_pictures: Callable[[TrainRequest, Experiment, RunData], Pictures]


def system_of(config: Any) -> System:
    """Returns the system that a config is of; imports no other.

    Args:
      config: of `configs/cnc.py` or `configs/fgdm.py`.
    """
    if config.system == "cnc":
        from launch.train_cnc import CNC

        return CNC
    from launch.train_fgdm import FGDM

    return FGDM
