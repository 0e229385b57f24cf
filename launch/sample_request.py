"""What `launch.sample` is asked for, checked before anything slow starts."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from cnc_jax.soft_guidance import MaskRule
from configs.common import split_list
from sd_jax.attention import Implementation
from sd_jax.samplers import SAMPLERS
from sd_jax.schedule import Spacing

SIZE_MULTIPLE = 64
MAX_SIZE = 8192
DTYPES = ("float32", "bfloat16", "float16")
_LEFT_OUT = "-"


class RequestError(ValueError):
    """A request that cannot be met; lists every problem.

    Attributes:
      problems: one text each.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n- ".join(["the request cannot be met:", *problems]))


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
    problems += _check_numbers(config)
    problems += _check_names(config)
    problems += _check_layers(request)
    problems += _check_intervals(request)
    problems += _check_output(config)
    return request, problems


def _check_numbers(config: Any) -> list[str]:
    problems = []
    for name in ("height", "width"):
        value = config[name]
        if value > MAX_SIZE:
            problems.append(f"{name} must be at most {MAX_SIZE}, got {value}")
        elif value < SIZE_MULTIPLE or value % SIZE_MULTIPLE:
            near = max(1, round(value / SIZE_MULTIPLE)) * SIZE_MULTIPLE
            problems.append(
                f"{name} must be a positive multiple of {SIZE_MULTIPLE}, got {value}; "
                f"{near} is near"
            )
    for name in ("num_steps", "num_images", "batch_size", "decode_slice"):
        if config[name] < 1:
            problems.append(f"{name} must be at least 1, got {config[name]}")
    if config.num_steps > 1000:
        problems.append(f"num_steps must be at most 1000, got {config.num_steps}")
    if not 0 <= config.seed <= 2**32 - max(config.num_images, 1):
        problems.append(
            f"seed must be from 0 to {2**32 - max(config.num_images, 1)} for {config.num_images} "
            f"images, got {config.seed}"
        )
    for name in ("guidance_scale", "image_guidance_scale"):
        if not math.isfinite(config[name]) or config[name] < 0:
            problems.append(f"{name} must be a finite number of at least 0, got {config[name]}")
    if config.eta != -1 and not 0 <= config.eta <= 1:
        problems.append(f"eta must be from 0 to 1, or -1 for the default, got {config.eta}")
    return problems


def _check_output(config: Any) -> list[str]:
    folder = Path(config.output)
    if folder.exists() and not folder.is_dir():
        return [f"output: {folder} is a file; name a folder"]
    if (folder / "record.json").exists() and not config.overwrite:
        return [
            f"output: {folder} holds the record of another run; choose another folder or pass "
            "--config.overwrite=True"
        ]
    return []


def _check_names(config: Any) -> list[str]:
    choices: dict[str, tuple[str, ...]] = {
        "sampler": tuple(sorted(SAMPLERS)),
        "spacing": get_args(Spacing),
        "mask_rule": get_args(MaskRule),
        "attention": get_args(Implementation),
        "dtype": DTYPES,
        "local_condition": ("depth", "canny"),
        "long_prompts": ("cut", "chunks"),
    }
    problems = []
    for name, known in choices.items():
        if config[name] not in known:
            near = difflib.get_close_matches(config[name], known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            problems.append(f"{name} must be one of {', '.join(known)}, got {config[name]!r}{hint}")
    return problems


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


def collect(problems: list[str], action: Callable[[], Any]) -> Any:
    """Returns what `action` returns; a ValueError becomes some of `problems` and gives None."""
    try:
        return action()
    except RequestError as error:
        problems.extend(error.problems)
        return None
    except ValueError as error:
        problems.append(str(error))
        return None
