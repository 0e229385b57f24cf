"""Adam whose moments take 8 bits an element: arXiv:2110.02861, written for sharded arrays.

A moment is an array of codes, uint8 and shaped like its parameter, and one float32 scale for each
block along the last axis, the largest magnitude in it:

    moment = TABLE[code] * scale

The tables' steps grow with the value (the paper's dynamic quantization), so that one block holds
seven decades. As codes have the parameter's own shape, the parameter's sharding is theirs too.
Moments of small arrays stay float32.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from sd_jax.typing import Array, Float, Num, Params, flat_params, nested_params

MIN_SIZE = 4096
"""Elements below which an array's moments stay float32: biases and norms, as in the paper."""

_MAX_BLOCK, _MIN_BLOCK, _MIN_BLOCKS = 256, 32, 8
_DECADES = 7


class Adam8bitState(NamedTuple):
    """Moments by the parameters' paths; where one has no scales, its codes are the moment itself.

    Attributes:
      count: int32 []; updates made.
      mu: codes of the first moment.
      nu: codes of the second moment.
      mu_scales: [..., blocks] of the first moment.
      nu_scales: of the second moment.
    """

    count: Array
    mu: Params
    nu: Params
    mu_scales: Params
    nu_scales: Params


def scale_by_adam8bit(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, *, min_size: int = MIN_SIZE
) -> optax.GradientTransformation:
    """Returns Adam's scaling of gradients, as `optax.scale_by_adam` is.

    Args:
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the root of the second moment.
      min_size: elements below which moments stay float32.
    """

    def init(params: Any) -> Adam8bitState:
        shapes = {path: leaf.shape for path, leaf in flat_params(params).items()}
        blocks = {path: count_blocks(shape, min_size) for path, shape in shapes.items()}

        def zero(table: CodeTable) -> Params:
            return nested_params(
                {
                    path: jnp.full(shape, table.zero, jnp.uint8)
                    if blocks[path]
                    else jnp.zeros(shape, jnp.float32)
                    for path, shape in shapes.items()
                }
            )

        def no_scales() -> Params:
            return nested_params(
                {
                    path: jnp.zeros((*shape[:-1], blocks[path]), jnp.float32)
                    for path, shape in shapes.items()
                    if blocks[path]
                }
            )

        moments = zero(signed_table()), zero(unsigned_table())
        return Adam8bitState(jnp.zeros((), jnp.int32), *moments, no_scales(), no_scales())

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        count = jnp.asarray(optax.safe_increment(state.count))
        correct1, correct2 = (1.0 - decay ** jnp.float32(count) for decay in (b1, b2))
        mu_scales, nu_scales = flat_params(state.mu_scales), flat_params(state.nu_scales)
        mu_codes, nu_codes = flat_params(state.mu), flat_params(state.nu)
        scaled = {}
        for path, gradient in flat_params(updates).items():
            # In float32 throughout: only what is kept until the next update is rounded.
            mu = dequantize(mu_codes[path], mu_scales.get(path), signed_table())
            nu = dequantize(nu_codes[path], nu_scales.get(path), unsigned_table())
            mu = b1 * mu + (1.0 - b1) * gradient
            nu = b2 * nu + (1.0 - b2) * jnp.square(gradient)
            scaled[path] = (mu / correct1) / (jnp.sqrt(nu / correct2) + eps)
            if path in mu_scales:
                blocks = mu_scales[path].shape[-1]
                mu, mu_scales[path] = quantize(mu, blocks, signed_table())
                nu, nu_scales[path] = quantize(nu, blocks, unsigned_table())
            mu_codes[path], nu_codes[path] = mu, nu
        trees = (nested_params(flat) for flat in (mu_codes, nu_codes, mu_scales, nu_scales))
        return nested_params(scaled), Adam8bitState(count, *trees)

    return optax.GradientTransformation(init, update)


class CodeTable(NamedTuple):
    """What codes stand for.

    Attributes:
      values: [256] float32, ascending, at most 1 in magnitude.
      limits: [255] float32; a number has code i where limits[i - 1] <= number < limits[i].
      zero: code of 0.
    """

    values: np.ndarray
    limits: np.ndarray
    zero: int


