"""Floating-point operations of a program, counted from its trace.

XLA's own count takes the body of a loop once, however often it runs (so that accumulated gradients
seem to cost one microbatch), and fused attention for nothing. The trace has both, is the whole
program rather than one device's part, and nothing needs to be compiled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

# Matrix products of one attention: scores and output; of its gradient twice as many.
_FUSED_ATTENTION = {"dot_product_attention_fwd_wrapper": 2, "dot_product_attention_bwd_wrapper": 4}


def flops_of(traced: jax.stages.Traced | ClosedJaxpr) -> float:
    """Returns the operations of matrix products, convolutions and attention, over all devices.

    A multiplication and its addition are two. Everything else is less than a hundredth of a UNet
    and left out, as is usual; padding counts, as is usual too. What activation checkpointing
    computes again is counted: trace with `remat="none"` for the operations that MFU is stated in.

    Args:
      traced: `jax.jit(function).trace(*arguments)`, of arrays or abstract ones. The body of a
        `while_loop` counts once, of branches the longest.
    """
    return _flops(traced.jaxpr if isinstance(traced, jax.stages.Traced) else traced)


def _flops(jaxpr: ClosedJaxpr | Jaxpr) -> float:
    inner = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    return sum((_equation_flops(equation) for equation in inner.eqns), 0.0)


def _equation_flops(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracting, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2.0 * _size(equation.outvars[0]) * math.prod(left[axis] for axis in contracting)
    if name == "conv_general_dilated":
        return _convolution_flops(equation)
    if name in _FUSED_ATTENTION:
        # As jax.nn.dot_product_attention lays them out: batch, length, heads, width.
        query, key = equation.invars[0], equation.invars[1]
        return 2.0 * _FUSED_ATTENTION[name] * _size(query) * key.aval.shape[1]
    if name == "cond":
        return max(_flops(branch) for branch in params["branches"])
    inside = sum((_flops(jaxpr) for jaxpr in _inner_jaxprs(params)), 0.0)
    if name == "scan":
        return inside * params["length"]
    if name == "shard_map":  # its body is one device's part
        return inside * params["mesh"].size
    return inside


def _convolution_flops(equation: Any) -> float:
    kernel, params = equation.invars[1].aval.shape, equation.params
    out_features = kernel[params["dimension_numbers"].rhs_spec[0]]
    # Of a strided convolution's gradient the zeros between the inputs cost nothing.
    holes = math.prod(params["lhs_dilation"])
    return 2.0 * _size(equation.outvars[0]) * math.prod(kernel) / out_features / holes


def _size(variable: Any) -> int:
    return math.prod(variable.aval.shape)


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[ClosedJaxpr | Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr | Jaxpr):
                yield item
