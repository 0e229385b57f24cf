"""The denoising loss: targets, weights, and draws that depend on an example's key alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sd_jax.losses import draw, min_snr_weights, prediction_target, squared_errors
from sd_jax.schedule import ScheduleConfig, add_noise, make_schedule

SCHEDULE = make_schedule(ScheduleConfig())


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def test_an_example_draws_the_same_in_any_batch():
    whole = draw(keys(6), (4, 4, 2), 1000)
    part = draw(keys(6)[2:4], (4, 4, 2), 1000)
    np.testing.assert_array_equal(whole.timesteps[2:4], part.timesteps)
    np.testing.assert_array_equal(whole.noise[2:4], part.noise)
    for name in ("latents", "dropout"):
        ours, theirs = getattr(whole, name)[2:4], getattr(part, name)
        np.testing.assert_array_equal(jax.random.key_data(ours), jax.random.key_data(theirs))


def test_timesteps_are_uniform_and_noise_is_normal():
    drawn = draw(keys(20_000), (2, 2, 1), 1000)
    timesteps = np.asarray(drawn.timesteps)
    assert timesteps.min() == 0
    assert timesteps.max() == 999
    counts = np.bincount(timesteps // 100, minlength=10)
    assert np.abs(counts - 2000).max() < 200
    assert abs(float(drawn.noise.mean())) < 0.01
    assert float(drawn.noise.std()) == pytest.approx(1, abs=0.01)


def test_purposes_do_not_share_keys():
    drawn = draw(keys(1), (8, 8, 1), 1000)
    data = {
        tuple(np.asarray(jax.random.key_data(getattr(drawn, n)))[0]) for n in ("latents", "dropout")
    }
    assert len(data) == 2
    from_latents = jax.random.normal(drawn.latents[0], (8, 8, 1))
    assert not np.allclose(from_latents, drawn.noise[0])


def test_epsilon_target_is_the_noise():
    x0, noise = jnp.ones((2, 3)), jnp.full((2, 3), 2.0)
    timesteps = jnp.array([10, 900])
    assert prediction_target(SCHEDULE, "epsilon", x0, noise, timesteps) is noise


def test_velocity_target_gives_back_noise_and_image():
    x0, noise = (jax.random.normal(key, (3, 4)) for key in keys(2))
    timesteps = jnp.array([0, 500, 999])
    noisy = add_noise(SCHEDULE, x0, noise, timesteps)
    velocity = prediction_target(SCHEDULE, "v_prediction", x0, noise, timesteps)
    alphas = SCHEDULE.alphas_cumprod[np.asarray(timesteps)][:, None]
    np.testing.assert_allclose(
        np.sqrt(alphas) * noisy - np.sqrt(1 - alphas) * velocity, x0, atol=1e-5
    )


def test_squared_errors_are_means_over_each_example():
    prediction = jnp.array([[[1.0, 3.0]], [[0.0, 0.0]]], jnp.bfloat16)
    errors = squared_errors(prediction, jnp.zeros((2, 1, 2)))
    assert errors.dtype == jnp.float32
    np.testing.assert_allclose(errors, [5.0, 0.0])


@pytest.mark.parametrize(("kind", "extra"), [("epsilon", 0.0), ("v_prediction", 1.0)])
def test_min_snr_weights(kind, extra):
    timesteps = jnp.array([0, 400, 999])
    alphas = SCHEDULE.alphas_cumprod[np.asarray(timesteps)].astype(np.float64)
    snr = alphas / (1 - alphas)
    expected = np.minimum(snr, 5) / (snr + extra)
    weights = min_snr_weights(SCHEDULE, kind, timesteps, 5.0)
    np.testing.assert_allclose(weights, expected, rtol=1e-4)
