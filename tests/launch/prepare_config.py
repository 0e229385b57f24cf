"""Configs of preparation."""

from __future__ import annotations

from typing import Any

from configs.prepare import get_config


def config_of(dataset: str = "coco", **changes: Any) -> Any:
    """Returns the config of a data set with some settings of one's own."""
    config = get_config(f"dataset={dataset}")
    config.update(changes)
    return config
