"""Depth order: whether the foreground object hides what the layered depth puts behind it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from benchmarks.scenes_quality.figures import (
    SHOWN,
    Figure,
    Result,
    grey,
    known_rows,
    percent,
    verdict,
)
from benchmarks.scenes_quality.settings import NAMES_ALL, Settings
from benchmarks.scenes_quality.studio import SIZE, ConditionOf, Studio
from cnc_jax.condition import Condition
from input_pipeline.contact_sheet import Picture
from input_pipeline.scenes import Scenes
from input_pipeline.scenes.judge import Judge
from input_pipeline.scenes.known_pictures import from_text_alone, true_picture, wrong_order
from input_pipeline.scenes.trials import Occlusion, occlusions
from input_pipeline.stream.config import KEY_FIELDS

LAYERS = {2: KEY_FIELDS["depth_maps"], 3: KEY_FIELDS["three_depth_maps"]}
"""Fields of records that are the depth maps of a local fuser, by the number of its layers."""


def occlusion(studio: Studio | None, judge: Judge, settings: Settings) -> Result:
    """Returns in which part of compositions the foreground is in front.

    Args:
      studio: with a local fuser; None for ceilings and floors alone.
      judge: of scenes.
      settings: of the measurement.
    """
    trials = list(itertools.islice(occlusions(settings.world), settings.scenes))
    right = np.stack([true_picture(trial) for trial in trials])
    found = Figure(
        "occlusion",
        "foreground in front",
        "%",
        len(trials),
        target=90.0,
        ceiling=percent(verdicts(judge, trials, right)),
        floors={
            "wrong order": percent(verdicts(judge, trials, map(wrong_order, trials))),
            "text alone": percent(verdicts(judge, trials, map(from_text_alone, trials))),
        },
    )
    if studio is None:
        return Result([found], {"occlusion": _bounds(judge, trials[:SHOWN])})
    number = studio.model.config.local_fuser.num_layers
    world = Scenes(settings.world, (SIZE, SIZE), fields=("captions", *LAYERS[number]))
    records = [world.arrays(trial.scene.index) for trial in trials]
    texts = [item["captions"][NAMES_ALL] for item in records]
    depth = np.stack([[item[name] for name in LAYERS[number]] for item in records])
    images = studio.compose(texts, "occlusion", depth_of(depth))
    more = {}
    if settings.controls:
        swapped = studio.compose(texts, "layers swapped", depth_of(depth[:, ::-1]))
        plain = studio.compose(texts, "text alone")
        more = {
            "the model with swapped layers": percent(verdicts(judge, trials, swapped)),
            "the model with text alone": percent(verdicts(judge, trials, plain)),
        }
    hits = verdicts(judge, trials, images)
    found = dataclasses.replace(
        found,
        value=percent(hits),
        through_autoencoder=percent(verdicts(judge, trials, studio.encode_bytes(right))),
        more=more,
    )
    rows = [
        [
            *(
                Picture(name, grey(item))
                for name, item in zip(LAYERS[number], depth[i], strict=True)
            ),
            Picture("overlap", grey(trials[i].overlap.astype(np.uint16) * 65535)),
            Picture(f"{verdict(hits[i])}: {texts[i]}", images[i]),
            Picture("true scene", right[i]),
        ]
        for i in range(min(SHOWN, len(trials)))
    ]
    return Result([found], {"occlusion": rows})


def verdicts(judge: Judge, trials: Sequence[Occlusion], images: Iterable[np.ndarray]) -> list[bool]:
    """Returns of each image whether the foreground is in front.

    Args:
      judge: of scenes.
      trials: of the images.
      images: uint8 [h w 3] each.
    """
    return [t.is_in_front(judge, image) for t, image in zip(trials, images, strict=True)]


def depth_of(depth: np.ndarray) -> ConditionOf:
    """Returns the conditions of depth maps.

    Args:
      depth: uint16 [case layer h w].
    """
    return lambda rows: Condition(depth_maps=scaled_depth(depth[list(rows)]))


def scaled_depth(depth: np.ndarray) -> np.ndarray:
    """Returns depth maps as the model takes them, [case layer h w 3] in [0, 1].

    Args:
      depth: uint16 [case layer h w].
    """
    return np.repeat((depth.astype(np.float32) / 65535)[..., None], 3, axis=-1)


def _bounds(judge: Judge, trials: Sequence[Occlusion]) -> list[list[Picture]]:
    return known_rows(
        trials,
        lambda t: Picture("overlap", grey(t.overlap.astype(np.uint16) * 65535)),
        (true_picture, wrong_order, from_text_alone),
        lambda t, image: verdict(t.is_in_front(judge, image)),
    )
