"""Pictures of trials that are right, or wrong in one way, drawn without any network.

What a verdict makes of the right ones is the most that a model can reach, its ceiling; what it
makes of the wrong ones is what a model reaches that has not learnt the thing, its floor.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import TYPE_CHECKING

import numpy as np

from input_pipeline.scenes.layout import draw_scene
from input_pipeline.scenes.render import render
from input_pipeline.scenes.scene import Scene, SceneObject
from input_pipeline.scenes.trials import Occlusion, Transfer

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

    Image = UInt8[np.ndarray, "h w 3"]

_ELSEWHERE = 2**33  # world of the pictures that know a text alone


def true_picture(trial: Occlusion | Transfer) -> Image:
    """Returns the scene as it is: right depth, and of transfers the look that was not wanted.

    Args:
      trial: of any kind.
    """
    return _bytes(render(trial.scene, trial.mask.shape).image)


def wrong_order(trial: Occlusion) -> Image:
    """Returns the scene drawn from near to far: the solids behind cover the foreground object.

    Args:
      trial: with a scene.
    """
    rendering = render(trial.scene, trial.mask.shape)
    colours = rendering.image.copy()
    for layer in rendering.layers[:0:-1]:
        part = colours[:, layer.rows, layer.columns]
        part += layer.cover * (layer.colour - part)
    return _bytes(colours)


def from_text_alone(trial: Occlusion) -> Image:
    """Returns another scene with the same kind of foreground object in the same place.

    Args:
      trial: with a scene.
    """
    wanted = _words(trial.scene)
    for index in itertools.count():
        if _words_of(index) == wanted:
            other = draw_scene(_ELSEWHERE, index)
            return _bytes(render(other, trial.mask.shape).image)
    raise AssertionError("worlds have no end")


def look_inside(trial: Transfer) -> Image:
    """Returns the scene as the transfer wants it: the foreground object has the donor's look.

    Args:
      trial: with a donor.
    """
    first, *others = trial.scene.objects
    objects = (_painted(first, trial), *others)
    scene = dataclasses.replace(trial.scene, objects=objects)
    return _bytes(render(scene, trial.mask.shape).image)


def look_everywhere(trial: Transfer) -> Image:
    """Returns the scene with all its objects in the donor's look.

    Args:
      trial: with a donor.
    """
    objects = tuple(_painted(item, trial) for item in trial.scene.objects)
    scene = dataclasses.replace(trial.scene, objects=objects)
    return _bytes(render(scene, trial.mask.shape).image)


def _painted(item: SceneObject, trial: Transfer) -> SceneObject:
    return dataclasses.replace(item, colour=trial.look.colour, texture=trial.look.texture)


def _words(scene: Scene) -> tuple[str, str, str]:
    return scene.place, scene.objects[0].colour, scene.objects[0].shape


@functools.cache
def _words_of(index: int) -> tuple[str, str, str]:
    return _words(draw_scene(_ELSEWHERE, index))


def _bytes(colours: Float[np.ndarray, "3 h w"]) -> Image:
    rounded = np.rint(np.clip(colours, 0, 255)).astype(np.uint8)
    return np.ascontiguousarray(rounded.transpose(1, 2, 0))
