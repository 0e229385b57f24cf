"""What `launch.sample` is asked for of a graph of factors, checked before anything slow starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from configs.common import split_list
from configs.sample_fgdm import GRAPHS
from fgdm_jax.draw import HandOver
from fgdm_jax.graph import VARIABLES, Factor, FactorGraph, Mode, parse_graph, sampling_order
from fgdm_jax.graph import unknown_name as unknown_variable
from fgdm_jax.load import named_paths
from fgdm_jax.scores import objects_of
from input_pipeline.palettes import PALETTE_NAMES, Palette, palette
from launch.setting_checks import (
    SAMPLING_CHOICES,
    choice_problems,
    collect,
    count_problems,
    scale_problems,
    seed_problems,
    size_problems,
)
from launch.train_changes import PALETTE
from sd_jax.embedded import is_embedded
from sd_jax.training.run_folder import RunFolder

_USUAL_PALETTE = "coco"
_CHOICES = {
    **SAMPLING_CHOICES,
    "palette": ("", *PALETTE_NAMES),
    "mode": get_args(Mode),
    "hand_over": get_args(HandOver),
}


@dataclasses.dataclass(frozen=True)
class DrawRequest:
    """A checked config.

    Attributes:
      config: as given, for the record.
      checkpoints: (variable of the adapter in files that do not say it, path).
      graph: of the factors; empty if the text of it is wrong.
      order: the factors that are drawn, parents first.
      given: files by variable.
      seeds: of the draws.
      keep: steps whose predictions are kept.
      palette: of segmentations.
      objects: names of the classes asked for.
    """

    config: Any
    checkpoints: tuple[tuple[str, Path], ...]
    graph: FactorGraph
    order: FactorGraph
    given: Mapping[str, Path]
    seeds: tuple[int, ...]
    keep: tuple[int, ...]
    palette: Palette
    objects: tuple[str, ...]

    @property
    def maps(self) -> tuple[str, ...]:
        """Variables that are drawn, without the image."""
        return tuple(factor.variable for factor in self.order if factor.variable != "image")

    @property
    def image(self) -> Factor | None:
        """The image's factor, if it is drawn."""
        return next((factor for factor in self.order if factor.variable == "image"), None)

    @property
    def scores(self) -> bool:
        """Whether the draws differ in a segmentation in which objects can be looked for."""
        return "segmentation" in self.maps and bool(self.objects)

    @property
    def is_chosen(self) -> bool:
        """Whether images are made of some draws only."""
        return self.image is not None and self.config.num_images < self.config.num_draws

    @property
    def is_together(self) -> bool:
        """Whether images are drawn in the same call as their maps, of every draw one."""
        image = self.image
        return image is not None and image.kind != "cnc" and not self.is_chosen

    def size(self, variable: str) -> tuple[int, int]:
        """Returns (height, width) of a variable in pixels.

        Args:
          variable: of the graph.
        """
        config = self.config
        usual = (config.height, config.width)
        if variable != "image":
            usual = (config.map_height, config.map_width)
        return self._factor(variable).size or usual

    def num_steps(self, variable: str) -> int:
        """Returns the number of steps in which a variable is drawn.

        Args:
          variable: of the graph.
        """
        usual = self.config.num_steps if variable == "image" else self.config.map_steps
        return self._factor(variable).num_steps or usual

    def _factor(self, variable: str) -> Factor:
        return next(factor for factor in self.graph if factor.variable == variable)


def parse_request(config: Any) -> tuple[DrawRequest, list[str]]:
    """Returns the request of a config, and all that is out of range, unknown or contradictory.

    A request with problems still tells its files and checkpoints, so that theirs can be found in
    the same run.

    Args:
      config: of `configs/sample_fgdm.py`.
    """
    problems = size_problems(config, "height", "width", "map_height", "map_width")
    problems += count_problems(
        config,
        *("num_steps", "map_steps", "num_draws", "num_images", "batch_size", "map_batch_size"),
        "decode_slice",
    )
    problems += seed_problems(config, "num_draws")
    problems += scale_problems(config, "guidance_scale", "map_guidance_scale")
    problems += scale_problems(config, "conditioning_scale")
    problems += choice_problems(config, _CHOICES)
    if config.num_images > config.num_draws:
        problems.append(
            f"num_images is {config.num_images}, but there are only num_draws={config.num_draws} "
            "sets of maps to make images of"
        )
    graph: FactorGraph = collect(problems, lambda: _graph(config)) or ()
    given = collect(problems, lambda: _given(config)) or {}
    order: FactorGraph = ()
    if graph:
        wanted = collect(problems, lambda: tuple(split_list(config.wanted)) or None)
        found = collect(problems, lambda: sampling_order(graph, wanted, given))
        problems += [] if found is None else _order_problems(config, wanted or (), found, given)
        order = found or ()
    checkpoints = _checkpoints(config, graph, problems)
    classes = palette(
        collect(problems, lambda: _palette(config, checkpoints, order)) or _USUAL_PALETTE
    )
    request = DrawRequest(
        config=config,
        checkpoints=checkpoints,
        graph=graph,
        order=order,
        given=given,
        seeds=tuple(range(config.seed, config.seed + max(config.num_draws, 0))),
        keep=_keep(config, order, problems),
        palette=classes,
        objects=collect(problems, lambda: _objects(config, classes)) or (),
    )
    return request, problems


