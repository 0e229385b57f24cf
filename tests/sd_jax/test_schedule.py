from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from sd_jax.samplers import ddim
from sd_jax.schedule import (
    ScheduleConfig,
    add_noise,
    make_schedule,
    noise_from_prediction,
    sampling_timesteps,
    velocity,
)

SCHEDULE = make_schedule(ScheduleConfig())
STEPS = json.loads((Path(__file__).parents[1] / "goldens/cnc/ddim_steps.json").read_text())


@pytest.mark.parity
def test_alphas_equal_the_original(golden):
    theirs = golden("schedule")
    alphas = SCHEDULE.alphas_cumprod
    assert alphas.dtype == np.float32
    np.testing.assert_array_equal(alphas, theirs["alphas_cumprod"])
    np.testing.assert_allclose(np.sqrt(alphas), theirs["sqrt_alphas_cumprod"], rtol=1e-6)
    # The original took this root before rounding to float32; it tells for the first few timesteps.
    np.testing.assert_allclose(
        np.sqrt(1 - alphas), theirs["sqrt_one_minus_alphas_cumprod"], rtol=2e-5
    )
    kept = np.append(1.0, alphas[:-1].astype(np.float64))
    np.testing.assert_allclose(1 - alphas / kept, theirs["betas"], rtol=1e-3)


@pytest.mark.parity
@pytest.mark.parametrize("steps", [5, 20, 50])
def test_ddim_table_equals_the_original(golden, steps):
    theirs = golden("schedule")
    timesteps = sampling_timesteps(steps)
    np.testing.assert_array_equal(timesteps[::-1], theirs[f"timesteps_{steps}"])
    table = ddim(SCHEDULE, timesteps)
    previous = theirs[f"alphas_prev_{steps}"][::-1]
    np.testing.assert_array_equal(table.alphas_cumprod[::-1], theirs[f"alphas_{steps}"])
    np.testing.assert_allclose(table.x0, np.sqrt(previous), rtol=1e-6)
    np.testing.assert_allclose(table.noise, np.sqrt(1 - previous.astype(np.float64)), rtol=1e-5)
    np.testing.assert_allclose(
        np.sqrt(1 - table.alphas_cumprod[::-1]),
        theirs[f"sqrt_one_minus_alphas_{steps}"],
        rtol=1e-5,
    )
    assert not np.any(table.fresh_noise)
    assert not np.any(table.previous_x0)


@pytest.mark.parity
def test_ddim_table_with_noise_equals_the_original(golden):
    table = ddim(SCHEDULE, sampling_timesteps(50), eta=1.0)
    sigmas = golden("schedule")["sigmas_50_eta1"][::-1]
    np.testing.assert_allclose(table.fresh_noise, sigmas, rtol=1e-6)
    previous = golden("schedule")["alphas_prev_50"][::-1].astype(np.float64)
    np.testing.assert_allclose(table.noise, np.sqrt(1 - previous - sigmas**2), rtol=1e-5)


def test_add_noise_keeps_the_variance_and_both_ends(rng):
    x0, noise = rng.standard_normal((2, 2, 3, 3, 4), np.float32)
    timesteps = jnp.array([0, 999])
    signal = np.sqrt(SCHEDULE.alphas_cumprod[[0, 999]])[:, None, None, None]
    sigma = np.sqrt(1 - SCHEDULE.alphas_cumprod[[0, 999]])[:, None, None, None]
    noisy = add_noise(SCHEDULE, jnp.asarray(x0), jnp.asarray(noise), timesteps)
    np.testing.assert_allclose(noisy, signal * x0 + sigma * noise, rtol=1e-5, atol=1e-6)
    # SD 1.x's schedule does not end at pure noise.
    assert 0.99 < signal[0].item() < 1
    assert 0.06 < signal[1].item() < 0.07


