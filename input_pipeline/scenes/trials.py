"""Trials of pictures that were made from the layers of a scene, with the verdicts of the judge.

    Occlusion   layered depth in: does the foreground object hide what is behind it?
    Transfer    the look of another scene's foreground in: is it inside of the mask, and only there?

Trials are found in a world by their index, always the same ones. `known_pictures` draws pictures
that are right, or wrong in one way: they show what verdicts are worth. Of 512 trials of world 1:

    in front          true scenes 98.0 %, wrong order 1.8 %, from text alone 26.8 %
    look inside       as it should be 100 %, the scene's own look 0 %
    look outside      as it should be 0.6 %, on all of several objects 93.5 %
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from input_pipeline.scenes.judge import Judge
from input_pipeline.scenes.layout import draw_scene
from input_pipeline.scenes.render import Rendering, render
from input_pipeline.scenes.scene import Scene, SceneObject, view_box
from input_pipeline.scenes.surfaces import accent

if TYPE_CHECKING:
    from jaxtyping import Bool, UInt8

    Image = UInt8[np.ndarray, "h w 3"]
    Mask = Bool[np.ndarray, "h w"]

_LEAST_OVERLAP = 16 / 64**2  # of the pixels
_LEAK = 0.01  # of the pixels outside, from which a colour counts as seen
_RIM = 2  # pixels around a mask, in which the edge may blend


@dataclasses.dataclass(frozen=True)
class Occlusion:
    """A scene whose foreground object hides a part of a solid of another colour.

    Attributes:
      scene: what stands where.
      mask: of the foreground object.
      overlap: where it hides such a solid, without its own edge.
    """

    scene: Scene
    mask: Mask
    overlap: Mask

    def is_in_front(self, judge: Judge, image: Image) -> bool:
        """Returns whether a picture shows the foreground object in front, where its mask is.

        Its colour, and neither another solid's nor the place, must be what the overlap shows and
        what each quarter of the mask shows: a picture of an object that stands elsewhere fails.

        Args:
          judge: of scenes.
          image: of the scene's size.
        """
        wanted = self.scene.objects[0].colour
        colours = {item.colour for item in self.scene.objects}
        place = judge.place(image)
        return all(
            judge.solid(image, part, colours, place) == wanted
            for part in (self.overlap, *self._quarters)
        )

    @functools.cached_property
    def _quarters(self) -> list[Mask]:
        rows, columns = np.nonzero(self.mask)
        below = (np.arange(self.mask.shape[0]) > np.median(rows))[:, None]
        right = (np.arange(self.mask.shape[1]) > np.median(columns))[None, :]
        parts = [self.mask & (below == a) & (right == b) for a in (0, 1) for b in (0, 1)]
        return [part for part in parts if part.any()]


@dataclasses.dataclass(frozen=True)
class Transfer:
    """A scene, and another one whose foreground object it takes the look of.

    The colour of that look is nowhere else in either scene.

    Attributes:
      scene: what stands where.
      donor: the other scene; of its objects only the first one's look is wanted.
      mask: of the scene's foreground object.
    """

    scene: Scene
    donor: Scene
    mask: Mask

    @property
    def look(self) -> SceneObject:
        """The object whose look is taken."""
        return self.donor.objects[0]

    def has_look(self, judge: Judge, image: Image) -> bool:
        """Returns whether the mask shows a solid of the look's colour.

        Args:
          judge: of scenes.
          image: of the scene's size.
        """
        return judge.solid(image, self.mask) == self.look.colour

    def leaks(self, judge: Judge, image: Image) -> bool:
        """Returns whether solids of the look's colour are seen outside of the mask.

        Args:
          judge: of scenes.
          image: of the scene's size.
        """
        return judge.share(image, self.look.colour, inside=self.outside) >= _LEAK

    @functools.cached_property
    def outside(self) -> Mask:
        """What is not inside of the mask, nor on its edge."""
        return ~_grown(self.mask, _RIM)


def occlusions(seed: int, size: tuple[int, int] = (64, 64)) -> Iterator[Occlusion]:
    """Yields the trials of a world in order; about one scene of twelve is one.

    Args:
      seed: of the world.
      size: height and width.
    """
    for index in itertools.count():
        scene = draw_scene(seed, index)
        first = scene.objects[0]
        if not any(_overlap(first, item, scene.horizon) for item in scene.objects[1:]):
            continue  # most scenes are told without drawing them
        rendering = render(scene, size)
        overlap = _hidden(rendering, scene) & ~_grown(~rendering.mask, 1)
        if overlap.mean() >= _LEAST_OVERLAP:
            yield Occlusion(scene, rendering.mask, overlap)


def transfers(seed: int, size: tuple[int, int] = (64, 64)) -> Iterator[Transfer]:
    """Yields a trial for each scene of a world in order, with the next scene that fits as donor.

    Args:
      seed: of the world.
      size: height and width.
    """
    for index in itertools.count():
        scene = draw_scene(seed, index)
        later = (draw_scene(seed, other) for other in itertools.count(index + 1))
        donor = next(item for item in later if _fits(item, scene))
        yield Transfer(scene, donor, render(scene, size).mask)


def _fits(donor: Scene, scene: Scene) -> bool:
    """Returns whether the look of a donor's foreground cannot be taken for anything else."""
    wanted = donor.objects[0].colour
    taken = {item.colour for item in (*scene.objects, *donor.objects[1:])}
    # White stripes on something blue are no white solid, but look like one.
    taken |= {accent(item.colour) for item in scene.objects if item.texture != "plain"}
    return wanted not in taken


def _overlap(one: SceneObject, other: SceneObject, horizon: float) -> bool:
    """Returns whether boxes around two solids of different colours meet in the picture."""
    a, b = view_box(one, horizon), view_box(other, horizon)
    return one.colour != other.colour and all(
        max(a[side], b[side]) < min(a[side + 2], b[side + 2]) for side in (0, 1)
    )


def _hidden(rendering: Rendering, scene: Scene) -> Mask:
    """Returns where the foreground object hides solids of other colours."""
    hidden = np.zeros_like(rendering.mask)
    for item, layer in zip(scene.objects[1:], rendering.layers[1:], strict=True):
        if item.colour != scene.objects[0].colour:
            hidden[layer.rows, layer.columns] |= layer.cover > 0
    return hidden & rendering.mask


def _grown(mask: Mask, pixels: int) -> Mask:
    """Returns a mask with the pixels around it."""
    for _ in range(pixels):
        padded = np.pad(mask, 1)
        mask = mask | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return mask
