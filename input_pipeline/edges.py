"""Canny edge maps, the commonest hand-made condition beside depth.

The thresholds are OpenCV's, the convention of the whole field (ControlNet: 100 and 200): they
apply to |dx| + |dy| of unnormalised 3x3 Sobel derivatives of 8-bit values, the strongest of the
three channels, without any smoothing. scikit-image's own `feature.canny` blurs first, takes one
channel and uses the Euclidean norm, so that no thresholds make it agree. OpenCV's rule is computed
here, pixel for pixel, so that every machine makes the same maps.

Reference: J. Canny, "A Computational Approach to Edge Detection", IEEE PAMI 8(6), 1986.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int16, UInt8

# OpenCV compares directions in fixed point; using its integers keeps ties on its side.
_FIXED_POINT_BITS = 15
_TAN_22_5 = round((2**0.5 - 1) * 2**_FIXED_POINT_BITS)


def canny_edges(
    photo: UInt8[np.ndarray, "h w 3"], low: float = 100, high: float = 200
) -> Float[np.ndarray, "h w 3"]:
    """Return the edge map of `canny` as floats, in three equal channels."""
    return np.repeat(canny(photo, low, high)[..., None], 3, axis=-1).astype(np.float32)


def canny(
    photo: UInt8[np.ndarray, "h w 3"], low: float = 100, high: float = 200
) -> Bool[np.ndarray, "h w"]:
    """Return which pixels are edges.

    Args:
        photo: RGB picture in 0..255.
        low: Gradient above which a pixel joins an edge that it touches; at least 0.
        high: Gradient above which a pixel starts an edge; at least `low`. One step of k grey
            levels across a straight border has gradient 4k, and no gradient exceeds 2040.

    Raises:
        ValueError: If `photo` is not an 8-bit RGB picture or the thresholds are out of order.
    """
    photo = np.asarray(photo)
    problems = []
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[-1] != 3 or 0 in photo.shape:
        problems.append(
            f"photo has shape {photo.shape} and type {photo.dtype}, expected uint8 [h w 3]; "
            "read it with input_pipeline.images.read_photo_uint8"
        )
    if not 0 <= low <= high < np.inf:
        problems.append(f"thresholds are low={low}, high={high}, expected 0 <= low <= high")
    if problems:
        raise ValueError("; ".join(problems))
    gradient_x, gradient_y = _strongest_gradient(photo)
    magnitude = np.abs(gradient_x) + np.abs(gradient_y)
    weak = _ridge(magnitude, gradient_x, gradient_y) & (magnitude > low)
    return _joined(weak, weak & (magnitude > high))


def _strongest_gradient(
    photo: UInt8[np.ndarray, "h w 3"],
) -> tuple[Int16[np.ndarray, "h w"], Int16[np.ndarray, "h w"]]:
    """Return the Sobel derivatives of each pixel's strongest channel."""
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
    """Return where the gradient is largest along its own direction (non-maximum suppression).

    Directions fall in four sectors. On a plateau one side is compared with `>=`, so that an edge
    two equal pixels wide keeps one of them.
    """
    height, width = magnitude.shape
    padded = np.zeros((height + 2, width + 2), np.int16)
    padded[1:-1, 1:-1] = magnitude
    x = np.abs(gradient_x).astype(np.int32)
    y = np.abs(gradient_y).astype(np.int32) << _FIXED_POINT_BITS
    steep = x * _TAN_22_5
    is_horizontal = y < steep
    # tan(67.5 degrees) = tan(22.5 degrees) + 2
    is_vertical = y > steep + (x << (_FIXED_POINT_BITS + 1))
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
    """Return the weak pixels that touch a strong one, directly or through others.

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
