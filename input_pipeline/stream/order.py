"""Shuffles and mixtures that can be entered anywhere: pure functions of a seed and a position.

Nothing is remembered from one position to the next, so that the millionth example costs as much
as the first and no earlier one has to be replayed. Only integers are used, and no generator of
NumPy, whose streams may change with its version.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int, UInt64

_ROUNDS = 8
# Smaller domains have too few round functions to mix; larger ones than needed are only skipped.
_MIN_HALF_BITS = 3
_WORD = (1 << 64) - 1


def mix(*words: int) -> int:
    """Returns 64 bits that depend on every bit of some whole numbers, and on their order.

    Args:
      words: any; only the low 64 bits of each count.
    """
    state = 0
    for word in words:
        state = _splitmix((state ^ (word & _WORD)) & _WORD)
    return state


def permuted(
    positions: Int[np.ndarray, " n"], length: int, keys: UInt64[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """Returns where a shuffle puts positions: a permutation of 0..length-1 for every key.

    A Feistel network permutes the smallest square power of two that covers the length; what falls
    outside is permuted again until it falls inside (Black and Rogaway, "Ciphers with arbitrary
    finite domains", 2002: cycle walking), on average less than four times.

    Args:
      positions: from 0 to length - 1.
      length: of what is shuffled, at least 1.
      keys: one for each position; equal keys mean the same permutation.
    """
    half_bits = max(_MIN_HALF_BITS, ((length - 1).bit_length() + 1) // 2)
    values = positions.astype(np.uint64)
    outside = np.arange(len(values))
    while len(outside):
        values[outside] = _feistel(values[outside], half_bits, keys[outside])
        outside = outside[values[outside] >= length]
    return values.astype(np.int64)


def split(position: int, weights: Sequence[int], phases: Sequence[int]) -> tuple[int, int]:
    """Returns which part of a mixture a position belongs to, and how many came before in that part.

    Every part gets its exact share, never more than about one element per part ahead or behind.
    The first part takes every `total / weights[0]`-th position, the second its share of what that
    leaves, and so on.

    Args:
      position: in the mixture, at least 0.
      weights: of the parts, whole numbers >= 0 with a positive sum.
      phases: one for each part, any whole numbers >= 0: where in its own rhythm a part begins.
    """
    total = sum(weights)
    for part, (weight, phase) in enumerate(zip(weights, phases, strict=True)):
        offset = phase % total
        before = (position * weight + offset) // total
        if ((position + 1) * weight + offset) // total > before:
            return part, before
        position -= before
        total -= weight
    raise ValueError(f"weights are {list(weights)}, expected whole numbers with a positive sum")


def _feistel(
    values: UInt64[np.ndarray, " n"], half_bits: int, keys: UInt64[np.ndarray, " n"]
) -> UInt64[np.ndarray, " n"]:
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for _ in range(_ROUNDS):
        keys = _splitmix_array(keys)
        left, right = right, left ^ (_splitmix_array(right ^ keys) & mask)
    return (left << shift) | right


def _splitmix(word: int) -> int:
    """Returns one output of SplitMix64 (Steele, Lea and Flood, 2014) from a state."""
    word = (word + 0x9E3779B97F4A7C15) & _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)


def _splitmix_array(words: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Returns `_splitmix` of every word; products of unsigned arrays wrap around."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
