"""What a run will take, told and checked before its first step: parameters, memory, remedies."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from sd_jax.remat import REMATS
from sd_jax.training.tables import aligned, bytes_text, count_text
from sd_jax.typing import Params

CARDS: Mapping[str, int] = {f"{size} GB": size * 2**30 for size in (24, 40, 80, 141)}
"""Memory of the usual cards."""

_USABLE = 0.92  # of a card; the rest is the driver's, the libraries' and lost between arrays


def parameter_table(params: Params, frozen: Params) -> str:
    """Returns how many parameters each component trains and keeps frozen, as a table.

        component      trainable       frozen               memory
        local_fuser  434 million               float32    1.62 GiB
        unet                      860 million  bfloat16   1.60 GiB
        total        434 million  860 million             3.22 GiB

    Args:
      params: trainable ones, by component; arrays or shapes.
      frozen: the others.
    """
    rows = [["component", "trainable", "frozen", "", "memory"]]
    sums = [0, 0, 0]
    for component in sorted({*params, *frozen}):
        trees = [params.get(component, {}), frozen.get(component, {})]
        counts = [sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) for tree in trees]
        leaves = jax.tree.leaves(trees)
        memory = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
        dtypes = sorted({str(leaf.dtype) for leaf in leaves})
        cells = [count_text(count) if count else "" for count in counts]
        rows.append([component, *cells, ", ".join(dtypes), bytes_text(memory)])
        sums = [have + more for have, more in zip(sums, (*counts, memory), strict=True)]
    totals = [count_text(sums[0]), count_text(sums[1]), "", bytes_text(sums[2])]
    return aligned([*rows, ["total", *totals]])


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes that a compiled program takes on each device.

    Attributes:
      arguments: parameters, state and batch.
      outputs: state and metrics after it.
      aliased: outputs that take the place of donated arguments.
      temporaries: activations, gradients and what else comes and goes.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int

    @property
    def total(self) -> int:
        """What must fit the device."""
        return self.arguments + self.outputs - self.aliased + self.temporaries


def memory_of(compiled: jax.stages.Compiled) -> Memory:
    """Returns the memory of a compiled program; all zero where the backend does not tell.

    Args:
      compiled: `jax.jit(function).lower(...).compile()`.
    """
    analysis = compiled.memory_analysis()
    if analysis is None:
        return Memory(0, 0, 0, 0)
    return Memory(
        arguments=analysis.argument_size_in_bytes,
        outputs=analysis.output_size_in_bytes,
        aliased=analysis.alias_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
    )


def device_memory(device: Any) -> int | None:
    """Returns the bytes that programs may take on a device; None where nobody knows.

    That is the part which jax reserves: `XLA_PYTHON_CLIENT_MEM_FRACTION` of a GPU, 0.75 unless set.
    CPU devices share the machine's memory.

    Args:
      device: a local one.
    """
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    if device.platform != "cpu":
        return None
    import psutil

    # What this process holds already is mostly the run's own parameters.
    ours = psutil.Process().memory_info().rss
    return (psutil.virtual_memory().available + ours) // jax.local_device_count()


def check_memory(memory: Memory, limit: int | None, settings: Any, name: str = "a step") -> None:
    """Refuses a program that does not fit, with what to change, the cheapest first.

    Args:
      memory: of the program.
      limit: bytes of a device; nothing is checked without.
      settings: the run's, by the names of `configs/training.py`; has `get`.
      name: of what it does.

    Raises:
      ValueError: the program needs more than the limit.
    """
    if limit is None or memory.total <= limit:
        return
    # What recomputing and smaller microbatches save are temporaries alone.
    fixed = memory.total - memory.temporaries
    remedies = list(_state_remedies(settings))
    if fixed < limit:
        remedies = [*_activation_remedies(settings), *remedies]
    else:
        remedies.append("more devices: parameters and optimizer alone do not fit this one")
    raise ValueError(
        f"{name} needs {_parts(memory)} on each device, which has {bytes_text(limit)}. In order of "
        "what they cost:\n"
        + "\n".join(f"- {remedy}" for remedy in remedies)
        + "\nA GPU's limit is the share that jax reserves; XLA_PYTHON_CLIENT_MEM_FRACTION=0.92 "
        "raises it, and --config.memory_limit_gb sets another limit for this check alone"
    )


def memory_report(
    memory: Memory, limits: Mapping[str, int] = CARDS, usable: float = _USABLE
) -> str:
    """Returns what a program needs, and which cards it fits.

    Args:
      memory: of the program.
      limits: bytes of cards, by name.
      usable: share of them that programs may have.
    """
    lines = [f"needs {_parts(memory)} on each device"]
    for name, limit in limits.items():
        share = memory.total / (limit * usable)
        verdict = f"fits, {share:.0%} used" if share <= 1 else f"too small, {share:.1f} x needed"
        lines.append(f"  {name}: {verdict}")
    return "\n".join(lines)


def _parts(memory: Memory) -> str:
    fixed = memory.total - memory.temporaries
    return (
        f"{bytes_text(memory.total)} ({bytes_text(fixed)} parameters, optimizer and batch, "
        f"{bytes_text(memory.temporaries)} activations and gradients)"
    )


def _activation_remedies(settings: Any) -> Iterator[str]:
    remat = settings.get("remat", "none")
    if settings.get("dtype") == "float32":
        yield "--config.dtype=bfloat16 (now float32): half the activations, and faster"
    if remat in REMATS[:-1]:
        more = REMATS[max(REMATS.index(remat) + 1, REMATS.index("layers"))]
        yield f"--config.remat={more} (now {remat}): computes a part of the step twice"
    batch, parts = settings.get("global_batch_size", 0), settings.get("accumulation", 1)
    if batch >= 2 * parts:
        yield (
            f"--config.accumulation={2 * parts} (now {parts}): smaller microbatches; the batch "
            "must divide into them on each device"
        )
    if settings.get("latents") == "encode":
        yield "--config.latents=cached (now encode): needs shards with latents; no VAE in the step"


def _state_remedies(settings: Any) -> Iterator[str]:
    if settings.get("frozen_dtype") == "float32":
        yield "--config.frozen_dtype=bfloat16 (now float32): half the frozen parameters"
    fsdp, devices = settings.get("fsdp", 1), jax.device_count()
    if devices > 1 and fsdp != devices:
        yield f"--config.fsdp={devices} (now {fsdp}): parameters and optimizer spread over devices"
    if devices > 1 and settings.get("frozen") == "replicated":
        yield "--config.frozen=sharded (now replicated): frozen parameters spread too"
    if settings.get("optimizer") == "adamw":
        yield "--config.optimizer=adamw8bit (now adamw): a quarter of the moments"
    yield f"--config.global_batch_size, now {settings.get('global_batch_size', 'unknown')}: smaller"
