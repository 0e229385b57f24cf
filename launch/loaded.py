"""Models in memory: read once for a command, or kept for the next request of a server."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import jax

from sd_jax.load import Opened, cast_params
from sd_jax.model import Model
from sd_jax.typing import Params


class LoadedModels:
    """Reads the components that requests need.

    Args:
      keep: whether components stay for further requests; what changes in their files is not seen.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self._keep = keep
        self._kept: dict[tuple[Any, ...], Params] = {}

    def load(
        self,
        opened: Opened,
        config_class: type,
        names: Sequence[str],
        dtype: str,
        source: tuple[Any, ...],
    ) -> Model:
        """Returns a model with its parameters on the device.

        Args:
          opened: the checkpoints, checked.
          config_class: dataclass with a field for each component, and `schedule`.
          names: of the components wanted.
          dtype: of the parameters.
          source: what tells these checkpoints from others: paths, and how they are read.
        """
        params: dict[str, Params] = {}
        missing = [name for name in names if (name, dtype, *source) not in self._kept]
        if missing:
            print(f"loading {', '.join(missing)} ...", file=sys.stderr)
            model = opened.load(config_class, missing)
            if dtype != "float32":
                # The safety checker decides by a rounding, which half precision would change.
                model = cast_params(model, dtype, leave=("safety_checker",))
            params = dict(jax.block_until_ready(model.params))
        for name in names:
            if name not in params:
                params[name] = self._kept[name, dtype, *source]
            elif self._keep:
                self._kept[name, dtype, *source] = params[name]
        configs = {name: opened.configs[name] for name in names}
        ordered = {name: params[name] for name in names}
        return Model(ordered, config_class(schedule=opened.schedule, **configs))
