"""What `launch.sample` writes of a graph: maps, images, contact sheet, predictions and record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from fgdm_jax.decode import decode_map, picture_of
from fgdm_jax.scores import Scores
from input_pipeline.contact_sheet import Picture, contact_sheet
from input_pipeline.images import to_uint8, write_png
from input_pipeline.schema import VOID
from launch.draw_request import DrawRequest
from launch.sample_record import Record

_COLUMNS = 5


class DrawOutputs:
    """The output folder; each picture is written as soon as it is there.

    Args:
      request: what was asked for.
      given: pictures of the given variables in [-1, 1].
    """

    def __init__(self, request: DrawRequest, given: Mapping[str, np.ndarray]) -> None:
        self._request = request
        config = request.config.copy_and_resolve_references()
        # What the runs told; a repetition may not find them.
        config.palette = request.palette.name
        self.record = Record(
            config,
            request.given.values(),
            dict.fromkeys(path for _, path in request.checkpoints),
        )
        self._given = [Picture.photo(f"{name}, given", item) for name, item in given.items()]
        # Pictures by variable and seed.
        self._maps: dict[str, dict[int, np.ndarray]] = {name: {} for name in request.maps}
        self._images: dict[int, np.ndarray] = {}
        self._black: set[int] = set()

    def add_maps(self, variable: str, seeds: Sequence[int], pictures: np.ndarray) -> None:
        """Writes maps, in clean colours.

        Args:
          variable: what they are maps of.
          seeds: of the draws.
          pictures: [draw h w 3] in [-1, 1], as decoded.
        """
        for seed, pixels in zip(seeds, self._cleaned(variable, pictures), strict=True):
            self._maps[variable][seed] = pixels
            self.record.write_image(f"{seed:06d}_{variable}.png", pixels, seed, variable=variable)

    def add_images(
        self, seeds: Sequence[int], images: np.ndarray, flagged: np.ndarray | None
    ) -> None:
        """Writes images; those that the safety checker flagged become black.

        Args:
          seeds: of the draws.
          images: [image h w 3] in [-1, 1].
          flagged: for each image, or None without a safety checker.
        """
        for index, (seed, image) in enumerate(zip(seeds, images, strict=True)):
            is_black = bool(flagged[index]) if flagged is not None else False
            pixels = np.zeros_like(to_uint8(image)) if is_black else to_uint8(image)
            if is_black:
                self._black.add(seed)
            fact = is_black if flagged is not None else None
            self.record.write_image(
                f"{seed:06d}.png", pixels, seed, variable="image", flagged_by_safety_checker=fact
            )
            self._images[seed] = pixels

    def is_black(self, seed: int) -> bool:
        """Returns whether the safety checker hid an image.

        Args:
          seed: of the draw.
        """
        return seed in self._black

    def add_predictions(self, seed: int, kept: Mapping[str, np.ndarray]) -> None:
        """Writes what each variable was expected to become, and what it became: predictions.png.

        Args:
          seed: of the draw.
          kept: pictures in [-1, 1] by variable, [step h w 3].
        """
        steps = self._request.keep
        rows = []
        for name, pictures in kept.items():
            row = [
                Picture(f"{name}, after step {step}", pixels)
                for step, pixels in zip(steps, self._cleaned(name, pictures), strict=True)
            ]
            last = self._images if name == "image" else self._maps[name]
            rows.append([*row, Picture(f"{name}, at the end", last[seed])])
        sheet = contact_sheet(rows, title=f"seed {seed}: what was expected as it was drawn")
        write_png(self.record.folder / "predictions.png", sheet)

    def finish(self, scores: Scores, chosen: Sequence[int]) -> Path:
        """Writes contact sheet and record; returns the folder.

        Args:
          scores: of all draws.
          chosen: numbers of the draws that images were made of.
        """
        seeds = self._request.seeds
        # One row for each draw that became an image: the image and its maps.
        rows = [self._given, *(self._row(draw, scores) for draw in chosen if self._images)]
        others = [
            picture
            for draw, seed in enumerate(seeds)
            if seed not in self._images
            for picture in self._map_cells(draw, scores)
        ]
        # As many draws in a row as there is room for.
        size = max(1, len(self._maps))
        columns = size * max(1, _COLUMNS // size)
        rows += [others[i : i + columns] for i in range(0, len(others), columns)]
        sheet = contact_sheet(
            [row for row in rows if row], title=self._request.config.prompt or None
        )
        write_png(self.record.folder / "contact_sheet.png", sheet)
        if "segmentation" in (*self._maps, *self._request.given):
            self._write_palette()
        return self.record.finish(
            objects=list(scores.objects),
            draws=[
                {
                    "seed": seed,
                    "recall": None if scores.recall is None else float(scores.recall[draw]),
                    "missing": scores.missing(draw),
                }
                for draw, seed in enumerate(seeds)
            ],
            chosen=[seeds[draw] for draw in chosen],
        )

    def _write_palette(self) -> None:
        """Writes the colours of the classes, for those who edit maps: palette.json."""
        palette = self._request.palette
        content = {
            "palette": palette.name,
            "void": _hexadecimal(palette.void_colour),
            "classes": dict(zip(palette.classes, map(_hexadecimal, palette.colours), strict=True)),
        }
        text = json.dumps(content, indent=2) + "\n"
        (self.record.folder / "palette.json").write_text(text, encoding="utf-8")

    def _row(self, draw: int, scores: Scores) -> list[Picture]:
        seed = self._request.seeds[draw]
        image = Picture(f"image, seed {seed}", self._images[seed])
        return [image, *self._map_cells(draw, scores)]

    def _map_cells(self, draw: int, scores: Scores) -> list[Picture]:
        seed = self._request.seeds[draw]
        words = f": {scores.label(draw)}" if scores.recall is not None else ""
        return [
            Picture(f"{name}, seed {seed}{words * (name == 'segmentation')}", pictures[seed])
            for name, pictures in self._maps.items()
        ]

    def _cleaned(self, variable: str, pictures: np.ndarray) -> np.ndarray:
        """Returns pictures as their maps are: classes in the palette's colours, unit normals."""
        if variable == "image":
            return to_uint8(pictures)
        palette = self._request.palette
        decoded = jnp.asarray(pictures)
        if variable == "segmentation":
            labels = decode_map(variable, decoded, colours=palette.colours, void=VOID)
            drawn = picture_of(
                variable, labels, colours=palette.colours, void_colour=palette.void_colour
            )
        else:
            drawn = picture_of(variable, decode_map(variable, decoded))
        return np.asarray(drawn)


def _hexadecimal(colour: Sequence[int] | np.ndarray) -> str:
    return "#" + "".join(f"{int(value):02x}" for value in colour)
