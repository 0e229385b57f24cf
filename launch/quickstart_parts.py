"""What the quickstart does, part by part: the files, the settings and the commands of each."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from input_pipeline.images import write_png
from input_pipeline.scenes import Scenes

SIZE = 64
_HELD_OUT = 1
# Of the held-out world: a scene with solids that hide each other, another with three of them, and
# two looks to give to the first.
_SCENE, _THREE, _FRONT_LOOK, _BACK_LOOK = 8, 54, 21, 33
_COMPOSE, _DRAW = "configs/sample.py:preset=scenes", "configs/sample_fgdm.py:graph={},preset=scenes"
_FEW_STEPS = {
    "num_steps": 20,
    "global_batch_size": 16,
    "warmup_steps": 0,
    "log_every": 1,
    "eval_every": 0,
    "sample_every": 0,
    "save_every": 0,
    "writers": "json",
}


@dataclasses.dataclass(frozen=True)
class Part:
    """A command of the quickstart.

    Attributes:
      name: of its output folder.
      title: of its section on the page.
      text: what there is to see.
      command: that does it.
      config: its config file, with an argument perhaps.
      settings: of the config.
    """

    name: str
    title: str
    text: str
    command: Literal["sample", "train"]
    config: str
    settings: Mapping[str, Any]

    def words(self, folder: Path) -> str:
        """Returns the command as it is typed.

        Args:
          folder: that it writes to.
        """
        words = ["python", "-m", f"launch.{self.command}", f"--config={self.config}"]
        words += [f"--config.{name}={value}" for name, value in self.settings.items()]
        words.append(
            f"--workdir={folder}" if self.command == "train" else f"--config.output={folder}"
        )
        return shlex.join(words)


def write_inputs(folder: Path) -> dict[str, Any]:
    """Returns what the compositions are made from: prompts, and the names of files written.

    Args:
      folder: for the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    world = Scenes(_HELD_OUT, (SIZE, SIZE))
    scene, three = world.arrays(_SCENE), world.arrays(_THREE)
    front, back = world.arrays(_FRONT_LOOK), world.arrays(_BACK_LOOK)
    pictures = {
        "foreground_depth": scene["foreground_depth"],
        "background_depth": scene["background_depth"],
        "mask": scene["mask"],
        "front_look": front["image"],
        "back_look": back["background"],
        "true_scene": scene["image"],
        "near_of_three": three["foreground_depth"],
        "middle_of_three": three["middle_depth"],
        "far_of_three": three["far_depth"],
        "true_three": three["image"],
    }
    paths = {name: folder / f"{name}.png" for name in pictures}
    for name, pixels in pictures.items():
        # Depth of 16 bits becomes 8: the picture is 64 pixels wide.
        write_png(paths[name], _bytes(pixels))
    prompts = {"prompt": scene["captions"][1], "prompt_of_three": three["captions"][3]}
    return prompts | {name: str(path) for name, path in paths.items()}


def parts_of(files: Mapping[str, Any]) -> list[Part]:
    """Returns the parts, in the order in which they are done.

    Args:
      files: from `write_inputs`.
    """
    return [*_compositions(files), *_drawings(), *_trainings()]


def _compositions(files: Mapping[str, Any]) -> list[Part]:
    five = {"num_images": 5, "batch_size": 5}
    compose = {
        "prompt": files["prompt"],
        "depth_maps": f"{files['foreground_depth']},{files['background_depth']}",
        **five,
    }
    looks = {
        **compose,
        "prompt": "",
        "exemplars": f"{files['front_look']},{files['back_look']}",
        "masks": files["mask"],
        "image_guidance_scale": 2.0,
    }
    depths_of_three = ",".join(files[f"{name}_of_three"] for name in ("near", "middle", "far"))
    return [
        Part(
            "depth",
            "Objects in depth order",
            "Two depth maps, the near object and everything behind it, and a text: the near object "
            "hides what is behind, and both are where the maps put them.",
            "sample",
            _COMPOSE,
            compose,
        ),
        Part(
            "three_layers",
            "Three layers of depth",
            "A fuser for three maps: each object hides the ones behind it, though each map shows "
            "its object whole.",
            "sample",
            _COMPOSE,
            {
                "checkpoint": "scenes-three",
                "prompt": files["prompt_of_three"],
                "depth_maps": depths_of_three,
                **five,
            },
        ),
        *(
            Part(
                f"looks_{strength}",
                f"Each layer with a look of its own, strength {strength}",
                "The exemplar of the front gives its look to the near object, that of the back to "
                "the rest; the strength says how much: at 0 nothing, which leaves depth alone.",
                "sample",
                _COMPOSE,
                {**looks, "exemplar_strengths": strength},
            )
            for strength in ("0", "0.5", "1")
        ),
    ]


def _drawings() -> list[Part]:
    prompt = {"prompt": "a red ball in front of a blue box in the snow"}
    four = {"num_draws": 4, "num_images": 4, "batch_size": 4}
    return [
        Part(
            "chain",
            "Maps, and the image that follows them",
            "From text alone: the segmentation, the depth that fits it, and the image of both.",
            "sample",
            _DRAW.format("chain"),
            {**prompt, **four},
        ),
        Part(
            "compliance",
            "Prompts obeyed by sampling",
            "Ten cheap sets of maps; the one whose segmentation shows most of what the prompt asks "
            "for becomes the image.",
            "sample",
            _DRAW.format("chain"),
            {**prompt, "num_draws": 10},
        ),
        Part(
            "layered",
            "Text to layered depth to image",
            "FG-DM draws the depth of the near object and of what is behind it; Compose and "
            "Conquer composes the image from both.",
            "sample",
            _DRAW.format("layered"),
            {**prompt, **four},
        ),
    ]


def _trainings() -> list[Part]:
    return [
        Part(
            "train_fuser",
            "Training a local fuser",
            "Twenty steps of Compose and Conquer's first stage, from the scenes prior. They show "
            "that training runs here: the loss of so few is the luck of their timesteps and noise.",
            "train",
            "configs/cnc.py:stage=local,scale=scenes",
            {"init": "scenes-prior", **_FEW_STEPS},
        ),
        Part(
            "train_factor",
            "Training a factor",
            "Twenty steps of FG-DM's segmentation adapter, from the scenes prior; likewise.",
            "train",
            "configs/fgdm.py:factor=segmentation,scale=scenes",
            {"init": "scenes-prior", "distill_weight": 0.0, **_FEW_STEPS},
        ),
    ]


def _bytes(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    return np.rint(pixels / np.iinfo(pixels.dtype).max * 255).astype(np.uint8)
