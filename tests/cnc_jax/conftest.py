"""The tiny model of the goldens with its inputs, and a smaller one for everything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from cnc_jax import CnCConfig, Condition
from cnc_jax.convert import COMPONENTS, GLOBAL_FUSER, LOCAL_FUSER
from cnc_jax.global_fuser import GlobalFuserConfig
from cnc_jax.local_fuser import LocalFuserConfig
from sd_jax.convert.component import UNET
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

GOLDENS = Path(__file__).parents[1] / "goldens" / "cnc"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """Returns a reader of the golden files, by name without suffix."""
    return lambda name: dict(np.load(GOLDENS / f"{name}.npz"))


@pytest.fixture(scope="session")
def golden_model() -> Model:
    """Returns the tiny model of the goldens, read through the tables of the original layout."""
    shapes = json.loads((GOLDENS / "tiny_shapes.json").read_text())
    source = Source(Path("tiny.safetensors"), "ldm", formula_tensors(shapes))
    plan = plan_loading(source, COMPONENTS, num_heads=4)
    assert not plan.unused
    params = {
        component.name: read_component(plan, component, jnp.asarray)
        for component in COMPONENTS
        if component.name in plan.configs
    }
    return Model(params, CnCConfig(**plan.configs))


@pytest.fixture(scope="session")
def golden_inputs() -> SimpleNamespace:
    """Returns the inputs of the goldens; conditions with every field that the variants change."""
    mask = np.zeros((2, 1, 128, 128), np.float32)
    mask[0, 0, 32:96, 32:96] = 1
    mask[1, 0, 48:80, 16:112] = 1
    depth = [
        to_nhwc(formula_uniform(f"input.{layer}_depth", (2, 3, 128, 128))) for layer in ("fg", "bg")
    ]
    embeddings = [jnp.asarray(formula_normal(f"input.{x}_emb", (2, 64))) for x in ("fg", "bg")]
    return SimpleNamespace(
        latents=to_nhwc(formula_normal("input.x", (2, 4, 16, 16))),
        initial=to_nhwc(formula_normal("input.x_T", (2, 4, 16, 16))),
        timesteps=jnp.array([17, 801]),
        text=jnp.asarray(formula_normal("input.context", (2, 77, 64))),
        negative=jnp.asarray(formula_normal("input.uncond_context", (2, 77, 64))),
        condition=Condition(
            depth_maps=jnp.stack(depth, axis=1),
            exemplar_embeddings=jnp.stack(embeddings, axis=1),
            masks=jnp.asarray(mask),
            exemplar_strengths=jnp.ones(2),
            residual_scales=jnp.ones(()),
        ),
    )


def small_config(num_layers: int) -> CnCConfig:
    """Returns sizes with other numbers than the released model's wherever there is a choice."""
    return CnCConfig(
        unet=TINY_UNET,
        local_fuser=LocalFuserConfig(
            unet=TINY_UNET,
            num_layers=num_layers,
            stem_channels=(8, 8, 8, 8),
            inject_channels=(8, 12),
        ),
        global_fuser=GlobalFuserConfig(
            num_layers=num_layers, embedding_dim=TINY_UNET.cross_attention_dim, num_tokens=2
        ),
    )


@pytest.fixture(scope="session")
def small_model() -> Callable[[int], Model]:
    """Returns a maker of small models with this many layers; no weight is zero."""
    made: dict[int, Model] = {}

    def make(num_layers: int) -> Model:
        if num_layers not in made:
            config = small_config(num_layers)
            params = {}
            for component in (UNET, LOCAL_FUSER, GLOBAL_FUSER):
                size = getattr(config, component.name)
                params[component.name] = formula_params(
                    component.module(size), *component.inputs(size)
                )
            made[num_layers] = Model(params, config)
        return made[num_layers]

    return make


@pytest.fixture(scope="session")
def small_inputs() -> Callable[..., SimpleNamespace]:
    """Returns a maker of inputs for the small models: 6 x 8 latents, 5 text tokens."""

    def make(num_layers: int, batch: int = 2, size: tuple[int, int] = (6, 8)) -> SimpleNamespace:
        height, width = size
        image = (8 * height, 8 * width)

        def array(kind: Callable, name: str, *shape: int) -> jax.Array:
            return jnp.asarray(kind(name, (batch, *shape)))

        return SimpleNamespace(
            latents=array(formula_normal, "latents", height, width, 4),
            timesteps=jnp.linspace(100, 900, batch).astype(jnp.int32),
            text=array(formula_normal, "text", 5, TINY_UNET.cross_attention_dim),
            condition=Condition(
                depth_maps=array(formula_uniform, "depth", num_layers, *image, 3),
                exemplar_embeddings=array(
                    formula_normal, "exemplar", num_layers, TINY_UNET.cross_attention_dim
                ),
                # Stripes: each layer is seen somewhere, in front of the ones behind it.
                masks=jnp.stack(
                    [
                        jnp.zeros((batch, *image)).at[:, :, : image[1] * k // num_layers].set(1.0)
                        for k in range(1, num_layers + 1)
                    ],
                    axis=1,
                ),
            ),
        )

    return make


@pytest.fixture
def unchecked(monkeypatch) -> None:
    """Switches the checks of signatures off, for the errors that callers without them get."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
