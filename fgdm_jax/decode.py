"""Maps from drawn pictures: what a picture of depth, normals, edges or classes says in numbers.

Every variable is drawn as a picture in [-1, 1], which the VAE decodes with small errors in all
three channels. `decode_map` reads it, `picture_of` makes a picture of the map again, to be saved,
or to be edited and handed to the factors that come after.

    variable                    map                     range
    segmentation                int32 [b h w]           classes, and the label of the void
    depth, fore-/background's   float32 [b h w]         0 far to 1 near
    normal                      float32 [b h w 3]       unit vectors: x left, y up, z to the viewer
    canny                       float32 [b h w]         0 or 1
    sketch                      float32 [b h w]         0 to 1
    pose, image                 float32 [b h w 3]       -1 to 1, the picture itself
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from fgdm_jax.graph import VARIABLES, unknown_name
from fgdm_jax.palette import Colours, colours_of, in_bytes, labels_of
from sd_jax.typing import Array, Float, Num

_DEPTHS = ("depth", "foreground_depth", "background_depth")
_EDGES = ("sketch", "canny")

# In bytes no direction is (127, 128, ...), whose vector has a length of up to 0.007.
_SHORTEST_NORMAL = 0.01


def decode_map(
    variable: str,
    images: Float[Array, "b h w 3"],
    *,
    colours: Colours | None = None,
    void: int | None = None,
    threshold: float | None = None,
) -> Num[Array, "b h w *c"]:
    """Returns the map of a drawn picture, with the range that the module's table says.

    Args:
      variable: one of `fgdm_jax.graph.VARIABLES`.
      images: in [-1, 1], as the VAE decodes them; values beyond are cut off.
      colours: uint8 [n 3] of the classes; only of segmentations, which need it.
      void: label of pixels without a class; likewise.
      threshold: of edges, in [0, 1]: what is at least this becomes 1, all else 0. None: 0.5 for
        canny, and greys for sketch.

    Raises:
      ValueError: there is no such variable, or it lacks or does not use an argument.
    """
    _check(variable, colours=colours, void=void, threshold=threshold)
    if variable == "segmentation" and colours is not None and void is not None:
        return labels_of(images, colours, void=void)
    if variable in _DEPTHS:
        return depth_of(images)
    if variable == "normal":
        return normals_of(images)
    if variable in _EDGES:
        is_binary = variable == "canny" and threshold is None
        return edges_of(images, threshold=0.5 if is_binary else threshold)
    return jnp.clip(images.astype(jnp.float32), -1.0, 1.0)


def picture_of(
    variable: str,
    maps: Num[Array, "b h w *c"],
    *,
    colours: Colours | None = None,
    void_colour: tuple[int, int, int] = (0, 0, 0),
) -> Num[Array, "b h w 3"]:
    """Returns a map as a uint8 picture, in the colours in which its factor draws.

    The picture over 127.5, less 1, is the condition of the factors that come after.

    Args:
      variable: one of `fgdm_jax.graph.VARIABLES`.
      maps: as `decode_map` returns them.
      colours: uint8 [n 3] of the classes; only of segmentations, which need it.
      void_colour: of labels that are no class, 0 to 255.

    Raises:
      ValueError: there is no such variable, or it lacks or does not use an argument.
    """
    # Labels have no void to be told: all that are no classes are of one colour.
    _check(variable, colours=colours, void=0 if variable == "segmentation" else None)
    if variable == "segmentation" and colours is not None:
        picture = colours_of(maps, colours, void_colour=void_colour)
    elif variable in (*_DEPTHS, *_EDGES):
        picture = jnp.repeat(2.0 * maps[..., None] - 1.0, 3, axis=-1)
    else:
        picture = maps
    return in_bytes(picture).astype(jnp.uint8)


def depth_of(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w"]:
    """Returns depth in [0, 1], near = 1: the mean of the channels, whose errors differ.

    Args:
      images: in [-1, 1].
    """
    return jnp.clip((jnp.mean(images.astype(jnp.float32), axis=-1) + 1.0) / 2.0, 0.0, 1.0)


def normals_of(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Returns normals of unit length; where there is no direction they face the viewer, (0, 0, 1).

    Args:
      images: in [-1, 1], the components of the normals.
    """
    vectors = jnp.clip(images.astype(jnp.float32), -1.0, 1.0)
    length = jnp.sqrt(jnp.sum(jnp.square(vectors), axis=-1, keepdims=True))
    has_direction = length > _SHORTEST_NORMAL
    facing = jnp.asarray([0.0, 0.0, 1.0]).reshape((1,) * (vectors.ndim - 1) + (3,))
    # The unused quotient is kept finite, for the gradient's sake.
    return jnp.where(has_direction, vectors / jnp.where(has_direction, length, 1.0), facing)


def edges_of(
    images: Float[Array, "b h w 3"], *, threshold: float | None = None
) -> Float[Array, "b h w"]:
    """Returns edges in [0, 1], 1 on an edge: the mean of the channels.

    Args:
      images: in [-1, 1], edges white.
      threshold: in [0, 1]; edges of at least this are 1, all else 0. None leaves greys.
    """
    grey = depth_of(images)
    return grey if threshold is None else (grey >= threshold).astype(jnp.float32)


def _check(
    variable: str,
    *,
    colours: Colours | None = None,
    void: int | None = None,
    threshold: float | None = None,
) -> None:
    if variable not in VARIABLES:
        raise ValueError(unknown_name("variable", variable, VARIABLES))
    problems = []
    for name, value in (("colours", colours), ("void", void)):
        if variable == "segmentation" and value is None:
            problems.append(f"a segmentation needs {name}, those of the palette it is drawn in")
        if variable != "segmentation" and value is not None:
            problems.append(f"{name} are of segmentations, and {variable!r} has none; leave it out")
    if threshold is not None and variable not in _EDGES:
        problems.append(f"threshold is of {list(_EDGES)}, and {variable!r} has none; leave it out")
    if threshold is not None and not 0 <= np.float64(threshold) <= 1:
        problems.append(f"threshold is {threshold}, expected 0 to 1")
    if problems:
        raise ValueError("; ".join(problems))
