"""The denoising loss: noise is added to clean latents, and the network predicts it.

Every random choice of an example comes from a key of its own, so that a loss is the sum of its
examples' losses whatever batches, microbatches and devices they lie in.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sd_jax.schedule import NoiseSchedule, PredictionType, velocity
from sd_jax.typing import Array, Float, Int, KeyArray


class Draws(NamedTuple):
    """The random choices of a batch of examples.

    Attributes:
      timesteps: [batch], uniform over the schedule (arXiv:2006.11239, algorithm 1).
      noise: like the latents, standard normal.
      latents: keys [batch] for the autoencoder's posterior.
      dropout: keys [batch].
    """

    timesteps: Array
    noise: Array
    latents: KeyArray
    dropout: KeyArray


class Mean(NamedTuple):
    """A metric that is the mean over those examples of a batch that count.

    Both are added up over microbatches before they are divided.

    Attributes:
      total: over the examples that count.
      number: of them; 0 makes the mean 0.
    """

    total: Float[Array, ""]
    number: Float[Array, ""]

    @property
    def value(self) -> Float[Array, ""]:
        """The mean."""
        return self.total / jnp.where(self.number > 0, self.number, 1.0)


def draw(keys: KeyArray, latents_shape: tuple[int, ...], num_train_timesteps: int) -> Draws:
    """Returns the random choices of a batch.

    Args:
      keys: one for each example.
      latents_shape: [height, width, channels] of one example's latents.
      num_train_timesteps: of the schedule.
    """
    # A fixed number for each purpose: a further one leaves the others' draws as they are.
    for_timesteps, for_noise, for_latents, for_dropout = (
        jax.vmap(jax.random.fold_in, (0, None))(keys, purpose) for purpose in range(4)
    )
    timesteps = jax.vmap(lambda key: jax.random.randint(key, (), 0, num_train_timesteps))(
        for_timesteps
    )
    noise = jax.vmap(lambda key: jax.random.normal(key, latents_shape))(for_noise)
    return Draws(timesteps, noise, for_latents, for_dropout)


def prediction_target(
    schedule: NoiseSchedule,
    prediction_type: PredictionType,
    x0: Float[Array, "b *size"],
    noise: Float[Array, "b *size"],
    timesteps: Int[Array, " b"],
) -> Float[Array, "b *size"]:
    """Returns what the network should predict: the noise, or the velocity."""
    if prediction_type == "epsilon":
        return noise
    return velocity(schedule, x0, noise, timesteps)


def squared_errors(
    prediction: Float[Array, "b *size"], target: Float[Array, "b *size"]
) -> Float[Array, " b"]:
    """Returns the mean squared error of each example, in float32."""
    errors = prediction.astype(jnp.float32) - target.astype(jnp.float32)
    return jnp.mean(jnp.square(errors).reshape(errors.shape[0], -1), axis=1)


def min_snr_weights(
    schedule: NoiseSchedule,
    prediction_type: PredictionType,
    timesteps: Int[Array, " b"],
    gamma: float,
) -> Float[Array, " b"]:
    """Returns the weights that keep easy timesteps from dominating (arXiv:2303.09556, section 3.4).

    min(SNR, gamma) / SNR where the network predicts noise, min(SNR, gamma) / (SNR + 1) where it
    predicts velocity.

    Args:
      schedule: of the model.
      prediction_type: of the model.
      timesteps: of the examples.
      gamma: the paper's is 5.
    """
    alphas_cumprod = jnp.asarray(schedule.alphas_cumprod)[timesteps]
    snr = alphas_cumprod / (1.0 - alphas_cumprod)
    divisor = snr if prediction_type == "epsilon" else snr + 1.0
    return jnp.minimum(snr, gamma) / divisor