def test_one_timestep_for_all_equals_one_for_each(rng):
    x0, noise = jnp.asarray(rng.standard_normal((2, 2, 3, 3, 4), np.float32))
    for function in (add_noise, velocity):
        scalar = function(SCHEDULE, x0, noise, jnp.int32(500))
        np.testing.assert_array_equal(scalar, function(SCHEDULE, x0, noise, jnp.array([500, 500])))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_every_prediction_gives_back_the_noise(rng, prediction_type):
    x0, noise = jnp.asarray(rng.standard_normal((2, 3, 2, 2, 4), np.float32))
    timesteps = jnp.array([1, 500, 999])
    noisy = add_noise(SCHEDULE, x0, noise, timesteps)
    prediction = noise
    if prediction_type == "v_prediction":
        prediction = velocity(SCHEDULE, x0, noise, timesteps)
        assert np.abs(prediction - noise).max() > 0.1
    found = noise_from_prediction(SCHEDULE, prediction_type, prediction, noisy, timesteps)
    np.testing.assert_allclose(found, noise, atol=1e-5)


def test_schedule_follows_its_config():
    short = make_schedule(ScheduleConfig(num_train_timesteps=10, beta_start=0.1, beta_end=0.4))
    assert short.alphas_cumprod.shape == (10,)
    np.testing.assert_allclose(short.alphas_cumprod[0], 0.9, rtol=1e-6)
    np.testing.assert_allclose(short.alphas_cumprod[-1] / short.alphas_cumprod[-2], 0.6, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:one step")
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_every_number_of_steps_is_run_as_asked(spacing):
    for steps in range(1, 1001):
        timesteps = sampling_timesteps(steps, spacing=spacing)
        assert timesteps.dtype == np.int32
        assert len(timesteps) == steps
        assert (np.diff(timesteps) < 0).all()
        assert 0 <= timesteps[-1] <= timesteps[0] <= 999


@pytest.mark.filterwarnings("ignore:one step")
def test_spacings_start_and_end_where_they_say():
    for steps in (1, 2, 7, 30, 999):
        assert sampling_timesteps(steps)[-1] == 1
        assert sampling_timesteps(steps, spacing="trailing")[0] == 999
    np.testing.assert_array_equal(sampling_timesteps(4), [751, 501, 251, 1])
    np.testing.assert_array_equal(sampling_timesteps(4, spacing="trailing"), [999, 749, 499, 249])
    np.testing.assert_array_equal(sampling_timesteps(5, 10), [9, 7, 5, 3, 1])
    # Spread over the whole schedule where the number does not divide it.
    np.testing.assert_array_equal(sampling_timesteps(3), [667, 334, 1])
    np.testing.assert_array_equal(sampling_timesteps(60)[:3], [984, 967, 951])


@pytest.mark.parity
def test_upstream_spacing_equals_the_original():
    for steps, timesteps in STEPS["timesteps"].items():
        ours = sampling_timesteps(int(steps), spacing="upstream")
        np.testing.assert_array_equal(ours[::-1], timesteps)
        np.testing.assert_array_equal(ours, sampling_timesteps(int(steps)))


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:upstream's spacing runs:UserWarning")
def test_upstream_spacing_fails_where_the_original_fails():
    for steps in range(1, 1001):
        if steps in STEPS["fails"]:
            with pytest.raises(ValueError, match=f"timestep 1000 at {steps} steps"):
                sampling_timesteps(steps, spacing="upstream")
        else:
            assert sampling_timesteps(steps, spacing="upstream")[0] <= 999


@pytest.mark.parity
def test_upstream_spacing_warns_where_the_original_runs_another_number():
    for steps in range(1, 101):
        other = STEPS["runs_other_count"].get(str(steps))
        if other is not None:
            with pytest.warns(UserWarning, match=f"runs {other} steps where {steps} were asked"):
                assert len(sampling_timesteps(steps, spacing="upstream")) == other
        elif steps not in STEPS["fails"]:
            assert len(sampling_timesteps(steps, spacing="upstream")) == steps


def test_one_leading_step_warns():
    with pytest.warns(UserWarning, match="trailing"):
        sampling_timesteps(1)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_number_of_steps_out_of_range(steps):
    with pytest.raises(ValueError, match=f"from 1 to 1000, got {steps}"):
        sampling_timesteps(steps)


@pytest.mark.usefixtures("unchecked")
def test_unknown_spacing():
    with pytest.raises(ValueError, match="'linear'; choose one of leading, trailing, upstream"):
        sampling_timesteps(10, spacing="linear")
