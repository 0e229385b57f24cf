"""What `launch.sample` writes: a PNG for each image, a contact sheet, and the record."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from input_pipeline.contact_sheet import Picture, contact_sheet
from input_pipeline.images import to_uint8, write_png
from launch.sample_inputs import LayerInputs
from launch.sample_record import Record
from launch.sample_request import SampleRequest

_COLUMNS = 4


class Outputs:
    """The output folder; each image is written as soon as it is there.

    Args:
      request: what was asked for.
      inputs: what its files hold.
      maps: that the local fuser gets, or None.
    """

    def __init__(
        self, request: SampleRequest, inputs: LayerInputs, maps: np.ndarray | None
    ) -> None:
        self.request, self.inputs, self._maps = request, inputs, maps
        layers = (request.depth_maps, request.photos, request.exemplars, request.masks)
        files = [path for paths in layers for path in paths if path is not None]
        self.record = Record(request.config, files, request.checkpoints)
        self._pictures: list[Picture] = []

    def add_images(
        self, seeds: tuple[int, ...], images: np.ndarray, flagged: np.ndarray | None
    ) -> None:
        """Writes images; those that the safety checker flagged become black.

        Args:
          seeds: of the images.
          images: [image height width 3] in [-1, 1].
          flagged: for each image, or None without a safety checker.
        """
        for index, (seed, image) in enumerate(zip(seeds, images, strict=True)):
            black = bool(flagged[index]) if flagged is not None else False
            pixels = np.zeros_like(to_uint8(image)) if black else to_uint8(image)
            fact = black if flagged is not None else None
            self.record.write_image(f"{seed:06d}.png", pixels, seed, flagged_by_safety_checker=fact)
            self._pictures.append(Picture(f"seed {seed}", pixels))

    def finish(self) -> Path:
        """Writes contact sheet and record; returns the folder."""
        rows = [row for row in (self._condition_row(), *self._image_rows()) if row]
        sheet = contact_sheet(rows, title=self.request.config.prompt or None)
        write_png(self.record.folder / "contact_sheet.png", sheet)
        return self.record.finish()

    def _condition_row(self) -> list[Picture]:
        kind = self.request.config.local_condition
        row = []
        if self._maps is not None:
            row += [Picture.depth_map(f"{kind} {i}", m) for i, m in enumerate(self._maps)]
        for index, exemplar in enumerate(self.inputs.exemplars):
            if exemplar is not None:
                row.append(Picture(f"exemplar {index}", exemplar))
        if self.inputs.masks is not None:
            row += [Picture.mask(f"mask {i}", m) for i, m in enumerate(self.inputs.masks)]
        return row

    def _image_rows(self) -> list[list[Picture]]:
        pictures = self._pictures
        return [pictures[i : i + _COLUMNS] for i in range(0, len(pictures), _COLUMNS)]
