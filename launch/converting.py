"""The work of `launch.convert`: sources -> a converted directory, with or without surgery."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from cnc_jax.convert import COMPONENTS
from cnc_jax.load import CnCConfig
from cnc_jax.surgery import Operation, init_global, init_local, init_local_fromuni, integrate
from sd_jax.convert.load import Plan, plan_loading
from sd_jax.convert.source import CheckpointError, open_source
from sd_jax.convert.store import is_converted, save_model, save_plans
from sd_jax.load import open_checkpoints, schedule_of
from sd_jax.model import Model

_ALREADY = "is converted already; launch.convert takes PyTorch's layouts"


def convert(
    sources: Sequence[str],
    output: str,
    *,
    layout: str | None,
    surgery: str | None,
    depth_streams: str,
    num_layers: int,
    num_heads: int | None,
    use_ema: bool,
    seed: int,
    overwrite: bool,
) -> str:
    """Writes the converted directory; returns a table of what came from where.

    Args:
      sources: files and folders; later ones add the components that earlier ones lack.
      output: directory to make.
      layout: of the sources; detected if None.
      surgery: name of a function of `cnc_jax.surgery`, or None.
      depth_streams: see `init_local_fromuni`.
      num_layers: layers of new fusers.
      num_heads: attention heads where no config tells them.
      use_ema: take the UNet's averaged weights.
      seed: of new weights.
      overwrite: replace the output if it is there.
    """
    if Path(output).exists() and not overwrite:
        raise CheckpointError(
            f"{output}: is there already; choose another output or pass --overwrite"
        )
    if surgery is not None:
        if layout is not None:
            raise CheckpointError("--layout does nothing with --surgery; leave it out")
        return _operate(
            sources, output, surgery, depth_streams, num_layers, num_heads, use_ema, seed, overwrite
        )
    plans = []
    for source in sources:
        if is_converted(source):
            raise CheckpointError(f"{source}: {_ALREADY}")
        plans.append(
            plan_loading(
                open_source(source, layout), COMPONENTS, num_heads=num_heads, use_ema=use_ema
            )
        )
    with_unet = next((plan for plan in plans if "unet" in plan.configs), plans[0])
    names = {name for plan in plans for name in plan.configs}
    with tqdm(total=len(names), unit="component") as bar:
        save_plans(
            plans,
            COMPONENTS,
            output,
            schedule_of(with_unet.source),
            overwrite=overwrite,
            report=lambda name: (bar.set_postfix_str(name), bar.update()),
        )
    return _table_of_plans(plans) + f"\nwrote {output}"


def _operate(
    sources: Sequence[str],
    output: str,
    surgery: str,
    depth_streams: str,
    num_layers: int,
    num_heads: int | None,
    use_ema: bool,
    seed: int,
    overwrite: bool,
) -> str:
    def load(paths: Sequence[str]) -> Model:
        opened = open_checkpoints(paths, COMPONENTS, num_heads=num_heads, use_ema=use_ema)
        return opened.load(CnCConfig)

    if surgery == "integrate":
        if len(sources) != 2:
            raise CheckpointError(
                f"integrate takes two sources, a local and a global checkpoint; got {len(sources)}"
            )
        operation = integrate(load(sources[:1]), load(sources[1:]))
    elif surgery == "init_local":
        operation = init_local(load(sources), num_layers=num_layers, seed=seed)
    elif surgery == "init_local_fromuni":
        operation = init_local_fromuni(
            load(sources), num_layers=num_layers, depth_streams=depth_streams, seed=seed
        )
    else:
        operation = init_global(load(sources), num_layers=num_layers, seed=seed)
    model = operation.model
    configs = {
        field.name: getattr(model.config, field.name)
        for field in dataclasses.fields(model.config)
        if field.name in model.params
    }
    tokenizer = open_checkpoints(sources[:1], COMPONENTS, num_heads=num_heads).tokenizer
    save_model(
        model.params,
        configs,
        output,
        model.config.schedule,
        tokenizer=tokenizer,
        overwrite=overwrite,
    )
    return _table_of_operation(operation) + f"\nwrote {output}"


def _table_of_plans(plans: Sequence[Plan]) -> str:
    rows = [("component", "source", "loaded", "fresh")]
    for plan in plans:
        for name, entries in plan.entries.items():
            fresh = sum(path.startswith(f"{name}/") for path in plan.fresh)
            rows.append((name, plan.source.path.name, str(len(entries)), str(fresh)))
        rows.append(("(unused)", plan.source.path.name, str(len(plan.unused)), ""))
    return _format(rows)


def _table_of_operation(operation: Operation) -> str:
    rows = [("component", "tensors", "taken from a donor", "fresh")]
    for name, tree in operation.model.params.items():
        rows.append(
            (
                name,
                str(_count(tree)),
                str(sum(path.startswith(f"{name}/") for path in operation.copied)),
                str(sum(path.startswith(f"{name}/") for path in operation.fresh)),
            )
        )
    return _format(rows)


def _count(tree: object) -> int:
    import jax

    return len(jax.tree.leaves(tree))


def _format(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
