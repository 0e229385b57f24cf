"""What `launch.sample` is asked for, checked before anything slow starts."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, get_args

from cnc_jax.soft_guidance import MaskRule
from configs.common import split_list
from launch.setting_checks import (
    MAX_SIZE,
    SAMPLING_CHOICES,
    SIZE_MULTIPLE,
    choice_problems,
    collect,
    count_problems,
    output_problems,
    scale_problems,
    seed_problems,
    size_problems,
)

_LEFT_OUT = "-"
_CHOICES = {
    **SAMPLING_CHOICES,
    "mask_rule": get_args(MaskRule),
    "local_condition": ("depth", "canny"),
}


@dataclasses.dataclass(frozen=True)
class SampleRequest:
    """A checked config; lists are tuples, layers from front to back, None for a layer left out.

    Attributes:
      config: as given, for the record.
      checkpoints: that complete one another.
      depth_maps: files.
      photos: files, in place of depth maps.
      exemplars: files.
      masks: files, of all layers or of all but the last.
      seeds: of the images.
      exemplar_strengths: one, or one for each layer.
      depth_gains: one, or one for each layer.
      residual_scales: one, or one for each residual.
      depth_interval: (start, end).
      exemplar_interval: (start, end).
    """

    config: Any
    checkpoints: tuple[Path, ...]
    depth_maps: tuple[Path | None, ...]
    photos: tuple[Path | None, ...]
    exemplars: tuple[Path | None, ...]
    masks: tuple[Path | None, ...]
    seeds: tuple[int, ...]
    exemplar_strengths: tuple[float, ...]
    depth_gains: tuple[float, ...]
    residual_scales: tuple[float, ...]
    depth_interval: tuple[float, ...]
    exemplar_interval: tuple[float, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images; the smallest possible if what is asked for is not."""
        size = self.config.height, self.config.width
        possible = all(SIZE_MULTIPLE <= side <= MAX_SIZE for side in size)
        return size if possible else (SIZE_MULTIPLE, SIZE_MULTIPLE)

    @property
    def num_layers(self) -> int:
        """Layers that the files describe; 0 without any."""
        return max(len(self.depth_maps), len(self.photos), len(self.exemplars))


def parse_request(config: Any) -> tuple[SampleRequest, list[str]]:
    """Returns the request of a config, and all that is out of range, unknown or contradictory.

    A request with problems still tells its files and checkpoints, so that theirs can be found in
    the same run.
    """
    problems: list[str] = []

    def numbers(name: str, default: tuple[float, ...] = (1.0,)) -> tuple[float, ...]:
        try:
            values = tuple(float(item) for item in split_list(config[name]))
        except ValueError:
            problems.append(f"{name} must be numbers joined by commas, got {config[name]!r}")
            return default
        if not values or not all(map(math.isfinite, values)):
            problems.append(f"{name} must be finite numbers, got {config[name]!r}")
            return default
        return values

    def paths(name: str) -> tuple[Path | None, ...]:
        items = collect(problems, lambda: split_list(config[name])) or []
        return tuple(None if item == _LEFT_OUT else Path(item) for item in items)

    request = SampleRequest(
        config=config,
        checkpoints=tuple(path for path in paths("checkpoint") if path is not None),
        depth_maps=paths("depth_maps"),
        photos=paths("photos"),
        exemplars=paths("exemplars"),
        masks=paths("masks"),
        seeds=tuple(range(config.seed, config.seed + max(config.num_images, 0))),
        exemplar_strengths=numbers("exemplar_strengths"),
        depth_gains=numbers("depth_gains"),
        residual_scales=numbers("residual_scales"),
        depth_interval=numbers("depth_interval", (0.0, 1.0)),
        exemplar_interval=numbers("exemplar_interval", (0.0, 1.0)),
    )
    problems += size_problems(config, "height", "width")
    problems += count_problems(config, "num_steps", "num_images", "batch_size", "decode_slice")
    problems += seed_problems(config, "num_images")
    problems += scale_problems(config, "guidance_scale", "image_guidance_scale")
    problems += choice_problems(config, _CHOICES)
    problems += _check_layers(request)
    problems += _check_intervals(request)
    problems += output_problems(config)
    return request, problems


def _check_layers(request: SampleRequest) -> list[str]:
    problems = []
    if not request.checkpoints:
        problems.append("checkpoint is empty; name a file, a folder, or several joined by commas")
    if request.depth_maps and request.photos:
        problems.append("depth_maps and photos are both given; photos stand in for depth maps")
    if request.photos and request.config.local_condition == "depth":
        if not request.config.depth_estimator:
            problems.append(
                "photos need depth_estimator, the folder of a depth model's weights (DPT), or "
                "local_condition=canny with a model trained on edges"
            )
        elif not Path(request.config.depth_estimator).is_dir():
            problems.append(f"depth_estimator: no folder {request.config.depth_estimator}")
    layers = request.num_layers
    for name in ("depth_maps", "photos", "exemplars"):
        count = len(getattr(request, name))
        if count not in (0, layers):
            problems.append(
                f"{name} has {count} layers, others have {layers}; "
                f"put {_LEFT_OUT!r} for a layer left out"
            )
    if request.masks and not layers:
        problems.append("masks are given, but no layers (depth_maps, photos or exemplars)")
    elif len(request.masks) not in ((0,) if not layers else (0, layers - 1, layers)):
        problems.append(
            f"masks has {len(request.masks)} layers, expected {layers - 1} "
            "(all but the last) or all"
        )
    for name in ("exemplar_strengths", "depth_gains"):
        count = len(getattr(request, name))
        if layers and count not in (1, layers):
            problems.append(f"{name} has {count} numbers, expected 1 or {layers}")
    return problems


def _check_intervals(request: SampleRequest) -> list[str]:
    problems = []
    for name in ("depth_interval", "exemplar_interval"):
        values = getattr(request, name)
        if len(values) != 2 or not 0 <= values[0] <= values[1] <= 1:
            problems.append(f"{name} must be start,end with 0 <= start <= end <= 1, got {values}")
    for name in ("exemplar_strengths", "depth_gains"):
        if any(value < 0 for value in getattr(request, name)):
            problems.append(f"{name} must not be negative, got {getattr(request, name)}")
    return problems
