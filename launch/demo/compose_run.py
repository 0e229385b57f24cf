"""The work of the page Compose: a request -> PNG files -> `launch.sampling` -> what is shown."""

from __future__ import annotations

import functools
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from configs import sample
from input_pipeline.images import (
    read_depth_map,
    read_mask,
    read_photo_uint8,
    write_png,
)
from launch.demo.compose_request import ComposeRequest, Layer
from launch.demo.settings import Settings
from launch.loaded import LoadedModels
from launch.sampling import sample_from_config
from launch.setting_checks import RequestError, collect

CONDITIONS = "conditions.json"
_LEFT_OUT = "-"
# CLIP sees exemplars at a few hundred pixels; larger ones would only fill the disk.
_EXEMPLAR_SIDE = 2048


def compose(
    request: ComposeRequest, settings: Settings, folder: Path, models: LoadedModels
) -> Path:
    """Returns the folder of the images.

    Args:
      request: that was checked.
      settings: of the page.
      folder: of this request; the inputs go there too.
      models: in memory.

    Raises:
      RequestError: a file cannot be used, or things do not fit together.
    """
    config = sample.get_config()
    config.update(request.settings)
    config.output = str(folder / "output")
    config.update(_write_inputs(request, settings, folder))
    return sample_from_config(config, models)


def _write_inputs(request: ComposeRequest, settings: Settings, folder: Path) -> dict[str, str]:
    """Writes depth maps, exemplars and masks as PNG files; returns the settings that name them."""
    size = request.settings["height"], request.settings["width"]
    problems: list[str] = []
    masks = [
        _read(problems, f"Layer {i + 1}, mask", layer.mask, size, read_mask)
        for i, layer in enumerate(request.layers[:-1])
    ]
    maps = [
        _map(problems, request, settings, index, size, masks)
        for index in range(len(request.layers))
    ]
    exemplars = [
        _read(problems, f"Layer {i + 1}, exemplar", layer.exemplar, None, read_photo_uint8)
        for i, layer in enumerate(request.layers)
    ]
    has_exemplars = any(item is not None for item in exemplars)
    masks = _complete(problems, request.layers, masks, maps, size) if has_exemplars else masks
    if problems:
        raise RequestError(problems)
    if not has_exemplars and any(item is not None for item in masks):
        taken = any(
            layer.mask and layer.photo and request.photo_rule != "v1" for layer in request.layers
        )
        if not taken:
            warnings.warn("without exemplars, masks do nothing here", stacklevel=2)
    shown: list[tuple[str, str]] = []
    names: dict[str, str] = {}

    def write(kind: str, setting: str, arrays: list[np.ndarray | None]) -> None:
        if all(array is None for array in arrays):
            return
        paths = []
        for index, array in enumerate(arrays):
            path = folder / f"{index + 1}_{kind}.png"
            paths.append(_LEFT_OUT if array is None else str(path))
            if array is not None:
                _save(path, array)
                if kind == "depth":
                    path = _preview(path, array * request.layers[index].gain)
                label = settings.local_condition if kind == "depth" else kind
                shown.append((str(path), f"{label} {index + 1}"))
        names[setting] = json.dumps(paths)

    write("depth", "depth_maps", maps)
    write("exemplar", "exemplars", exemplars)
    if has_exemplars:
        write("mask", "masks", masks)
    if names:
        # Without any layer they act on nothing, and there is none that they could be of.
        names["depth_gains"] = ",".join(str(layer.gain) for layer in request.layers)
        names["exemplar_strengths"] = ",".join(str(layer.strength) for layer in request.layers)
    (folder / CONDITIONS).write_text(json.dumps(shown), encoding="utf-8")
    return names


def _map(
    problems: list[str],
    request: ComposeRequest,
    settings: Settings,
    index: int,
    size: tuple[int, int],
    masks: list[np.ndarray | None],
) -> np.ndarray | None:
    """Returns the depth or edge map of a layer, [h w 3] in [0, 1], or None without any."""
    layer, title = request.layers[index], f"Layer {index + 1}"
    if layer.photo is None:
        return _read(problems, f"{title}, depth", layer.depth, size, read_depth_map)
    photo = _read(problems, f"{title}, photo", layer.photo, size, read_photo_uint8)
    if photo is None:
        return None
    mask = masks[index] if index < len(masks) else None
    seen = np.ones(size, bool) if mask is None else mask > 0
    if request.photo_rule == "v2":
        photo = photo * seen[..., None].astype(np.uint8)
    values = collect(problems, lambda: _depth_of(photo, settings))
    if values is not None and request.photo_rule == "v3":
        values = values * seen[..., None]
    return values


def _depth_of(photo: np.ndarray, settings: Settings) -> np.ndarray:
    if settings.local_condition == "canny":
        from input_pipeline.edges import canny_edges

        return canny_edges(photo)
    (depth,) = _estimator(settings.depth_estimator)([photo])
    return np.repeat(depth[..., None], 3, -1)


@functools.cache
def _estimator(folder: str) -> Any:
    from input_pipeline.depth_estimator import load_depth_estimator

    return load_depth_estimator(folder)


def _complete(
    problems: list[str],
    layers: tuple[Layer, ...],
    masks: list[np.ndarray | None],
    maps: list[np.ndarray | None],
    size: tuple[int, int],
) -> list[np.ndarray | None]:
    """Returns masks of all layers but the last, if any is given: exemplars need all or none.

    A layer's depth map tells where it is seen: black is nowhere. One with nothing is seen nowhere.
    """
    if all(mask is None for mask in masks):
        return masks
    found = []
    for index, mask in enumerate(masks):
        depth = maps[index]
        if mask is None and depth is not None:
            mask = (depth.max(-1) > 0).astype(np.float32)
        elif mask is None and layers[index].exemplar is None:
            mask = np.zeros(size, np.float32)
        elif mask is None:
            problems.append(
                f"Layer {index + 1}: another layer has a mask; give this one a mask or a depth map "
                "too"
            )
        found.append(mask)
    return found


def _read(problems: list[str], name: str, path: Path | None, size, read) -> np.ndarray | None:
    """Returns what a file holds; a fault is told under the name of the field."""
    if path is None:
        return None
    found: list[str] = []
    array = collect(found, lambda: read(path, size))
    problems += [f"{name}: {text.replace(str(path), 'the file')}" for text in found]
    return array


def _save(path: Path, array: np.ndarray) -> None:
    """Writes an array as PNG: masks and grey maps in 16 bits, what has colours in 8."""
    if array.dtype == np.uint8:
        image = Image.fromarray(array)
        image.thumbnail((_EXEMPLAR_SIDE, _EXEMPLAR_SIDE), Image.Resampling.BICUBIC)
        write_png(path, np.asarray(image))
        return
    is_grey = array.ndim == 2 or (array[..., :1] == array).all()
    if not is_grey:
        write_png(path, np.rint(array * 255).astype(np.uint8))
        return
    grey = array if array.ndim == 2 else array[..., 0]
    Image.fromarray(np.rint(grey * 65535).astype(np.uint16)).save(path)


def _preview(path: Path, values: np.ndarray) -> Path:
    """Writes a map as it is composed, in 8 bits, which browsers show."""
    shown = path.with_name(f"{path.stem}_shown.png")
    write_png(shown, np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8))
    return shown
