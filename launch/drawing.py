"""The work of `launch.sample` for a graph of factors: a checked request -> maps, images, a record.

maps of all draws -> scores -> images of the best draws        prompt compliance
maps and images of all draws at once                           if nothing is chosen among them
"""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fgdm_jax.scores import Scores, score_draws, unscored
from launch.components import AnyConfig, components_of
from launch.draw_fit import fit_problems, needed_components
from launch.draw_inputs import Given, doubts, read_given
from launch.draw_outputs import DrawOutputs
from launch.draw_painter import Painter
from launch.draw_request import DrawRequest, palette_of_run, parse_request
from launch.loaded import LoadedModels
from launch.sample_safety import flagged_images
from launch.setting_checks import RequestError, collect, output_problems
from sd_jax.load import Opened, open_each
from sd_jax.samplers import make_sampler
from sd_jax.sampling import SamplerTable
from sd_jax.schedule import ScheduleConfig, make_schedule, sampling_timesteps
from sd_jax.tokenizer import load_tokenizer


def draw_from_config(config: Any, models: LoadedModels | None = None) -> Path:
    """Writes the maps and images that a config asks for; returns the folder.

    Args:
      config: of `configs/sample_fgdm.py`.
      models: that stay in memory between requests; loaded for this one alone unless given.

    Raises:
      RequestError: the config, the files and the model do not fit; nothing slow has started.
    """
    checked = _check(config)
    request, opened, tables = checked.request, checked.opened, checked.tables
    outputs = DrawOutputs(request, checked.given.maps)
    record = outputs.record
    needed = [name for name in opened.configs if name in needed_components(request, opened)]
    source = (*request.checkpoints, config.num_heads, config.use_ema)
    with record.timed("load"):
        models = models or LoadedModels()
        model = models.load(opened, AnyConfig, needed, config.dtype, source)
    with record.timed("conditions"):
        painter = Painter(request, model, tables, load_tokenizer(opened.tokenizer), checked.given)
    drawn = _Drawn({}, {}, {})
    together = ("image",) if request.is_together else ()
    if request.maps or together:
        _draw_all(painter, outputs, drawn, (*request.maps, *together))
    with record.timed("scores"):
        scores = _score(request, drawn.pictures.get("segmentation"))
    _tell(request, scores)
    chosen: Sequence[int] = ()
    if request.image is not None:
        chosen = scores.order[: config.num_images] if request.is_chosen else range(config.num_draws)
    if request.image is not None and not together:
        _draw_images(painter, outputs, drawn, chosen)
    if request.keep and drawn.kept:
        best = scores.order[0]
        kept = {
            name: painter.decode(held[best]) for name, held in drawn.kept.items() if best in held
        }
        if "image" in kept:
            # What an image was expected to become shows what it became.
            flagged = flagged_images(painter.model, kept["image"])
            if outputs.is_black(request.seeds[best]) or (flagged is not None and flagged.any()):
                kept["image"] = np.full_like(kept["image"], -1.0)
        outputs.add_predictions(request.seeds[best], kept)
    folder = outputs.finish(scores, chosen)
    parts = [f"{name} {sum(times):.1f} s" for name, times in record.seconds.items()]
    print(f"{', '.join(parts)} (with compiling)", file=sys.stderr)
    return folder


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """What there is of all draws, by variable; grows.

    Attributes:
      latents: clean, [draw h w c].
      pictures: in [-1, 1], [draw h w 3].
      kept: predicted latents by the number of the draw, [step h w c].
    """

    latents: dict[str, np.ndarray]
    pictures: dict[str, np.ndarray]
    kept: dict[str, dict[int, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class _Checked:
    """A request that can be met."""

    request: DrawRequest
    given: Given
    opened: Opened
    tables: Mapping[str, SamplerTable]


def _check(config: Any) -> _Checked:
    """Returns the request with its files read and its checkpoints opened, no weight read.

    Raises:
      RequestError: lists what is wrong with the settings, the files and the checkpoints.
    """
    request, problems = parse_request(config)
    settings_are_right = not problems
    problems += output_problems(config)
    given = collect(problems, lambda: read_given(request)) if settings_are_right else None
    opened: Opened | None = None
    if request.checkpoints:
        opened = collect(
            problems,
            lambda: open_each(
                [(path, components_of(variable)) for variable, path in request.checkpoints],
                num_heads=config.num_heads or None,
                use_ema=config.use_ema,
            ),
        )
    tables = None
    if opened is not None:
        problems += fit_problems(request, opened)
        if settings_are_right:
            schedule = opened.schedule
            tables = collect(problems, lambda: _tables(request, schedule))
    if problems or opened is None or tables is None or given is None:
        raise RequestError(problems)
    for text in [*_doubts(request), *doubts(request, given)]:
        warnings.warn(text, stacklevel=2)
    return _Checked(request, given, opened, tables)


def _tables(request: DrawRequest, schedule: ScheduleConfig) -> dict[str, SamplerTable]:
    config = request.config
    eta = None if config.eta == -1 else config.eta

    def table(num_steps: int) -> SamplerTable:
        timesteps = sampling_timesteps(num_steps, schedule.num_train_timesteps, config.spacing)
        return make_sampler(config.sampler, make_schedule(schedule), timesteps, eta=eta)

    names = [factor.variable for factor in request.order]
    return {name: table(request.num_steps(name)) for name in names}


def _doubts(request: DrawRequest) -> list[str]:
    """Returns what is possible, but seldom meant."""
    found = []
    config = request.config
    if not config.prompt.strip():
        found.append("the prompt is empty")
    for _, path in request.checkpoints:
        trained = palette_of_run(path)
        if "segmentation" in request.maps and trained not in (None, request.palette.name):
            found.append(
                f"{path} was trained on segmentations of the palette {trained}, but palette is "
                f"{request.palette.name}"
            )
    if request.is_chosen and not request.scores:
        reason = (
            "no segmentation is drawn"
            if "segmentation" not in request.maps
            else f"the prompt names no class of the palette {request.palette.name} (name some by "
            "--config.objects)"
        )
        found.append(
            f"nothing tells the draws apart, as {reason}: the first {config.num_images} of "
            f"{config.num_draws} become images"
        )
    return found


def _draw_all(
    painter: Painter, outputs: DrawOutputs, drawn: _Drawn, wanted: tuple[str, ...]
) -> None:
    """Draws variables of all draws; the maps, and the images if they are among them."""
    request = painter.request
    has_image = "image" in wanted
    most = request.config.batch_size if has_image else request.config.map_batch_size
    size = min(most, len(request.seeds))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    pictures: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    for numbers in _batches(range(len(request.seeds)), size):
        seeds = [request.seeds[number] for number in numbers]
        with outputs.record.timed("maps and images" if has_image else "maps"):
            latents, kept = painter.draw(seeds, wanted, {}, size)
            for name in wanted:
                parts[name].append(latents[name])
                pictures[name].append(painter.decode(latents[name]))
        _keep(drawn, numbers, kept)
        for name in request.maps:
            outputs.add_maps(name, seeds, pictures[name][-1])
        if has_image:
            images = pictures["image"][-1]
            outputs.add_images(seeds, images, flagged_images(painter.model, images))
    drawn.latents.update({name: np.concatenate(items) for name, items in parts.items()})
    drawn.pictures.update({name: np.concatenate(items) for name, items in pictures.items()})


def _draw_images(
    painter: Painter, outputs: DrawOutputs, drawn: _Drawn, chosen: Sequence[int]
) -> None:
    """Draws the images of some draws from their maps."""
    request = painter.request
    size = min(request.config.batch_size, len(chosen))
    for numbers in _batches(chosen, size):
        seeds = [request.seeds[number] for number in numbers]
        with outputs.record.timed("images"):
            if request.image is not None and request.image.kind == "cnc":
                maps = {name: pictures[numbers] for name, pictures in drawn.pictures.items()}
                layers = request.image.parents
                latents, kept = painter.compose(seeds, layers, maps, size), {}
            else:
                maps = {name: latents[numbers] for name, latents in drawn.latents.items()}
                found, kept = painter.draw(seeds, ("image",), maps, size)
                latents = found["image"]
            images = painter.decode(latents)
        _keep(drawn, numbers, kept)
        outputs.add_images(seeds, images, flagged_images(painter.model, images))


def _batches(numbers: Sequence[int], size: int) -> Iterator[list[int]]:
    for first in range(0, len(numbers), size):
        yield list(numbers[first : first + size])


def _keep(drawn: _Drawn, numbers: Sequence[int], kept: Mapping[str, np.ndarray]) -> None:
    for name, latents in kept.items():
        held = drawn.kept.setdefault(name, {})
        held.update({number: latents[:, row] for row, number in enumerate(numbers)})


def _tell(request: DrawRequest, scores: Scores) -> None:
    """Prints the recall table, and which draw is the best."""
    table = scores.table()
    if table is None:
        return
    source = "asked for" if request.config.objects else "in the prompt"
    print(f"objects {source}: {', '.join(scores.objects)}\n{table.text()}")
    best = scores.order[0]
    print(f"best: seed {request.seeds[best]}, {scores.label(best)}", flush=True)
    if scores.recall is not None and not scores.recall.any():
        print(
            "no draw shows any of them: draw more (num_draws), name others (objects), or set the "
            f"palette of the segmentations, if it is not {request.palette.name}",
            flush=True,
        )


def _score(request: DrawRequest, segmentations: np.ndarray | None) -> Scores:
    """Returns the scores of all draws: [draw h w 3] in [-1, 1], or None if none are drawn."""
    if segmentations is None or not request.scores:
        return unscored(request.objects, len(request.seeds))
    return score_draws(segmentations, request.objects, request.palette)
