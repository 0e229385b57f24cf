"""The one way into a checkpoint: `load_model` for any layout, converted or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from sd_jax.convert.component import COMPONENTS, Component
from sd_jax.convert.load import plan_loading, read_component
from sd_jax.convert.source import CheckpointError, Source, open_source
from sd_jax.convert.store import is_converted, load_params, open_converted
from sd_jax.model import Model, StableDiffusionConfig
from sd_jax.schedule import ScheduleConfig


def load(path: str | Path, *, num_heads: int | None = None, use_ema: bool = False) -> Model:
    """Returns a Stable Diffusion 1.x model.

    Args:
      path: checkpoint file or folder in any layout, or a converted directory.
      num_heads: attention heads where no config.json tells them; 8 unless given.
      use_ema: take the UNet's averaged weights from a file that has both.

    Raises:
      CheckpointError: the checkpoint is not there, damaged, or of another architecture.
    """
    return load_model(
        path, COMPONENTS, StableDiffusionConfig, num_heads=num_heads, use_ema=use_ema
    )


def load_model(
    path: str | Path,
    components: Sequence[Component],
    config_class: type,
    *,
    num_heads: int | None = None,
    use_ema: bool = False,
    only: Sequence[str] | None = None,
) -> Model:
    """Returns the model at `path`, made of those of `components` that are there.

    Args:
      path: checkpoint file or folder in any layout, or a converted directory.
      components: that may be there.
      config_class: dataclass with a field for each component, and `schedule`.
      num_heads: attention heads where no config.json tells them; 8 unless given.
      use_ema: take the UNet's averaged weights from a file that has both.
      only: names of the components wanted; all unless given.
    """
    wanted = [item for item in components if only is None or item.name in only]
    if is_converted(path):
        converted = open_converted(path, wanted)
        _refuse_heads(path, num_heads, use_ema)
        params = {
            item.name: load_params(
                converted.path / "params" / item.name,
                item.abstract_params(converted.configs[item.name]),
            )
            for item in wanted
            if item.name in converted.configs
        }
        return Model(params, config_class(schedule=converted.schedule, **converted.configs))
    plan = plan_loading(open_source(path), wanted, num_heads=num_heads, use_ema=use_ema)
    params = {
        item.name: read_component(plan, item, keep=jnp.asarray)
        for item in wanted
        if item.name in plan.configs
    }
    return Model(params, config_class(schedule=schedule_of(plan.source), **plan.configs))


def find_tokenizer(path: str | Path) -> Path | None:
    """Returns the folder of the tokenizer's files that belongs to a checkpoint, if any."""
    folder = Path(path) / "tokenizer"
    return folder if folder.is_dir() else None


def schedule_of(source: Source) -> ScheduleConfig:
    """Returns the noise schedule of a checkpoint: its scheduler_config.json, or SD 1.x's.

    Raises:
      CheckpointError: the schedule is of a kind that Stable Diffusion 1.x does not use.
    """
    content: Mapping[str, Any] = source.scheduler
    default = ScheduleConfig()
    kind = content.get("beta_schedule", "scaled_linear")
    prediction = content.get("prediction_type", default.prediction_type)
    if kind != "scaled_linear" or prediction not in ("epsilon", "v_prediction"):
        raise CheckpointError(
            f"{source.path}: scheduler_config.json asks for beta_schedule {kind!r} and "
            f"prediction_type {prediction!r}; supported are 'scaled_linear' with 'epsilon' or "
            "'v_prediction'"
        )
    return ScheduleConfig(
        num_train_timesteps=content.get("num_train_timesteps", default.num_train_timesteps),
        beta_start=content.get("beta_start", default.beta_start),
        beta_end=content.get("beta_end", default.beta_end),
        prediction_type=prediction,
    )


def _refuse_heads(path: str | Path, num_heads: int | None, use_ema: bool) -> None:
    if num_heads is not None or use_ema:
        raise CheckpointError(
            f"{path}: is converted already, with its heads and weights chosen; pass num_heads and "
            "use_ema when converting"
        )


def place(model: Model, sharding: jax.sharding.Sharding) -> Model:
    """Returns the model with its parameters on the devices of `sharding`."""
    return model.replace(params=jax.device_put(model.params, sharding))
