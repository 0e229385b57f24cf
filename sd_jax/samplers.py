"""The samplers: functions from a schedule and timesteps to a `SamplerTable`.

In the notation of DDIM, `a` is alphas_cumprod, the signal is sqrt(a), and sigma = sqrt((1 - a) / a)
is the noise of the variance-exploding view (latents / sqrt(a)) in which Euler's methods are stated.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from sd_jax.sampling import SamplerTable
from sd_jax.schedule import NoiseSchedule
from sd_jax.typing import Float, Int


def ddim(
    schedule: NoiseSchedule, timesteps: Int[np.ndarray, " steps"], *, eta: float = 0.0
) -> SamplerTable:
    """Returns DDIM's table (arXiv:2010.02502, eq. 12 and 16).

    The last step ends at alphas_cumprod[0], not at 1, as in the papers' code.

    Args:
      schedule: of training.
      timesteps: descending; see `sampling_timesteps`.
      eta: 0 is deterministic, 1 is DDPM.
    """
    alphas = schedule.alphas_cumprod[timesteps].astype(np.float64)
    following = np.append(alphas[1:], np.float64(schedule.alphas_cumprod[0]))
    fresh = eta * np.sqrt((1 - following) / (1 - alphas) * (1 - alphas / following))
    return _table(
        timesteps,
        alphas,
        x0=np.sqrt(following),
        noise=np.sqrt(np.maximum(1 - following - fresh**2, 0.0)),
        fresh_noise=fresh,
    )


def euler(schedule: NoiseSchedule, timesteps: Int[np.ndarray, " steps"]) -> SamplerTable:
    """Returns Euler's table (arXiv:2206.00364, algorithm 1 without churn).

    It is DDIM with eta 0 but for its last step, which goes all the way to the clean latents.
    """
    alphas = schedule.alphas_cumprod[timesteps].astype(np.float64)
    following = np.append(alphas[1:], 1.0)
    return _table(timesteps, alphas, x0=np.sqrt(following), noise=np.sqrt(1 - following))


def euler_ancestral(
    schedule: NoiseSchedule, timesteps: Int[np.ndarray, " steps"], *, eta: float = 1.0
) -> SamplerTable:
    """Returns the table of Euler's method with ancestral noise, k-diffusion's "Euler a".

    Args:
      schedule: of training.
      timesteps: descending.
      eta: scale of the fresh noise; 0 is `euler`.
    """
    alphas = schedule.alphas_cumprod[timesteps].astype(np.float64)
    following = np.append(alphas[1:], 1.0)
    sigma, sigma_to = np.sqrt(1 / alphas - 1), np.sqrt(1 / following - 1)
    up = np.minimum(sigma_to, eta * sigma_to * np.sqrt(np.maximum(1 - (sigma_to / sigma) ** 2, 0)))
    down = np.sqrt(sigma_to**2 - up**2)
    signal = np.sqrt(following)
    return _table(timesteps, alphas, x0=signal, noise=signal * down, fresh_noise=signal * up)


def dpmpp_2m(schedule: NoiseSchedule, timesteps: Int[np.ndarray, " steps"]) -> SamplerTable:
    """Returns the table of DPM-Solver++(2M) (arXiv:2211.01095, algorithm 2).

    The first step is of first order for want of a previous one, and so is the last, which ends at
    the clean latents (half of the log-SNR is infinite there).
    """
    alphas = schedule.alphas_cumprod[timesteps].astype(np.float64)
    signal, sigma = np.sqrt(alphas), np.sqrt(1 - alphas)
    signal_to, sigma_to = np.append(signal[1:], 1.0), np.append(sigma[1:], 0.0)
    half_log_snr = np.log(signal / sigma)
    h = np.append(np.diff(half_log_snr), np.inf)
    step = -signal_to * np.expm1(-h)
    # x0 is extrapolated to (1 + 1 / 2r) x0 - 1 / 2r x0_previous, with r = h_previous / h
    extrapolation = np.zeros_like(h)
    extrapolation[1:-1] = h[1:-1] / (2 * h[:-2])
    return _table(
        timesteps,
        alphas,
        x0=sigma_to / sigma * signal + step * (1 + extrapolation),
        noise=sigma_to,
        previous_x0=-step * extrapolation,
    )


SAMPLERS: dict[str, Callable[..., SamplerTable]] = {
    "ddim": ddim,
    "dpmpp_2m": dpmpp_2m,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
}


def make_sampler(
    name: str,
    schedule: NoiseSchedule,
    timesteps: Int[np.ndarray, " steps"],
    *,
    eta: float | None = None,
) -> SamplerTable:
    """Returns the table of the sampler called `name`.

    Args:
      name: a key of SAMPLERS.
      schedule: of training.
      timesteps: descending.
      eta: only for samplers that draw noise; None is the sampler's own default.

    Raises:
      ValueError: the name is unknown, or the sampler takes no eta.
    """
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}; choose one of {', '.join(sorted(SAMPLERS))}")
    if eta is None:
        return SAMPLERS[name](schedule, timesteps)
    if "eta" not in inspect.signature(SAMPLERS[name]).parameters:
        raise ValueError(f"sampler {name!r} draws no noise and takes no eta (got {eta})")
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta must be from 0 to 1, got {eta}")
    return SAMPLERS[name](schedule, timesteps, eta=eta)


def _table(
    timesteps: Int[np.ndarray, " steps"],
    alphas_cumprod: Float[np.ndarray, " steps"],
    **coefficients: Float[np.ndarray, " steps"],
) -> SamplerTable:
    zeros = np.zeros(len(timesteps))
    columns = {"previous_x0": zeros, "fresh_noise": zeros, **coefficients}
    return SamplerTable(
        timesteps=jnp.asarray(timesteps, jnp.int32),
        alphas_cumprod=jnp.asarray(alphas_cumprod, jnp.float32),
        **{name: jnp.asarray(column, jnp.float32) for name, column in columns.items()},
    )
