"""Edge maps of scenes, without any library but NumPy and fast enough for small pictures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int16, UInt8, UInt16

# OpenCV's integers; see `input_pipeline.edges`, whose map this is for photos.
_TAN_22_5 = round((2**0.5 - 1) * 2**15)
_LOW, _HIGH = 100, 200
# Normals that turn by less than 18 degrees are round, by more than 46 a crease.
_ROUND, _CREASE = 0.05, 0.3
_SIDE_PER_BLUR = 128


def canny(photo: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """Returns the Canny edges of a photo, 255 and 0, as `edges.canny_edges` finds them."""
    gradient_x, gradient_y = _strongest_gradient(photo)
    magnitude = np.abs(gradient_x) + np.abs(gradient_y)
    weak = _ridge(magnitude, gradient_x, gradient_y) & (magnitude > _LOW)
    edges = _joined(weak, weak & (magnitude > _HIGH))
    return edges.astype(np.uint8) * 255


def _strongest_gradient(
    photo: UInt8[np.ndarray, "h w 3"],
) -> tuple[Int16[np.ndarray, "h w"], Int16[np.ndarray, "h w"]]:
    """Returns Sobel derivatives of each pixel's strongest channel."""
    height, width, _ = photo.shape
    padded = np.empty((3, height + 2, width + 2), np.int16)
    padded[:, 1:-1, 1:-1] = photo.transpose(2, 0, 1)
    padded[:, 0], padded[:, -1] = padded[:, 1], padded[:, -2]
    padded[:, :, 0], padded[:, :, -1] = padded[:, :, 1], padded[:, :, -2]
    along_y = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    along_x = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    x, y = along_y[:, :, 2:] - along_y[:, :, :-2], along_x[:, 2:] - along_x[:, :-2]
    strength = np.abs(x) + np.abs(y)
    best_x, best_y, best = x[0], y[0], strength[0]
    for channel in (1, 2):
        is_better = strength[channel] > best
        best_x = np.where(is_better, x[channel], best_x)
        best_y = np.where(is_better, y[channel], best_y)
        best = np.maximum(best, strength[channel])
    return best_x, best_y


def _ridge(
    magnitude: Int16[np.ndarray, "h w"],
    gradient_x: Int16[np.ndarray, "h w"],
    gradient_y: Int16[np.ndarray, "h w"],
) -> Bool[np.ndarray, "h w"]:
    """Returns where the gradient is largest along its own direction."""
    height, width = magnitude.shape
    padded = np.zeros((height + 2, width + 2), np.int16)
    padded[1:-1, 1:-1] = magnitude
    x, y = np.abs(gradient_x).astype(np.int32), np.abs(gradient_y).astype(np.int32) << 15
    steep = x * _TAN_22_5
    is_horizontal = y < steep
    is_vertical = y > steep + (x << 16)
    is_falling = (gradient_x ^ gradient_y) < 0

    def is_largest(dy: int, dx: int, *, ties: bool) -> Bool[np.ndarray, "h w"]:
        before = padded[1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width]
        after = padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        return (magnitude > before) & (magnitude >= after if ties else magnitude > after)

    diagonal = np.where(is_falling, is_largest(1, -1, ties=False), is_largest(1, 1, ties=False))
    upright = np.where(is_vertical, is_largest(1, 0, ties=True), diagonal)
    return np.where(is_horizontal, is_largest(0, 1, ties=True), upright)


def _joined(
    weak: Bool[np.ndarray, "h w"], strong: Bool[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """Returns the weak pixels that touch a strong one, directly or through others.

    The whole map is one long integer, with an empty column between rows: its shifts and ands grow
    all edges at once.
    """
    height, width = weak.shape
    stride = width + 1

    def number(pixels: Bool[np.ndarray, "h w"]) -> int:
        padded = np.zeros((height, stride), bool)
        padded[:, :width] = pixels
        return int.from_bytes(np.packbits(padded, bitorder="little").tobytes(), "little")

    allowed, grown, last = number(weak), number(strong), -1
    while grown != last:
        last = grown
        wide = grown | grown << 1 | grown >> 1
        grown = (wide | wide << stride | wide >> stride) & allowed
    count = height * stride
    data = np.frombuffer(grown.to_bytes((count + 7) // 8, "little"), np.uint8)
    bits = np.unpackbits(data, count=count, bitorder="little").astype(bool)
    return bits.reshape(height, stride)[:, :width]


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
