"""Checksums of arrays and the search for values that are not finite, both where the arrays are.

    checksum = sum over elements of mixed(bits(element) + mixed(flat index))   mod 2**32

A sum of integers has one value in whatever order it is made, so it is the same on any mesh; and as
`mixed` is one-to-one, no change of a single element goes unseen. Changes of several cancel out with
one chance in 2**32: the bits are mixed, not multiplied by odd weights, with which any even number
of flipped signs would. Nothing but two numbers an array leaves the devices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from sd_jax.typing import Array


class Health(NamedTuple):
    """What is known of a tree's arrays.

    Attributes:
      checksums: of every array, by path "a/b/c".
      nonfinite: paths of arrays with NaN or infinity in them, in the tree's order.
    """

    checksums: dict[str, int]
    nonfinite: list[str]


def paths_and_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Returns (path, leaf) in the tree's order; names and indices are joined by "/"."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def health(tree: Any) -> Health:
    """Returns checksums and the paths of arrays that are not finite, in one pass over the arrays.

    Waits for the arrays. With several processes all must call it, and all get the same.

    Args:
      tree: of arrays on any devices, NumPy arrays and typed keys.
    """
    leaves = paths_and_leaves(tree)
    # All are started before the first is waited for; but the threads of pretended CPU devices are
    # few, and programs that wait for each other's devices would hold all of them for ever.
    is_cpu = jax.default_backend() == "cpu"
    pending = []
    for _, leaf in leaves:
        pending.append(_summary_of(leaf))
        if is_cpu:
            jax.block_until_ready(pending[-1])
    summaries = jax.device_get(pending)
    return Health(
        {path: int(summary[0]) for (path, _), summary in zip(leaves, summaries, strict=True)},
        [path for (path, _), summary in zip(leaves, summaries, strict=True) if summary[1]],
    )


def checksums(tree: Any) -> dict[str, int]:
    """Returns a checksum below 2**32 for every array by path; see `health`."""
    return health(tree).checksums


def nonfinite(tree: Any) -> list[str]:
    """Returns the paths of arrays that hold NaN or infinity; see `health`."""
    return health(tree).nonfinite


def differing(expected: Mapping[str, int], found: Mapping[str, int]) -> list[str]:
    """Returns the paths, in order, whose checksums differ or that only one has."""
    paths = sorted(expected.keys() | found.keys())
    return [path for path in paths if expected.get(path) != found.get(path)]


def _summary_of(leaf: Any) -> Array:
    if not isinstance(leaf, jax.Array):
        leaf = np.asarray(leaf)
    elif jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    sharding = leaf.sharding if isinstance(leaf, jax.Array) else None
    mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
    # Without it jax would drop half of the bits of a NumPy array of 8 bytes an element.
    with jax.enable_x64(leaf.dtype.itemsize >= 8 or jax.config.read("jax_enable_x64")):
        return _summary_on(mesh)(leaf)


@functools.lru_cache(maxsize=8)
def _summary_on(mesh: Any) -> Callable[[Any], Array]:
    """Returns the jitted summary, whose result every process of the mesh has."""
    # One program for each shape, not one for the whole tree: states have thousands of arrays but
    # tens of shapes.
    replicated = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    return jax.jit(_summary, out_shardings=replicated)


def _summary(leaf: Array) -> Array:
    """Returns [checksum, whether something is not finite] as uint32."""
    is_inexact = jnp.issubdtype(leaf.dtype, jnp.inexact)
    bad = jnp.any(~jnp.isfinite(leaf)) if is_inexact else jnp.bool_(False)
    words = _words(leaf)
    total = jnp.sum(_mixed(words + _mixed(_flat_index(words.shape))), dtype=jnp.uint32)
    return jnp.stack([total, bad.astype(jnp.uint32)])


def _words(leaf: Array) -> Array:
    """Returns the bits as uint32; types of 8 bytes get a last axis of two."""
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = jnp.stack([jnp.real(leaf), jnp.imag(leaf)], axis=-1)
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    size = leaf.dtype.itemsize
    narrow = {1: jnp.uint8, 2: jnp.uint16}.get(size, jnp.uint32)
    return jax.lax.bitcast_convert_type(leaf, narrow).astype(jnp.uint32)


def _flat_index(shape: tuple[int, ...]) -> Array:
    index = jnp.zeros(shape, jnp.uint32)
    for axis, stride in enumerate(_strides(shape)):
        # Built from the axes, not by reshaping, so that no device needs another's part.
        index += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride % 2**32)
    return index


def _mixed(words: Array) -> Array:
    """Returns a permutation of the 2**32 words in which every bit goes into every other.

    Products with odd numbers and xors with the higher bits can all be undone.
    """
    words = (words ^ (words >> 16)) * np.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * np.uint32(0xC2B2AE35)
    return words ^ (words >> 16)


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]
