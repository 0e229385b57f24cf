"""Whole guided samplings of one factor against the original DDIM."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgdm_jax import factor_denoise_fn
from sd_jax.guidance import guided
from sd_jax.samplers import ddim
from sd_jax.sampling import sample_history
from sd_jax.schedule import make_schedule, sampling_timesteps
from sd_jax.testing import quick_jit, relative_rms

pytestmark = pytest.mark.parity
TOLERANCE = 2e-5
VARIABLES = {"adapter": "segmentation", "time_adapter": "depth"}
SCALE = 7.5


@pytest.fixture(scope="module", params=VARIABLES)
def history(request, golden_model, golden_inputs):
    """Returns the kind of adapter, and latents and predicted clean latents after each step."""
    inputs, schedule = golden_inputs, make_schedule(golden_model.config.schedule)
    table = ddim(schedule, sampling_timesteps(5))

    @quick_jit
    def run(model, texts, latents, keys):
        denoise = factor_denoise_fn(model, VARIABLES[request.param], texts, has_parents=False)
        return sample_history(guided(denoise, jnp.array([SCALE])), table, latents, keys)

    texts = jnp.concatenate([inputs.negative, inputs.text])
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    return request.param, run(golden_model, texts, inputs.x_T, keys)


def test_every_step(history, golden):
    kind, ours = history
    theirs = golden("g_ddim")
    # Their first entries are the noise that they start from.
    for number in range(5):
        for name, field in (("x_inter", ours.latents), ("pred_x0", ours.x0)):
            expected = theirs[f"{kind}_{name}"][number + 1].transpose(0, 2, 3, 1)
            assert relative_rms(field[number], expected) <= TOLERANCE


def test_the_result(history, golden):
    kind, ours = history
    expected = golden("g_ddim")[f"{kind}_samples"].transpose(0, 2, 3, 1)
    assert relative_rms(ours.latents[-1], expected) <= TOLERANCE


def test_the_schedule(golden, golden_model):
    theirs, schedule = golden("g_ddim"), make_schedule(golden_model.config.schedule)
    np.testing.assert_array_equal(sampling_timesteps(5)[::-1], theirs["ddim_timesteps"])
    ours = schedule.alphas_cumprod[[0, 1, 500, 999]]
    np.testing.assert_allclose(ours, theirs["alphas_cumprod_0_1_500_999"], rtol=1e-7)
