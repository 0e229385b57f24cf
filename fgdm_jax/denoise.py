"""Model and variable -> noise prediction of one factor, for samplers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax.numpy as jnp

from fgdm_jax.networks import Captured, FactorNetworks, Parents, precompute_text
from sd_jax.attention import Implementation
from sd_jax.model import Model
from sd_jax.network_settings import DEFAULT_SETTINGS, NetworkSettings
from sd_jax.schedule import make_schedule, noise_from_prediction
from sd_jax.typing import Array, Dtype, Float, Num

ParentsDenoiseFn: TypeAlias = Callable[[Array, Array, Parents], Array]
"""(latents [b h w c], timesteps, parents' latents or None) -> predicted noise, like the latents."""


def predict_noise(
    model: Model,
    latents: Float[Array, "b h w c"],
    timesteps: Num[Array, "*b1"],
    text_embeddings: Float[Array, "tb k cc"],
    parents: Parents = None,
    *,
    variable: str | None = "segmentation",
    dtype: Dtype = jnp.float32,
    attention_implementation: Implementation = "auto",
) -> Float[Array, "b h w out"]:
    """Returns the predicted noise, float32, shaped like `latents`.

    Pure; may be jitted with `model` and the arrays as arguments.

    Args:
      model: from `fgdm_jax.load`.
      latents: noisy latents of the variable; height and width multiples of 8.
      timesteps: 0 to 999, one per image or one for all.
      text_embeddings: last hidden state of the text encoder.
      parents: latents of the variable's parents, those that the adapter was trained on
        (`AdapterConfig.clean_parents`), [b h w 4] each or joined along the channels in the order of
        the parents; resized if their size is another. Without them the adapter sees
        `latents` (the first factor).
      variable: whose factor; None is plain Stable Diffusion.
      dtype: type of the computation; norms, softmax and the result stay float32.
      attention_implementation: see `sd_jax.attention.attention`.

    Raises:
      ValueError: the inputs do not fit the model or one another, the variable is not known, or the
        model lacks its adapter.
    """
    networks = FactorNetworks(model, variable, NetworkSettings(dtype, attention_implementation))
    return _noise(networks, latents, timesteps, text_embeddings, parents)


def predict_with_attention(
    model: Model,
    latents: Float[Array, "b h w c"],
    timesteps: Num[Array, "*b1"],
    text_embeddings: Float[Array, "tb k cc"],
    parents: Parents = None,
    *,
    variable: str | None = "segmentation",
    settings: NetworkSettings = DEFAULT_SETTINGS,
) -> tuple[Float[Array, "b h w out"], Captured]:
    """Returns the raw prediction (noise or velocity), and query and key of every attention.

    For losses: nothing is done to the prediction, and gradients flow through all of it.

    Args:
      model: as in `predict_noise`.
      latents: as in `predict_noise`.
      timesteps: as in `predict_noise`.
      text_embeddings: as in `predict_noise`.
      parents: as in `predict_noise`.
      variable: as in `predict_noise`; None is the teacher, Stable Diffusion without adapter.
      settings: of the networks.

    Returns:
      The prediction, and {path of the attention: (query [b q heads d], key [b k heads d])}; the
      paths end in "attn1" (self) or "attn2" (cross).

    Raises:
      ValueError: as in `predict_noise`.
    """
    networks = FactorNetworks(model, variable, settings)
    return networks.with_attention(latents, timesteps, text_embeddings, parents)


def factor_denoise_fn(
    model: Model,
    factor_variable: str | None,
    text_embeddings: Float[Array, "b k cc"],
    *,
    has_parents: bool,
    dtype: Dtype = jnp.float32,
    attention_implementation: Implementation = "auto",
    precomputed: Any = None,
) -> ParentsDenoiseFn:
    """Returns (latents, timesteps, parents' latents or None) -> noise, equal to `predict_noise`.

    What does not depend on the timestep is computed here, once: call it inside the jitted function
    that samples, and outside its loop.

    Args:
      model: from `fgdm_jax.load`.
      factor_variable: whose factor; None is plain Stable Diffusion.
      text_embeddings: one for each of the latents; for guidance, those of all branches.
      has_parents: whether the factor has parents; their latents are then demanded in each call, and
        otherwise refused.
      dtype: as in `predict_noise`.
      attention_implementation: as in `predict_noise`.
      precomputed: from `fgdm_jax.networks.precompute_text` with this text, these settings and, if
        the adapter translates the text, this variable. It may come from another compiled program,
        and serves all factors that read this text alike.

    Raises:
      ValueError: the variable is not known, the model lacks its adapter, or the adapter sees more
        than the variable's own latents and has no parents.
    """
    settings = NetworkSettings(dtype, attention_implementation)
    networks = FactorNetworks(model, factor_variable, settings)
    own, adapter = model.config.unet.in_channels, networks.adapter
    if has_parents and adapter is None:
        raise ValueError(
            "the factor has parents, but without an adapter (variable None) nothing sees them"
        )
    if not has_parents and adapter is not None and adapter.in_channels != own:
        raise ValueError(
            f"adapter_{factor_variable} sees {adapter.in_channels} channels, the latents of its "
            f"parents, but the factor has none; without parents an adapter sees {own}"
        )
    if precomputed is None:
        precomputed = precompute_text(model, text_embeddings, settings, factor_variable)

    def denoise(latents: Array, timesteps: Array, parents: Parents = None) -> Array:
        if has_parents != (parents is not None):
            raise ValueError(
                f"the factor of {factor_variable} has {'' if has_parents else 'no '}parents: their "
                f"latents are {'missing' if has_parents else 'not expected'} in this call"
            )
        return _noise(networks, latents, timesteps, text_embeddings, parents, precomputed)

    return denoise


def _noise(
    networks: FactorNetworks,
    latents: Array,
    timesteps: Array,
    text_embeddings: Array,
    parents: Parents,
    precomputed: Any = None,
) -> Array:
    prediction = networks(latents, timesteps, text_embeddings, parents, precomputed)
    config = networks.model.config.schedule
    return noise_from_prediction(
        make_schedule(config), config.prediction_type, prediction, latents, timesteps
    )
