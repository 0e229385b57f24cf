"""What a run of FG-DM is: its graph, its loss, what it trains, and what it wants in a batch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from configs.common import split_list, unknown_name
from configs.fgdm import GRAPHS
from fgdm_jax.convert import COMPONENTS, adapter_name
from fgdm_jax.distill import attention_paths, check_layers
from fgdm_jax.graph import VARIABLES, FactorGraph, parse_graph
from fgdm_jax.load import FGDMConfig, named_paths
from fgdm_jax.losses import Distillation, GraphLoss
from input_pipeline.stream import Helpers
from launch.setting_checks import collect
from launch.train_data import BatchNeeds, keys_of
from launch.train_fgdm_pictures import pictures
from launch.train_fgdm_start import Start
from launch.train_fgdm_start import plan_start as plan_start_of
from launch.train_request import TrainRequest
from launch.train_system import Experiment, Sizes, System
from sd_jax.network_settings import NetworkSettings
from sd_jax.tokenizer import load_tokenizer

_CHOICES = {
    "adapter": ("time", "plain"),
    "adapter_start": ("zero", "random"),
    "parent_latents": ("", "noisy", "clean"),
}
_HINT_BLOCK = "controlnet/controlnet_cond_embedding/.*"


def setting_problems(config: Any) -> list[str]:
    """Returns what is wrong with the settings that only this system has."""
    problems = [
        f"{name}: {unknown_name('value', config[name], known)}"
        for name, known in _CHOICES.items()
        if config[name] not in known
    ]
    if config.distill_weight < 0:
        problems.append(f"distill_weight must be at least 0, got {config.distill_weight}")
    if config.adapter_layers < 1:
        problems.append(f"adapter_layers must be at least 1, got {config.adapter_layers}")
    if config.adapter_text < 0:
        problems.append(f"adapter_text must be at least 0, got {config.adapter_text}")
    if config.distill_every < 1:
        problems.append(f"distill_every must be at least 1, got {config.distill_every}")
    graph = collect(problems, lambda: graph_of(config))
    if graph is not None:
        collect(problems, lambda: _loss_of(config, FGDMConfig(), graph))
    return problems


def init_paths(init: Sequence[str]) -> list[str]:
    """Returns the paths of items that may say of which variable an adapter is.

    Args:
      init: "variable=path" or path.

    Raises:
      ValueError: there is no such variable.
    """
    return [str(path) for _, path in named_paths(init)]


def graph_of(config: Any) -> FactorGraph:
    """Returns the graph of a config.

    Args:
      config: of `configs/fgdm.py`.

    Raises:
      ValueError: lists everything that is wrong with it.
    """
    if config.graph in GRAPHS and config.graph not in VARIABLES:
        raise ValueError(
            f"graph: {config.graph!r} is the name of a preset; write "
            f"--config=configs/fgdm.py:factor={config.graph}"
        )
    return parse_graph(config.graph)


def trained_of(config: Any, graph: FactorGraph) -> tuple[str, ...]:
    """Returns the variables whose factors are trained: those asked for, or all that can be.

    Args:
      config: of `configs/fgdm.py`.
      graph: of the run.
    """
    asked = tuple(split_list(config.trained))
    return asked or tuple(f.variable for f in graph if f.kind in ("adapter", "controlnet"))


def seen_of(graph: FactorGraph, trained: tuple[str, ...]) -> list[str]:
    """Returns the variables that the trained factors draw or see, in the order of VARIABLES.

    Args:
      graph: of the run.
      trained: variables whose factors are trained.
    """
    factors = [factor for factor in graph if factor.variable in trained]
    seen = {name for factor in factors for name in (factor.variable, *factor.parents)}
    return [name for name in VARIABLES if name in seen]


def plan_start(request: TrainRequest) -> Start:
    """Returns where a run starts; see `launch.train_fgdm_start.plan_start`."""
    graph = graph_of(request.config)
    trained = trained_of(request.config, graph)
    return plan_start_of(request, graph, trained, _components(request.config, graph, trained))


def make_experiment(request: TrainRequest, model: Sizes) -> Experiment:
    """Returns the run that a request asks for.

    Args:
      request: of the run.
      model: that is trained, or that it starts from.
    """
    config, graph = request.config, graph_of(request.config)
    trained = trained_of(config, graph)
    sizes = {name: value for name, value in model.configs.items() if name in _FIELDS}
    model_config = FGDMConfig(schedule=model.schedule, **sizes)
    variables = [name for name in seen_of(graph, trained) if name != "image"]
    keys = [name for name in keys_of(config) if not _is_of_image(name)]
    if "image" in seen_of(graph, trained):
        keys = list(keys_of(config))
    if config.distill_weight and "unet" in sizes:
        check_layers(attention_paths(sizes["unet"]), config.distill_layers)
    helpers = Helpers(tokenizer=functools.partial(load_tokenizer(model.tokenizer), warn=False))
    patterns = [f"{name}/.*" for name in _trained_adapters(graph, trained)]
    if any(f.kind == "controlnet" and f.variable in trained for f in graph):
        patterns.append(_HINT_BLOCK)
    return Experiment(
        model_config,
        _loss_of(config, model_config, graph),
        tuple(patterns),
        _components(config, graph, trained),
        BatchNeeds((*variables, *keys), (), helpers),
    )


def _loss_of(config: Any, model: FGDMConfig, graph: FactorGraph) -> GraphLoss:
    trained = trained_of(config, graph)
    return GraphLoss(
        model,
        graph,
        trained,
        NetworkSettings(config.dtype, config.attention, config.remat),
        columns=tuple(name for name in seen_of(graph, trained) if name != "image"),
        null_parents=config.null_parents,
        distillation=Distillation(
            config.distill_weight, config.distill_every, config.distill_layers
        ),
        min_snr_gamma=config.min_snr_gamma,
    )


def _components(config: Any, graph: FactorGraph, trained: tuple[str, ...]) -> frozenset[str]:
    """Returns the components that the loss uses."""
    names = {"unet", *_trained_adapters(graph, trained)}
    factors = [factor for factor in graph if factor.variable in trained]
    if any(factor.kind == "controlnet" for factor in factors):
        names.add("controlnet")
    if config.text == "encode":
        names.add("text_encoder")
    # All maps are encoded; of the image alone there may be cached latents.
    if seen_of(graph, trained) != ["image"] or config.latents == "encode":
        names.add("vae")
    return frozenset(names)


def _trained_adapters(graph: FactorGraph, trained: tuple[str, ...]) -> list[str]:
    return [
        adapter_name(factor.variable)
        for factor in graph
        if factor.kind == "adapter" and factor.variable in trained
    ]


def _is_of_image(key: str) -> bool:
    return key in ("image", "latent_mean", "latent_logvar")


_FIELDS = frozenset(FGDMConfig.__dataclass_fields__)

FGDM = System(COMPONENTS, init_paths, setting_problems, plan_start, make_experiment, pictures)
"""FG-DM."""
