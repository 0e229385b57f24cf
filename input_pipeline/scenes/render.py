"""Scenes as pictures and maps: the backdrop, and the solids put on it from far to near."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from input_pipeline.scenes.backdrop import Backdrop, draw_backdrop
from input_pipeline.scenes.classes import CLASS_IDS
from input_pipeline.scenes.layers import Layer, Shadow, draw_layer, draw_shadow
from input_pipeline.scenes.scene import Scene
from input_pipeline.scenes.view import View, make_view

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, UInt8, UInt16

    Map = Float[np.ndarray, "h w"]
    Colours = Float[np.ndarray, "3 h w"]


@dataclasses.dataclass(frozen=True)
class Rendering:
    """Everything that is known about the pixels of a scene.

    Attributes:
      image: 0 to 255.
      background: the image without the foreground object and its shadow.
      mask: pixels of the foreground object.
      nearness: of the image, 0 far to 1 near.
      background_nearness: of the background.
      normal: of the image; unit vectors x left, y up, z to the viewer.
      labels: class of every pixel.
      instances: number of the object of every pixel, in the scene's order from 1; 0 for none.
      backdrop: the place without solids and shadows.
      layers: of the solids, in the scene's order.
      shadows: of the solids.
    """

    image: Colours
    background: Colours
    mask: Bool[np.ndarray, "h w"]
    nearness: Map
    background_nearness: Map
    normal: Float[np.ndarray, "3 h w"]
    labels: UInt8[np.ndarray, "h w"]
    instances: UInt16[np.ndarray, "h w"]
    backdrop: Backdrop
    layers: tuple[Layer, ...]
    shadows: tuple[Shadow, ...]


def render(scene: Scene, size: tuple[int, int]) -> Rendering:
    """Returns the pictures and maps of a scene.

    Args:
      scene: as `draw_scene` returns it, or like it: its solids stand apart, near ones first.
      size: height and width.
    """
    view = make_view(*size)
    backdrop = draw_backdrop(scene, view)
    layers = tuple(draw_layer(item, scene, view) for item in scene.objects)
    shadows = tuple(draw_shadow(item, scene, view) for item in scene.objects)
    foreground, others = layers[0], layers[:0:-1]

    background = _put_colours(_shaded(backdrop, shadows[1:], view), others)
    image = _put_colours(_shaded(backdrop, shadows, view), (*others, foreground))

    nearness = backdrop.nearness.copy()
    normal = np.empty((3, *size), np.float32)
    normal[0], normal[1], normal[2] = 0, backdrop.upright, 1 - backdrop.upright
    labels = backdrop.labels.copy()
    instances = np.zeros(size, np.uint16)
    background_nearness = nearness
    for number in range(len(layers), 0, -1):
        layer = layers[number - 1]
        if number == 1:
            background_nearness = nearness.copy()
        box = layer.rows, layer.columns
        owned = layer.cover > 0
        np.copyto(nearness[box], layer.nearness, where=owned)
        np.copyto(normal[:, *box], layer.normal, where=owned)
        labels[box][owned] = CLASS_IDS[scene.objects[number - 1].shape]
        instances[box][owned] = number
    return Rendering(
        image,
        background,
        instances == 1,
        nearness,
        background_nearness,
        normal,
        labels,
        instances,
        backdrop,
        layers,
        shadows,
    )


def _shaded(backdrop: Backdrop, shadows: Iterable[Shadow], view: View) -> Colours:
    """Returns the place with shadows on its ground."""
    light = np.ones((view.height, view.width), np.float32)
    for shadow in shadows:
        part = light[shadow.rows, shadow.columns]
        # Where two shadows meet there is one shadow, as there is one light.
        np.minimum(part, shadow.light, out=part)
    np.maximum(light, 1 - backdrop.upright, out=light)
    return backdrop.colour * light


def _put_colours(colours: Colours, layers: Iterable[Layer]) -> Colours:
    """Puts layers on a picture, the first at the bottom, and returns it."""
    for layer in layers:
        part = colours[:, layer.rows, layer.columns]
        part += layer.cover * (layer.colour - part)
    return colours
