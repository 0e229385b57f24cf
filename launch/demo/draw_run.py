"""The work of the page Draw: sets of maps from a text, and the image of the set that was picked."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fgdm_jax.compliance import recall_table
from fgdm_jax.graph import parse_graph, sampling_order
from input_pipeline.image_files import open_picture
from input_pipeline.palettes import PALETTE_NAMES
from launch.demo.compose_request import SAMPLER_NAMES
from launch.demo.fields import Fields
from launch.demo.models import Drawing, Graph, drawing_config
from launch.demo.settings import Settings
from launch.drawing import draw_from_config
from launch.loaded import LoadedModels
from launch.setting_checks import RequestError, collect

AS_TRAINED = "as trained"
_PNG_MODES = ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA")
VALUES = (
    *("graph", "prompt", "negative_prompt", "objects", "palette", "num_draws", "map_steps"),
    *("map_height", "map_width", "map_guidance_scale", "sampler", "seed"),
)
"""What the page sends to draw maps, in order."""
IMAGE_VALUES = ("num_images", "num_steps", "height", "width", "guidance_scale")
"""What it sends besides to sample images."""


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Sets of maps, kept for the browser that asked for them.

    Attributes:
      graph: that drew them.
      settings: of `configs/sample_fgdm.py` that images of them share.
      pictures: (file, seed, variable), in the order in which they are shown.
    """

    graph: Graph
    settings: Mapping[str, Any]
    pictures: tuple[tuple[str, int, str], ...]

    def set_of(self, seed: int) -> dict[str, str]:
        """Returns the files of one set by variable.

        Args:
          seed: of the set.
        """
        return {name: file for file, other, name in self.pictures if other == seed}


def read_draw_settings(
    values: Mapping[str, Any], fields: Fields, settings: Settings, drawing: Drawing
) -> tuple[Graph, dict[str, Any]]:
    """Returns the graph and the settings of the maps.

    Args:
      values: by the names of `VALUES`.
      fields: that reads them; not yet checked at the end.
      settings: of the page.
      drawing: what the model can do.
    """
    limits = settings.limits
    num_draws = fields.whole("Sets of maps", values["num_draws"], 1, limits.max_draws)
    palette = fields.choice("Palette", values["palette"], (AS_TRAINED, *PALETTE_NAMES))
    graph = drawing.graphs[fields.choice("Graph", values["graph"], tuple(drawing.graphs))]
    found: dict[str, Any] = {
        "prompt": fields.text("Prompt", values["prompt"]),
        "negative_prompt": fields.text("Negative prompt", values["negative_prompt"]),
        "objects": fields.text("Objects", values["objects"]),
        "palette": "" if palette == AS_TRAINED else palette,
        "num_draws": num_draws,
        "map_batch_size": min(num_draws, 10),
        "map_steps": fields.whole("Map steps", values["map_steps"], 1, limits.max_steps),
        "map_height": fields.size("Map height", values["map_height"]),
        "map_width": fields.size("Map width", values["map_width"]),
        "map_guidance_scale": fields.number(
            "Map guidance", values["map_guidance_scale"], 1, limits.max_guidance
        ),
        "sampler": fields.choice("Sampler", values["sampler"], SAMPLER_NAMES),
        "spacing": drawing.usual.spacing,
        "seed": fields.seed(values["seed"], num_draws),
    }
    return graph, found


def read_image_settings(
    values: Mapping[str, Any], fields: Fields, settings: Settings
) -> dict[str, Any]:
    """Returns the settings of images.

    Args:
      values: by the names of `IMAGE_VALUES`.
      fields: that reads them; not yet checked at the end.
      settings: of the page.
    """
    limits = settings.limits
    number = fields.whole("Images", values["num_images"], 1, limits.max_images)
    return {
        "num_draws": number,
        "num_images": number,
        "batch_size": min(number, limits.batch_size),
        "num_steps": fields.whole("Image steps", values["num_steps"], 1, limits.max_steps),
        "height": fields.size("Height", values["height"]),
        "width": fields.size("Width", values["width"]),
        "guidance_scale": fields.number(
            "Image guidance", values["guidance_scale"], 1, limits.max_guidance
        ),
    }


def draw_maps(
    graph: Graph, found: Mapping[str, Any], settings: Settings, folder: Path, models: LoadedModels
) -> Path:
    """Returns the folder of drawn maps.

    Args:
      graph: that draws them.
      found: settings that were checked.
      settings: of the page.
      folder: of this request.
      models: in memory.
    """
    config = drawing_config(settings, graph.name)
    config.update(found)
    config.update({"output": str(folder / "output"), "wanted": json.dumps(list(graph.maps))})
    return draw_from_config(config, models)


def maps_to_keep(drawn: Drawn, seed: int, maps: Mapping[str, Path | None]) -> dict[str, Path]:
    """Returns the maps of a set that an image is sampled from.

    What was drawn from a map that is taken away may contradict the one that is drawn in its
    place, so it goes too. What somebody put there stays.

    Args:
      drawn: from which the set was picked.
      seed: of the set.
      maps: the set as it stands on the page; None for a map that was taken away.
    """
    files = drawn.set_of(seed)
    gone = {name for name, path in maps.items() if path is None}
    for factor in sampling_order(parse_graph(drawn.graph.text)):
        name = factor.variable
        is_drawn = name not in maps or str(maps[name]) == files.get(name)
        if is_drawn and not gone.isdisjoint(factor.parents):
            gone.add(name)
    return {name: path for name, path in maps.items() if path is not None and name not in gone}


def draw_image(
    drawn: Drawn,
    maps: Mapping[str, Path],
    found: Mapping[str, Any],
    settings: Settings,
    folder: Path,
    models: LoadedModels,
) -> Path:
    """Returns the folder of images from a set of maps.

    Args:
      drawn: from which the set was picked.
      maps: the set, perhaps edited; what is missing is drawn from the text and its own parents.
      found: settings that were checked, with the seed.
      settings: of the page.
      folder: of this request.
      models: in memory.

    Raises:
      RequestError: a map cannot be read.
    """
    config = drawing_config(settings, drawn.graph.name)
    config.update({**drawn.settings, **found})
    problems: list[str] = []
    given = []
    for name, path in maps.items():
        problem: list[str] = []
        picture = collect(problem, lambda path=path: open_picture(path))
        problems += [f"{name}: {text.replace(str(path), 'the file')}" for text in problem]
        if picture is not None:
            # As it is, where PNG can hold it: grey segmentations and deep grey have checks to meet.
            picture = picture if picture.mode in _PNG_MODES else picture.convert("RGB")
            picture.save(folder / f"{name}.png")
            given.append(f"{name}={folder / name}.png")
    if problems:
        raise RequestError(problems)
    config.update(
        {
            "output": str(folder / "output"),
            "wanted": "image",
            "given": json.dumps(given) if given else "",
        }
    )
    return draw_from_config(config, models)


def recall_rows(record: Mapping[str, Any]) -> tuple[list[list[str]], str]:
    """Returns a row for each set of maps, the best first, and the paper's table of all.

    Args:
      record: of drawn maps; without recalls, nothing is returned.
    """
    draws = [draw for draw in record["draws"] if draw["recall"] is not None]
    if not draws:
        return [], ""
    draws.sort(key=lambda draw: -draw["recall"])
    rows = [
        [
            str(draw["seed"]),
            f"{100 * draw['recall']:.0f} %",
            ", ".join(draw["missing"]) or "nothing",
        ]
        for draw in draws
    ]
    return rows, recall_table(np.array([[draw["recall"] for draw in draws]])).text()
