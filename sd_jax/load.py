"""The one way into a checkpoint, whatever its layout, converted or not."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from sd_jax.convert.component import COMPONENTS, Component
from sd_jax.convert.load import disagreements, plan_loading, read_component
from sd_jax.convert.source import CheckpointError, Source, open_source
from sd_jax.convert.store import Converted
from sd_jax.embedded import embedded_folders, is_embedded
from sd_jax.model import Model, StableDiffusionConfig
from sd_jax.schedule import ScheduleConfig
from sd_jax.training.trained import is_directory, open_directory
from sd_jax.typing import Params


@dataclasses.dataclass(frozen=True)
class Opened:
    """One or several checkpoints, checked, of which no weight has been read.

    Attributes:
      configs: sizes by component.
      schedule: noise schedule.
      tokenizer: folder with tokenizer files, if a checkpoint has one.
      readers: component -> function that reads its parameters.
    """

    configs: Mapping[str, Any]
    schedule: ScheduleConfig
    tokenizer: Path | None
    readers: Mapping[str, Callable[[], Params]]

    def load(self, config_class: type, only: Collection[str] | None = None) -> Model:
        """Returns the model.

        Args:
          config_class: dataclass with a field for each component, and `schedule`.
          only: names of the components wanted; all unless given.
        """
        names = [name for name in self.configs if only is None or name in only]
        params = {name: self.readers[name]() for name in names}
        configs = {name: self.configs[name] for name in names}
        return Model(params, config_class(schedule=self.schedule, **configs))


def open_checkpoints(
    paths: Sequence[str | Path],
    components: Sequence[Component],
    *,
    num_heads: int | None = None,
    use_ema: bool = False,
) -> Opened:
    """Returns the checkpoints' sizes after checking every name and shape; reads no weight.

    Args:
      paths: files, folders, converted directories, or names of `sd_jax.embedded`. They complete one
        another: of a component that two have, the first is taken, and the noise schedule is that
        of the UNet's checkpoint.
      components: that may be there.
      num_heads: attention heads where no config.json tells them; 8 unless given.
      use_ema: take the UNet's averaged weights from a file that has both.

    Raises:
      CheckpointError: a checkpoint is not there, damaged, or of another architecture.
    """
    return open_each([(path, components) for path in paths], num_heads=num_heads, use_ema=use_ema)


def open_each(
    items: Sequence[tuple[str | Path, Sequence[Component]]],
    *,
    num_heads: int | None = None,
    use_ema: bool = False,
) -> Opened:
    """Returns what `open_checkpoints` does, with components of its own for each checkpoint.

    Args:
      items: each a path, and the components that may be there; these differ in how they stand in
        files, not in what they are called.
      num_heads: as in `open_checkpoints`.
      use_ema: as in `open_checkpoints`.

    Raises:
      CheckpointError: as in `open_checkpoints`.
    """
    opened, errors = [], []
    for path, components in items:
        try:
            opened += _open(path, components, num_heads, use_ema)
        except ValueError as error:
            errors.append(error)
    if len(errors) > 1:
        raise CheckpointError("\n- ".join(map(str, errors)))
    if errors:
        raise errors[0]
    configs: dict[str, Any] = {}
    readers: dict[str, Callable[[], Params]] = {}
    for item in reversed(opened):
        configs.update(item.configs)
        readers.update(item.readers)
    problems = disagreements(configs)
    if problems:
        joined = ", ".join(str(path) for path, _ in items)
        raise CheckpointError("\n- ".join([f"{joined}: do not fit together", *problems]))
    with_unet = [item for item in opened if "unet" in item.configs] or opened
    tokenizers = [item.tokenizer for item in opened if item.tokenizer is not None]
    order = dict.fromkeys(item.name for _, components in items for item in components)
    return Opened(
        {name: configs[name] for name in order if name in configs},
        with_unet[0].schedule,
        tokenizers[0] if tokenizers else None,
        readers,
    )


def load(path: str | Path, *, num_heads: int | None = None, use_ema: bool = False) -> Model:
    """Returns a Stable Diffusion 1.x model.

    Args:
      path: checkpoint file or folder in any layout, a converted directory, or a name of
        `sd_jax.embedded`.
      num_heads: attention heads where no config.json tells them; 8 unless given.
      use_ema: take the UNet's averaged weights from a file that has both.

    Raises:
      CheckpointError: the checkpoint is not there, damaged, or of another architecture.
    """
    opened = open_checkpoints([path], COMPONENTS, num_heads=num_heads, use_ema=use_ema)
    return opened.load(StableDiffusionConfig)


def _open(
    path: str | Path, components: Sequence[Component], num_heads: int | None, use_ema: bool
) -> list[Opened]:
    """Returns the checkpoint, or those that go by its name."""
    if is_embedded(path):
        # Their config.json says how many heads there are.
        names = [item.name for item in components]
        folders = embedded_folders(path, names)
        return [_open_source(folder, components, None, False) for folder in folders]
    open_one = _open_converted if is_directory(path) else _open_source
    return [open_one(path, components, num_heads, use_ema)]


def _open_source(
    path: str | Path, components: Sequence[Component], num_heads: int | None, use_ema: bool
) -> Opened:
    plan = plan_loading(open_source(path), components, num_heads=num_heads, use_ema=use_ema)
    readers = {
        item.name: functools.partial(read_component, plan, item, jnp.asarray)
        for item in components
        if item.name in plan.configs
    }
    return Opened(plan.configs, schedule_of(plan.source), plan.source.tokenizer, readers)


def _open_converted(
    path: str | Path, components: Sequence[Component], num_heads: int | None, use_ema: bool
) -> Opened:
    if num_heads is not None or use_ema:
        raise CheckpointError(
            f"{path}: is converted already, with its heads and weights chosen; pass num_heads and "
            "use_ema when converting"
        )
    converted = open_directory(path, components)
    readers = {
        item.name: functools.partial(_read_converted, converted, item)
        for item in components
        if item.name in converted.configs
    }
    return Opened(converted.configs, converted.schedule, converted.tokenizer, readers)


def _read_converted(converted: Converted, component: Component) -> Params:
    abstract = component.abstract_params(converted.configs[component.name])
    params = converted.read(component.name, abstract)
    # Not committed to a device: they go where they are used, or put.
    return jax.tree.map(jnp.asarray, params)


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
    for name in ("rescale_betas_zero_snr", "trained_betas"):
        if content.get(name):
            raise CheckpointError(
                f"{source.path}: scheduler_config.json sets {name}, which changes the noise "
                "schedule and is not supported; remove it only if the weights were not trained so"
            )
    return ScheduleConfig(
        num_train_timesteps=content.get("num_train_timesteps", default.num_train_timesteps),
        beta_start=content.get("beta_start", default.beta_start),
        beta_end=content.get("beta_end", default.beta_end),
        prediction_type=prediction,
    )


def cast_params(model: Model, dtype: Any, leave: Collection[str] = ()) -> Model:
    """Returns the model with its floating-point parameters in another type.

    Args:
      model: any.
      dtype: the type.
      leave: components to leave as they are.
    """

    def cast(leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    params = {
        name: tree if name in leave else jax.tree.map(cast, tree)
        for name, tree in model.params.items()
    }
    return dataclasses.replace(model, params=params)
