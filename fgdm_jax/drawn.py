"""What the draws of a graph became: latents, pictures, maps, and how well they obey the prompt."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from fgdm_jax.decode import decode_map, picture_of
from fgdm_jax.scores import VOID, Palette, Scores
from sd_jax.typing import UInt8


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Drawn:
    """Draws of a graph; the first axis of every array is the draw.

    Attributes:
      seeds: of the draws.
      latents: clean ones by variable, float32 [draw h w c].
      decoded: pictures by variable as the autoencoder decodes them, float32 [draw h w 3] in
        [-1, 1]; values beyond are possible.
      scores: recall of the segmentations, and the order of the best.
      palette: of the segmentations, if there are any.
      predictions: what each variable was expected to become after the steps that were kept, uint8
        [draw step h w 3].
    """

    seeds: tuple[int, ...]
    latents: Mapping[str, np.ndarray]
    decoded: Mapping[str, np.ndarray]
    scores: Scores
    palette: Palette | None = None
    predictions: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.seeds)

    def __repr__(self) -> str:
        words = f"{len(self)} draws of {', '.join(self.decoded)}"
        if self.recall is not None:
            recalls = ", ".join(f"{100 * recall:.0f}" for recall in self.recall)
            words += f"; recall of {', '.join(self.objects)}: {recalls} %"
        return f"<{words}>"

    @property
    def images(self) -> UInt8[np.ndarray, "n h w 3"]:
        """The images.

        Raises:
          ValueError: none were drawn.
        """
        if "image" not in self.decoded:
            raise ValueError(
                f"no image was drawn, but {', '.join(self.decoded)}; call the pipeline with "
                "given=, these draws or some of them, for their images"
            )
        return self.pictures["image"]

    @functools.cached_property
    def maps(self) -> dict[str, np.ndarray]:
        """Maps by variable, with the ranges that `fgdm_jax.decode` lists; the image is none.

        Segmentations are class numbers, int32 [draw h w], depth is [draw h w] in [0, 1], near = 1.
        """
        return {
            name: np.asarray(map_of(name, pictures, self.palette))
            for name, pictures in self.decoded.items()
            if name != "image"
        }

    @functools.cached_property
    def pictures(self) -> dict[str, np.ndarray]:
        """Pictures by variable, uint8 [draw h w 3]; those of maps are in clean colours."""
        return {
            name: clean_picture(name, pictures, self.palette)
            for name, pictures in self.decoded.items()
        }

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the classes that were asked for."""
        return self.scores.objects

    @property
    def recall(self) -> np.ndarray | None:
        """Share of the objects that each draw shows, [draw]; None if nothing tells."""
        return self.scores.recall

    def take(self, draws: Sequence[int]) -> Drawn:
        """Returns some of the draws.

        Args:
          draws: their numbers, from 0; in any order, repeated if wanted.

        Raises:
          ValueError: there is no draw of a number.
        """
        outside = [draw for draw in draws if not 0 <= draw < len(self)]
        if outside or not len(draws):
            raise ValueError(
                f"draws are {list(draws)}, expected at least one of 0 to {len(self) - 1}"
            )
        numbers = np.array(draws)

        def rows(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: array[numbers] for name, array in arrays.items()}

        old = self.scores
        place = {draw: position for position, draw in enumerate(old.order)}
        scores = Scores(
            old.objects,
            None if old.shares is None else old.shares[numbers],
            None if old.recall is None else old.recall[numbers],
            tuple(sorted(range(len(draws)), key=lambda row: place[draws[row]])),
        )
        return dataclasses.replace(
            self,
            seeds=tuple(self.seeds[draw] for draw in draws),
            latents=rows(self.latents),
            decoded=rows(self.decoded),
            scores=scores,
            predictions=rows(self.predictions),
        )

    def best(self, count: int = 1) -> Drawn:
        """Returns the draws that show most of what was asked for, the best first.

        Of equal recall, the one whose objects cover more comes first; without a recall, the first.

        Args:
          count: of draws, 1 to all.
        """
        return self.take(self.scores.order[: max(count, 0)])


def map_of(variable: str, decoded: Any, palette: Palette | None) -> Any:
    """Returns the map of decoded pictures (`fgdm_jax.decode.decode_map`).

    Args:
      variable: what it is a map of.
      decoded: [n h w 3] in [-1, 1].
      palette: of segmentations, which need one.
    """
    if variable == "segmentation" and palette is not None:
        return decode_map(variable, jnp.asarray(decoded), colours=palette.colours, void=VOID)
    return decode_map(variable, jnp.asarray(decoded))


def clean_picture(variable: str, decoded: Any, palette: Palette | None) -> np.ndarray:
    """Returns pictures as their maps are, uint8: classes in the palette's colours, unit normals.

    Args:
      variable: what they show.
      decoded: [n h w 3] in [-1, 1].
      palette: of segmentations, which need one.
    """
    maps = map_of(variable, decoded, palette)
    if variable == "segmentation" and palette is not None:
        drawn = picture_of(variable, maps, colours=palette.colours, void_colour=palette.void_colour)
    else:
        drawn = picture_of(variable, maps)
    return np.asarray(drawn)