def _graph(config: Any) -> FactorGraph:
    """Returns the graph, which is written out; names of presets follow the config file's."""
    if config.graph in GRAPHS and config.graph not in VARIABLES:
        raise ValueError(
            f"graph: {config.graph!r} is the name of a preset; write "
            f"--config=configs/sample_fgdm.py:graph={config.graph}"
        )
    return parse_graph(config.graph)


def _given(config: Any) -> dict[str, Path]:
    """Returns the files of variables that are not drawn."""
    problems, found = [], {}
    for item in split_list(config.given):
        name, _, path = item.partition("=")
        if not path:
            problems.append(f"given: {item!r} names no variable; write VARIABLE=FILE")
        elif name not in VARIABLES:
            problems.append(f"given: {unknown_variable('variable', name, VARIABLES)}")
        elif name in found:
            problems.append(f"given: {name} is there twice, {found[name]} and {path}; keep one")
        elif not Path(path).is_file():
            problems.append(f"given: there is no file {path} for {name}")
        else:
            found[name] = Path(path)
    if problems:
        raise ValueError("\n- ".join(problems))
    return found


def _order_problems(
    config: Any, wanted: Sequence[str], order: FactorGraph, given: Mapping[str, Path]
) -> list[str]:
    """Returns what is given and wanted in vain, and what cannot follow from an image."""
    problems = [
        f"{name} is both wanted and given; leave one out" for name in wanted if name in given
    ]
    if not order and not problems:
        problems.append("everything that is wanted is given; there is nothing to draw")
    seen = {parent for factor in order for parent in factor.parents}
    problems += [
        f"given: {name} is seen by nothing that is drawn; leave it out, or want what it leads to"
        for name in given
        if order and name not in seen
    ]
    image = next((factor for factor in order if factor.variable == "image"), None)
    after = [factor.variable for factor in order if "image" in factor.parents]
    if image is not None and after and image.kind == "cnc":
        problems.append(
            f"{', '.join(after)} would be drawn from the image, which Compose and Conquer composes "
            "last; take these out of the graph, and give them the image in another run"
        )
    elif image is not None and after and config.num_images < config.num_draws:
        problems.append(
            f"{', '.join(after)} would be drawn from the image, so that every draw needs one; set "
            f"num_images to num_draws={config.num_draws}"
        )
    return problems


def _checkpoints(
    config: Any, graph: FactorGraph, problems: list[str]
) -> tuple[tuple[str, Path], ...]:
    paths = collect(problems, lambda: split_list(config.checkpoint)) or []
    if not paths:
        problems.append("checkpoint is empty; name a file, a folder, or several joined by commas")
        return ()
    adapters = [factor.variable for factor in graph if factor.kind == "adapter"]
    unnamed = "segmentation" if "segmentation" in adapters or not adapters else adapters[0]
    items = collect(problems, lambda: named_paths(paths, unnamed)) or []
    return tuple((variable, Path(path)) for variable, path in items)


def _palette(config: Any, checkpoints: Sequence[tuple[str, Path]], order: FactorGraph) -> str:
    """Returns the name of the palette: that of the config, of the runs, or the usual one."""
    if config.palette:
        return config.palette if config.palette in PALETTE_NAMES else _USUAL_PALETTE
    trained = {str(path): palette_of_run(path) for _, path in checkpoints}
    names = {name for name in trained.values() if name in PALETTE_NAMES}
    seen = {name for factor in order for name in (factor.variable, *factor.parents)}
    if len(names) > 1 and "segmentation" in seen:
        told = ", ".join(f"{path} {name}" for path, name in trained.items() if name)
        raise ValueError(
            f"palette: the runs were trained on several ({told}); set --config.palette to that of "
            "the segmentations that are drawn"
        )
    return names.pop() if len(names) == 1 else _USUAL_PALETTE


def palette_of_run(path: Path) -> str | None:
    """Returns the name of the palette that a training run saw; None if it is no run, or saw none.

    Args:
      path: of a checkpoint: perhaps a run's folder, or RUN/checkpoints/STEP.
    """
    if is_embedded(path):
        return "scenes"
    run = RunFolder(path.parent.parent if path.parent.name == "checkpoints" else path)
    if not run.record.is_file():
        return None
    try:
        settings = run.settings()
    except ValueError:
        # Opening it as a checkpoint tells what is wrong.
        return None
    return (settings or {}).get(PALETTE)


def _keep(config: Any, order: FactorGraph, problems: list[str]) -> tuple[int, ...]:
    try:
        steps = tuple(int(item) for item in split_list(config.keep_steps))
    except ValueError:
        problems.append(f"keep_steps must be whole numbers, got {config.keep_steps!r}")
        return ()
    counts = [
        factor.num_steps or (config.num_steps if factor.variable == "image" else config.map_steps)
        for factor in order
    ]
    last = min(counts, default=1) - 1
    outside = [step for step in steps if not 0 <= step <= last]
    if outside:
        problems.append(f"keep_steps must be from 0 to {last}, got {outside}")
    if len(set(steps)) < len(steps):
        problems.append(f"keep_steps must name each step once, got {config.keep_steps}")
    return steps


def _objects(config: Any, classes: Palette) -> tuple[str, ...]:
    """Returns the classes that the user, or else the prompt, asks for."""
    return objects_of(config.prompt, classes, split_list(config.objects))
