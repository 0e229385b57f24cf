"""Noise schedule, the prediction targets, and the spacings of sampling timesteps."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np

from sd_jax.typing import Array, Float, Int, Num

PredictionType = Literal["epsilon", "v_prediction"]
Spacing = Literal["leading", "trailing", "upstream"]


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """What defines a noise schedule; the defaults are Stable Diffusion 1.x's.

    Attributes:
      num_train_timesteps: timesteps of training.
      beta_start: variance of the first step.
      beta_end: variance of the last step.
      prediction_type: what the UNet predicts, the noise or the velocity.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction_type: PredictionType = "epsilon"


class NoiseSchedule(NamedTuple):
    """The cumulated signal variances of a schedule.

    Attributes:
      alphas_cumprod: [num_train_timesteps], decreasing.
    """

    alphas_cumprod: Float[np.ndarray, " timesteps"]


def make_schedule(config: ScheduleConfig) -> NoiseSchedule:
    """Returns the schedule with betas linear in their square root ("scaled linear").

    Computed in float64 and stored in float32, as the original code does.
    """
    return NoiseSchedule(np.cumprod(1.0 - make_betas(config)).astype(np.float32))


def make_betas(config: ScheduleConfig) -> Float[np.ndarray, " timesteps"]:
    """Returns the variances of the forward steps in float64, linear in their square root."""
    ends = config.beta_start**0.5, config.beta_end**0.5
    return np.linspace(*ends, config.num_train_timesteps) ** 2


def _at(schedule: NoiseSchedule, timesteps: Num[Array, "*b"], like: Array) -> tuple[Array, Array]:
    """Returns sqrt(alphas_cumprod) and sqrt(1 - alphas_cumprod), shaped to multiply `like`."""
    alphas_cumprod = jnp.asarray(schedule.alphas_cumprod)[timesteps]
    if alphas_cumprod.ndim:
        alphas_cumprod = alphas_cumprod.reshape(-1, *(1,) * (like.ndim - 1))
    return jnp.sqrt(alphas_cumprod), jnp.sqrt(1.0 - alphas_cumprod)


def add_noise(
    schedule: NoiseSchedule,
    x0: Float[Array, "b *size"],
    noise: Float[Array, "b *size"],
    timesteps: Int[Array, "*b1"],
) -> Float[Array, "b *size"]:
    """Returns x_t = sqrt(a_t) x0 + sqrt(1 - a_t) noise (arXiv:2006.11239, eq. 4)."""
    signal, sigma = _at(schedule, timesteps, x0)
    return signal * x0 + sigma * noise


def velocity(
    schedule: NoiseSchedule,
    x0: Float[Array, "b *size"],
    noise: Float[Array, "b *size"],
    timesteps: Int[Array, "*b1"],
) -> Float[Array, "b *size"]:
    """Returns v = sqrt(a_t) noise - sqrt(1 - a_t) x0 (arXiv:2202.00512, appendix D)."""
    signal, sigma = _at(schedule, timesteps, x0)
    return signal * noise - sigma * x0


def noise_from_prediction(
    schedule: NoiseSchedule,
    prediction_type: PredictionType,
    prediction: Float[Array, "b *size"],
    latents: Float[Array, "b *size"],
    timesteps: Int[Array, "*b1"],
) -> Float[Array, "b *size"]:
    """Returns the noise that a prediction of either type stands for."""
    if prediction_type == "epsilon":
        return prediction
    signal, sigma = _at(schedule, timesteps, latents)
    return signal * prediction + sigma * latents


def sampling_timesteps(
    num_steps: int, num_train_timesteps: int = 1000, spacing: Spacing = "leading"
) -> Int[np.ndarray, " steps"]:
    """Returns the timesteps that a sampler visits, in descending order.

    Args:
      num_steps: from 1 to num_train_timesteps.
      num_train_timesteps: timesteps of training.
      spacing: "leading" (the default) takes floor(i T / n) + 1: upstream's own timesteps wherever
        n divides T, and exactly `num_steps` of them everywhere. "trailing" starts at the last
        timestep, which is better for few steps (arXiv:2305.08891). "upstream" is upstream's rule
        range(0, T, T // n) + 1, which for most n that do not divide T runs another number of steps
        and fails for some.

    Raises:
      ValueError: the number of steps or the spacing is out of range, or upstream's rule leaves the
        schedule.
    """
    total = num_train_timesteps
    if spacing not in get_args(Spacing):
        raise ValueError(
            f"unknown timestep spacing {spacing!r}; choose one of {', '.join(get_args(Spacing))}"
        )
    if not 1 <= num_steps <= total:
        raise ValueError(f"the number of steps must be from 1 to {total}, got {num_steps}")
    if spacing == "trailing":
        timesteps = np.round(np.arange(total, 0, -total / num_steps)).astype(np.int32)[:num_steps]
        return timesteps - 1
    if spacing == "upstream":
        timesteps = np.arange(0, total, total // num_steps, dtype=np.int32) + 1
        if timesteps[-1] >= total:
            raise ValueError(
                f"upstream's spacing asks for timestep {timesteps[-1]} at {num_steps} steps, but "
                f"the schedule ends at {total - 1}; use spacing='leading'"
            )
        if len(timesteps) != num_steps:
            warnings.warn(
                f"upstream's spacing runs {len(timesteps)} steps where {num_steps} were asked for; "
                "spacing='leading' runs the number asked for",
                stacklevel=2,
            )
        return timesteps[::-1]
    timesteps = np.arange(num_steps) * total // num_steps + 1
    timesteps = np.minimum(timesteps, total - 1 if num_steps < total else timesteps - 1)
    if num_steps == 1:
        warnings.warn(
            "one step with spacing='leading' starts (and ends) at timestep 1, where the network "
            "expects an almost clean image; spacing='trailing' starts at the last timestep",
            stacklevel=2,
        )
    return timesteps[::-1].astype(np.int32)
