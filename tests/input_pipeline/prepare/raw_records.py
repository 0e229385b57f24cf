"""Raw records from nothing: noise with a rectangle of class 0 on class 100."""

from __future__ import annotations

import numpy as np

from input_pipeline.codecs import encode_picture
from input_pipeline.schema import Record, RecordError


class Drawings:
    """A record source; some images are wide, some tall, some have no foreground.

    Args:
      count: of records.
      bad: numbers of records that cannot be read.
      broken: numbers of records whose image cannot be decoded.
    """

    name = "drawings"
    palette = "coco"
    fields = ("id", "source", "captions", "height", "width", "image", "segmentation")

    def __init__(self, count: int = 20, bad: tuple[int, ...] = (), broken: tuple[int, ...] = ()):
        """Remembers the numbers."""
        self.count, self.bad, self.broken = count, bad, broken

    def __len__(self) -> int:
        """Returns the number of records."""
        return self.count

    def __getitem__(self, index: int) -> Record:
        """Returns a record."""
        if index in self.bad:
            raise RecordError(f"drawings {index}: file x{index}.jpg is cut short")
        rng = np.random.default_rng(index)
        height, width = (40, 60) if index % 3 else (64, 48)
        labels = np.full((height, width), 100, np.uint8)
        if index % 5:
            labels[10:20, 10:30] = 0
        image = encode_picture(rng.integers(0, 255, (height, width, 3), np.uint8), "photo")
        return {
            "id": f"x{index}",
            "source": self.name,
            "captions": [f"drawing: {index}"],
            "height": height,
            "width": width,
            "image": image[:200] if index in self.broken else image,
            "segmentation": encode_picture(labels, "grey"),
        }
