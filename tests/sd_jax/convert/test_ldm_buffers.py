"""Buffers that the original code wants in its files."""

from __future__ import annotations

import numpy as np

from sd_jax.clip import CLIPTextConfig
from sd_jax.convert.ldm_buffers import ldm_buffers, schedule_buffers
from sd_jax.schedule import ScheduleConfig, make_schedule
from sd_jax.unet import UNetConfig


def test_the_posterior_is_that_of_bayes_rule():
    buffers = {name: v.astype(np.float64) for name, v in schedule_buffers(ScheduleConfig()).items()}
    betas, cumulated = buffers["betas"][1:], buffers["alphas_cumprod"]
    alphas, previous = 1 - betas, cumulated[:-1]
    # q(x_t | x_{t-1}) and q(x_{t-1} | x_0) as two Gaussian factors over x_{t-1}.
    precision = alphas / betas + 1 / (1 - previous)
    for name, expected in {
        "posterior_variance": 1 / precision,
        "posterior_log_variance_clipped": -np.log(precision),
        "posterior_mean_coef1": np.sqrt(previous) / (1 - previous) / precision,
        "posterior_mean_coef2": np.sqrt(alphas) / betas / precision,
    }.items():
        np.testing.assert_allclose(buffers[name][1:], expected, rtol=1e-3, err_msg=name)


def test_buffers_follow_the_schedule():
    config = ScheduleConfig(num_train_timesteps=50, beta_end=0.02)
    buffers = schedule_buffers(config)
    alphas_cumprod = make_schedule(config).alphas_cumprod
    np.testing.assert_array_equal(buffers["alphas_cumprod"], alphas_cumprod)
    np.testing.assert_array_equal(buffers["alphas_cumprod_prev"][1:], alphas_cumprod[:-1])
    signal, noise = buffers["sqrt_alphas_cumprod"], buffers["sqrt_one_minus_alphas_cumprod"]
    np.testing.assert_allclose(signal**2 + noise**2, 1, rtol=1e-6)
    np.testing.assert_allclose(np.exp(buffers["log_one_minus_alphas_cumprod"]), noise**2, rtol=1e-5)
    np.testing.assert_allclose(buffers["sqrt_recip_alphas_cumprod"] * signal, 1, rtol=1e-6)
    np.testing.assert_allclose(buffers["sqrt_recipm1_alphas_cumprod"], noise / signal, rtol=1e-5)
    assert not buffers["logvar"].any()
    assert {(values.shape, values.dtype.name) for values in buffers.values()} == {
        ((50,), "float32")
    }


def test_only_what_belongs_to_the_components():
    unet = ldm_buffers({"unet": UNetConfig()}, ScheduleConfig())
    assert len(unet) == 13
    (ids,) = ldm_buffers({"text_encoder": CLIPTextConfig()}, ScheduleConfig())
    np.testing.assert_array_equal(ids.read(), np.arange(77)[None])