@functools.cache
def signed_table() -> CodeTable:
    """Returns the table of first moments: 127 values of either sign, 0 and 1."""
    positive = _decades(0)
    return _table(np.concatenate([-positive, [0.0], positive, [1.0]]))


@functools.cache
def unsigned_table() -> CodeTable:
    """Returns the table of second moments: 254 positive values, 0 and 1.

    Only 0 itself has the code of 0: a small second moment taken for none would make the update as
    large as 1 / eps, one taken for more makes it smaller.
    """
    table = _table(np.concatenate([[0.0], _decades(1), [1.0]]))
    table.limits[0] = np.finfo(np.float32).tiny
    return table


def _decades(extra_bits: int) -> np.ndarray:
    """Returns values in (0, 1): in decade i, the means of 2**(i + extra_bits) equal parts."""
    decades = []
    for decade in range(_DECADES):
        edges = np.linspace(0.1, 1.0, 2 ** (decade + extra_bits) + 1)
        decades.append(10.0 ** (decade - _DECADES + 1) * (edges[1:] + edges[:-1]) / 2.0)
    return np.concatenate(decades)


def _table(values: np.ndarray) -> CodeTable:
    values = np.sort(values)
    limits = (values[1:] + values[:-1]) / 2.0
    zero = int(np.flatnonzero(values == 0.0)[0])
    return CodeTable(values.astype(np.float32), limits.astype(np.float32), zero)


@functools.cache
def count_blocks(shape: tuple[int, ...], min_size: int = MIN_SIZE) -> int:
    """Returns how many blocks the last axis is cut into, or 0 where the moments stay float32.

    Args:
      shape: of a parameter.
      min_size: elements of an array from which on its moments have codes.
    """
    if int(np.prod(shape)) < min_size:
        return 0
    length = shape[-1]
    # A multiple of 8 where possible, so that no block lies on two devices that share the axis.
    parts = (length // _MIN_BLOCKS, length) if length % _MIN_BLOCKS == 0 else (length,)
    for part in parts:
        sizes = range(min(part, _MAX_BLOCK), _MIN_BLOCK - 1, -1)
        block = next((size for size in sizes if part % size == 0), 0)
        if block:
            return length // block
    return 0


def quantize(
    moment: Float[Array, "*shape"], blocks: int, table: CodeTable
) -> tuple[Array, Float[Array, "*rows blocks"]]:
    """Returns the codes, shaped like the moment, and the scales.

    Args:
      moment: any numbers.
      blocks: into which the last axis is cut; must divide it.
      table: of the moment's sign.
    """
    parts = moment.reshape(*moment.shape[:-1], blocks, -1)
    scales = jnp.max(jnp.abs(parts), axis=-1)
    # Not a division by the scale, which a denormal one would turn into infinity.
    ratios = parts / jnp.maximum(scales, np.finfo(np.float32).tiny)[..., None]
    return _codes(ratios, table.limits).reshape(moment.shape), scales


def dequantize(
    codes: Num[Array, "*shape"], scales: Float[Array, "*rows blocks"] | None, table: CodeTable
) -> Float[Array, "*shape"]:
    """Returns the moment; undoes `quantize` up to rounding.

    Args:
      codes: uint8, or the moment itself.
      scales: of the codes, or None.
      table: that was used.
    """
    if scales is None:
        return codes
    parts = codes.reshape(*scales.shape, -1)
    values = jnp.asarray(table.values)[parts.astype(jnp.int32)]
    return (values * scales[..., None]).reshape(codes.shape)


def _codes(ratios: Array, limits: np.ndarray) -> Array:
    """Returns, for each number, how many limits are not above it: a search in eight halvings."""
    table = jnp.asarray(limits)
    codes = jnp.zeros(ratios.shape, jnp.int32)
    for bit in (128, 64, 32, 16, 8, 4, 2, 1):
        codes += bit * (ratios >= table[codes + (bit - 1)])
    return codes.astype(jnp.uint8)
