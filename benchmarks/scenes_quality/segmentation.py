"""FG-DM's segmentations: whether they show all classes that the prompt asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.scenes_quality.figures import SHOWN, Figure, Result, percent, verdict
from benchmarks.scenes_quality.prior import as_picture
from benchmarks.scenes_quality.settings import Settings
from benchmarks.scenes_quality.studio import SIZE, Studio
from fgdm_jax.compliance import MIN_SHARE, object_shares, recall_table
from fgdm_jax.palette import labels_of
from fgdm_jax.vocabulary import objects_in
from input_pipeline.contact_sheet import Picture
from input_pipeline.images import to_uint8
from input_pipeline.palettes import palette
from input_pipeline.scenes import Scenes
from input_pipeline.scenes.judge import Judge
from input_pipeline.schema import VOID

_TARGETS = {1: 80.0, 10: 95.0}


def segmentation(studio: Studio | None, judge: Judge, settings: Settings) -> Result:
    """Returns for which part of prompts a segmentation shows all classes, of 1 and of N draws.

    Args:
      studio: with the segmentation's adapter; None for ceilings and floors alone.
      judge: makes no difference here.
      settings: of the measurement.
    """
    del judge
    world = Scenes(settings.world, (SIZE, SIZE), fields=("captions", "segmentation"))
    records = [world.arrays(index) for index in range(settings.scenes)]
    texts = [item["captions"][index % 5] for index, item in enumerate(records)]
    truth = np.stack([as_picture("segmentation", item["segmentation"]) for item in records])
    asked = [_asked(text) for text in texts]
    shares = shares_of(truth)
    right = recalls(shares, asked)
    # Of prompt i, the maps of the scenes after it: as many tries as the model has.
    others = np.stack(
        [recalls(np.roll(shares, -shift, 0), asked) for shift in range(1, settings.draws + 1)], 1
    )
    one = Figure(
        "segmentation_1",
        "all classes of the prompt in 1 segmentation",
        "%",
        len(texts),
        target=_TARGETS[1],
        ceiling=percent(right == 1),
        floors={"true maps of other scenes": percent((others == 1).ravel())},
    )
    best = dataclasses.replace(
        one,
        name=f"segmentation_{settings.draws}",
        title=f"all classes of the prompt in the best of {settings.draws}",
        target=_TARGETS.get(settings.draws),
        floors={"true maps of other scenes": percent((others == 1).any(axis=1))},
    )
    if studio is None:
        return Result(_told_apart(one, best))
    drawn, found = [], []
    for pictures in studio.maps(texts, "segmentation", settings.draws):
        drawn.append(to_uint8(pictures[:SHOWN]))
        found.append(recalls(shares_of(pictures), asked))
    recall = np.stack(found, axis=1)  # [prompt draw]
    again = percent(recalls(shares_of(studio.encode(truth)), asked) == 1)
    table = recall_table(recall)
    one = dataclasses.replace(
        one,
        # Every draw is one: their mean is steadier than the first of them.
        value=percent((recall == 1).ravel()),
        through_autoencoder=again,
        more={"mean recall": round(100 * table.mean, 2)},
    )
    best = dataclasses.replace(
        best,
        value=percent((recall == 1).any(axis=1)),
        through_autoencoder=again,
        more={"mean recall": round(100 * table.maximum, 2)},
    )
    rows = [
        _row(texts[i], truth[i], recall[i], [item[i] for item in drawn])
        for i in range(min(SHOWN, len(texts)))
    ]
    return Result(_told_apart(one, best), {"segmentation": rows})


def shares_of(pictures: np.ndarray) -> np.ndarray:
    """Returns the share of the pixels that each class covers, [n class].

    Args:
      pictures: segmentations in [-1, 1], [n h w 3].
    """
    colours = palette("scenes").colours
    labels = labels_of(jnp.asarray(pictures), colours, void=VOID)
    return np.asarray(object_shares(labels, list(range(len(colours))), colours=colours))


def recalls(shares: np.ndarray, asked: Sequence[Sequence[int]]) -> np.ndarray:
    """Returns the share of the asked classes that each segmentation shows.

    Args:
      shares: from `shares_of`.
      asked: numbers of classes for each segmentation.
    """
    return np.array(
        [
            np.mean(row[list(classes)] >= MIN_SHARE) if classes else 1.0
            for row, classes in zip(shares, asked, strict=True)
        ]
    )


def _told_apart(one: Figure, best: Figure) -> list[Figure]:
    """Returns both figures; of a single draw they are the same one."""
    return [one] if one.name == best.name else [one, best]


def _asked(text: str) -> list[int]:
    classes: Any = palette("scenes").classes
    return [classes.index(name) for name in objects_in(text, classes)]


def _row(
    text: str, truth: np.ndarray, recall: np.ndarray, drawn: Sequence[np.ndarray]
) -> list[Picture]:
    classes = palette("scenes").classes
    asked = ", ".join(classes[number] for number in _asked(text))
    cells = [Picture(f"true map: {text} ({asked})", to_uint8(truth))]
    return cells + [
        Picture(f"{verdict(part == 1)}: recall {100 * part:.0f} %", picture)
        for part, picture in zip(recall, drawn, strict=True)
    ]
