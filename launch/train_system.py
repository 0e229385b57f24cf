"""What tells one system's runs from another's: Compose and Conquer, FG-DM, or their prior.

A system turns settings into a starting point, a loss with what it trains and wants in a batch, and
pictures to look at. All else is the same for all (`launch.training`, `launch.train_run`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from input_pipeline.contact_sheet import Picture
from launch.train_data import BatchNeeds
from launch.train_request import TrainRequest
from sd_jax.convert.component import Component
from sd_jax.model import Model
from sd_jax.sampling import SamplerTable
from sd_jax.schedule import ScheduleConfig
from sd_jax.typing import Array, KeyArray


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


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A run as the loop sees it.

    Attributes:
      config: sizes of the model.
      loss: function of the run, with `per_example` for evaluation and `settings` of its networks.
      trainable: patterns of the parameters that it trains.
      components: of the model that the loss uses.
      needs: what it wants in a batch.
      has_timesteps: whether its loss depends on a timestep, so that evaluation tells it by those.
    """

    config: Any
    loss: Any
    trainable: tuple[str, ...]
    components: frozenset[str]
    needs: BatchNeeds
    has_timesteps: bool = True


@dataclasses.dataclass(frozen=True)
class Example:
    """An example of the evaluation set, of which pictures are made.

    Attributes:
      batch: of one example.
      caption: its text, cut short.
      keys: of its noise, [1].
      table: of the sampler.
      negative_embeddings: of no text, [1 k c]; None without guidance.
    """

    batch: Mapping[str, Array]
    caption: str
    keys: KeyArray
    table: SamplerTable
    negative_embeddings: Array | None

    def latents_size(self, model: Model) -> tuple[int, int]:
        """Returns (height, width) of the latents of its images; those of all its maps are equal.

        Args:
          model: whose latents.
        """
        if "latent_mean" in self.batch:
            height, width = self.batch["latent_mean"].shape[1:3]
            return int(height), int(width)
        image = next(value for value in self.batch.values() if value.ndim == 4)
        height, width = image.shape[1:3]
        scale = model.config.vae.downsampling
        return int(height) // scale, int(width) // scale


@dataclasses.dataclass(frozen=True)
class System:
    """What is trained: one of the two systems, or the Stable Diffusion that they stand on.

    Attributes:
      components: that its checkpoints hold.
      init_paths: the files and folders that the items of `init` name.
      setting_problems: what is wrong with the settings that only this system has.
      plan_start: where a run starts; raises TrainError or ValueError.
      make_experiment: the run that a request asks for, of a model.
      pictures: a row of them, of an example, by the model as far as it is trained.
      needs_init: whether there is no starting from nothing.
    """

    components: Sequence[Component]
    init_paths: Callable[[Sequence[str]], list[str]]
    setting_problems: Callable[[Any], list[str]]
    plan_start: Callable[[TrainRequest], Start]
    make_experiment: Callable[[TrainRequest, Sizes], Experiment]
    pictures: Callable[[Any, Experiment, Model, Example], list[Picture]]
    needs_init: bool = True


def system_of(config: Any) -> System:
    """Returns the system that a config is of; imports no other.

    Args:
      config: of `configs/cnc.py`, `configs/fgdm.py` or `configs/prior.py`.
    """
    if config.system == "cnc":
        from launch.train_cnc import CNC

        return CNC
    if config.system == "prior":
        from launch.train_prior import PRIOR

        return PRIOR
    from launch.train_fgdm import FGDM

    return FGDM
