"""New weights for what no checkpoint holds, drawn on the host.

Initialised as PyTorch initialises by default, like the fresh parts of the original code. Each
tensor draws from a generator of its own path, so the numbers depend on (seed, path) alone, and
nothing is compiled: for networks of hundreds of tensors `module.init` takes minutes where this
takes seconds.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from sd_jax.convert.component import Component
from sd_jax.typing import flat_params

_EMBEDDING_DEVIATION = 0.02


def fresh_params(component: Component, config: Any, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns newly initialised float32 parameters of a component by path.

    Args:
      component: which one; its `zero` pattern names the zero convolutions.
      config: its sizes.
      seed: of the draws.
    """
    flat = flat_params(component.abstract_params(config))
    return {path: _fresh(path, flat, component, seed) for path in flat}


def _fresh(path: str, flat: Mapping[str, Any], component: Component, seed: int) -> np.ndarray:
    module, _, leaf = path.rpartition("/")
    shape = flat[path].shape
    kernel = flat.get(f"{module}/kernel")
    if component.zero and re.match(component.zero, path):
        return np.zeros(shape, np.float32)
    generator = np.random.default_rng([seed, zlib.crc32(path.encode())])
    if leaf in ("kernel", "bias") and kernel is not None:
        bound = float(np.prod(kernel.shape[:-1])) ** -0.5
        return generator.uniform(-bound, bound, shape).astype(np.float32)
    if leaf == "bias":
        return np.zeros(shape, np.float32)
    if leaf == "scale" or leaf.endswith("_weights"):
        return np.ones(shape, np.float32)
    return (_EMBEDDING_DEVIATION * generator.standard_normal(shape)).astype(np.float32)
