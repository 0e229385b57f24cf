"""What an image is composed from, besides the text: one pytree, layers on axis 1."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax.numpy as jnp

from cnc_jax.soft_guidance import MaskRule
from sd_jax.guidance import stack_branches
from sd_jax.typing import Array, Float
from sd_jax.vae import VAEConfig


@flax.struct.dataclass
class Condition:
    """Layered conditions; what is None is not used, and what is there decides the mode.

    With `depth_maps` the local fuser runs, with `exemplar_embeddings` the global fuser, with both
    the local fuser sees the exemplars' tokens too. Layers run from front to back. All arrays are
    traced: other values compile nothing.

    Attributes:
      depth_maps: [batch layer height width 3] in [0, 1], near = 1, at the image's size; or any
        other spatial map that the local fuser was trained with.
      exemplar_embeddings: [batch layer embedding]: CLIP `image_embeds` of the exemplar images.
      masks: [batch layer height width] in [0, 1], where each layer is seen. The last layer gets
        what the others leave, whatever its mask says, and may be left out. Without masks every
        token is seen everywhere.
      exemplar_strengths: scalar, [layer] or [batch layer]; multiplies the layer's tokens.
      residual_scales: scalar or one per residual (13: the skips in order, the middle block last).
      depth_gains: scalar, [layer] or [batch layer]; multiplies the depth maps, clipped to [0, 1].
      depth_interval: (start, end) of the denoising, 0 (noise) to 1 (image), in which depth acts.
      exemplar_interval: likewise for the exemplars.
      mask_rule: static; see `soft_guidance`.
    """

    # Not typed by shape: the sizes of one field do not bind those of another, and transformations
    # put other things than arrays in a pytree. `check_condition` looks at the shapes.
    depth_maps: Any = None
    exemplar_embeddings: Any = None
    masks: Any = None
    exemplar_strengths: Any = None
    residual_scales: Any = None
    depth_gains: Any = None
    depth_interval: Any = None
    exemplar_interval: Any = None
    mask_rule: MaskRule = flax.struct.field(pytree_node=False, default="upstream")


def broadcast_layers(values: Any, batch: int, layers: int) -> Float[Array, "b layers"]:
    """Returns a scalar, [layer] or [batch layer] value as [batch layer]."""
    values = jnp.asarray(values, jnp.float32)
    if values.ndim < 2:
        values = values.reshape(1, -1)
    return jnp.broadcast_to(values, (batch, layers))


def progress_gate(interval: Any, timesteps: Array, num_train_timesteps: int) -> Array:
    """Returns 1 while the denoising's progress lies in [start, end], else 0; [batch].

    Args:
      interval: (start, end) in [0, 1].
      timesteps: [batch].
      num_train_timesteps: of the schedule.
    """
    # Counted in timesteps, and with half a timestep to spare, so that rounding decides nothing.
    start, end = jnp.asarray(interval, jnp.float32) * num_train_timesteps
    done = num_train_timesteps - timesteps.astype(jnp.float32)
    return ((done >= start - 0.5) & (done <= end + 0.5)).astype(jnp.float32)


def null_condition(condition: Condition) -> Condition:
    """Returns `condition` as training drops it: black depth maps and zero embeddings."""
    return dataclasses.replace(
        condition,
        depth_maps=_zeros(condition.depth_maps),
        exemplar_embeddings=_zeros(condition.exemplar_embeddings),
    )


def _zeros(values: Array | None) -> Array | None:
    return None if values is None else jnp.zeros_like(values)


def concatenate_conditions(*conditions: Condition) -> Condition:
    """Returns the conditions joined along the batch, for the branches of guidance.

    All must hold the same fields with the same batch. What is shared by a batch (strengths, scales,
    intervals) is taken from the first.
    """
    first = conditions[0]
    batched = ("depth_maps", "exemplar_embeddings", "masks")
    joined = {
        name: stack_branches(*(getattr(condition, name) for condition in conditions))
        for name in batched
    }
    for name in ("exemplar_strengths", "depth_gains"):
        if getattr(first, name) is not None and len(_shape(getattr(first, name))) == 2:
            values = [jnp.asarray(getattr(condition, name)) for condition in conditions]
            joined[name] = stack_branches(*values)
    return dataclasses.replace(first, **joined)


def check_condition(condition: Condition, config: Any, latents_shape: tuple[int, ...]) -> None:
    """Checks the shapes of `condition` against the model's sizes and the latents.

    Raises:
      ValueError: lists everything that does not fit.
    """
    problems = [
        *_latents_problems(config, latents_shape),
        *_depth_problems(condition, config, latents_shape),
        *_exemplar_problems(condition, config, latents_shape[0]),
        *_setting_problems(condition, config.unet.num_skips + 1),
    ]
    if problems:
        raise ValueError("the condition does not fit the model:\n- " + "\n- ".join(problems))


def _latents_problems(config: Any, latents_shape: tuple[int, ...]) -> list[str]:
    _, height, width, channels = latents_shape
    problems = []
    multiple = config.unet.size_multiple
    if height % multiple or width % multiple:
        problems.append(
            f"latents are {height} x {width}, but both must be multiples of {multiple} "
            f"(image sizes of {multiple * _downsampling(config)})"
        )
    if channels != config.unet.in_channels:
        problems.append(
            f"latents have {channels} channels, the UNet takes {config.unet.in_channels}"
        )
    return problems


def _depth_problems(condition: Condition, config: Any, latents_shape: tuple[int, ...]) -> list[str]:
    depth, fuser = condition.depth_maps, config.local_fuser
    if depth is None:
        return []
    if fuser is None:
        return ["depth_maps need a local fuser, which this checkpoint lacks"]
    if depth.ndim != 5:
        return [f"depth_maps must have 5 axes, got shape {depth.shape}"]
    batch, height, width, _ = latents_shape
    scale = _downsampling(config)
    problems = _layer_problems("depth_maps", depth.shape, batch, fuser.num_layers)
    if depth.shape[2:4] != (height * scale, width * scale):
        problems.append(
            f"depth_maps are {depth.shape[2]} x {depth.shape[3]}, but latents of {height} x "
            f"{width} are images of {height * scale} x {width * scale}"
        )
    if depth.shape[4] != fuser.condition_channels:
        problems.append(
            f"depth_maps have {depth.shape[4]} channels, the local fuser takes "
            f"{fuser.condition_channels}"
        )
    return problems + _scalar_problems(
        "depth_gains", condition.depth_gains, batch, fuser.num_layers
    )


def _exemplar_problems(condition: Condition, config: Any, batch: int) -> list[str]:
    embeddings, fuser = condition.exemplar_embeddings, config.global_fuser
    if embeddings is None:
        return []
    if fuser is None:
        return ["exemplar_embeddings need a global fuser, which this checkpoint lacks"]
    layers, masks = fuser.num_layers, condition.masks
    problems = []
    if embeddings.ndim != 3:
        problems.append(f"exemplar_embeddings must have 3 axes, got shape {embeddings.shape}")
    else:
        problems += _layer_problems("exemplar_embeddings", embeddings.shape, batch, layers)
        if embeddings.shape[2] != fuser.embedding_dim:
            problems.append(
                f"exemplar_embeddings are {embeddings.shape[2]} wide, the global fuser takes "
                f"{fuser.embedding_dim}"
            )
    if masks is not None and (
        masks.ndim != 4 or masks.shape[0] != batch or masks.shape[1] not in (layers - 1, layers)
    ):
        problems.append(
            f"masks are {masks.shape}, expected [{batch}, {layers} (or {layers - 1}), height, "
            "width]"
        )
    strengths = condition.exemplar_strengths
    return problems + _scalar_problems("exemplar_strengths", strengths, batch, layers)


def _setting_problems(condition: Condition, num_residuals: int) -> list[str]:
    problems = []
    scales = condition.residual_scales
    if scales is not None and _shape(scales) not in ((), (num_residuals,)):
        problems.append(
            f"residual_scales must be one number or {num_residuals}, got shape {_shape(scales)}"
        )
    for name in ("depth_interval", "exemplar_interval"):
        interval = getattr(condition, name)
        if interval is not None and _shape(interval) != (2,):
            problems.append(f"{name} must be (start, end), got shape {_shape(interval)}")
    return problems


def _layer_problems(name: str, shape: tuple[int, ...], batch: int, layers: int) -> list[str]:
    if shape[:2] == (batch, layers):
        return []
    return [f"{name} are {shape}, expected batch {batch} and {layers} layers (axis 1)"]


def _scalar_problems(name: str, values: Any, batch: int, layers: int) -> list[str]:
    """Returns what keeps `values` from being one number, one for each layer, or for each image."""
    if values is None or _shape(values) in ((), (layers,), (batch, layers)):
        return []
    return [f"{name} must be one number, [{layers}] or [{batch}, {layers}], got {_shape(values)}"]


def _shape(values: Any) -> tuple[int, ...]:
    """Returns the shape of a number, an array, or (nested) tuples of either, traced or not."""
    return jnp.asarray(values, jnp.float32).shape


def _downsampling(config: Any) -> int:
    return (config.vae or VAEConfig()).downsampling
