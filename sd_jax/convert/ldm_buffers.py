"""Buffers of the original code's modules: constants that its checkpoints hold beside the weights.

The original code loads strictly: a file without them is refused, although no number in them is
trained. Files that were loaded bring their own; files made from other layouts take these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sd_jax.files import LazyTensor
from sd_jax.schedule import ScheduleConfig, make_betas
from sd_jax.typing import Float

_POSITION_IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"


def ldm_buffers(configs: Mapping[str, Any], schedule: ScheduleConfig) -> list[LazyTensor]:
    """Returns the buffers that belong to these components in the original layout.

    Args:
      configs: sizes by component.
      schedule: noise schedule.
    """
    arrays: dict[str, np.ndarray] = {}
    if "unet" in configs:
        arrays |= schedule_buffers(schedule)
    if "text_encoder" in configs:
        arrays[_POSITION_IDS] = np.arange(configs["text_encoder"].max_position_embeddings)[None]
    return [
        LazyTensor(name, array.shape, array.dtype, lambda array=array: array)
        for name, array in arrays.items()
    ]


def schedule_buffers(config: ScheduleConfig) -> dict[str, Float[np.ndarray, " timesteps"]]:
    """Returns the original `DDPM.register_schedule`'s buffers, in its order.

    Computed in float64 and stored in float32, as there: the posterior q(x_{t-1} | x_t, x_0) is
    that of arXiv:2006.11239, eq. 6 and 7, and `logvar` the (untrained) log-variance of its loss.
    """
    betas = make_betas(config)
    alphas = 1.0 - betas
    cumulated = np.cumprod(alphas)
    previous = np.append(1.0, cumulated[:-1])
    variance = betas * (1.0 - previous) / (1.0 - cumulated)
    buffers = {
        "betas": betas,
        "alphas_cumprod": cumulated,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": np.sqrt(cumulated),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1.0 - cumulated),
        "log_one_minus_alphas_cumprod": np.log(1.0 - cumulated),
        "sqrt_recip_alphas_cumprod": np.sqrt(1.0 / cumulated),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1.0 / cumulated - 1.0),
        "posterior_variance": variance,
        # The first variance is 0.
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(previous) / (1.0 - cumulated),
        "posterior_mean_coef2": (1.0 - previous) * np.sqrt(alphas) / (1.0 - cumulated),
        "logvar": np.zeros_like(betas),
    }
    return {name: values.astype(np.float32) for name, values in buffers.items()}
