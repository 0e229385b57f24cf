"""Class labels <-> pictures in a palette's colours, as the segmentation factor draws them.

A drawn segmentation comes out of the VAE, so that its colours are only near those of the palette.
Two rules read them:

- `labels_of`: the nearest colour. A colour is a candidate if no channel is further off than the
  paper's margin of 28 (arXiv:2410.21638; Chebyshev distance in 0..255), and of the
  candidates the nearest by Euclidean distance wins: errors of a decoder are near to Gaussian, for
  which that is the likeliest class, and it makes no difference where they are small.
- `upstream_labels_of`: the rule of the released code, in which the last of the candidates wins.
  In COCO's palette colours are as near as 32 and the boxes of 28 overlap, so that it returns the
  true class for 68 % of the classes when each channel is off by up to 8; the nearest colour is
  right for all of them, and for 98 % with up to 16.

Both leave exactly the same pixels without a class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from sd_jax.typing import Array, Float, Int

RADIUS = 28
"""The margin within which a pixel has a colour, in 0..255; the paper's."""

Colours: TypeAlias = np.ndarray | Array
"""uint8 [n 3]: colours of the classes by number."""


def labels_of(
    images: Float[Array, "*b h w 3"], colours: Colours, *, void: int, radius: int = RADIUS
) -> Int[Array, "*b h w"]:
    """Returns the class of every pixel: the nearest of the colours within `radius`.

    Of classes that share a colour the first is returned; see `shared_colours`.

    Args:
      images: in [-1, 1], as the VAE decodes them; values beyond are cut off.
      colours: uint8 [n 3].
      void: label of pixels without a class, NaN among them: any number, also that of a class
        (COCO's "unlabeled").
      radius: 0 to 255; the furthest that any channel may be off.

    Raises:
      ValueError: `colours` or `radius` are none.
    """
    # Carried along with the label; what is not nearer than this is no candidate.
    far = jnp.full(images.shape[:-1], jnp.inf)

    def step(nearest: tuple[Array, Array], label: Array, gaps: Array) -> tuple[Array, Array]:
        distances, labels = nearest
        distance = jnp.sum(jnp.square(gaps), axis=-1)
        is_nearer = _is_within(gaps, radius) & (distance < distances)
        return jnp.where(is_nearer, distance, distances), jnp.where(is_nearer, label, labels)

    start = (far, jnp.full(far.shape, void, jnp.int32))
    return _over_colours(step, start, images, colours, radius)[1]


def upstream_labels_of(
    images: Float[Array, "*b h w 3"], colours: Colours, *, void: int, radius: int = RADIUS
) -> Int[Array, "*b h w"]:
    """Returns the class of every pixel: the last of the colours within `radius`.

    The rule of the released code, for comparisons; see the module's description.

    Args:
      images: in [-1, 1]; values beyond are cut off.
      colours: uint8 [n 3].
      void: label of pixels without a class.
      radius: 0 to 255; the furthest that any channel may be off.

    Raises:
      ValueError: `colours` or `radius` are none.
    """

    def step(labels: Array, label: Array, gaps: Array) -> Array:
        return jnp.where(_is_within(gaps, radius), label, labels)

    start = jnp.full(images.shape[:-1], void, jnp.int32)
    return _over_colours(step, start, images, colours, radius)


def colours_of(
    labels: Int[Array, "*b h w"], colours: Colours, *, void_colour: tuple[int, int, int] = (0, 0, 0)
) -> Float[Array, "*b h w 3"]:
    """Returns labels as pictures in [-1, 1], which `labels_of` reads back without a loss.

    Args:
      labels: classes; what is no class gets the colour of the void.
      colours: uint8 [n 3].
      void_colour: 0 to 255.

    Raises:
      ValueError: `colours` are none.
    """
    _check(colours)
    count = len(colours)
    table = jnp.concatenate(
        [jnp.asarray(colours, jnp.float32), jnp.asarray([void_colour], jnp.float32)]
    )
    is_class = (labels >= 0) & (labels < count)
    return table[jnp.where(is_class, labels, count)] / 127.5 - 1.0


def shared_colours(colours: Colours) -> tuple[int, ...]:
    """Returns for each class the first class of its colour, mostly itself.

    ADE20K's road and skyscraper are of one grey: a picture cannot tell which of them it shows.

    Args:
      colours: uint8 [n 3]; concrete, not traced.

    Raises:
      ValueError: `colours` are none.
    """
    _check(colours)
    first: dict[tuple[int, ...], int] = {}
    return tuple(
        first.setdefault(tuple(colour), number)
        for number, colour in enumerate(np.asarray(colours).tolist())
    )


def in_bytes(images: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """Returns values of [-1, 1] as float32 whole numbers 0 to 255, the nearest ones; NaN stays."""
    return jnp.round(jnp.clip((images.astype(jnp.float32) + 1.0) * 127.5, 0.0, 255.0))


def _is_within(gaps: Array, radius: int) -> Array:
    return jnp.max(jnp.abs(gaps), axis=-1) <= radius


def _over_colours(
    step: Callable[[Any, Array, Array], Any],
    start: Any,
    images: Array,
    colours: Colours,
    radius: int,
) -> Any:
    """Returns what `step` (carry, label, differences to a colour) leaves after all colours.

    One colour at a time: the distances to all 183 of COCO would need 19 GB for ten images of 512.
    Whole numbers up to 2**24 are exact in float32, so that the radius is met to the unit.
    """
    _check(colours, radius)
    pixels = in_bytes(images)

    def body(carry: Any, item: tuple[Array, Array]) -> tuple[Any, None]:
        label, colour = item
        gaps = pixels - colour.reshape((1,) * (pixels.ndim - 1) + (3,))
        return step(carry, label, gaps), None

    numbers = jnp.arange(len(colours), dtype=jnp.int32)
    return jax.lax.scan(body, start, (numbers, jnp.asarray(colours, jnp.float32)))[0]


def _check(colours: Colours, radius: int = 0) -> None:
    problems = []
    shape, dtype = np.shape(colours), getattr(colours, "dtype", type(colours).__name__)
    if len(shape) != 2 or shape[1] != 3 or shape[0] < 1 or dtype != np.uint8:
        problems.append(
            f"colours have type {dtype} and shape {shape}, expected uint8 (classes, 3): one row "
            "of red, green and blue in 0..255 for each class"
        )
    if not 0 <= radius <= 255:
        problems.append(f"radius is {radius}, expected 0 to 255, such as {RADIUS}")
    if problems:
        raise ValueError("; ".join(problems))
