"""Weights about to be written, whole or in part, held in memory or read as they are wanted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from sd_jax.convert.store import Converted, Origin
from sd_jax.schedule import ScheduleConfig
from sd_jax.typing import Params, flat_params

FlatShapes = Mapping[str, jax.ShapeDtypeStruct]


class ExportError(ValueError):
    """Weights that cannot be written as asked; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights about to be written, held or read one component at a time.

    Attributes:
      configs: sizes by component.
      schedule: noise schedule.
      shapes: shape and type of every parameter, by component and path.
      read: component -> its parameters by path.
      origins: the sources that they came from.
      extras: folder with the files of tensors that no network uses.
      tokenizer: folder with the tokenizer's files.
    """

    configs: Mapping[str, Any]
    schedule: ScheduleConfig
    shapes: Mapping[str, FlatShapes]
    read: Callable[[str], Mapping[str, Any]]
    origins: tuple[Origin, ...] = ()
    extras: Path | None = None
    tokenizer: Path | None = None


def weights_of_model(
    params: Mapping[str, Params],
    configs: Mapping[str, Any],
    schedule: ScheduleConfig,
    *,
    origins: tuple[Origin, ...] = (),
    tokenizer: Path | None = None,
) -> Weights:
    """Returns the weights of a model that is in memory.

    Args:
      params: by component.
      configs: sizes by component.
      schedule: noise schedule.
      origins: of the weights, if names of loaded files are to be kept.
      tokenizer: folder with the tokenizer's files.
    """
    flat = {name: flat_params(tree) for name, tree in params.items()}
    shapes = {
        name: {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in leaves.items()}
        for name, leaves in flat.items()
    }
    return Weights(configs, schedule, shapes, lambda name: flat[name], origins, None, tokenizer)


def weights_of_converted(converted: Converted) -> Weights:
    """Returns the weights of a converted directory; one component is in memory at a time."""
    shapes: dict[str, FlatShapes] = {name: converted.shapes(name) for name in converted.configs}
    held: dict[str, Mapping[str, Any]] = {}

    def read(name: str) -> Mapping[str, Any]:
        if name not in held:
            held.clear()
            held[name] = flat_params(converted.read(name))
        return held[name]

    return Weights(
        converted.configs,
        converted.schedule,
        shapes,
        read,
        converted.origins,
        converted.path,
        converted.tokenizer,
    )
