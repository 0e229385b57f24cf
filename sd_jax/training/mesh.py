"""The devices of a run as a mesh, and which rows of the batch each of them works on.

    data      copies of the model; the batch is split among them
    fsdp      the batch is split as well, and so are parameters and optimizer state
    tensor    the batch is not split, but each layer's matrices are

The rows of a process lie together, so that it loads one contiguous part of the batch, and the batch
is the same whatever the number of processes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
_ROWS = ("data", "fsdp")
_TYPES = (AxisType.Auto,) * len(AXES)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices each axis of the mesh has; at most one is -1, which takes the rest.

    Attributes:
      data: copies of the model.
      fsdp: shards of the parameters, of the optimizer state and of the batch.
      tensor: shards of the layers; keep it within a machine.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def problems(self) -> list[str]:
        """Returns what is wrong with the numbers, whatever the devices are."""
        sizes = dataclasses.asdict(self)
        problems = [
            f"mesh: {axis} is {size}, expected 1 or more, or -1 for all devices that are left"
            for axis, size in sizes.items()
            if size < 1 and size != -1
        ]
        rest = [axis for axis, size in sizes.items() if size == -1]
        if len(rest) > 1:
            problems.append(f"mesh: {' and '.join(rest)} are -1, but only one can take the rest")
        return problems


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the mesh of all devices, with the axes "data", "fsdp" and "tensor".

    Args:
      config: sizes of the axes.
      devices: of all processes; those of the run unless given.

    Raises:
      ValueError: the sizes do not multiply to the number of devices, or the tensor axis cuts
        across processes unevenly.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = _axis_sizes(config, devices)
    # Machines or slices first: the axes on the right then stay within one as long as they fit.
    devices.sort(key=lambda device: (_slice(device), device.process_index, device.id))
    if devices[0].platform == "tpu" and _slice(devices[0]) == _slice(devices[-1]):
        wired = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        mesh = Mesh(wired, AXES, axis_types=_TYPES)
        # The order that suits a TPU's wires may tear the rows of a process apart.
        if _parts(mesh) is not None:
            return mesh
    mesh = Mesh(np.array(devices).reshape(shape), AXES, axis_types=_TYPES)
    if _parts(mesh) is None:
        raise ValueError(
            f"mesh: tensor={shape[2]} cuts unevenly across the processes, which have "
            f"{_devices_each(devices)}; choose a tensor that divides that number or is a "
            "multiple of it"
        )
    return mesh


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Returns the sharding of a batch: rows over the data and fsdp axes.

    Args:
      mesh: of the run.
    """
    return NamedSharding(mesh, P(_ROWS))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole.

    Args:
      mesh: of the run.
    """
    return NamedSharding(mesh, P())


def process_share(mesh: Mesh, batch_size: int, process_index: int | None = None) -> tuple[int, int]:
    """Returns (index, count): the process loads the index-th of `count` equal parts of the batch.

    Parts are contiguous rows. Processes that hold the same rows, because the tensor axis spans
    them, get the same index.

    Args:
      mesh: of the run.
      batch_size: rows of the global batch.
      process_index: which process; this one unless given.

    Raises:
      ValueError: the batch does not divide, or the process has no device of the mesh.
    """
    _check_divides(mesh, batch_size)
    process_index = jax.process_index() if process_index is None else process_index
    parts = _parts(mesh)
    if parts is None or process_index not in parts:
        raise ValueError(
            f"mesh: process {process_index} holds no contiguous part of the batch; make the mesh "
            "with make_mesh, of the devices of all processes"
        )
    return parts[process_index]


def global_batch(mesh: Mesh, local: Mapping[str, Any], batch_size: int) -> dict[str, jax.Array]:
    """Returns the arrays of the global batch, given the rows that each process has loaded.

    Lists (names, captions) are left out.

    Args:
      mesh: of the run.
      local: arrays of this process's rows, and lists.
      batch_size: rows of the global batch.

    Raises:
      ValueError: arrays have another number of rows than this process's part; lists all.
    """
    _, count = process_share(mesh, batch_size)
    rows, sharding = batch_size // count, batch_sharding(mesh)
    arrays = {key: np.asarray(value) for key, value in local.items() if not isinstance(value, list)}
    problems = [
        f"batch: {key} has the shape {array.shape}, expected {rows} rows ({batch_size} in {count} "
        "parts)"
        for key, array in arrays.items()
        if array.shape[:1] != (rows,)
    ]
    if problems:
        raise ValueError("\n".join(problems))
    return {
        key: jax.make_array_from_process_local_data(sharding, array, (batch_size, *array.shape[1:]))
        for key, array in arrays.items()
    }


def describe_batch(mesh: Mesh | AbstractMesh, batch_size: int, accumulation: int = 1) -> str:
    """Returns how the batch is split, in words.

    Args:
      mesh: of the run.
      batch_size: rows of the global batch.
      accumulation: microbatches of a step.

    Raises:
      ValueError: the batch does not divide into microbatches on each device.
    """
    _check_divides(mesh, batch_size, accumulation)
    data, fsdp, tensor = (mesh.shape[axis] for axis in AXES)
    rows = batch_size // (data * fsdp)
    text = f"batch {batch_size} = {data} data x {fsdp} fsdp shards x {rows} examples on each device"
    if tensor > 1:
        text += f" ({tensor} tensor devices share the work on the same examples)"
    if accumulation > 1:
        text += f", in {accumulation} microbatches of {rows // accumulation}"
    return text


def _check_divides(mesh: Mesh | AbstractMesh, batch_size: int, accumulation: int = 1) -> None:
    shards = math.prod(mesh.shape[axis] for axis in _ROWS)
    multiple = shards * max(accumulation, 1)
    if accumulation < 1 or batch_size < 1 or batch_size % multiple:
        split = " x ".join(f"{mesh.shape[axis]} {axis}" for axis in _ROWS)
        raise ValueError(
            f"batch of {batch_size} examples does not divide into {split} shards x {accumulation} "
            f"microbatches; choose a multiple of {multiple}"
            f"{f', such as {_nearest(batch_size, multiple)}' if accumulation > 0 else ''}"
        )


def _nearest(batch_size: int, multiple: int) -> int:
    return max(1, round(batch_size / multiple)) * multiple


def _axis_sizes(config: MeshConfig, devices: Sequence[Any]) -> tuple[int, ...]:
    """Returns the sizes of the axes, none of them -1."""
    problems, count = config.problems(), len(devices)
    sizes = [getattr(config, axis) for axis in AXES]
    if not problems:
        given = math.prod(size for size in sizes if size != -1)
        text = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
        found = f"{count} {devices[0].device_kind} devices in {_num_processes(devices)} processes"
        if -1 in sizes and count % given:
            problems.append(
                f"mesh: {text} on {found}: {count} is no multiple of {given}; choose sizes that "
                "divide it"
            )
        elif -1 not in sizes and given != count:
            problems.append(
                f"mesh: {text} needs {given} devices, but there are {found}; set one axis to -1 to "
                "take them all"
            )
        sizes = [count // given if size == -1 else size for size in sizes]
    if problems:
        raise ValueError("\n".join(problems))
    return tuple(sizes)


def _slice(device: Any) -> int:
    """Returns the machine (GPU) or slice (TPU) of a device; 0 where there is but one."""
    return getattr(device, "slice_index", 0)


def _num_processes(devices: Sequence[Any]) -> int:
    return len({device.process_index for device in devices})


def _devices_each(devices: Sequence[Any]) -> str:
    owners = [device.process_index for device in devices]
    counts = sorted({owners.count(owner) for owner in owners})
    return f"{' or '.join(map(str, counts))} devices each"


def _parts(mesh: Mesh) -> dict[int, tuple[int, int]] | None:
    """Returns (index, count) of each process; None if they are not equal contiguous parts."""
    shards = mesh.devices.reshape(-1, mesh.shape["tensor"])
    held: dict[int, list[int]] = {}
    for row, devices in enumerate(shards):
        for process in {device.process_index for device in devices}:
            held.setdefault(process, []).append(row)
    size = len(next(iter(held.values())))
    if any(
        len(rows) != size or rows[0] % size or rows[-1] - rows[0] != size - 1
        for rows in held.values()
    ):
        return None
    return {process: (rows[0] // size, len(shards) // size) for process, rows in held.items()}
