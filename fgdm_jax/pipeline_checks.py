"""What a pipeline is asked for, part by part; each part adds what is wrong with it to a list.

So that one error tells everything: a part that is wrong returns something empty, and the others go
on without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from fgdm_jax.drawn import Drawn
from fgdm_jax.fit import needed_components, size_problems
from fgdm_jax.given import given_picture
from fgdm_jax.graph import Factor, FactorGraph, parse_graph, sampling_order, unknown_name
from fgdm_jax.scores import Palette, objects_of
from sd_jax.model import Model
from sd_jax.samplers import make_sampler
from sd_jax.sampling import SamplerTable
from sd_jax.schedule import Spacing, make_schedule, sampling_timesteps

GRAPHS = {
    "controlnet": "segmentation, image<segmentation:controlnet",
    "image": "segmentation, image<segmentation",
    "chain": "segmentation, depth<segmentation, image<segmentation+depth",
    "layered": "foreground_depth, background_depth<foreground_depth, "
    "image<foreground_depth+background_depth:cnc",
}
"""Graphs by name, as `configs/sample_fgdm.py` has them."""

_SIZE_STEP = 64
_LAST_SEED = 2**32 - 1

T = TypeVar("T")


def collect(problems: list[str], function: Callable[[], T]) -> T | None:
    """Returns what the function returns; if it raises ValueError, adds its lines to the problems.

    Args:
      problems: so far.
      function: to call.
    """
    try:
        return function()
    except ValueError as error:
        problems += str(error).split("\n")
        return None


def find_graph(problems: list[str], graph: str | Sequence[Factor]) -> FactorGraph:
    """Returns the graph of a name, a text or factors; empty if it is wrong.

    Args:
      problems: so far.
      graph: as the user gave it.
    """
    if not isinstance(graph, str):
        factors = tuple(graph)
        return factors if collect(problems, lambda: sampling_order(factors)) else ()
    return collect(problems, lambda: parse_graph(GRAPHS.get(graph, graph))) or ()


def find_order(
    problems: list[str],
    graph: FactorGraph,
    variables: Sequence[str] | None,
    given: Collection[str],
    is_drawn: bool,
) -> FactorGraph:
    """Returns the factors that are drawn, parents first; empty if something is wrong.

    Args:
      problems: so far.
      graph: checked.
      variables: that are wanted.
      given: names of variables that are not drawn.
      is_drawn: whether they come from an earlier call, which may have more than is needed.
    """
    if not graph:
        return ()
    names = [factor.variable for factor in graph]
    if variables is None:
        variables = [f.variable for f in graph if f.kind != "cnc" and f.variable not in given]
    variables = _listed(variables)
    given = [name for name in given if not is_drawn or name in names]
    both = [name for name in variables if name in given]
    if is_drawn:
        # Drawn anew.
        given, both = [name for name in given if name not in both], []
    problems += [f"{name} is both wanted and given; leave one out" for name in both]
    order = collect(problems, lambda: sampling_order(graph, variables, given))
    if order is None or both:
        return ()
    if not order:
        problems.append(
            f"there is nothing to draw: {', '.join(given) or 'nothing'} is given, and nothing else "
            "of the graph is wanted"
        )
    seen = {parent for factor in order for parent in factor.parents}
    problems += [
        f"given: {name} is seen by nothing that is drawn; leave it out, or want what it leads to"
        for name in given
        if order and not is_drawn and name not in seen
    ]
    if any(factor.kind == "cnc" for factor in order):
        problems.append(
            "the image is composed by Compose and Conquer: draw its parents, and give their maps "
            "as the depth of layers to cnc_jax.pipeline.ComposeAndConquer"
        )
        return ()
    return order


def ancestors(graph: FactorGraph, variables: Collection[str]) -> set[str]:
    """Returns the variables that some are drawn from, directly or not, without themselves.

    Args:
      graph: checked.
      variables: of the graph.
    """
    parents = {factor.variable: factor.parents for factor in graph}
    found: set[str] = set()
    waiting = list(variables)
    while waiting:
        following = set(parents[waiting.pop()]) - found
        found |= following
        waiting += following
    return found - set(variables)


def find_given(
    problems: list[str], given: Mapping[str, np.ndarray], palette: Palette | None
) -> dict[str, np.ndarray]:
    """Returns the maps that the user has, as pictures in [-1, 1], float32 [h w 3].

    Args:
      problems: so far.
      given: by variable, for one draw.
      palette: of segmentations.
    """
    found = {
        name: collect(
            problems, lambda name=name, array=array: given_picture(name, np.asarray(array), palette)
        )
        for name, array in given.items()
    }
    return {name: picture for name, picture in found.items() if picture is not None}


def find_seeds(
    problems: list[str], seeds: Sequence[int] | None, drawn: Drawn | None
) -> tuple[int, ...]:
    """Returns the seeds of the draws.

    Args:
      problems: so far.
      seeds: as the user gave them.
      drawn: draws of an earlier call.
    """
    if seeds is None:
        return (0,) if drawn is None else drawn.seeds
    wrong = [seed for seed in seeds if not (_is_whole(seed) and 0 <= seed <= _LAST_SEED)]
    if wrong:
        problems.append(f"seeds must be whole numbers from 0 to {_LAST_SEED}, got {wrong}")
    if not len(seeds):
        problems.append("seeds are empty; name one for each draw")
    if drawn is not None and len(drawn) not in (1, len(seeds)):
        problems.append(f"there are {len(seeds)} seeds for {len(drawn)} given draws; take as many")
    return () if wrong else tuple(int(seed) for seed in seeds)


def find_sizes(
    problems: list[str],
    order: FactorGraph,
    size: tuple[int, int] | None,
    map_size: tuple[int, int] | None,
    known: Mapping[str, tuple[int, int]],
) -> dict[str, tuple[int, int]]:
    """Returns (height, width) in pixels of each drawn variable.

    Args:
      problems: so far.
      order: the factors that are drawn.
      size: of images, as the user gave it.
      map_size: of maps, likewise.
      known: sizes of given variables.
    """
    for name, value in (("size", size), ("map_size", map_size)):
        if value is not None and not _is_size(value):
            problems.append(
                f"{name} must be (height, width), multiples of {_SIZE_STEP}, got {value}"
            )
    of_maps = {value for name, value in known.items() if name != "image"}
    if map_size is None and len(of_maps) == 1:
        map_size = of_maps.pop()
    size, map_size = size or map_size, map_size or size
    sizes = {}
    for factor in order:
        found = factor.size or (size if factor.variable == "image" else map_size)
        if found is not None:
            sizes[factor.variable] = (int(found[0]), int(found[1]))
    if len(sizes) < len(order):
        problems.append("size: nothing tells it; give (height, width)")
    return sizes


def find_tables(
    problems: list[str],
    order: FactorGraph,
    model: Model,
    sampler: str,
    spacing: Spacing,
    steps: tuple[int, int],
) -> dict[str, SamplerTable]:
    """Returns the sampler of each drawn variable.

    Args:
      problems: so far.
      order: the factors that are drawn.
      model: for its schedule.
      sampler: its name.
      spacing: of the timesteps.
      steps: number of an image's, and of a map's.
    """
    schedule = model.config.schedule

    def table(number: int) -> SamplerTable:
        timesteps = sampling_timesteps(number, schedule.num_train_timesteps, spacing)
        return make_sampler(sampler, make_schedule(schedule), timesteps)

    numbers = {
        factor.variable: factor.num_steps or steps[factor.variable != "image"] for factor in order
    }
    found: list[str] = []
    tables = {
        number: collect(found, lambda number=number: table(number)) for number in numbers.values()
    }
    problems += dict.fromkeys(found)
    return {name: item for name, number in numbers.items() if (item := tables[number]) is not None}


def model_problems(order: FactorGraph, model: Model) -> list[str]:
    """Returns the components that the model lacks, and the sizes that do not fit.

    Args:
      order: the factors that are drawn.
      model: as loaded.
    """
    problems = [
        f"the model has no {name}, which the graph needs; load a checkpoint that has one"
        for name in needed_components(order)
        if name not in model.params
    ]
    configs = {name: getattr(model.config, name) for name in model.params}
    return problems + size_problems(order, configs)


def find_objects(
    problems: list[str],
    prompt: str,
    objects: Sequence[str],
    order: FactorGraph,
    given: Collection[str],
    palette: Palette | None,
) -> tuple[str, ...]:
    """Returns the classes to look for in segmentations, and finds out whether a palette is missing.

    Args:
      problems: so far.
      prompt: what to see.
      objects: as the user named them; those of the prompt if none.
      order: the factors that are drawn.
      given: names of variables that are not drawn.
      palette: of the pipeline.
    """
    if palette is not None:
        return collect(problems, lambda: objects_of(prompt, palette, _listed(objects))) or ()
    if "segmentation" in {factor.variable for factor in order} | set(given):
        problems.append(
            "no palette tells the classes of segmentations; load the pipeline with "
            "palette=input_pipeline.palettes.palette(NAME), that of the training"
        )
    return ()


def number_problems(
    tables: Mapping[str, SamplerTable],
    scales: Mapping[str, float | None],
    keep_steps: Sequence[int],
    batch_size: int | None,
) -> list[str]:
    """Returns numbers that are out of range.

    Args:
      tables: samplers of the drawn variables.
      scales: by name.
      keep_steps: as the user gave them.
      batch_size: likewise.
    """
    problems = [
        f"{name} must be a finite number, got {value}"
        for name, value in scales.items()
        if value is not None and not math.isfinite(value)
    ]
    last = min((table.timesteps.shape[0] for table in tables.values()), default=0) - 1
    outside = [step for step in keep_steps if not (_is_whole(step) and 0 <= step <= last)]
    if tables and outside:
        problems.append(f"keep_steps must be from 0 to {last}, got {outside}")
    if len(set(keep_steps)) < len(keep_steps):
        problems.append(f"keep_steps must name each step once, got {list(keep_steps)}")
    if batch_size is not None and not (_is_whole(batch_size) and batch_size >= 1):
        problems.append(f"batch_size must be at least 1, got {batch_size}")
    return problems


def choice_problems(values: Mapping[str, tuple[Any, Sequence[str]]]) -> list[str]:
    """Returns values that are none of their choices.

    Args:
      values: (value, choices) by name.
    """
    return [
        unknown_name(name, value, choices)
        for name, (value, choices) in values.items()
        if value not in choices
    ]


def _listed(names: Sequence[str]) -> list[str]:
    """Returns names as a list; a text is one name, not its letters."""
    return [names] if isinstance(names, str) else list(names)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) == 2
        and all(_is_whole(side) and side > 0 and side % _SIZE_STEP == 0 for side in value)
    )
