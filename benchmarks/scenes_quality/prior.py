"""The Stable Diffusion: what its autoencoder keeps, and whether images show what captions name."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.scenes_quality.figures import SHOWN, Figure, Result, percent, verdict
from benchmarks.scenes_quality.settings import Settings
from benchmarks.scenes_quality.studio import SIZE, Studio
from input_pipeline.contact_sheet import Picture
from input_pipeline.scenes import Scenes, label_colours
from input_pipeline.scenes.judge import Judge

MAPS = ("segmentation", "depth", "normal", "sketch")
Wanted = Sequence[tuple[str, str]]


def autoencoder(studio: Studio | None, judge: Judge, settings: Settings) -> Result:
    """Returns the mean peak signal-to-noise ratio of pictures that went through the autoencoder.

    Args:
      studio: with an autoencoder; None for no figures.
      judge: makes no difference here.
      settings: of the measurement.
    """
    del judge
    if studio is None:
        title = "autoencoder, images"
        return Result([Figure("psnr_image", title, "dB", settings.scenes, target=30.0)])
    records = _records(settings)
    figures, shown = [], []
    for name in ("image", *MAPS):
        pictures = np.stack([as_picture(name, item[name]) for item in records])
        again = studio.encode(pictures)
        errors = np.mean((again - pictures) ** 2, axis=(1, 2, 3))
        value = float(np.mean(10 * np.log10(4 / errors)))
        title = f"autoencoder, {name if name != 'image' else 'images'}"
        target = 30.0 if name == "image" else None
        found = Figure(f"psnr_{name}", title, "dB", len(records), round(value, 2), target)
        figures.append(found)
        shown.append([(name, pictures[:SHOWN]), ("again", again[:SHOWN])])
    rows = [
        [Picture.photo(label, pictures[case]) for pair in shown for label, pictures in pair]
        for case in range(min(SHOWN, len(records)))
    ]
    return Result(figures, {"autoencoder": rows})


def captions(studio: Studio | None, judge: Judge, settings: Settings) -> Result:
    """Returns which part of images from captions show the place and the foreground's colour.

    Args:
      studio: a Stable Diffusion; None for ceilings and floors alone.
      judge: of scenes.
      settings: of the measurement.
    """
    records = _records(settings)
    truth = [Scenes(settings.world, (SIZE, SIZE)).scene(i) for i in range(len(records))]
    wanted = [(scene.place, scene.objects[0].colour) for scene in truth]
    # Every kind of caption, the next of a scene's five for each scene.
    texts = [item["captions"][index % 5] for index, item in enumerate(records)]
    images = [item["image"] for item in records]
    right = hits_of(judge, images, wanted)
    others = hits_of(judge, images, wanted[1:] + wanted[:1])
    drawn = again = None
    rows: list[list[Picture]] = []
    if studio is not None:
        results = studio.compose(texts, "captions")
        drawn = hits_of(judge, results, wanted)
        again = hits_of(judge, studio.encode_bytes(np.stack(images)), wanted)
        rows = [
            [
                Picture(_told(judge, texts[i], results[i], wanted[i]), results[i]),
                Picture(_told(judge, "true scene", images[i], wanted[i]), images[i]),
            ]
            for i in range(min(SHOWN, len(records)))
        ]
    figures = [
        Figure(
            f"caption_{name}",
            title,
            "%",
            len(records),
            None if drawn is None else percent(drawn[name]),
            90.0 if name != "both" else None,
            ceiling=percent(right[name]),
            floors={"true images of other scenes": percent(others[name])},
            through_autoencoder=None if again is None else percent(again[name]),
        )
        for name, title in (
            ("place", "place of the caption"),
            ("colour", "colour of the foreground in the caption"),
            ("both", "place and colour"),
        )
    ]
    return Result(figures, {"captions": rows})


def hits_of(judge: Judge, images: Any, wanted: Wanted) -> dict[str, np.ndarray]:
    """Returns which images show the place, the foreground's colour, and both.

    Args:
      judge: of scenes.
      images: uint8 [n h w 3].
      wanted: place and colour of each.
    """
    pairs = list(zip(images, wanted, strict=True))
    places = np.array([judge.place(image) == place for image, (place, _) in pairs])
    colours = np.array([judge.colour(image) == colour for image, (_, colour) in pairs])
    return {"place": places, "colour": colours, "both": places & colours}


def as_picture(name: str, values: np.ndarray) -> np.ndarray:
    """Returns a field of a record as a picture in [-1, 1], as training shows it.

    Args:
      name: of the field.
      values: of the record.
    """
    if name == "segmentation":
        values = label_colours()[values]
    most = np.iinfo(values.dtype).max
    scaled = values.astype(np.float32) / (most / 2) - 1
    return scaled if scaled.ndim == 3 else np.repeat(scaled[..., None], 3, axis=-1)


def _told(judge: Judge, text: str, image: np.ndarray, wanted: tuple[str, str]) -> str:
    seen = judge.place(image), judge.colour(image)
    return f"{verdict(seen == wanted)}: seen {seen[1] or 'nothing'}, {seen[0]}. {text}"


@functools.lru_cache(maxsize=1)
def _records(settings: Settings) -> list[dict[str, Any]]:
    world = Scenes(settings.world, (SIZE, SIZE), fields=("captions", "image", *MAPS))
    return [world.arrays(index) for index in range(settings.scenes)]
