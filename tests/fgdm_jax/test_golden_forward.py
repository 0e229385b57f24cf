"""One forward pass against the original code: adapters, the UNet with them, and ControlNet."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from fgdm_jax import predict_noise
from fgdm_jax.adapter import Adapter
from fgdm_jax.controlled import predict_controlled_noise
from sd_jax.controlnet import ControlNet
from sd_jax.layers import TimestepEmbedding, timestep_embedding
from sd_jax.testing import quick_jit, relative_rms

pytestmark = pytest.mark.parity
TOLERANCE = 5e-6

VARIABLES = {"adapter": "segmentation", "time_adapter": "depth"}

predict = quick_jit(predict_noise, static_argnames=("variable",))


def assert_close(ours, theirs, tolerance=TOLERANCE):
    theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs
    assert relative_rms(ours, theirs) <= tolerance


@pytest.fixture(scope="module")
def embedding(golden_model, golden_inputs):
    """Returns the UNet's time embedding."""
    module = TimestepEmbedding(32, 128)
    params = golden_model.params["unet"]["time_embedding"]
    return module.apply({"params": params}, golden_inputs.timesteps)


def test_time_embedding(embedding, golden, golden_inputs):
    assert_close(timestep_embedding(golden_inputs.timesteps, 32), golden("a_adapters")["temb"])
    assert_close(embedding, golden("a_adapters")["emb"])


@pytest.mark.parametrize("kind", VARIABLES)
def test_features(golden_model, golden_inputs, golden, embedding, kind):
    name = f"adapter_{VARIABLES[kind]}"
    config = getattr(golden_model.config, name)
    assert (config.time_embed_dim is None) == (kind == "adapter")
    variables = {"params": golden_model.params[name]}
    features = quick_jit(Adapter(config).apply)(variables, golden_inputs.adapter_x, embedding)
    assert len(features) == 4
    for level, feature in enumerate(features):
        assert_close(feature, golden("a_adapters")[f"{kind}_{level}"])


@pytest.mark.parametrize(
    ("name", "variable", "has_parent"),
    [
        ("eps_no_adapter", None, False),
        ("eps_adapter", "segmentation", False),
        ("eps_time_adapter", "depth", False),
        ("eps_adapter_pcond", "segmentation", True),
        ("eps_time_adapter_pcond", "depth", True),
    ],
)
def test_noise(golden_model, golden_inputs, golden, name, variable, has_parent):
    inputs = golden_inputs
    noise = predict(
        golden_model,
        inputs.x,
        inputs.timesteps,
        inputs.text,
        inputs.pcond if has_parent else None,
        variable=variable,
    )
    assert_close(noise, golden("b_unet")[name])


def test_controlnet_residuals(golden_model, golden_inputs, golden):
    inputs = golden_inputs
    module = ControlNet(golden_model.config.controlnet)
    variables = {"params": golden_model.params["controlnet"]}
    run = quick_jit(lambda *args: module.apply(*args, mutable=["precomputed"]))
    (residuals, middle), remembered = run(
        variables, inputs.x, inputs.timesteps, inputs.text, inputs.hint
    )
    assert len(residuals) == 12
    for index, residual in enumerate([*residuals, middle]):
        assert_close(residual, golden("d_controlnet")[f"control_{index:02}"])
    assert_close(remembered["precomputed"]["hint_features"], golden("d_controlnet")["guided_hint"])


@pytest.mark.parametrize(
    ("name", "scale"),
    [("eps_controlled", 1.0), ("eps_controlled_scale0p5", 0.5), ("eps_no_control", 0.0)],
)
def test_controlled_noise(golden_model, golden_inputs, golden, name, scale):
    inputs = golden_inputs
    noise = quick_jit(predict_controlled_noise)(
        *(golden_model, inputs.x, inputs.timesteps, inputs.text, inputs.hint),
        conditioning_scale=jnp.float32(scale),
    )
    assert_close(noise, golden("d_controlnet")[name])


def test_goldens_tell_conditions_apart(golden):
    # Otherwise agreeing with all of them would mean little.
    eps = {**golden("b_unet"), **golden("d_controlnet")}
    names = sorted(name for name in eps if name.startswith("eps") and name != "eps_no_control")
    distances = [relative_rms(eps[a], eps[b]) for i, a in enumerate(names) for b in names[i + 1 :]]
    assert np.min(distances) > 1000 * TOLERANCE
