"""Canny edge maps, the commonest hand-made condition beside depth.

The thresholds are OpenCV's, the convention of the whole field (ControlNet: 100 and 200): they
apply to |dx| + |dy| of unnormalised 3x3 Sobel derivatives of 8-bit values, the strongest of the
three channels, without any smoothing. scikit-image's own `feature.canny` blurs first, takes one
channel and uses the Euclidean norm, so that no thresholds make it agree. Where OpenCV is missing
its rule is therefore computed here, and scikit-image only joins the edge pixels: both ways give
the same map, pixel for pixel.

Reference: J. Canny, "A Computational Approach to Edge Detection", IEEE PAMI 8(6), 1986.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8

# OpenCV compares directions in fixed point; using its integers keeps ties on its side.
_FIXED_POINT_BITS = 15
_TAN_22_5 = round((2**0.5 - 1) * 2**_FIXED_POINT_BITS)


def canny_edges(
    photo: UInt8[np.ndarray, "h w 3"], low: float = 100, high: float = 200
) -> Float[np.ndarray, "h w 3"]:
    """Return the edge map: 1 on edges and 0 elsewhere, in three equal channels.

    Args:
        photo: RGB picture in 0..255.
        low: Gradient above which a pixel joins an edge that it touches; at least 0.
        high: Gradient above which a pixel starts an edge; at least `low`. One step of k grey
            levels across a straight border has gradient 4k, and no gradient exceeds 2040.

    Raises:
        ValueError: If `photo` is not an 8-bit RGB picture or the thresholds are out of order.
        ImportError: If neither OpenCV nor scikit-image is installed.
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
    edges = _opencv_edges(photo, low, high)
    if edges is None:
        edges = _sobel_canny_edges(photo, low, high)
    return np.repeat(edges[..., None], 3, axis=-1).astype(np.float32)


def _opencv_edges(
    photo: UInt8[np.ndarray, "h w 3"], low: float, high: float
) -> Bool[np.ndarray, "h w"] | None:
    """Return OpenCV's edges, or None where OpenCV is not installed."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2.Canny(np.ascontiguousarray(photo), low, high) > 0


def _sobel_canny_edges(
    photo: UInt8[np.ndarray, "h w 3"], low: float, high: float
) -> Bool[np.ndarray, "h w"]:
    """Return OpenCV's edges computed without OpenCV."""
    try:
        from skimage.measure import label
    except ImportError as error:
        raise ImportError(
            "canny_edges needs OpenCV or scikit-image and found neither; "
            'install the extra of this project that brings one: pip install ".[prepare]"'
        ) from error
    gradient_x, gradient_y = _strongest_gradient(photo)
    magnitude = np.abs(gradient_x) + np.abs(gradient_y)
    weak = _ridge(magnitude, gradient_x, gradient_y) & (magnitude > low)
    regions = np.asarray(label(weak, connectivity=2), dtype=np.int64)
    has_strong_pixel = np.zeros(regions.max() + 1, dtype=bool)
    has_strong_pixel[regions[weak & (magnitude > high)]] = True
    return has_strong_pixel[regions]


def _strongest_gradient(
    photo: UInt8[np.ndarray, "h w 3"],
) -> tuple[Int[np.ndarray, "h w"], Int[np.ndarray, "h w"]]:
    """Return the horizontal and vertical Sobel derivatives of each pixel's strongest channel."""
    padded = np.pad(photo.astype(np.int32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    along_y = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    along_x = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    gradient_x = along_y[:, 2:] - along_y[:, :-2]
    gradient_y = along_x[2:] - along_x[:-2]
    strongest = np.argmax(np.abs(gradient_x) + np.abs(gradient_y), axis=-1)[..., None]
    return (
        np.take_along_axis(gradient_x, strongest, axis=-1)[..., 0],
        np.take_along_axis(gradient_y, strongest, axis=-1)[..., 0],
    )


def _ridge(
    magnitude: Int[np.ndarray, "h w"],
    gradient_x: Int[np.ndarray, "h w"],
    gradient_y: Int[np.ndarray, "h w"],
) -> Bool[np.ndarray, "h w"]:
    """Return where the gradient is largest along its own direction (non-maximum suppression).

    Directions fall in four sectors. On a plateau one side is compared with `>=`, so that an edge
    two equal pixels wide keeps one of them.
    """
    height, width = magnitude.shape
    padded = np.pad(magnitude, 1)

    def neighbour(dy: int, dx: int) -> Int[np.ndarray, "h w"]:
        return padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    x = np.abs(gradient_x).astype(np.int64)
    y = np.abs(gradient_y).astype(np.int64) << _FIXED_POINT_BITS
    horizontal = y < x * _TAN_22_5
    # tan(67.5 degrees) = tan(22.5 degrees) + 2
    vertical = y > x * (_TAN_22_5 + (2 << _FIXED_POINT_BITS))
    falling = (gradient_x ^ gradient_y) < 0
    return np.select(
        [horizontal, vertical, falling],
        [
            (magnitude > neighbour(0, -1)) & (magnitude >= neighbour(0, 1)),
            (magnitude > neighbour(-1, 0)) & (magnitude >= neighbour(1, 0)),
            (magnitude > neighbour(-1, 1)) & (magnitude > neighbour(1, -1)),
        ],
        (magnitude > neighbour(-1, -1)) & (magnitude > neighbour(1, 1)),
    )
