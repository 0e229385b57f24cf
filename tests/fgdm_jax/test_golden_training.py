"""The denoising loss of an adapter and its gradients against the original code.

Upstream's distillation term has no gradient (it compares detached maps), so the gradients that it
computes are those of the denoising loss alone.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgdm_jax.convert import components
from fgdm_jax.networks import DEFAULT_SETTINGS, FactorNetworks
from sd_jax.convert.table import to_theirs
from sd_jax.losses import squared_errors
from sd_jax.schedule import add_noise, make_schedule
from sd_jax.testing import quick_jit, relative_rms
from sd_jax.typing import flat_params

pytestmark = pytest.mark.parity
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-6, 2e-5
VARIABLES = {"adapter": "segmentation", "time_adapter": "depth"}
# The one with time has all that the plain one has.
KINDS = [pytest.param("adapter", marks=pytest.mark.slow), "time_adapter"]
FACTS = json.loads((Path(__file__).parents[1] / "goldens" / "fgdm" / "e_training.json").read_text())


@pytest.fixture(scope="module", params=KINDS)
def trained(request, golden_model, golden_inputs):
    """Returns the kind of adapter, its loss, and its gradients in the original code's names."""
    inputs, variable = golden_inputs, VARIABLES[request.param]
    schedule = make_schedule(golden_model.config.schedule)
    name = f"adapter_{variable}"

    def loss(params, model):
        model = model.replace(params={**model.params, name: params})
        noisy = add_noise(schedule, inputs.x_start, inputs.noise, inputs.timesteps)
        networks = FactorNetworks(model, variable, DEFAULT_SETTINGS)
        prediction = networks(noisy, inputs.timesteps, inputs.text)
        return jnp.mean(squared_errors(prediction, inputs.noise))

    value, gradients = quick_jit(jax.value_and_grad(loss))(golden_model.params[name], golden_model)
    component = next(item for item in components(variable) if item.name == name)
    flat = flat_params(gradients)
    theirs = {
        f"adapter.{entry.name}": to_theirs(np.asarray(flat[entry.path]), entry.kind)
        for entry in component.table("ldm", getattr(golden_model.config, name))
    }
    return request.param, float(value), theirs


def test_loss(trained):
    kind, value, _ = trained
    assert value == pytest.approx(FACTS[kind]["loss"], rel=LOSS_TOLERANCE)


def test_norms_of_all_gradients(trained):
    kind, _, gradients = trained
    expected = FACTS[kind]["gradient_norms"]
    assert gradients.keys() == expected.keys()
    for name, norm in expected.items():
        ours = np.linalg.norm(np.asarray(gradients[name], np.float64))
        # A bias before a norm of groups of one channel has no gradient: theirs is rounding too.
        assert ours == pytest.approx(norm, rel=GRADIENT_TOLERANCE, abs=1e-8), name


def test_gradient_of_the_first_layer(trained, golden):
    kind, _, gradients = trained
    expected = golden("e_training")[f"{kind}_grad_conv_in_weight"]
    assert relative_rms(gradients["adapter.conv_in.weight"], expected) <= GRADIENT_TOLERANCE
