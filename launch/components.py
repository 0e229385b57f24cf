"""All that checkpoints of either system may hold."""

from __future__ import annotations

import dataclasses

from cnc_jax.convert import COMPONENTS as CNC_COMPONENTS
from cnc_jax.load import CnCConfig
from fgdm_jax.convert import components as fgdm_components
from fgdm_jax.load import FGDMConfig
from sd_jax.convert.component import Component


@dataclasses.dataclass(frozen=True)
class AnyConfig(FGDMConfig, CnCConfig):
    """Sizes of a model that is Compose and Conquer, FG-DM, or both; None where it lacks a part."""


def components_of(variable: str | None = None) -> tuple[Component, ...]:
    """Returns the components of both systems, each once.

    Args:
      variable: whose adapter stands under upstream's names, which say none; None if no file with
        such names is to be read or written.

    Raises:
      ValueError: there is no such variable.
    """
    names = {component.name for component in CNC_COMPONENTS}
    adapters = [item for item in fgdm_components(variable) if item.name not in names]
    return (*CNC_COMPONENTS, *adapters)
