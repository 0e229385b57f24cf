"""A tiny checkpoint in every layout, photographs, depth maps and a mask, on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cnc_jax.convert import COMPONENTS
from cnc_jax.testing import random_model, tiny_config
from sd_jax.convert.export import export_ldm
from sd_jax.convert.load import plan_loading
from sd_jax.convert.source import open_source
from sd_jax.convert.store import save_plans
from sd_jax.convert.weights import weights_of_model
from sd_jax.model import Model
from tests.launch.demo_files import write_demo_files

# Of the UNet; no file in the original layout tells them.
NUM_HEADS = 4


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Config values that compose photographs by a diffusers folder of random weights."""
    return write_demo_files(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="session")
def tiny_model() -> Model:
    return random_model(tiny_config())


@pytest.fixture(scope="session")
def checkpoints(
    demo: dict[str, Any], tiny_model: Model, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """Config values that name the same weights in each layout."""
    folder = tmp_path_factory.mktemp("checkpoints")
    configs = {name: getattr(tiny_model.config, name) for name in tiny_model.params}
    weights = weights_of_model(tiny_model.params, configs, tiny_model.config.schedule)
    for name in ("tiny.safetensors", "tiny.ckpt"):
        export_ldm(weights, COMPONENTS, folder / name)
    plan = plan_loading(open_source(demo["checkpoint"]), COMPONENTS)
    save_plans([plan], COMPONENTS, folder / "converted", tiny_model.config.schedule)
    heads = {"num_heads": NUM_HEADS}
    return {
        "diffusers": {"checkpoint": demo["checkpoint"]},
        "safetensors": {"checkpoint": str(folder / "tiny.safetensors"), **heads},
        "ckpt": {"checkpoint": str(folder / "tiny.ckpt"), **heads},
        "converted": {"checkpoint": str(folder / "converted")},
    }


@pytest.fixture
def settings(demo: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Those of `demo` at the smallest size, two steps."""
    return {
        **demo,
        "height": 64,
        "width": 64,
        "num_steps": 2,
        "output": str(tmp_path / "output"),
    }
