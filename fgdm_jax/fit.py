"""Whether a model holds what a graph needs, told from its sizes alone.

Factors of kind "cnc" are left out: they are drawn elsewhere, by a model of Compose and Conquer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fgdm_jax.adapter import size_problem
from fgdm_jax.convert import adapter_name
from fgdm_jax.graph import FactorGraph


def needed_components(order: FactorGraph) -> list[str]:
    """Returns the names of the components that drawing these factors from a text needs.

    Args:
      order: the factors that are drawn.
    """
    names = ["unet", "vae", "text_encoder"]
    for factor in order:
        if factor.kind == "adapter":
            names.append(adapter_name(factor.variable))
        elif factor.kind == "controlnet":
            names.append("controlnet")
    return list(dict.fromkeys(names))


def size_problems(order: FactorGraph, configs: Mapping[str, Any]) -> list[str]:
    """Returns every size that does not fit the graph; components that are missing have none.

    Args:
      order: the factors that are drawn.
      configs: sizes by component.
    """
    unet = configs.get("unet")
    if unet is None:
        return []
    problems = []
    if unet.in_channels != unet.out_channels:
        problems.append(
            f"the UNet takes {unet.in_channels} channels and returns {unet.out_channels}; graphs "
            "are drawn with one that takes what it returns"
        )
    for factor in order:
        adapter = configs.get(adapter_name(factor.variable))
        if factor.kind == "adapter" and adapter is not None:
            problem = size_problem(adapter, unet, factor)
            if problem is not None:
                problems.append(problem)
    return problems
