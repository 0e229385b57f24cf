"""Loads Compose and Conquer checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cnc_jax.convert import COMPONENTS
from cnc_jax.global_fuser import GlobalFuserConfig
from cnc_jax.local_fuser import LocalFuserConfig
from sd_jax.load import open_checkpoints
from sd_jax.model import Model, StableDiffusionConfig


@dataclasses.dataclass(frozen=True)
class CnCConfig(StableDiffusionConfig):
    """Sizes of the components of a Compose and Conquer model; None where it lacks one.

    Attributes:
      local_fuser: layered depth maps -> residuals.
      global_fuser: exemplar embeddings -> tokens.
    """

    local_fuser: LocalFuserConfig | None = None
    global_fuser: GlobalFuserConfig | None = None


def load(path: str | Path, *, num_heads: int | None = None, use_ema: bool = False) -> Model:
    """Returns a Compose and Conquer model, or whatever part of one is there.

    Args:
      path: `cnc_v1`, `local_fuser_v1`, `global_fuser_v1`, Uni-ControlNet or Stable Diffusion 1.x as
        upstream publishes them, a diffusers folder, a converted directory, or "scenes", the weights
        that ship with the project.
      num_heads: attention heads where no config.json tells them; 8 unless given.
      use_ema: take the UNet's averaged weights from a file that has both.

    Returns:
      A model with `.params` and `.config` (a `CnCConfig`). Missing components are left out; what
      needs them says so.

    Raises:
      CheckpointError: the checkpoint is not there, damaged, or of another architecture.
    """
    opened = open_checkpoints([path], COMPONENTS, num_heads=num_heads, use_ema=use_ema)
    return opened.load(CnCConfig)
