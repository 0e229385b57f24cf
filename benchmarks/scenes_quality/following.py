"""FG-DM's image factor: whether images have their objects where the given maps have them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.scenes_quality.figures import SHOWN, Figure, Result, grey, percent
from benchmarks.scenes_quality.prior import as_picture
from benchmarks.scenes_quality.settings import NAMES_ALL, Settings
from benchmarks.scenes_quality.studio import SIZE, Studio
from configs.sample_fgdm import GRAPHS
from fgdm_jax.graph import parse_graph
from input_pipeline.contact_sheet import Picture
from input_pipeline.images import to_uint8
from input_pipeline.scenes import Scenes
from input_pipeline.scenes.judge import Judge
from input_pipeline.scenes.scene import Scene

MAPS = ("segmentation", "depth")
"""What the image is drawn from: the parents in the graph `chain`."""

_LEAST = 16  # pixels: what is hidden but for less is not looked for
_MOST = 0.5  # of a solid's pixels


@dataclasses.dataclass(frozen=True)
class Case:
    """What an image is to show.

    Attributes:
      scene: its solids, near to far.
      instances: number of the solid that each pixel shows, from 1; 0 is the place.
    """

    scene: Scene
    instances: np.ndarray

    def in_place(self, judge: Judge, image: np.ndarray) -> list[bool]:
        """Returns of each solid whether most of its pixels show one, of whatever colour.

        Args:
          judge: of scenes.
          image: uint8 [h w 3].
        """
        seen = judge.paint(image) >= 0
        return [bool(seen[region].mean() >= _MOST) for region in self.looked_for]

    @property
    def looked_for(self) -> list[np.ndarray]:
        """The pixels of each solid that shows enough of them."""
        numbers = range(1, len(self.scene.objects) + 1)
        regions = [self.instances == number for number in numbers]
        return [region for region in regions if region.sum() >= _LEAST]

    def overlap(self, judge: Judge, image: np.ndarray) -> float:
        """Returns the overlap (intersection over union) of solids in the maps and in the image.

        Args:
          judge: of scenes.
          image: uint8 [h w 3].
        """
        seen, there = judge.paint(image) >= 0, self.instances > 0
        return float((seen & there).sum() / max((seen | there).sum(), 1))


def following(studio: Studio | None, judge: Judge, settings: Settings) -> Result:
    """Returns which part of the solids in given maps an image has in their place.

    Args:
      studio: with the adapter of the image; None for ceilings and floors alone.
      judge: of scenes.
      settings: of the measurement.
    """
    world = Scenes(settings.world, (SIZE, SIZE), fields=("captions", "image", "instances", *MAPS))
    records = [world.arrays(index) for index in range(settings.scenes)]
    cases = [Case(world.scene(i), item["instances"]) for i, item in enumerate(records)]
    texts = [item["captions"][NAMES_ALL] for item in records]
    right = np.stack([item["image"] for item in records])
    found = Figure(
        "following",
        "solids of given maps where the image has one",
        "%",
        sum(len(case.looked_for) for case in cases),
        ceiling=_percent(judge, cases, right),
        floors={"true images of other scenes": _percent(judge, cases, np.roll(right, -1, 0))},
        more={"overlap, true images": _overlap(judge, cases, right)},
    )
    if studio is None:
        return Result([found])
    given = {name: np.stack([as_picture(name, item[name]) for item in records]) for name in MAPS}
    (drawn,) = studio.maps(texts, "image", 1, parse_graph(GRAPHS["chain"]), given)
    images = to_uint8(drawn)
    more: dict[str, float] = {"overlap": _overlap(judge, cases, images), **found.more}
    if settings.controls:
        plain = studio.compose(texts, "maps left out")
        more["the model with text alone"] = _percent(judge, cases, plain)
        more["overlap, text alone"] = _overlap(judge, cases, plain)
    found = dataclasses.replace(
        found,
        value=_percent(judge, cases, images),
        through_autoencoder=_percent(judge, cases, studio.encode_bytes(right)),
        more=more,
    )
    rows = [_row(judge, cases[i], records[i], texts[i], images[i]) for i in range(len(images))]
    return Result([found], {"following": rows[:SHOWN]})


def _percent(judge: Judge, cases: Sequence[Case], images: Iterable[np.ndarray]) -> float:
    pairs = zip(cases, images, strict=True)
    return percent([hit for case, image in pairs for hit in case.in_place(judge, image)])


def _overlap(judge: Judge, cases: Sequence[Case], images: Iterable[np.ndarray]) -> float:
    pairs = zip(cases, images, strict=True)
    return round(100 * float(np.mean([case.overlap(judge, image) for case, image in pairs])), 2)


def _row(
    judge: Judge, case: Case, record: dict[str, Any], text: str, image: np.ndarray
) -> list[Picture]:
    hits = case.in_place(judge, image)
    told = f"{sum(hits)} of {len(hits)}, overlap {100 * case.overlap(judge, image):.0f} %"
    return [
        Picture("segmentation", to_uint8(as_picture("segmentation", record["segmentation"]))),
        Picture("depth", grey(record["depth"])),
        Picture(f"{told}: {text}", image),
        Picture("true scene", record["image"]),
    ]
