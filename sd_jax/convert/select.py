"""Some components of a checkpoint on their way out, without the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sd_jax.convert.weights import ExportError, Weights


def select_components(weights: Weights, names: Sequence[str]) -> Weights:
    """Returns the weights of some components; the tables name their tensors.

    Args:
      weights: to write.
      names: of the components wanted.

    Raises:
      ExportError: the weights have no such component; lists all.
    """
    missing = [name for name in names if name not in weights.configs]
    if missing:
        raise ExportError(
            f"there is no {', '.join(missing)} to write; the checkpoint holds "
            f"{', '.join(weights.configs)}"
        )
    kept = [name for name in weights.configs if name in names]
    return dataclasses.replace(
        weights,
        configs={name: weights.configs[name] for name in kept},
        shapes={name: weights.shapes[name] for name in kept},
        # What the files that it came from looked like is true of the whole alone.
        origins=weights.origins if len(kept) == len(weights.configs) else (),
    )
