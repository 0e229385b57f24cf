"""Every sampler against diffusers' scheduler of the same name, on a denoiser that is not linear.

diffusers keeps Euler's latents in the variance-exploding scale (divided by the signal's root) and
DDIM's and DPM-Solver's in that of training, which is the only scale of this project.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sd_jax.samplers import make_sampler
from sd_jax.sampling import initial_noise, sample
from sd_jax.schedule import ScheduleConfig, make_schedule, sampling_timesteps
from sd_jax.testing import formula_normal, relative_rms

pytestmark = [
    pytest.mark.parity,
    # diffusers hands torch tensors to functions of NumPy.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
TOLERANCE = 1e-5
SCHEDULE = make_schedule(ScheduleConfig())
SHAPE = (2, 4, 6, 4)
NOISE = formula_normal("noise", SHAPE)
KEYS = jax.vmap(jax.random.key)(jnp.arange(2))
SETTINGS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers")


@jax.jit
def run(table):
    def denoise(latents, t):
        return jnp.tanh(latents + 0.5 * jnp.sin(t / 100)) + 0.1 * latents

    return sample(denoise, table, jnp.asarray(NOISE), KEYS)


def ours(name, timesteps, **settings):
    return run(make_sampler(name, SCHEDULE, np.asarray(timesteps, np.int32), **settings))


def fresh_noise(torch, index):
    """Returns the noise that `ours` draws at a step."""
    keys = jax.vmap(lambda key: jax.random.fold_in(key, index))(KEYS)
    return torch.from_numpy(np.array(initial_noise(keys, SHAPE[1:])))


def theirs(torch, scheduler, latents, **settings):
    """Returns the samples of a scheduler whose timesteps are set."""
    for index, timestep in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(latents, timestep)
        noise = torch.tanh(scaled + 0.5 * torch.sin(timestep / 100)) + 0.1 * scaled
        extra = {name: make(index) for name, make in settings.items()}
        latents = scheduler.step(noise, timestep, latents, **extra).prev_sample
    return latents.numpy()


def exploding(torch, timestep):
    """Returns the initial latents in the variance-exploding scale."""
    return torch.from_numpy(NOISE) / SCHEDULE.alphas_cumprod[int(timestep)] ** 0.5


# 30 does not divide 1000: diffusers then steps by 33, which DDIM's "previous timestep" relies on.
@pytest.mark.parametrize("steps", [5, 20, 30, 50])
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_ddim(torch, diffusers, steps, eta):
    scheduler = diffusers.DDIMScheduler(
        **SETTINGS, clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.numpy()
    assert (steps == 30) != (timesteps == sampling_timesteps(steps)).all()
    expected = theirs(
        torch,
        scheduler,
        torch.from_numpy(NOISE),
        eta=lambda _: eta,
        variance_noise=lambda index: fresh_noise(torch, index),
    )
    assert relative_rms(ours("ddim", timesteps, eta=eta), expected) <= TOLERANCE


@pytest.mark.parametrize("steps", [1, 5, 20, 30])
def test_euler(torch, diffusers, steps):
    scheduler = diffusers.EulerDiscreteScheduler(**SETTINGS, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.numpy()
    np.testing.assert_array_equal(timesteps, sampling_timesteps(steps, spacing="trailing"))
    expected = theirs(torch, scheduler, exploding(torch, timesteps[0]))
    assert relative_rms(ours("euler", timesteps), expected) <= TOLERANCE


@pytest.mark.parametrize("steps", [1, 5, 20, 30])
def test_euler_ancestral(torch, diffusers, monkeypatch, steps):
    module = diffusers.schedulers.scheduling_euler_ancestral_discrete
    scheduler = diffusers.EulerAncestralDiscreteScheduler(**SETTINGS, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.numpy()
    draws = iter(range(steps))
    monkeypatch.setattr(
        module, "randn_tensor", lambda *args, **kwargs: fresh_noise(torch, next(draws))
    )
    expected = theirs(torch, scheduler, exploding(torch, timesteps[0]))
    assert next(draws, None) is None
    assert relative_rms(ours("euler_ancestral", timesteps), expected) <= TOLERANCE


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 20, 30])
def test_dpmpp_2m(torch, diffusers, steps):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **SETTINGS,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.numpy()
    expected = theirs(torch, scheduler, torch.from_numpy(NOISE))
    assert relative_rms(ours("dpmpp_2m", timesteps), expected) <= TOLERANCE
