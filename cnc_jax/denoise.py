"""Model and condition -> noise prediction.

    depth maps -> local fuser ------------------ residuals --.
    exemplar embeddings -> global fuser -- tokens --.        |
    masks -> soft guidance -- bias --.              |        |
    text ----------------------------+--> context --+--> UNet --> noise

Everything but the two big networks is computed once per image, by `denoise_fn`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.struct
import jax.numpy as jnp

from cnc_jax.condition import Condition, broadcast_layers, check_condition, progress_gate
from cnc_jax.global_fuser import GlobalFuser
from cnc_jax.local_fuser import LocalFuser
from cnc_jax.soft_guidance import cross_attention_bias
from sd_jax.attention import Implementation
from sd_jax.model import Model
from sd_jax.precompute import precompute
from sd_jax.schedule import make_schedule, noise_from_prediction
from sd_jax.typing import Array, DenoiseFn, Dtype, Float, Num, apply_module
from sd_jax.unet import UNet

_EXCLUDED = float(jnp.finfo(jnp.float32).min)


class _Static(NamedTuple):
    """What does not depend on the timestep, before the networks see it.

    Attributes:
      context: [batch tokens width], text first.
      num_text_tokens: how many of them are text; traced when handed between programs.
      bias: of the cross-attention by level, or None.
      depth_maps: as the local fuser takes them, or None.
    """

    context: Any
    num_text_tokens: Any
    bias: Any
    depth_maps: Any


@flax.struct.dataclass
class Prepared:
    """What `prepare` computed: a pytree, to be handed from one compiled program to another.

    Attributes:
      static: context, bias and depth maps.
      condition: as given.
      precomputed: by network: keys and values of the context, FDN modulation.
    """

    static: _Static
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
    static = _static(model, latents.shape, text_embeddings, condition, dtype)
    networks = _Networks(model, dtype, attention_implementation)
    return networks(static, condition, latents, timesteps, {})


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
    static = _static(model, latents_shape, text_embeddings, condition, dtype)
    networks = _Networks(model, dtype, attention_implementation)
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
    networks = _Networks(model, dtype, attention_implementation)

    def denoise(latents: Array, timesteps: Array) -> Array:
        return networks(
            prepared.static, prepared.condition, latents, timesteps, prepared.precomputed
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


def _static(
    model: Model,
    latents_shape: tuple[int, ...],
    text_embeddings: Float[Array, "b k c"],
    condition: Condition,
    dtype: Dtype,
) -> _Static:
    """Returns context, bias and depth maps as the networks take them."""
    model.require("unet")
    check_condition(condition, model.config, latents_shape)
    batch, height, width, _ = latents_shape
    width_of_text = model.config.unet.cross_attention_dim
    if text_embeddings.shape[::2] != (batch, width_of_text):
        raise ValueError(
            f"text_embeddings are {text_embeddings.shape}, expected [{batch}, tokens, "
            f"{width_of_text}] for these latents and this UNet"
        )
    context, bias = text_embeddings, None
    num_text_tokens = text_embeddings.shape[1]
    if condition.exemplar_embeddings is not None:
        config = model.config.global_fuser
        tokens = apply_module(
            GlobalFuser(config, dtype),
            {"params": model.params["global_fuser"]},
            condition.exemplar_embeddings,
        )
        if condition.exemplar_strengths is not None:
            strengths = broadcast_layers(condition.exemplar_strengths, batch, config.num_layers)
            tokens = tokens * strengths[:, :, None, None]
        tokens = tokens.reshape(batch, -1, tokens.shape[-1])
        context = jnp.concatenate([text_embeddings, tokens.astype(text_embeddings.dtype)], axis=1)
        if condition.masks is not None:
            bias = cross_attention_bias(
                condition.masks[:, : config.num_layers - 1].astype(jnp.float32),
                model.config.unet.feature_sizes(height, width),
                num_text_tokens,
                config.num_tokens,
                condition.mask_rule,
            )
    depth_maps = condition.depth_maps
    if depth_maps is not None and condition.depth_gains is not None:
        gains = broadcast_layers(condition.depth_gains, batch, depth_maps.shape[1])
        depth_maps = jnp.clip(depth_maps * gains[:, :, None, None, None], 0.0, 1.0)
    return _Static(context, num_text_tokens, bias, depth_maps)


class _Networks:
    """The UNet and, if there are depth maps, the local fuser."""

    def __init__(self, model: Model, dtype: Dtype, implementation: Implementation) -> None:
        self.model = model
        self.schedule = model.config.schedule
        self.settings = (dtype, implementation)
        self.unet = UNet(model.config.unet, *self.settings)

    @property
    def local_fuser(self) -> LocalFuser:
        """The module; `check_condition` has made sure that there is one where there are maps."""
        return LocalFuser(self.model.config.local_fuser, *self.settings)

    def precompute(self, static: _Static, latents_shape: tuple[int, ...]) -> dict[str, Any]:
        """Returns the collections of values that do not depend on the timestep, by network."""
        latents = jnp.zeros(latents_shape)
        timesteps = jnp.zeros(latents_shape[0], jnp.int32)
        collections = {
            "unet": precompute(
                self.unet, self._variables("unet"), latents, timesteps, static.context
            )
        }
        if static.depth_maps is not None:
            collections["local_fuser"] = precompute(
                self.local_fuser,
                self._variables("local_fuser"),
                latents,
                timesteps,
                static.context,
                static.depth_maps,
            )
        return collections

    def _variables(self, name: str, collections: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = {"params": self.model.params[name]}
        if collections and name in collections:
            variables["precomputed"] = collections[name]
        return variables

    def __call__(
        self,
        static: _Static,
        condition: Condition,
        latents: Array,
        timesteps: Array,
        precomputed: dict[str, Any],
    ) -> Float[Array, "b h w out"]:
        """Returns the predicted noise."""
        timesteps = jnp.broadcast_to(timesteps, latents.shape[:1])
        bias = self._gated_bias(static, condition, timesteps)
        residuals: dict[str, Any] = {}
        if static.depth_maps is not None:
            outputs = apply_module(
                self.local_fuser,
                self._variables("local_fuser", precomputed),
                latents,
                timesteps,
                static.context,
                static.depth_maps,
                cross_attention_bias=bias,
            )
            *skips, middle = self._scaled(outputs, condition, timesteps)
            residuals = {
                "down_block_additional_residuals": skips,
                "mid_block_additional_residual": middle,
            }
        prediction = apply_module(
            self.unet,
            self._variables("unet", precomputed),
            latents,
            timesteps,
            static.context,
            cross_attention_bias=bias,
            **residuals,
        )
        return noise_from_prediction(
            make_schedule(self.schedule),
            self.schedule.prediction_type,
            prediction,
            latents,
            timesteps,
        )

    def _scaled(
        self, residuals: list[Array], condition: Condition, timesteps: Array
    ) -> list[Array]:
        """Returns the residuals times their scales, 0 outside the depth's interval."""
        scales = jnp.ones(())
        if condition.residual_scales is not None:
            scales = jnp.asarray(condition.residual_scales, jnp.float32)
        scales = jnp.broadcast_to(scales, (len(residuals),))[:, None]
        if condition.depth_interval is not None:
            gate = progress_gate(
                condition.depth_interval, timesteps, self.schedule.num_train_timesteps
            )
            scales = scales * gate[None]
        return [
            residual * scale.astype(residual.dtype)[:, None, None, None]
            for residual, scale in zip(residuals, scales, strict=True)
        ]

    def _gated_bias(
        self, static: _Static, condition: Condition, timesteps: Array
    ) -> tuple[Array, ...] | None:
        """Returns the bias; outside the exemplars' interval it hides their tokens everywhere."""
        if condition.exemplar_embeddings is None or condition.exemplar_interval is None:
            return static.bias
        gate = progress_gate(
            condition.exemplar_interval, timesteps, self.schedule.num_train_timesteps
        )
        is_text = jnp.arange(static.context.shape[1]) < static.num_text_tokens
        hidden = jnp.where(is_text[None] | (gate[:, None] > 0), 0.0, _EXCLUDED)[:, None, None]
        if static.bias is not None:
            return tuple(jnp.minimum(level, hidden) for level in static.bias)
        return (hidden,) * self.model.config.unet.num_levels
