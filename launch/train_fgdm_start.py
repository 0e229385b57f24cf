"""Where a run of FG-DM starts: checkpoints -> WORKDIR/model, with adapters that are new."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fgdm_jax.adapter import AdapterConfig, adapter_for, size_problem
from fgdm_jax.convert import adapter_component, adapter_name, components
from fgdm_jax.graph import Factor, FactorGraph
from fgdm_jax.load import FGDMConfig, named_paths
from launch.train_request import TrainError, TrainRequest
from sd_jax.convert.fresh import fresh_params
from sd_jax.convert.store import save_model
from sd_jax.load import Opened, open_each
from sd_jax.typing import nested_params
from sd_jax.unet import UNetConfig


@dataclasses.dataclass(frozen=True)
class Start:
    """A starting point, checked, of which no weight has been read.

    Attributes:
      request: of the run.
      opened: the checkpoints, completing one another.
      new: sizes of adapters that none of them has, by variable.
      changed: sizes of trained adapters that see other latents of their parents from now on.
      trained: names of the components that are trained, in whole or in part.
    """

    request: TrainRequest
    opened: Opened
    new: Mapping[str, AdapterConfig]
    changed: Mapping[str, AdapterConfig]
    trained: tuple[str, ...]

    def write(self, folder: Path) -> str:
        """Writes the starting point as a converted directory; returns in words what was done.

        Args:
          folder: to make, or to replace.
        """
        model = self.opened.load(FGDMConfig)
        params, configs = dict(model.params), dict(self.opened.configs)
        for variable, config in self.new.items():
            component = adapter_component(variable)
            flat = fresh_params(component, config, self.request.config.seed)
            params[component.name], configs[component.name] = nested_params(flat), config
        configs |= self.changed
        # What is trained is float32 from the start, so that a run's files have one type.
        for name in self.trained:
            params[name] = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params[name])
        save_model(
            params,
            configs,
            folder,
            model.config.schedule,
            tokenizer=self.opened.tokenizer,
            overwrite=True,
        )
        names = ", ".join(Path(item).name or item for item in self.request.init)
        kept = [name for name in self.trained if name in self.opened.configs]
        parts = [f"starts from {names}"]
        if self.new:
            new = ", ".join(adapter_name(variable) for variable in self.new)
            parts.append(f"{new} new (seed {self.request.config.seed})")
        if kept:
            parts.append(f"{', '.join(kept)} as they are there, trained further")
        for name, config in self.changed.items():
            what = "clean latents" if config.clean_parents else "latents of t - 1"
            parts.append(f"{name} sees {what} of its parents from now on")
        return "; ".join(parts)


def plan_start(
    request: TrainRequest, graph: FactorGraph, trained: tuple[str, ...], needed: frozenset[str]
) -> Start:
    """Returns the starting point of a run; reads sizes, no weights.

    Args:
      request: of the run.
      graph: of the run.
      trained: variables whose factors are trained.
      needed: names of the components that the loss uses.

    Raises:
      TrainError: the checkpoints cannot be used, or lack what the run needs.
    """
    config = request.config
    items = named_paths(request.init, trained[0])
    opened = open_each(
        [(item, components(of)) for of, item in items],
        num_heads=config.num_heads or None,
        use_ema=config.use_ema,
    )
    adapters = {
        factor.variable: factor
        for factor in graph
        if factor.kind == "adapter" and factor.variable in trained
    }
    absent = [name for name in adapters if adapter_name(name) not in opened.configs]
    missing = sorted(needed - set(opened.configs) - {adapter_name(name) for name in absent})
    problems = []
    if missing:
        problems.append(
            f"init: {', '.join(request.init)} lack {', '.join(missing)}, which the run needs; they "
            f"hold {', '.join(sorted(opened.configs)) or 'nothing'}. Name further checkpoints that "
            "have them, joined by commas"
        )
    unet = opened.configs.get("unet")
    for name, factor in adapters.items():
        there = opened.configs.get(adapter_name(name))
        problem = None
        if unet is not None and there is not None:
            problem = size_problem(there, unet, factor)
        if problem is not None:
            problems.append(f"init: {problem}, or leave the checkpoint out")
    if problems or unet is None:
        raise TrainError(problems)
    new = {name: _sizes(config, unet, adapters[name]) for name in absent}
    controlled = [f for f in graph if f.kind == "controlnet" and f.variable in trained]
    names = [*map(adapter_name, adapters), *(["controlnet"] if controlled else [])]
    is_clean = config.parent_latents == "clean"
    changed = {
        adapter_name(name): dataclasses.replace(there, clean_parents=is_clean)
        for name, factor in adapters.items()
        if factor.parents
        and config.parent_latents
        and (there := opened.configs.get(adapter_name(name)))
        and there.clean_parents != is_clean
    }
    return Start(request, opened, new, changed, tuple(names))


def _sizes(config: Any, unet: UNetConfig, factor: Factor) -> AdapterConfig:
    """Returns the sizes of a new adapter."""
    sizes = adapter_for(unet, len(factor.parents), has_time=config.adapter == "time")
    return dataclasses.replace(
        sizes,
        layers_per_level=config.adapter_layers,
        zero_convs=config.adapter_start == "zero",
        text_dim=unet.cross_attention_dim if config.adapter_text else None,
        text_channels=config.adapter_text,
        clean_parents=config.parent_latents == "clean" and bool(factor.parents),
    )
