"""Whether checkpoints hold what a graph needs, told from their sizes alone."""

from __future__ import annotations

from fgdm_jax.adapter import parents_problem
from fgdm_jax.convert import adapter_name
from fgdm_jax.graph import Factor
from launch.draw_request import DrawRequest
from sd_jax.load import Opened


def needed_components(request: DrawRequest, opened: Opened) -> list[str]:
    """Returns the components that the request needs, and the safety checker if there is one.

    Args:
      request: for its order of factors.
      opened: the checkpoints.
    """
    names = ["unet", "vae", "text_encoder"]
    for factor in request.order:
        names += {
            "adapter": [adapter_name(factor.variable)],
            "controlnet": ["controlnet"],
            "cnc": ["local_fuser"],
        }.get(factor.kind, [])
    has_filter = request.config.safety_checker and "safety_checker" in opened.configs
    if request.image is not None and has_filter:
        names.append("safety_checker")
    return list(dict.fromkeys(names))


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
    unet = opened.configs.get("unet")
    if unet is None:
        return problems
    if unet.in_channels != unet.out_channels:
        problems.append(
            f"the UNet takes {unet.in_channels} channels and returns {unet.out_channels}; graphs "
            "are drawn with one that takes what it returns"
        )
    for factor in request.order:
        problems += _factor_problems(factor, opened)
    return problems


def _factor_problems(factor: Factor, opened: Opened) -> list[str]:
    problems = []
    unet = opened.configs["unet"]
    adapter = opened.configs.get(adapter_name(factor.variable))
    if factor.kind == "adapter" and adapter is not None:
        problem = parents_problem(adapter, unet, factor)
        if problem is not None:
            problems.append(f"{problem}; write the graph that it was trained with")
    local = opened.configs.get("local_fuser")
    if factor.kind == "cnc" and local is not None:
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
