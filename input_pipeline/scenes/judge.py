"""What a picture of a scene shows: its place, and the colours of the solids in it.

The judge has counted the colours of pixels in scenes of which everything is known, and knows no
network: it cannot share a mistake with the models whose pictures it judges. What it makes of true
scenes (`docs/scenes.md`) is the most that a model can reach.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from input_pipeline.scenes.scene import COLOURS, PLACES
from input_pipeline.scenes.source import Scenes

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8

_STEPS = 16  # of each channel: 4096 kinds of pixels
_BANDS = 4  # of rows: sky stands above, ground below
_UNSEEN = 0.02  # counted everywhere beside what was seen, so that nothing is impossible
_SEED = 2**32  # of the world that is counted, far from those that are trained on
_LEAST = 0.01  # of the pixels, that a solid takes; stars and foam take less
_SAY = 5.0  # that a pixel has against a colour, as a logarithm
_GROUND = len(COLOURS)


@dataclasses.dataclass(frozen=True)
class Judge:
    """Counts of the colours of pixels, as logarithms of their frequencies.

    Attributes:
      places: of each place, by band of rows and kind of pixel: [place band kind].
      paints: of each colour of solids, last the place itself, by place: [place paint kind].
    """

    places: Float[np.ndarray, "place band kind"]
    paints: Float[np.ndarray, "place paint kind"]

    @classmethod
    def of_scenes(cls, count: int = 1500, size: tuple[int, int] = (64, 64)) -> Judge:
        """Returns the judge that has seen so many scenes, always the same ones.

        Args:
          count: of scenes.
          size: height and width.
        """
        world = Scenes(_SEED, size, fields=("image", "instances"))
        kinds = _STEPS**3
        places = np.full((len(PLACES), _BANDS, kinds), _UNSEEN)
        paints = np.full((len(PLACES), _GROUND + 1, kinds), _UNSEEN)
        bands = _bands(size)
        for index in range(count):
            scene, arrays = world.scene(index), world.arrays(index)
            place = PLACES.index(scene.place)
            seen = _kinds(arrays["image"])
            # Instances count from 1, near to far; 0 is the place.
            paint_of = [_GROUND, *(COLOURS.index(item.colour) for item in scene.objects)]
            painted = np.array(paint_of)[arrays["instances"]]
            np.add.at(places[place], (bands, seen), 1)
            np.add.at(paints[place], (painted, seen), 1)
        return cls(_log_frequencies(_spread(places)), np.log(_spread(paints)))

    def place(self, image: UInt8[np.ndarray, "h w 3"]) -> str:
        """Returns the place that a picture shows most likely.

        Args:
          image: of a scene.
        """
        return PLACES[int(np.argmax(self._evidence(image)))]

    def paint(
        self, image: UInt8[np.ndarray, "h w 3"], place: str | None = None
    ) -> Int[np.ndarray, "h w"]:
        """Returns the number of the colour of each pixel, or -1 where it is none of a solid's.

        Args:
          image: of a scene.
          place: that it shows; the most likely one unless given.
        """
        found = np.argmax(self._paints(image, place), axis=0)
        return np.where(found == _GROUND, -1, found)

    def colour(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        place: str | None = None,
        inside: Bool[np.ndarray, "h w"] | None = None,
    ) -> str | None:
        """Returns the colour of the solid that a picture shows most of; None if it shows none.

        Args:
          image: of a scene.
          place: that it shows; the most likely one unless given.
          inside: where the solid is; wherever one is seen unless given.
        """
        evidence = self._paints(image, place)
        where = np.argmax(evidence, axis=0) != _GROUND if inside is None else inside
        if where.mean() < (_LEAST if inside is None else 1 / where.size):
            return None
        return COLOURS[_likeliest(evidence[:_GROUND, where])]

    def solid(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        inside: Bool[np.ndarray, "h w"],
        among: Collection[str] = COLOURS,
        place: str | None = None,
    ) -> str | None:
        """Returns the colour of the solid that a region shows, or None if it shows the place.

        Unlike `colour` it may say that no solid is there, and takes each to be as likely as the
        place, however much of a picture places take.

        Args:
          image: of a scene.
          inside: the region; not empty.
          among: colours that come into question.
          place: that the picture shows; the most likely one unless given.
        """
        number = PLACES.index(self.place(image) if place is None else place)
        names = [name for name in COLOURS if name in among]
        paints = [*map(COLOURS.index, names), _GROUND]
        told = self._likelihoods[number][:, _kinds(image)[inside]]
        return [*names, None][_likeliest(told[paints])]

    def share(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        colour: str,
        place: str | None = None,
        inside: Bool[np.ndarray, "h w"] | None = None,
    ) -> float:
        """Returns what part of the pixels shows solids of a colour, 0 to 1.

        Args:
          image: of a scene.
          colour: of solids.
          place: that it shows; the most likely one unless given.
          inside: the pixels that count; all unless given.
        """
        shown = self.paint(image, place) == COLOURS.index(colour)
        return float(np.mean(shown if inside is None else shown[inside]))

    @functools.cached_property
    def _likelihoods(self) -> Float[np.ndarray, "place paint kind"]:
        """Of a kind of pixel in each paint, as logarithms."""
        return self.paints - np.log(np.exp(self.paints).sum(axis=-1, keepdims=True))

    def _paints(
        self, image: UInt8[np.ndarray, "h w 3"], place: str | None
    ) -> Float[np.ndarray, "paint h w"]:
        number = PLACES.index(self.place(image) if place is None else place)
        return self.paints[number][:, _kinds(image)]

    def _evidence(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, " place"]:
        seen = _kinds(image)
        return self.places[:, _bands(seen.shape), seen].sum(axis=(1, 2))


def _likeliest(told: Float[np.ndarray, "paint n"]) -> int:
    """Returns the number of the paint for which most pixels speak."""
    # Textures have white and black parts: one pixel alone must not rule a colour out.
    return int(np.argmax(np.maximum(told - told.max(axis=0), -_SAY).sum(axis=1)))


def _kinds(image: UInt8[np.ndarray, "h w 3"]) -> Int[np.ndarray, "h w"]:
    steps = image.astype(np.int64) // (256 // _STEPS)
    return (steps[..., 0] * _STEPS + steps[..., 1]) * _STEPS + steps[..., 2]


def _bands(size: tuple[int, ...]) -> Int[np.ndarray, "h w"]:
    """Returns the number of the band that each pixel's row is in."""
    rows = np.arange(size[0]) * _BANDS // size[0]
    return np.broadcast_to(rows[:, None], size)


def _spread(counts: Float[np.ndarray, "*n kind"]) -> Float[np.ndarray, "*n kind"]:
    """Returns counts with a part of each in the kinds of pixels beside it."""
    cubes = counts.reshape(*counts.shape[:-1], _STEPS, _STEPS, _STEPS)
    for axis in (-3, -2, -1):
        padded = np.concatenate(
            [cubes.take([0], axis), cubes, cubes.take([_STEPS - 1], axis)], axis
        )
        before = padded.take(range(_STEPS), axis)
        after = padded.take(range(2, _STEPS + 2), axis)
        cubes = 0.6 * cubes + 0.2 * (before + after)
    return cubes.reshape(counts.shape)


def _log_frequencies(counts: Float[np.ndarray, "*n kind"]) -> Float[np.ndarray, "*n kind"]:
    return np.log(counts / counts.sum(axis=-1, keepdims=True))
