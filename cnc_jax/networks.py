"""Model and condition -> the UNet's prediction; what sampling and training share.

    depth maps -> local fuser ------------------ residuals --.
    exemplar embeddings -> global fuser -- tokens --.        |
    masks -> soft guidance -- bias --.              |        |
    text ----------------------------+--> context --+--> UNet --> noise, or velocity

What stands left of the UNet and the local fuser does not depend on the timestep.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cnc_jax.condition import Condition, broadcast_layers, check_condition, progress_gate
from cnc_jax.global_fuser import GlobalFuser
from cnc_jax.local_fuser import LocalFuser
from cnc_jax.soft_guidance import cross_attention_bias
from sd_jax import network_settings
from sd_jax.model import Model
from sd_jax.precompute import precompute
from sd_jax.typing import Array, Dtype, Float, KeyArray, apply_module
from sd_jax.unet import UNet

_EXCLUDED = float(jnp.finfo(jnp.float32).min)


@dataclasses.dataclass(frozen=True)
class NetworkSettings(network_settings.NetworkSettings):
    """How the networks compute; only the last changes what they compute, in training.

    Attributes:
      encoder_gradient: False cuts the gradient off at the UNet's encoder, as upstream does: the
        global fuser then learns through the decoder's cross-attention alone.
    """

    encoder_gradient: bool = True


class Static(NamedTuple):
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


def make_static(
    model: Model,
    latents_shape: tuple[int, ...],
    text_embeddings: Float[Array, "b k c"],
    condition: Condition,
    dtype: Dtype,
    dropout_keys: KeyArray | None = None,
) -> Static:
    """Returns context, bias and depth maps as the networks take them.

    Args:
      model: from `cnc_jax.load`.
      latents_shape: [batch, height, width, channels].
      text_embeddings: of the prompts.
      condition: of the images.
      dtype: type of the computation.
      dropout_keys: one for each image; the global fuser then drops, as in training.

    Raises:
      ValueError: condition, latents and model do not fit; all problems are listed.
    """
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
        tokens = _exemplar_tokens(model, condition.exemplar_embeddings, dtype, dropout_keys)
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
    if depth_maps is not None:
        # Maps are as large as images. Latents of another autoencoder than Stable Diffusion's may
        # not be an eighth of that, which is what the fuser makes of its maps.
        scale = model.config.local_fuser.downsampling
        size = (*depth_maps.shape[:2], scale * height, scale * width, depth_maps.shape[-1])
        if depth_maps.shape != size:
            depth_maps = jax.image.resize(depth_maps, size, "bilinear")
    return Static(context, num_text_tokens, bias, depth_maps)


def _exemplar_tokens(
    model: Model,
    embeddings: Float[Array, "b layers d"],
    dtype: Dtype,
    dropout_keys: KeyArray | None,
) -> Float[Array, "b layers tokens d"]:
    fuser = GlobalFuser(model.config.global_fuser, dtype)
    variables = {"params": model.params["global_fuser"]}
    if dropout_keys is None:
        return apply_module(fuser, variables, embeddings)

    def one(embedding: Float[Array, "layers d"], key: KeyArray) -> Array:
        rngs = {"dropout": key}
        return apply_module(fuser, variables, embedding[None], deterministic=False, rngs=rngs)[0]

    # One by one, so that what an example drops does not depend on its batch.
    return jax.vmap(one)(embeddings, dropout_keys)


class Networks:
    """The UNet and, if there are depth maps, the local fuser."""

    def __init__(self, model: Model, settings: NetworkSettings) -> None:
        self.model = model
        self.schedule = model.config.schedule
        self._settings = (settings.dtype, settings.attention_implementation, settings.remat)
        self._unet = UNet(model.config.unet, *self._settings, settings.encoder_gradient)

    @property
    def _local_fuser(self) -> LocalFuser:
        """The module; `check_condition` has made sure that there is one where there are maps."""
        return LocalFuser(self.model.config.local_fuser, *self._settings)

    def precompute(self, static: Static, latents_shape: tuple[int, ...]) -> dict[str, Any]:
        """Returns the collections of values that do not depend on the timestep, by network."""
        latents = jnp.zeros(latents_shape)
        timesteps = jnp.zeros(latents_shape[0], jnp.int32)
        collections = {
            "unet": precompute(
                self._unet, self._variables("unet"), latents, timesteps, static.context
            )
        }
        if static.depth_maps is not None:
            collections["local_fuser"] = precompute(
                self._local_fuser,
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
        static: Static,
        condition: Condition,
        latents: Array,
        timesteps: Array,
        precomputed: dict[str, Any],
    ) -> Float[Array, "b h w out"]:
        """Returns the UNet's prediction: noise, or velocity, by the model's prediction type."""
        timesteps = jnp.broadcast_to(timesteps, latents.shape[:1])
        bias = self._gated_bias(static, condition, timesteps)
        residuals: dict[str, Any] = {}
        if static.depth_maps is not None:
            outputs = apply_module(
                self._local_fuser,
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
        return apply_module(
            self._unet,
            self._variables("unet", precomputed),
            latents,
            timesteps,
            static.context,
            cross_attention_bias=bias,
            **residuals,
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
        self, static: Static, condition: Condition, timesteps: Array
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
