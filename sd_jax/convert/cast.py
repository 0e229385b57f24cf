"""Weights in another type on their way out: half the size, for files that travel."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sd_jax.convert.weights import ExportError, Weights


def cast_weights(weights: Weights, dtype: Any) -> Weights:
    """Returns the weights with every floating-point parameter in another type.

    Tensors that no network uses, such as buffers and averages of the file that the weights came
    from, stay. The component that was read last is held.

    Args:
      weights: to write.
      dtype: float32, float16 or bfloat16.

    Raises:
      ExportError: when a component is read that has numbers too large for the type.
    """
    kind = jnp.dtype(dtype)

    def type_of(leaf: Any) -> np.dtype[Any]:
        return kind if jnp.issubdtype(leaf.dtype, jnp.floating) else np.dtype(leaf.dtype)

    shapes = {
        name: {
            path: jax.ShapeDtypeStruct(leaf.shape, type_of(leaf)) for path, leaf in leaves.items()
        }
        for name, leaves in weights.shapes.items()
    }

    @functools.lru_cache(maxsize=1)
    def read(name: str) -> Mapping[str, Any]:
        arrays = {path: np.asarray(leaf) for path, leaf in weights.read(name).items()}
        with np.errstate(over="ignore"):
            cast = {path: array.astype(type_of(array)) for path, array in arrays.items()}
        lost = [
            path
            for path, array in arrays.items()
            if not _all_finite(cast[path]) and _all_finite(array)
        ]
        if lost:
            raise ExportError(
                f"{name}: {len(lost)} tensors have numbers too large for {kind.name}, among them "
                f"{', '.join(lost[:5])}; write float32 or bfloat16"
            )
        return cast

    return dataclasses.replace(weights, shapes=shapes, read=read)


def _all_finite(array: np.ndarray) -> bool:
    return bool(np.isfinite(array.astype(np.float32)).all())
