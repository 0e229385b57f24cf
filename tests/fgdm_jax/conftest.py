"""The tiny models of the goldens with their inputs, and a smaller one for everything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from fgdm_jax import FGDMConfig
from fgdm_jax.adapter import AdapterConfig
from fgdm_jax.convert import COMPONENTS, components
from sd_jax.controlnet import ControlNetConfig
from sd_jax.convert.load import plan_loading, read_component
from sd_jax.convert.source import Source
from sd_jax.model import Model
from sd_jax.testing import (
    TINY_UNET,
    formula_normal,
    formula_params,
    formula_tensors,
    formula_uniform,
    to_nhwc,
)

GOLDENS = Path(__file__).parents[1] / "goldens" / "fgdm"

# The goldens' plain adapter is taken for one variable's and the one with time for another's.
VARIABLE_OF = {"adapter": "segmentation", "time_adapter": "depth"}


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """Returns a reader of the golden files, by name without suffix."""
    return lambda name: dict(np.load(GOLDENS / f"{name}.npz"))


@pytest.fixture(scope="session")
def golden_model() -> Model:
    """Returns the tiny UNet of the goldens with both adapters and the ControlNet.

    All are read through the tables, from sources that look like upstream's three files.
    """
    shapes = json.loads((GOLDENS / "tiny_shapes.json").read_text())
    params, configs = {}, {}
    for kind, variable in (*VARIABLE_OF.items(), ("controlnet", "segmentation")):
        tensors = formula_tensors(shapes[kind])
        if kind != "controlnet":
            # Their weights follow from the names within the UNet.
            tensors = {
                f"model.diffusion_model.{name}": tensor
                for name, tensor in {**formula_tensors(shapes["unet"]), **tensors}.items()
            }
        source = Source(Path(f"{kind}.ckpt"), "ldm", tensors)
        plan = plan_loading(source, components(variable), num_heads=4)
        assert not plan.unused
        configs |= plan.configs
        params |= {
            component.name: read_component(plan, component, jnp.asarray)
            for component in components(variable)
            if component.name in plan.configs
        }
    return Model(params, FGDMConfig(**configs))


@pytest.fixture(scope="session")
def golden_inputs() -> SimpleNamespace:
    """Returns the inputs of the goldens."""
    sizes = {"x": 16, "pcond": 16, "adapter_x": 16, "x_T": 16, "x_start": 32, "noise": 32}
    return SimpleNamespace(
        **{
            name: to_nhwc(formula_normal(f"input.{name}", (2, 4, n, n)))
            for name, n in sizes.items()
        },
        hint=to_nhwc(formula_normal("input.hint", (2, 3, 128, 128))),
        timesteps=jnp.array([17, 801]),
        text=jnp.asarray(formula_normal("input.context", (2, 77, 64))),
        negative=jnp.asarray(formula_normal("input.uncond_context", (2, 77, 64))),
    )


def small_adapter(number: int = 1, **changes) -> AdapterConfig:
    """Returns sizes of an adapter of the small model that sees this many variables."""
    return AdapterConfig(
        **{
            "in_channels": 4 * number,
            "block_out_channels": TINY_UNET.block_out_channels,
            "norm_num_groups": TINY_UNET.norm_num_groups,
            **changes,
        }
    )


@pytest.fixture(scope="session")
def small_model() -> Model:
    """Returns a small model with an adapter of each kind and a ControlNet; no weight is zero.

    segmentation: plain; depth: sees the timestep; image: sees two parents; normal: has zero
    convolutions; sketch: translates the text.
    """
    config = FGDMConfig(
        unet=TINY_UNET,
        controlnet=ControlNetConfig(TINY_UNET, hint_block_out_channels=(4, 8, 12, 16)),
        adapter_segmentation=small_adapter(),
        adapter_depth=small_adapter(time_embed_dim=TINY_UNET.time_embed_dim),
        adapter_image=small_adapter(2),
        adapter_normal=small_adapter(zero_convs=True, layers_per_level=1),
        adapter_sketch=small_adapter(text_dim=TINY_UNET.cross_attention_dim, text_channels=5),
    )
    params = {}
    for component in COMPONENTS:
        size = getattr(config, component.name)
        if size is not None:
            params[component.name] = formula_params(component.module(size), *component.inputs(size))
    return Model(params, config)


@pytest.fixture(scope="session")
def small_inputs() -> SimpleNamespace:
    """Returns inputs for the small model: 6 x 8 latents, 5 text tokens."""

    def latents(name: str, height: int = 6, width: int = 8) -> jnp.ndarray:
        return jnp.asarray(formula_normal(name, (2, height, width, 4)))

    return SimpleNamespace(
        latents=latents("latents"),
        timesteps=jnp.array([100, 900]),
        text=jnp.asarray(formula_normal("text", (2, 5, TINY_UNET.cross_attention_dim))),
        parents=[latents("parent 0"), latents("parent 1")],
        small_parent=latents("small parent", 2, 4),
        hint=jnp.asarray(formula_uniform("hint", (2, 48, 64, 3))),
    )


@pytest.fixture
def unchecked(monkeypatch) -> None:
    """Switches the checks of signatures off, for the errors that callers without them get."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
