"""The work of `launch.convert`: sources -> a converted directory, with or without surgery."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import jax
from tqdm import tqdm

from cnc_jax.convert import COMPONENTS
from cnc_jax.load import CnCConfig
from cnc_jax.surgery import (
    Operation,
    extend_local,
    init_global,
    init_local,
    init_local_fromuni,
    integrate,
)
from fgdm_jax.load import named_paths
from launch.components import components_of
from sd_jax.convert.component import LayoutName
from sd_jax.convert.load import Plan, plan_loading
from sd_jax.convert.source import CheckpointError, open_source
from sd_jax.convert.store import is_converted, save_model, save_plans
from sd_jax.load import open_checkpoints, schedule_of
from sd_jax.model import Model

_HEADER = ("component", "from", "loaded", "fresh", "")
_GROUPS_SHOWN = 8

Surgery = Literal["init_local", "init_local_fromuni", "extend_local", "init_global", "integrate"]


@dataclasses.dataclass(frozen=True)
class ConvertRequest:
    """What `launch.convert` is asked for.

    Attributes:
      sources: files and folders; later ones add the components that earlier ones lack. A source
        "variable=path" says of which variable an FG-DM or T2I-Adapter file's adapter is;
        without, of segmentation.
      output: directory to make.
      layout: of the sources; detected if None.
      surgery: name of a function of `cnc_jax.surgery`, or None.
      depth_streams: see `init_local_fromuni`.
      num_layers: layers of a new or extended fuser; 2, and 3 for `extend_local`, if None.
      num_heads: attention heads where no config tells them.
      use_ema: take the UNet's averaged weights.
      seed: of new weights.
      overwrite: replace the output if it is there.
    """

    sources: Sequence[str]
    output: str
    layout: LayoutName | None = None
    surgery: Surgery | None = None
    depth_streams: str = "uni"
    num_layers: int | None = None
    num_heads: int | None = None
    use_ema: bool = False
    seed: int = 0
    overwrite: bool = False


def convert(request: ConvertRequest) -> str:
    """Writes the converted directory; returns a table of what came from where.

    Raises:
      CheckpointError: a source cannot be used, or the output is there.
    """
    if Path(request.output).exists() and not request.overwrite:
        raise CheckpointError(
            f"{request.output}: is there already; choose another output or pass --overwrite"
        )
    surgery = request.surgery
    rows = _convert(request) if surgery is None else _operate(request, surgery)
    return f"{_format([_HEADER, *rows])}\nwrote {request.output}"


def _convert(request: ConvertRequest) -> list[tuple[str, ...]]:
    sources = named_paths(request.sources)
    plans = [_plan(request, variable, str(source)) for variable, source in sources]
    with_unet = next((plan for plan in plans if "unet" in plan.configs), plans[0])
    names = {name for plan in plans for name in plan.configs}
    with tqdm(total=len(names), unit="component") as bar:
        save_plans(
            plans,
            components_of(),
            request.output,
            schedule_of(with_unet.source),
            overwrite=request.overwrite,
            report=lambda name: (bar.set_postfix_str(name), bar.update()),
        )
    return _rows_of_plans(plans)


def _plan(request: ConvertRequest, variable: str, source: str) -> Plan:
    if is_converted(source):
        raise CheckpointError(
            f"{source}: is converted already; launch.convert takes PyTorch's layouts"
        )
    return plan_loading(
        open_source(source, request.layout),
        components_of(variable),
        num_heads=request.num_heads,
        use_ema=request.use_ema,
    )


def _operate(request: ConvertRequest, surgery: Surgery) -> list[tuple[str, ...]]:
    if request.layout is not None:
        raise CheckpointError("--layout does nothing with --surgery; leave it out")
    opened = open_checkpoints(
        request.sources, COMPONENTS, num_heads=request.num_heads, use_ema=request.use_ema
    )

    def load(sources: Sequence[str]) -> Model:
        return open_checkpoints(
            sources, COMPONENTS, num_heads=request.num_heads, use_ema=request.use_ema
        ).load(CnCConfig)

    layers, seed = request.num_layers or (3 if surgery == "extend_local" else 2), request.seed
    operations: dict[Surgery, Callable[[], Operation]] = {
        "init_local": lambda: init_local(load(request.sources), num_layers=layers, seed=seed),
        "init_local_fromuni": lambda: init_local_fromuni(
            load(request.sources),
            num_layers=layers,
            depth_streams=request.depth_streams,
            seed=seed,
        ),
        "extend_local": lambda: extend_local(load(request.sources), num_layers=layers),
        "init_global": lambda: init_global(load(request.sources), num_layers=layers, seed=seed),
        "integrate": lambda: integrate(load(request.sources[:1]), load(request.sources[1:])),
    }
    if surgery == "integrate" and len(request.sources) != 2:
        raise CheckpointError(
            "integrate takes two sources, a local and a global checkpoint; got "
            f"{len(request.sources)}"
        )
    operation = operations[surgery]()
    model = operation.model
    save_model(
        model.params,
        {name: getattr(model.config, name) for name in model.params},
        request.output,
        model.config.schedule,
        tokenizer=opened.tokenizer,
        overwrite=request.overwrite,
    )
    return _rows_of_operation(operation, request)


def _rows_of_plans(plans: Sequence[Plan]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    taken: dict[str, str] = {}
    for plan in plans:
        source = plan.source.path.name
        for name, entries in plan.entries.items():
            if name in taken:
                first = f"not taken: {taken[name]} has one, and goes first"
                rows.append((name, source, "0", "0", first))
            else:
                rows.append((name, source, str(len(entries)), "0", ""))
                taken[name] = source
        if plan.unused:
            kept = f"{len(plan.unused)} kept for export: {summary(plan.unused)}"
            rows.append(("(unused)", source, "", "", kept))
    return rows


def _rows_of_operation(operation: Operation, request: ConvertRequest) -> list[tuple[str, ...]]:
    rows = []
    sources = ", ".join(Path(source).name for source in request.sources)
    for name, tree in operation.model.params.items():
        fresh = sum(path.startswith(f"{name}/") for path in operation.fresh)
        loaded = len(jax.tree.leaves(tree)) - fresh
        note = f"made by {request.surgery}" if fresh else ""
        rows.append((name, sources, str(loaded), str(fresh), note))
    return rows


def summary(names: Iterable[str]) -> str:
    """Returns names in few words: those of one module as "module.* (12)"."""
    groups: dict[str, list[str]] = collections.defaultdict(list)
    for name in names:
        groups[name.partition(".")[0]].append(name)
    parts = [
        group[0] if len(group) == 1 else f"{module}.* ({len(group)})"
        for module, group in groups.items()
    ]
    if len(parts) > _GROUPS_SHOWN:
        parts[_GROUPS_SHOWN:] = [f"and {len(parts) - _GROUPS_SHOWN} more"]
    return ", ".join(parts)


def _format(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
