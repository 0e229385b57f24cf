"""Soft edges of scenes: outlines and creases, drawn from what is known exactly."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8, UInt16

# Normals that turn by less than 18 degrees are round, by more than 46 a crease.
_ROUND, _CREASE = 0.05, 0.3
_SIDE_PER_BLUR = 128


def soft_edges(
    labels: UInt8[np.ndarray, "h w"],
    instances: UInt16[np.ndarray, "h w"],
    normal: Float[np.ndarray, "3 h w"],
) -> UInt8[np.ndarray, "h w"]:
    """Returns outlines and creases as soft lines, 0 to 255, without textures and shadows.

    Lines are about a sixtieth of the shorter side wide, at least three pixels.
    """
    ids = instances * np.uint16(256) + labels
    lines = np.zeros(labels.shape, np.float32)
    for axis in (0, 1):
        before = (slice(None, -1), slice(None))[:: 1 - 2 * axis]
        after = (slice(1, None), slice(None))[:: 1 - 2 * axis]
        turned = 1 - (normal[:, *before] * normal[:, *after]).sum(axis=0)
        step = np.maximum(
            ids[before] != ids[after], np.clip((turned - _ROUND) * (1 / (_CREASE - _ROUND)), 0, 1)
        )
        for side in (before, after):
            np.maximum(lines[side], step, out=lines[side])
    passes = max(min(labels.shape) // _SIDE_PER_BLUR, 1)
    for _ in range(passes):
        lines = _blurred(lines)
    # A line of two pixels keeps three quarters of its height in one pass.
    gain = 255 / 0.75 * math.sqrt(passes)
    return np.minimum(np.rint(lines * gain), 255).astype(np.uint8)


def _blurred(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Returns values smoothed by [1 2 1] / 4 along both axes."""
    padded = np.pad(values, 1, mode="edge")
    by_row = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return (by_row[:, :-2] + 2 * by_row[:, 1:-1] + by_row[:, 2:]) * np.float32(1 / 16)
