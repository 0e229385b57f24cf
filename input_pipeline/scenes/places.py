"""The places: what sky, light and ground look like. Numbers only; `backdrop` draws them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

Colour = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Place:
    """How a place looks. Colours are in 0..255.

    Attributes:
      ground: class of the ground.
      sky: colours at the top and at the horizon; of a room, the wall's top and bottom.
      clouds: how much of the sky they cover, 0 to 1.
      cloud: their colour.
      hills: how high mountains rise above the horizon, in sides of the square; 0 for none.
      hill: their colour.
      soil: darkest and lightest colour of the ground.
      patches: cells of the coarse pattern of the ground in a unit of length.
      ripples: waves in a unit of length, 0 for none.
      tiles: tiles in a unit of length, 0 for none.
      haze: how much the colour at the horizon covers what lies ten units away, 0 to 1.
      sun: light from the light's side, in parts of a solid's colour, by channel.
      sky_light: light from above.
      ground_light: light from below.
      shadow: what part of the light the shadow takes from the ground.
      gloss: strength of highlights.
      stars: whether the sky shows stars and a moon.
      sea: whether water begins behind the farthest solids.
      wall: whether a wall stands there.
    """

    ground: str
    sky: tuple[Colour, Colour]
    soil: tuple[Colour, Colour]
    sun: Colour
    sky_light: Colour
    ground_light: Colour
    shadow: float
    clouds: float = 0.0
    cloud: Colour = (255, 255, 255)
    hills: float = 0.0
    hill: Colour = (128, 128, 128)
    patches: float = 1.2
    ripples: float = 0.0
    tiles: float = 0.0
    haze: float = 0.35
    gloss: float = 0.3
    stars: bool = False
    sea: bool = False
    wall: bool = False


PLACE_LOOKS: Mapping[str, Place] = {
    "meadow": Place(
        ground="grass",
        sky=((86, 152, 232), (196, 224, 250)),
        clouds=0.45,
        hills=0.07,
        hill=(98, 138, 120),
        soil=((62, 124, 44), (124, 176, 66)),
        sun=(0.72, 0.70, 0.62),
        sky_light=(0.46, 0.50, 0.56),
        ground_light=(0.24, 0.32, 0.20),
        shadow=0.5,
    ),
    "desert": Place(
        ground="sand",
        sky=((112, 168, 216), (250, 226, 186)),
        hills=0.1,
        hill=(190, 118, 82),
        soil=((196, 142, 84), (236, 190, 124)),
        ripples=0.9,
        sun=(0.80, 0.72, 0.58),
        sky_light=(0.44, 0.44, 0.46),
        ground_light=(0.36, 0.28, 0.18),
        shadow=0.48,
    ),
    "snow": Place(
        ground="snow",
        sky=((158, 178, 204), (222, 230, 238)),
        clouds=0.6,
        cloud=(226, 232, 240),
        hills=0.16,
        hill=(142, 158, 184),
        soil=((214, 224, 238), (248, 250, 254)),
        patches=0.7,
        sun=(0.46, 0.46, 0.46),
        sky_light=(0.58, 0.60, 0.64),
        ground_light=(0.44, 0.46, 0.50),
        shadow=0.34,
        gloss=0.2,
    ),
    "night": Place(
        ground="grass",
        sky=((8, 12, 36), (40, 52, 98)),
        stars=True,
        hills=0.09,
        hill=(20, 26, 50),
        soil=((18, 34, 38), (40, 62, 60)),
        sun=(0.58, 0.60, 0.72),
        sky_light=(0.30, 0.32, 0.42),
        ground_light=(0.14, 0.16, 0.20),
        shadow=0.5,
        gloss=0.4,
    ),
    "beach": Place(
        ground="sand",
        sky=((98, 176, 236), (214, 240, 250)),
        clouds=0.3,
        sea=True,
        soil=((222, 196, 146), (246, 228, 184)),
        patches=2.0,
        haze=0.15,
        sun=(0.76, 0.73, 0.64),
        sky_light=(0.48, 0.51, 0.55),
        ground_light=(0.36, 0.32, 0.24),
        shadow=0.45,
    ),
    "room": Place(
        ground="floor",
        sky=((214, 198, 178), (186, 164, 142)),
        wall=True,
        soil=((122, 78, 48), (178, 124, 80)),
        tiles=0.55,
        haze=0.0,
        sun=(0.60, 0.56, 0.50),
        sky_light=(0.48, 0.46, 0.44),
        ground_light=(0.30, 0.24, 0.18),
        shadow=0.42,
    ),
}
