"""Whether checkpoints hold what a graph needs, told from their sizes alone."""

from __future__ import annotations

from fgdm_jax.fit import needed_components as components_of_graph
from fgdm_jax.fit import size_problems
from fgdm_jax.graph import Factor
from launch.draw_request import DrawRequest
from sd_jax.load import Opened


def needed_components(request: DrawRequest, opened: Opened) -> list[str]:
    """Returns the components that the request needs, and the safety checker if there is one.

    Args:
      request: for its order of factors.
      opened: the checkpoints.
    """
    names = components_of_graph(request.order)
    if any(factor.kind == "cnc" for factor in request.order):
        names.append("local_fuser")
    has_filter = request.config.safety_checker and "safety_checker" in opened.configs
    if request.image is not None and has_filter:
        names.append("safety_checker")
    return names


def fit_problems(request: DrawRequest, opened: Opened) -> list[str]:
    """Returns every missing component and every size that does not fit the graph.

    Args:
      request: for its order of factors.
      opened: the checkpoints.
    """
    there = ", ".join(str(path) for _, path in request.checkpoints)
    problems = [
        f"no {name} in {there}, which the graph needs; add a checkpoint that has one"
        for name in needed_components(request, opened)
        if name not in opened.configs
    ]
    problems += size_problems(request.order, opened.configs)
    for factor in request.order:
        problems += _fuser_problems(factor, opened)
    return problems


def _fuser_problems(factor: Factor, opened: Opened) -> list[str]:
    local = opened.configs.get("local_fuser")
    if factor.kind != "cnc" or local is None:
        return []
    problems = []
    if local.num_layers != len(factor.parents):
        problems.append(
            f"the local fuser takes {local.num_layers} layers, the graph gives it "
            f"{len(factor.parents)}"
        )
    if local.condition_channels != 3:
        problems.append(
            f"the local fuser takes maps of {local.condition_channels} channels (as "
            "Uni-ControlNet does); depth maps have 3"
        )
    return problems
