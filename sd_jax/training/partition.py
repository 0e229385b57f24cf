"""Trainable and frozen parameters: two trees that together are the model's."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sd_jax.typing import Params, flat_params, nested_params


def split_params(params: Params, trainable: Sequence[str]) -> tuple[Params, Params]:
    """Returns (trainable, frozen) parameters.

    Args:
      params: of the model, by component.
      trainable: patterns of paths ("local_fuser/.*"); each must match a whole path.

    Raises:
      ValueError: a pattern matches nothing; lists all such patterns, and the components.
    """
    flat = flat_params(params)
    chosen = {path for path in flat if any(re.fullmatch(item, path) for item in trainable)}
    idle = [item for item in trainable if not any(re.fullmatch(item, path) for path in flat)]
    if idle or not chosen:
        components = ", ".join(sorted({path.partition("/")[0] for path in flat})) or "nothing"
        raise ValueError(
            f"no parameter matches {', '.join(map(repr, idle)) or 'the empty list of patterns'}; "
            f"patterns are of whole paths like 'unet/.*', and the model has {components}"
        )
    return (
        nested_params({path: flat[path] for path in flat if path in chosen}),
        nested_params({path: flat[path] for path in flat if path not in chosen}),
    )


def merge_params(params: Params, frozen: Params) -> Params:
    """Returns the model's parameters; undoes `split_params`.

    Args:
      params: trainable ones.
      frozen: the others; no path may be in both.

    Raises:
      ValueError: paths are in both; lists some of them.
    """
    ours, theirs = flat_params(params), flat_params(frozen)
    both = sorted(ours.keys() & theirs.keys())
    if both:
        raise ValueError(
            f"{len(both)} parameters are both trainable and frozen: {', '.join(both[:5])}"
        )
    return nested_params({**theirs, **ours})
