"""Checkpoints on their way out: several joined, or some components without the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sd_jax.convert.weights import ExportError, Weights


def join_weights(parts: Sequence[Weights]) -> Weights:
    """Returns the weights of checkpoints that complete one another.

    Args:
      parts: of a component that two have, the first is taken; the noise schedule is that of the
        first with a UNet.
    """
    if len(parts) == 1:
        return parts[0]
    holders = {name: part for part in reversed(parts) for name in part.configs}
    order = dict.fromkeys(name for part in parts for name in part.configs)
    with_unet = [part for part in parts if "unet" in part.configs] or parts
    tokenizers = [part.tokenizer for part in parts if part.tokenizer is not None]
    return Weights(
        {name: holders[name].configs[name] for name in order},
        with_unet[0].schedule,
        {name: holders[name].shapes[name] for name in order},
        lambda name: holders[name].read(name),
        tokenizer=tokenizers[0] if tokenizers else None,
    )


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
