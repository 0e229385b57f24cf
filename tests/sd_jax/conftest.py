"""What tests of Stable Diffusion share: a tiny UNet with weights, its inputs, and the goldens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from sd_jax.testing import TINY_UNET, formula_normal, formula_params
from sd_jax.unet import UNet

GOLDENS = Path(__file__).parents[1] / "goldens" / "cnc"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """Returns a reader of the golden files, by name without suffix."""
    return lambda name: dict(np.load(GOLDENS / f"{name}.npz"))


@pytest.fixture(scope="session")
def unet_inputs() -> SimpleNamespace:
    """Returns latents that are not square, timesteps and a context of 7 tokens, for 2 images."""
    return SimpleNamespace(
        latents=jnp.asarray(formula_normal("latents", (2, 6, 8, 4))),
        timesteps=jnp.array([17, 801]),
        context=jnp.asarray(formula_normal("context", (2, 7, TINY_UNET.cross_attention_dim))),
    )


@pytest.fixture(scope="session")
def unet_params(unet_inputs):
    """Returns parameters of the tiny UNet; none is zero."""
    return formula_params(UNet(TINY_UNET), *vars(unet_inputs).values())


@pytest.fixture
def unchecked(monkeypatch) -> None:
    """Switches the checks of signatures off, for the errors that callers without them get."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
