"""What the checkpoints can do, told from their sizes before any weight is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnc_jax.convert import COMPONENTS
from configs import sample_fgdm
from configs.common import SCENES_SAMPLING, split_list
from launch.components import components_of
from launch.demo.settings import Settings
from launch.draw_fit import fit_problems
from launch.draw_request import parse_request
from launch.setting_checks import RequestError
from sd_jax.embedded import embedded_folders, is_embedded
from sd_jax.load import Opened, open_checkpoints, open_each

OWN_GRAPH = "own"
_STABLE_DIFFUSION = ("unet", "vae", "text_encoder")
_SMALL_AUTOENCODER = 256
_SMALL_SIZE = 64
_USUAL_SIZE, _USUAL_MAP_SIZE = 512, 256


@dataclasses.dataclass(frozen=True)
class Usual:
    """How a model is sampled unless a request says otherwise; the defaults are Stable Diffusion's.

    Attributes:
      guidance_scale: of the text.
      sampler: one of `sd_jax.samplers.SAMPLERS`.
      spacing: of its timesteps.
    """

    guidance_scale: float = 7.5
    sampler: str = "ddim"
    spacing: str = "leading"


SMALL = Usual(**{field.name: SCENES_SAMPLING[field.name] for field in dataclasses.fields(Usual)})
"""Of models of small pictures: those of the scenes."""


@dataclasses.dataclass(frozen=True)
class Composing:
    """What the page Compose offers.

    Attributes:
      layers: that the fusers take; 0 without any.
      takes_depth: whether there is a local fuser.
      takes_exemplars: whether there are a global fuser and an image encoder.
      size: of images at first.
      usual: how they are sampled at first.
    """

    layers: int
    takes_depth: bool
    takes_exemplars: bool
    size: int
    usual: Usual = Usual()


@dataclasses.dataclass(frozen=True)
class Graph:
    """A graph of factors that can be drawn.

    Attributes:
      name: in `GRAPHS`, or `OWN_GRAPH`.
      text: VARIABLE<PARENT:KIND, ...
      maps: variables that are drawn before the image.
      seen: those of them that the image's factor sees.
    """

    name: str
    text: str
    maps: tuple[str, ...]
    seen: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Drawing:
    """What the page Draw offers.

    Attributes:
      graphs: by name.
      size: of images at first.
      map_size: of maps at first.
      reasons: why there is no graph at all; empty if there is one.
      usual: how both are sampled at first.
    """

    graphs: Mapping[str, Graph]
    size: int
    map_size: int
    reasons: tuple[str, ...]
    usual: Usual = Usual()


def find_composing(settings: Settings) -> Composing:
    """Returns what the checkpoint of the page Compose can do.

    Args:
      settings: of the page.

    Raises:
      ValueError: it cannot be read, or is no Stable Diffusion.
    """
    paths = split_list(settings.checkpoint)
    _check_embedded(paths)
    opened = open_checkpoints(paths, COMPONENTS)
    missing = [name for name in _STABLE_DIFFUSION if name not in opened.configs]
    if missing:
        raise RequestError(
            [
                f"no {name} in {settings.checkpoint}; add a checkpoint that has one"
                for name in missing
            ]
        )
    local, tokens = opened.configs.get("local_fuser"), opened.configs.get("global_fuser")
    has_exemplars = tokens is not None and "image_encoder" in opened.configs
    fusers = [fuser for fuser in (local, tokens if has_exemplars else None) if fuser is not None]
    return Composing(
        layers=fusers[0].num_layers if fusers else 0,
        takes_depth=local is not None,
        takes_exemplars=has_exemplars,
        size=_size(settings, opened),
        usual=_usual(opened),
    )


def find_drawing(settings: Settings) -> Drawing:
    """Returns which graphs the checkpoint of the page Draw can draw.

    Args:
      settings: of the page.
    """
    graphs, reasons = {}, []
    size, usual = settings.size or _USUAL_SIZE, Usual()
    for name in (*sample_fgdm.GRAPHS, *([OWN_GRAPH] if settings.graph else [])):
        config = drawing_config(settings, name)
        try:
            _check_embedded([item.split("=")[-1] for item in split_list(config.checkpoint)])
            request, problems = parse_request(config)
            if problems:
                raise RequestError(problems)
            items = [(path, components_of(variable)) for variable, path in request.checkpoints]
            opened = open_each(items)
            if "vae" in opened.configs:
                size, usual = _size(settings, opened), _usual(opened)
            problems = fit_problems(request, opened)
            if request.image is None or not request.image.parents:
                problems.append(f"the graph {config.graph!r} draws no image from maps")
            elif not problems:
                seen = tuple(request.image.parents)
                graphs[name] = Graph(name, config.graph, request.maps, seen)
        except ValueError as error:
            problems = list(getattr(error, "problems", [str(error)]))
        reasons += problems
    unique = tuple(dict.fromkeys(reasons))
    map_size = min(size, settings.size or _USUAL_MAP_SIZE)
    return Drawing(graphs, size, map_size, () if graphs else unique, usual)


def drawing_config(settings: Settings, graph: str) -> Any:
    """Returns the config of `launch.sample` for a graph.

    Args:
      settings: of the page.
      graph: name of one of the page's graphs.
    """
    own = graph == OWN_GRAPH
    config = sample_fgdm.get_config(None if own else f"graph={graph}")
    if own:
        config.graph = settings.graph
    config.checkpoint, config.dtype = settings.fgdm_checkpoint, settings.dtype
    return config


def _size(settings: Settings, opened: Opened) -> int:
    """Returns a size that suits the model."""
    return settings.size or (_SMALL_SIZE if _is_small(opened) else _USUAL_SIZE)


def _usual(opened: Opened) -> Usual:
    return SMALL if _is_small(opened) else Usual()


def _is_small(opened: Opened) -> bool:
    """Returns whether a model is of small pictures: narrow autoencoders were trained on them."""
    return max(opened.configs["vae"].block_out_channels) < _SMALL_AUTOENCODER


def _check_embedded(paths: list[str]) -> None:
    for path in paths:
        if is_embedded(path) and not Path(path).exists() and not embedded_folders(path):
            raise ValueError(
                f"the weights {path!r} are not in this installation; name others by --checkpoint"
            )
