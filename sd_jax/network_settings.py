"""How networks compute: what training, sampling and evaluation hand down to all of them."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from sd_jax.attention import Implementation
from sd_jax.remat import Remat
from sd_jax.typing import Dtype


@dataclasses.dataclass(frozen=True)
class NetworkSettings:
    """How the networks compute; none of it changes what they compute.

    Attributes:
      dtype: type of the computation; norms, softmax and the result stay float32.
      attention_implementation: see `sd_jax.attention.attention`; of the UNet.
      remat: see `sd_jax.remat`; of the UNet, for training.
    """

    dtype: Dtype = jnp.float32
    attention_implementation: Implementation = "auto"
    remat: Remat = "none"


DEFAULT_SETTINGS = NetworkSettings()
