"""Files of a request -> arrays: depth maps, masks and exemplars, layers on axis 0."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from cnc_jax.soft_guidance import check_masks
from input_pipeline.images import clip_pixels, read_depth_map, read_mask, read_photo_uint8
from launch.sample_request import SampleRequest
from launch.setting_checks import RequestError, collect


@dataclasses.dataclass(frozen=True)
class LayerInputs:
    """What the files of a request hold, at the size of the images.

    Attributes:
      depth_maps: [layer height width 3] in [0, 1], or None.
      masks: [mask height width] in [0, 1], or None.
      exemplars: the exemplars as read, None for a layer left out.
      photos: photos whose depth or edges are yet to be taken.
    """

    depth_maps: np.ndarray | None
    masks: np.ndarray | None
    exemplars: tuple[np.ndarray | None, ...]
    photos: tuple[np.ndarray | None, ...]


def read_inputs(request: SampleRequest) -> LayerInputs:
    """Returns the contents of all files.

    Raises:
      RequestError: lists every file that is missing or unreadable.
    """
    problems: list[str] = []
    size = request.size

    def read_all(paths: tuple[Path | None, ...], read) -> list[np.ndarray | None]:
        return [None if p is None else collect(problems, lambda p=p: read(p)) for p in paths]

    depth_maps = read_all(request.depth_maps, lambda path: read_depth_map(path, size))
    masks = read_all(request.masks, lambda path: read_mask(path, size))
    exemplars = read_all(request.exemplars, read_photo_uint8)
    photos = read_all(request.photos, lambda path: read_photo_uint8(path, size))
    if any(mask is None for mask in request.masks):
        problems.append("masks: '-' is not possible; a layer that is seen nowhere has a black mask")
    if problems:
        raise RequestError(problems)
    return LayerInputs(
        _stack_or_zeros(depth_maps, (*size, 3)),
        np.stack([mask for mask in masks if mask is not None]) if masks else None,
        tuple(exemplars),
        tuple(photos),
    )


def doubts(request: SampleRequest, inputs: LayerInputs) -> list[str]:
    """Returns what is possible, but seldom meant."""
    config = request.config
    found = [
        f"{name}: every layer is left out, so it does nothing"
        for name in ("depth_maps", "photos", "exemplars")
        if (paths := getattr(request, name)) and not any(paths)
    ]
    if not config.prompt.strip():
        found.append("the prompt is empty")
    if config.local_condition == "canny" and request.photos:
        found.append("edges are for a local fuser trained on edges; the released one takes depth")
    if inputs.masks is None:
        if request.exemplars:
            found.append("exemplars without masks: every exemplar acts on the whole image")
        return found
    found += check_masks(inputs.masks[: max(1, request.num_layers - 1)])
    if not request.exemplars and not request.photos:
        found.append(
            "masks do nothing here: they say where exemplars act, and what of photos is taken"
        )
    return found


def spatial_maps(request: SampleRequest, inputs: LayerInputs) -> np.ndarray | None:
    """Returns the maps for the local fuser: those given, or depth or edges of the photos.

    Of a photo, what lies under its layer's mask is taken, black elsewhere; of the last layer's, the
    ground, all of it. So were the maps of training made.
    """
    if not inputs.photos:
        return inputs.depth_maps
    num_layers = len(inputs.photos)
    photos = [
        _masked(photo, inputs.masks, layer, num_layers) for layer, photo in enumerate(inputs.photos)
    ]
    present = [photo for photo in photos if photo is not None]
    if request.config.local_condition == "canny":
        from input_pipeline.edges import canny_edges

        maps = iter([canny_edges(photo) for photo in present])
    else:
        from input_pipeline.depth_estimator import load_depth_estimator

        estimate = load_depth_estimator(request.config.depth_estimator)
        maps = iter([np.repeat(depth[..., None], 3, -1) for depth in estimate(present)])
    return _stack_or_zeros(
        [None if photo is None else next(maps) for photo in photos], (*request.size, 3)
    )


def exemplar_pixels(inputs: LayerInputs, image_size: int) -> np.ndarray | None:
    """Returns the exemplars for CLIP's image tower: [layer size size 3], zeros where left out."""
    pixels = [None if e is None else clip_pixels(e, image_size) for e in inputs.exemplars]
    return _stack_or_zeros(pixels, (image_size, image_size, 3))


def _masked(
    photo: np.ndarray | None, masks: np.ndarray | None, layer: int, num_layers: int
) -> np.ndarray | None:
    if photo is None or masks is None or layer >= min(len(masks), num_layers - 1):
        return photo
    return (photo * (masks[layer] > 0)[..., None]).astype(photo.dtype)


def _stack_or_zeros(arrays: list[np.ndarray | None], shape: tuple[int, ...]) -> np.ndarray | None:
    if not arrays:
        return None
    return np.stack([np.zeros(shape, np.float32) if a is None else a for a in arrays])
