"""Looks: whether an exemplar gives its look to the layer it is for, and to no other.

The depth and the mask are those of a scene, the front exemplar is the image of another (or its
foreground object alone), the back exemplar is the scene's own background, and the prompt is empty:
nothing but the front exemplar names the colour that must be seen inside of the mask, and only
there.
Guidance is of depth and exemplars, as there is no text that it could amplify.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

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
from benchmarks.scenes_quality.occlusion import LAYERS, scaled_depth
from benchmarks.scenes_quality.settings import Settings
from benchmarks.scenes_quality.studio import SIZE, ConditionOf, Studio
from cnc_jax.condition import Condition
from input_pipeline.contact_sheet import Picture
from input_pipeline.scenes import Scenes, foreground_image
from input_pipeline.scenes.judge import Judge
from input_pipeline.scenes.known_pictures import look_everywhere, look_inside, true_picture
from input_pipeline.scenes.trials import Transfer, transfers

_FIELDS = ("image", "mask", "background", "foreground_depth", "background_depth")


def looks(studio: Studio | None, judge: Judge, settings: Settings) -> Result:
    """Returns how often the look is seen in its layer, and how often outside of it.

    Args:
      studio: with both fusers and an image tower; None for ceilings and floors alone.
      judge: of scenes.
      settings: of the measurement.
    """
    trials = list(itertools.islice(transfers(settings.world), settings.scenes))
    right = np.stack([look_inside(trial) for trial in trials])
    look, leak = _figures(judge, trials, right)
    if studio is None:
        return Result([look, leak], {"looks": _bounds(judge, trials[:SHOWN])})
    world = Scenes(settings.world, (SIZE, SIZE), fields=_FIELDS)
    records = [world.arrays(trial.scene.index) for trial in trials]
    donors = [world.arrays(trial.donor.index) for trial in trials]
    front = [
        foreground_image(item["image"], item["mask"])
        if settings.exemplar == "foreground"
        else item["image"]
        for item in donors
    ]
    pairs = [(one, item["background"]) for one, item in zip(front, records, strict=True)]
    embeddings = studio.exemplars(pairs)
    depth = np.stack([[item[name] for name in LAYERS[2]] for item in records])
    images = {
        strength: studio.compose(
            [""] * len(trials),
            f"looks, strength {strength:g}",
            _condition_of(depth, embeddings, records, strength),
            settings.image_guidance_scale or None,
        )
        for strength in settings.strengths
    }
    again = studio.encode_bytes(right)
    found = []
    for figure, is_seen in ((look, Transfer.has_look), (leak, Transfer.leaks)):
        values = {
            f"strength {strength:g}": percent(_seen(is_seen, judge, trials, results))
            for strength, results in images.items()
        }
        value = values.pop(f"strength {settings.strengths[-1]:g}")
        through = percent(_seen(is_seen, judge, trials, again))
        found.append(
            dataclasses.replace(figure, value=value, through_autoencoder=through, more=values)
        )
    rows = [
        [
            Picture("depth of the front", grey(depth[i, 0])),
            Picture("depth of the back", grey(depth[i, 1])),
            Picture(f"front exemplar: {trials[i].look.colour}", pairs[i][0]),
            Picture("back exemplar", pairs[i][1]),
            *(
                Picture(f"strength {strength:g}, {_told(judge, trials[i], results[i])}", results[i])
                for strength, results in images.items()
            ),
            Picture("as it should be", right[i]),
        ]
        for i in range(min(SHOWN, len(trials)))
    ]
    return Result(found, {"looks": rows})


def _figures(judge: Judge, trials: list[Transfer], right: np.ndarray) -> tuple[Figure, Figure]:
    """Returns both figures without the model's."""
    plain = [true_picture(trial) for trial in trials]
    crowds = [trial for trial in trials if len(trial.scene.objects) > 1]
    spread = [look_everywhere(trial) for trial in crowds]
    look = Figure(
        "look",
        "look of the exemplar inside of its layer",
        "%",
        len(trials),
        target=85.0,
        ceiling=percent(_seen(Transfer.has_look, judge, trials, right)),
        floors={"the scene itself": percent(_seen(Transfer.has_look, judge, trials, plain))},
    )
    leak = Figure(
        "leakage",
        "look of the exemplar outside of its layer",
        "%",
        len(trials),
        target=10.0,
        at_most=True,
        ceiling=percent(_seen(Transfer.leaks, judge, trials, right)),
        floors={"the look on all objects": percent(_seen(Transfer.leaks, judge, crowds, spread))}
        if crowds
        else {},
    )
    return look, leak


def _condition_of(
    depth: np.ndarray,
    embeddings: np.ndarray,
    records: Sequence[Mapping[str, Any]],
    strength: float,
) -> ConditionOf:
    masks = np.stack([item["mask"] for item in records]).astype(np.float32)[:, None] / 255

    def condition(rows: Sequence[int]) -> Condition:
        chosen = list(rows)
        return Condition(
            depth_maps=scaled_depth(depth[chosen]),
            exemplar_embeddings=embeddings[chosen],
            masks=masks[chosen],
            exemplar_strengths=np.array([strength, 1.0], np.float32),
        )

    return condition


def _seen(
    is_seen: Callable[[Transfer, Judge, np.ndarray], bool],
    judge: Judge,
    trials: Sequence[Transfer],
    images: Iterable[np.ndarray],
) -> list[bool]:
    """Returns the verdict on each image."""
    return [is_seen(t, judge, image) for t, image in zip(trials, images, strict=True)]


def _told(judge: Judge, trial: Transfer, image: np.ndarray) -> str:
    leaks = ", LEAKS" if trial.leaks(judge, image) else ""
    seen = judge.solid(image, trial.mask) or "no solid"
    return f"{verdict(trial.has_look(judge, image))}: seen {seen}{leaks}"


def _bounds(judge: Judge, trials: Sequence[Transfer]) -> list[list[Picture]]:
    return known_rows(
        trials,
        lambda t: Picture(f"wanted: {t.look.colour}", grey(t.mask.astype(np.uint16) * 65535)),
        (look_inside, true_picture, look_everywhere),
        lambda t, image: _told(judge, t, image),
    )
