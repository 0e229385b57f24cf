"""Settings of `launch.train`: what their texts mean, and all that is wrong with them at once."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from configs.common import split_list, unknown_name
from input_pipeline.stream import StreamConfig
from launch.prepare_settings import parse_sizes
from launch.setting_checks import RequestError
from sd_jax.attention import Implementation
from sd_jax.remat import REMATS
from sd_jax.training.mesh import MeshConfig
from sd_jax.training.optim import OptimizerConfig

_SIZE_MULTIPLE = 64
_STEPS = re.compile(r"(\d+)-(\d+)")
_CHOICES: dict[str, tuple[str, ...]] = {
    "latents": ("encode", "cached"),
    "text": ("encode", "cached"),
    "frozen": ("replicated", "sharded"),
    "dtype": ("float32", "bfloat16"),
    "frozen_dtype": ("float32", "bfloat16"),
    "remat": REMATS,
    "attention": get_args(Implementation),
    "on_damaged_checkpoint": ("fail", "previous"),
}
_AT_LEAST_0 = (
    *("num_epochs", "num_steps", "warmup_steps", "max_skipped", "workers", "memory_limit_gb"),
    *("log_every", "eval_every", "sample_every", "save_every", "keep_every"),
    *("min_snr_gamma", "num_samples"),
)
_AT_LEAST_1 = ("global_batch_size", "accumulation", "eval_examples", "sample_steps", "keep_last")
_MANY_STEPS = 2**31
_MANY_SAMPLES = 64
_OUR_NAMES = {"name": "optimizer", "batch_size": "global_batch_size"}
_WRITERS = ("json", "tensorboard", "wandb")

SCENES = "scenes"
"""The data set that needs no files."""


class TrainError(RequestError):
    """A run that cannot start; lists every problem."""

    headline = "the run cannot start:"


@dataclasses.dataclass(frozen=True)
class TrainRequest:
    """What a run is asked for, its texts parsed.

    Attributes:
      config: every setting.
      workdir: folder of the run.
      init: checkpoints to start from.
      data: folders of shards, or "scenes".
      eval_data: likewise, held out; empty for the training data.
      weights: shares of the data; None for those of their lengths.
      sizes: heights and widths of batches.
      writers: names.
      profile_steps: first and last step that is traced, or None.
    """

    config: Any
    workdir: Path
    init: tuple[str, ...]
    data: tuple[str, ...]
    eval_data: tuple[str, ...]
    weights: tuple[float, ...] | None
    sizes: tuple[tuple[int, int], ...]
    writers: tuple[str, ...]
    profile_steps: tuple[int, int] | None

    @property
    def mesh(self) -> MeshConfig:
        """Sizes of the mesh's axes."""
        config = self.config
        return MeshConfig(data=config.data_parallel, fsdp=config.fsdp, tensor=config.tensor)

    def optimizer(self, num_steps: int) -> OptimizerConfig:
        """Returns the optimizer of a run.

        Args:
          num_steps: of the whole run.
        """
        config = self.config
        return OptimizerConfig(
            name=config.optimizer,
            learning_rate=config.learning_rate,
            schedule=config.schedule,
            warmup_steps=config.warmup_steps,
            num_steps=num_steps,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
        )

    def stream(self, keys: tuple[str, ...], drop: dict[str, float]) -> StreamConfig:
        """Returns the settings of the training stream.

        Args:
          keys: of the batch.
          drop: what is dropped, and how often.
        """
        config = self.config
        return StreamConfig(
            keys=keys,
            batch_size=config.global_batch_size,
            seed=config.seed,
            sizes=self.sizes,
            weights=self.weights,
            crop=config.crop,
            flip=config.flip,
            caption=config.caption,
            drop={name: chance for name, chance in drop.items() if chance},
            bad_records=config.bad_records,
            max_bad_records=config.max_bad_records,
        )


