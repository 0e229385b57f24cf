"""Model and condition -> noise prediction, for samplers.

Everything but the two big networks (`cnc_jax.networks`) is computed once per image, by `prepare`.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax.numpy as jnp

from cnc_jax.condition import Condition
from cnc_jax.networks import Networks, NetworkSettings, Static, make_static
from sd_jax.attention import Implementation
from sd_jax.model import Model
from sd_jax.schedule import make_schedule, noise_from_prediction
from sd_jax.typing import Array, DenoiseFn, Dtype, Float, Num


@flax.struct.dataclass
class Prepared:
    """What `prepare` computed: a pytree, to be handed from one compiled program to another.

    Attributes:
      static: context, bias and depth maps.
      condition: as given.
      precomputed: by network: keys and values of the context, FDN modulation.
    """

    static: Static
    condition: Condition
    precomputed: Any


def predict_noise(
    model: Model,
    latents: Float[Array, "b h w c"],
    timesteps: Num[Array, "*b1"],
    text_embeddings: Float[Array, "tb k cc"],
    condition: Condition | None = None,
    *,
    dtype: Dtype = jnp.float32,
    attention_implementation: Implementation = "auto",
) -> Float[Array, "b h w out"]:
    """Returns the predicted noise, float32, shaped like `latents`.

    Pure; may be jitted with `model` and `condition` as arguments.

    Args:
      model: from `cnc_jax.load`.
      latents: noisy latents; height and width multiples of 8.
      timesteps: 0 to 999, one per image or one for all.
      text_embeddings: last hidden state of the text encoder.
      condition: None, or one without maps and embeddings, is plain Stable Diffusion.
      dtype: type of the computation; norms, softmax and the result stay float32.
      attention_implementation: see `sd_jax.attention.attention`.

    Raises:
      ValueError: condition, latents and model do not fit; all problems are listed.
    """
    condition = condition or Condition()
    static = make_static(model, latents.shape, text_embeddings, condition, dtype)
    networks = Networks(model, NetworkSettings(dtype, attention_implementation))
    return _noise(networks, static, condition, latents, timesteps, {})


def prepare(
    model: Model,
    latents_shape: tuple[int, ...],
    text_embeddings: Float[Array, "b k c"],
    condition: Condition | None = None,
    *,
    dtype: Dtype = jnp.float32,
    attention_implementation: Implementation = "auto",
) -> Prepared:
    """Returns everything that noise predictions of one image share, whatever the timestep.

    Call it inside `jit`.

    Args:
      model: from `cnc_jax.load`.
      latents_shape: [batch, height, width, channels] of the latents.
      text_embeddings: as in `predict_noise`.
      condition: as in `predict_noise`.
      dtype: as in `predict_noise`.
      attention_implementation: as in `predict_noise`.
    """
    condition = condition or Condition()
    static = make_static(model, latents_shape, text_embeddings, condition, dtype)
    networks = Networks(model, NetworkSettings(dtype, attention_implementation))
    return Prepared(static, condition, networks.precompute(static, latents_shape))


def prepared_denoise_fn(
    model: Model,
    prepared: Prepared,
    *,
    dtype: Dtype = jnp.float32,
    attention_implementation: Implementation = "auto",
) -> DenoiseFn:
    """Returns (latents, timesteps) -> noise, equal to `predict_noise`.

    Call it inside the jitted function that samples, with the settings that `prepare` got.
    """
    networks = Networks(model, NetworkSettings(dtype, attention_implementation))

    def denoise(latents: Array, timesteps: Array) -> Array:
        return _noise(
            networks,
            prepared.static,
            prepared.condition,
            latents,
            timesteps,
            prepared.precomputed,
        )

    return denoise


def denoise_fn(
    model: Model,
    latents_shape: tuple[int, ...],
    text_embeddings: Float[Array, "b k c"],
    condition: Condition | None = None,
    *,
    dtype: Dtype = jnp.float32,
    attention_implementation: Implementation = "auto",
) -> DenoiseFn:
    """Returns (latents, timesteps) -> noise with everything computed once that can be.

    `prepare` and `prepared_denoise_fn` in one, for samplers of your own. Arguments as in `prepare`.
    """
    settings = {"dtype": dtype, "attention_implementation": attention_implementation}
    prepared = prepare(model, latents_shape, text_embeddings, condition, **settings)
    return prepared_denoise_fn(model, prepared, **settings)


def _noise(
    networks: Networks,
    static: Static,
    condition: Condition,
    latents: Array,
    timesteps: Array,
    precomputed: dict[str, Any],
) -> Float[Array, "b h w out"]:
    timesteps = jnp.broadcast_to(timesteps, latents.shape[:1])
    prediction = networks(static, condition, latents, timesteps, precomputed)
    kind = networks.schedule.prediction_type
    schedule = make_schedule(networks.schedule)
    return noise_from_prediction(schedule, kind, prediction, latents, timesteps)
