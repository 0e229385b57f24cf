"""Which settings of a run may change between two starts, because no result follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ORDER = "data_order"
"""Name, among the settings, of the hash of the data and its order."""

PALETTE = "palette"
"""Name, among the settings, of that of the segmentations' classes and colours, if one is known."""

# What may change between two starts of a run without changing its results.
_FREE = frozenset(
    {
        *("init", "num_heads", "use_ema", "data", "eval_data", "workers", "max_bad_records"),
        *("data_parallel", "fsdp", "tensor", "frozen", "distributed", "deterministic"),
        *("log_every", "eval_every", "eval_examples", "sample_every", "num_samples"),
        *("sample_steps", "guidance_scale", "memory_limit_gb", "save_every", "keep_last"),
        *("keep_every", "writers"),
        *("profile_steps", "on_damaged_checkpoint", "accept_changes", "num_epochs", "num_steps"),
        *("accumulation", "remat", "attention", "max_skipped", "scale", "depth_streams"),
        "hidden_multiple",
    }
)


# What WORKDIR/model is made from.
_MADE_FROM = (
    *("init", "num_heads", "use_ema", "stage", "seed"),
    *("num_layers", "depth_streams", "hidden_multiple"),
    *("latents", "text", "exemplars"),
    # The scale of new latents is measured.
    *("data", "eval_data", "sizes", "scenes_seed"),
    *("system", "graph", "trained", "adapter", "adapter_layers", "adapter_start"),
    *("adapter_text", "parent_latents"),
    *("tokenizer", "prediction_type", "norm_groups", "latent_channels", "autoencoder_channels"),
    *("autoencoder_layers", "unet_channels", "unet_attention", "unet_layers", "unet_heads"),
    *("text_width", "text_layers", "image_size", "image_patch", "image_width", "image_layers"),
    "tower_heads",
)


def starts_anew(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> bool:
    """Returns whether other settings make another model to start from.

    Args:
      old: settings of an earlier try; None if it did not come so far.
      new: settings of this one.
    """
    return old is None or any(old.get(name) != new.get(name) for name in _MADE_FROM)


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
    found = [
        f"{name} was {old[name]!r} and is {new[name]!r}"
        for name in sorted(old.keys() & new.keys() - {ORDER, PALETTE})
        if name not in free and old[name] != new[name]
    ]
    # The order follows from settings, which say it better than its hash.
    if not found and ORDER in old and old[ORDER] != new.get(ORDER):
        found = ["the data was another: other records, or as many in another order"]
    return found
