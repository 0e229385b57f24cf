"""Which settings of a run may change between two starts, because no result follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What may change between two starts of a run without changing its results.
_FREE = frozenset(
    {
        *("init", "num_heads", "use_ema", "data", "eval_data", "workers", "max_bad_records"),
        *("data_parallel", "fsdp", "tensor", "frozen", "distributed", "memory_limit_gb"),
        *("log_every", "eval_every", "eval_examples", "sample_every", "num_samples"),
        *("sample_steps", "guidance_scale", "save_every", "keep_last", "keep_every", "writers"),
        *("profile_steps", "on_damaged_checkpoint", "accept_changes", "num_epochs", "num_steps"),
        *("remat", "attention", "max_skipped", "scale", "depth_streams", "num_layers"),
    }
)


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns the settings that change a run's results and differ, one text each.

    The number of steps may grow or shrink, unless the learning rate follows from it. A setting that
    only one version of the program has is not compared: its default is what there was before.

    Args:
      old: settings that the run was started with.
      new: settings that it is to go on with.
    """
    decays = new.get("schedule", "constant") != "constant"
    free = _FREE - {"num_steps", "num_epochs"} if decays else _FREE
    return [
        f"{name} was {old[name]!r} and is {new[name]!r}"
        for name in sorted(old.keys() & new.keys())
        if name not in free and old[name] != new[name]
    ]
