"""What group norms cost, and how they round: those here beside `flax.linen.GroupNorm`.

    python benchmarks/norms.py

Prints a line of JSON for each size: milliseconds forward and with gradient, the best of ten runs in
turn, and the largest error beside float64.
"""

from __future__ import annotations

import json
import time
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sd_jax.layers import GroupNorm

_SIZES = ((8, 64, 64, 16), (8, 32, 32, 32), (16, 8, 8, 120))
_GROUPS, _EPSILON, _REPEATS = 8, 1e-5, 10


def main() -> None:
    """Measures each size."""
    for size in _SIZES:
        values = jnp.asarray(np.random.default_rng(0).normal(1.0, 1.0, size), jnp.float32)
        right = in_float64(np.asarray(values))
        line: dict[str, Any] = {"size": size, "device": jax.devices()[0].device_kind}
        programs = {}
        for name, norm in (
            ("flax", nn.GroupNorm(_GROUPS, epsilon=_EPSILON, use_fast_variance=False)),
            ("here", GroupNorm(_GROUPS, epsilon=_EPSILON)),
        ):
            forward, gradient = programs_of(norm, values)
            programs[f"{name}_forward_ms"] = forward
            programs[f"{name}_gradient_ms"] = gradient
            error = np.abs(np.asarray(forward(values), np.float64) - right).max()
            line[f"{name}_error"] = float(f"{error:.2g}")
        best = dict.fromkeys(programs, np.inf)
        for _ in range(_REPEATS):
            for name, program in programs.items():
                start = time.perf_counter()
                jax.block_until_ready(program(values))
                best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
        line |= {name: round(float(value), 2) for name, value in best.items()}
        print(json.dumps(line), flush=True)


def programs_of(norm: nn.Module, values: jax.Array) -> tuple[Any, Any]:
    """Returns the compiled norm, and the compiled norm with its gradient.

    Args:
      norm: with its first parameters.
      values: that both are compiled for.
    """
    params = norm.init(jax.random.key(0), values)
    weights = jax.random.normal(jax.random.key(1), values.shape)

    def forward(values: jax.Array) -> jax.Array:
        return cast(jax.Array, norm.apply(params, values))

    def loss(values: jax.Array) -> jax.Array:
        return jnp.sum(forward(values) * weights)

    return (
        jax.jit(forward).lower(values).compile(),
        jax.jit(jax.value_and_grad(loss)).lower(values).compile(),
    )


def in_float64(values: np.ndarray) -> np.ndarray:
    """Returns what the norm of values is.

    Args:
      values: channels last.
    """
    groups = values.astype(np.float64).reshape(
        values.shape[0], -1, _GROUPS, values.shape[-1] // _GROUPS
    )
    centred = groups - groups.mean(axis=(1, 3), keepdims=True)
    variance = (centred**2).mean(axis=(1, 3), keepdims=True)
    return (centred / np.sqrt(variance + _EPSILON)).reshape(values.shape)


if __name__ == "__main__":
    main()