def parse_request(config: Any, workdir: str) -> tuple[TrainRequest, list[str]]:
    """Returns the request of a config, and what is out of range, unknown or contradictory.

    A request with problems still tells its files, so that theirs can be found in the same run.

    Args:
      config: of `configs/cnc.py`, or another system's.
      workdir: folder of the run.
    """
    problems: list[str] = []

    def parsed(parse: Callable[[], Any], default: Any) -> Any:
        try:
            return parse()
        except ValueError as error:
            problems.append(str(error))
            return default

    weights = parsed(lambda: _numbers("weights", config.weights), ()) or None
    request = TrainRequest(
        config=config,
        workdir=Path(workdir),
        init=tuple(parsed(lambda: split_list(config.init), [])),
        data=tuple(parsed(lambda: split_list(config.data), [])),
        eval_data=tuple(parsed(lambda: split_list(config.eval_data), [])),
        weights=weights,
        sizes=parsed(lambda: parse_sizes(config.sizes), ((512, 512),)),
        writers=tuple(parsed(lambda: split_list(config.writers), [])),
        profile_steps=parsed(lambda: _step_range(config.profile_steps), None),
    )
    problems += _number_problems(config)
    problems += [
        f"{name}: {_unknown(config[name], known)}"
        for name, known in _CHOICES.items()
        if config[name] not in known
    ]
    problems += [f"writers: {_unknown(n, _WRITERS)}" for n in request.writers if n not in _WRITERS]
    problems += [
        f"writers: {name} stands there twice"
        for name in dict.fromkeys(request.writers)
        if request.writers.count(name) > 1
    ]
    problems += _file_problems(request)
    # Epochs become steps when the data is known.
    ours = request.optimizer(config.num_steps or _MANY_STEPS).problems()
    ours += request.stream(("image",), {}).problems()
    named = {problem.split()[0] for problem in problems}
    ours = [problem for problem in map(_in_our_names, ours) if problem.split()[0] not in named]
    return request, [*problems, *ours]


def _in_our_names(problem: str) -> str:
    """Returns a problem of the optimizer's or the stream's settings in the names of ours."""
    name, _, rest = problem.partition(" ")
    return f"{_OUR_NAMES.get(name, name)} {rest}"


def _number_problems(config: Any) -> list[str]:
    problems = [
        f"{name} must be at least 0, got {config[name]}" for name in _AT_LEAST_0 if config[name] < 0
    ]
    problems += [
        f"{name} must be at least 1, got {config[name]}" for name in _AT_LEAST_1 if config[name] < 1
    ]
    problems += [
        f"{name} must be a finite number, got {config[name]}"
        for name in sorted(config)
        if isinstance(config[name], float) and not math.isfinite(config[name])
    ]
    if config.num_steps > 0 < config.num_epochs or config.num_steps == 0 == config.num_epochs:
        problems.append(
            f"num_steps is {config.num_steps} and num_epochs {config.num_epochs}; give one of "
            "them, and set the other to 0"
        )
    if config.num_samples > _MANY_SAMPLES:
        problems.append(f"num_samples is {config.num_samples}; at most {_MANY_SAMPLES} are drawn")
    if config.guidance_scale < 0:
        problems.append(f"guidance_scale must be at least 0, got {config.guidance_scale}")
    if config.global_batch_size >= 1 and config.global_batch_size % max(config.accumulation, 1):
        problems.append(
            f"global_batch_size is {config.global_batch_size}, which {config.accumulation} "
            "microbatches (accumulation) do not divide"
        )
    if not 0 <= config.seed < 2**32:
        problems.append(f"seed must be from 0 to 2**32 - 1, got {config.seed}")
    if not 0 <= config.ema_decay < 1:
        problems.append(f"ema_decay must be from 0 to less than 1, got {config.ema_decay}")
    problems += [
        f"{name} must be a probability, got {config[name]}"
        for name in ("drop_caption", "drop_condition", "null_parents")
        if not 0 <= config.get(name, 0.0) <= 1
    ]
    return problems


def _file_problems(request: TrainRequest) -> list[str]:
    problems = []
    if not str(request.workdir) or request.workdir == Path():
        problems.append("workdir is empty; name a folder for the run (--workdir=runs/NAME)")
    elif request.workdir.exists() and not request.workdir.is_dir():
        problems.append(f"workdir: {request.workdir} is a file; name a folder")
    if not request.data:
        problems.append("data is empty; name folders of shards (launch.prepare_data), or scenes")
    for name in ("data", "eval_data"):
        problems += [
            f"{name}: there is no folder {item}"
            for item in getattr(request, name)
            if item != SCENES and not Path(item).is_dir()
        ]
    if request.weights is not None and len(request.weights) != len(request.data):
        problems.append(
            f"weights has {len(request.weights)} numbers, expected one for each of the "
            f"{len(request.data)} data folders"
        )
    problems += [
        f"sizes: {height}x{width} is no multiple of {_SIZE_MULTIPLE} on both sides"
        for height, width in request.sizes
        if height % _SIZE_MULTIPLE or width % _SIZE_MULTIPLE
    ]
    return problems


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(item) for item in split_list(text))
    except ValueError as error:
        raise ValueError(f"{name} must be numbers joined by commas, got {text!r}") from error
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"{name} must be finite numbers, got {text!r}")
    return values


def _step_range(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    match = _STEPS.fullmatch(text)
    if match is None or int(match[1]) > int(match[2]):
        raise ValueError(f"profile_steps must be FIRST-LAST, such as 10-12, got {text!r}")
    return int(match[1]), int(match[2])


def _unknown(value: str, known: tuple[str, ...]) -> str:
    return unknown_name("value", value, known)
