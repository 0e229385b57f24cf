"""Examples to start from: scenes of the procedural world with their depth maps and layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from input_pipeline.images import write_png
from input_pipeline.scenes import Scenes

_WORLD = 7
_SCENES = (0, 8, 11, 12, 15, 6)
# Of the held-out world: a scene, and others whose looks its front and its back take.
_LOOKS_WORLD, _LOOKS_SCENE = 1, 8
_LOOKS = ((21, 33), (58, 24))
# As looks are measured; see benchmarks/scenes_quality.
_LOOKS_GUIDANCE = 2.0
_FIELDS = ("image", "mask", "background", "foreground_depth", "background_depth", "captions")
_DEPTHS = ("foreground_depth", "background_depth")


@dataclasses.dataclass(frozen=True)
class Example:
    """What an example fills in.

    Attributes:
      picture: to choose by: the scene itself, or what it is made from.
      title: below the picture.
      prompt: that is true of it; empty where exemplars alone say what is seen.
      depths: files of foreground and background.
      exemplars: likewise.
      mask: file, of the foreground.
      image_guidance_scale: of depth and exemplars.
    """

    picture: str
    title: str
    prompt: str
    depths: tuple[str, str]
    exemplars: tuple[str, str]
    mask: str
    image_guidance_scale: float = 0.0


def write_examples(folder: Path, size: int, takes_exemplars: bool = True) -> list[Example]:
    """Returns examples whose files lie in a folder.

    Args:
      folder: to write to.
      size: height and width of the files.
      takes_exemplars: whether the model does: examples of looks without a text are left out if not.
    """
    scenes = Scenes(seed=_WORLD, size=(size, size), fields=_FIELDS)
    examples = [_write(folder / str(index), scenes.arrays(index)) for index in _SCENES]
    if takes_exemplars:
        world = Scenes(seed=_LOOKS_WORLD, size=(size, size), fields=_FIELDS)
        scene = world.arrays(_LOOKS_SCENE)
        examples += [
            _write_looks(folder / f"looks_{front}_{back}", scene, *map(world.arrays, (front, back)))
            for front, back in _LOOKS
        ]
    return examples


def _write(folder: Path, scene: Mapping[str, np.ndarray]) -> Example:
    """Writes a scene with its own looks and a text that is true of it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in (
        ("image", scene["image"]),
        ("background", scene["background"]),
        ("mask", scene["mask"]),
        *((name, _grey(scene[name])) for name in _DEPTHS),
    ):
        write_png(folder / f"{name}.png", pixels)

    def path(name: str) -> str:
        return str(folder / f"{name}.png")

    prompt = str(scene["captions"][1])
    return Example(
        picture=path("image"),
        title=prompt,
        prompt=prompt,
        depths=(path("foreground_depth"), path("background_depth")),
        exemplars=(path("image"), path("background")),
        mask=path("mask"),
    )


def _write_looks(
    folder: Path,
    scene: Mapping[str, np.ndarray],
    front: Mapping[str, np.ndarray],
    back: Mapping[str, np.ndarray],
) -> Example:
    """Writes a scene with the looks of two others: no text tells what the exemplars alone do."""
    looks = {**scene, "image": front["image"], "background": back["background"]}
    example = _write(folder, looks)
    near, far = (np.repeat(_grey(scene[name])[..., None], 3, -1) for name in _DEPTHS)
    tile = np.block([[[near], [far]], [[looks["image"]], [looks["background"]]]])
    write_png(folder / "choice.png", tile)
    return dataclasses.replace(
        example,
        picture=str(folder / "choice.png"),
        title="the looks of two others, no prompt",
        prompt="",
        image_guidance_scale=_LOOKS_GUIDANCE,
    )


def _grey(depth: np.ndarray) -> np.ndarray:
    """Returns depth in 8 bits, which browsers show."""
    return np.rint(depth / 257).astype(np.uint8)
