"""What a launcher's environment variables tell a process: its place among the others, its GPUs.

JAX reads those of SLURM, of Open MPI 4, of TPU pods, and on Kubernetes asks the cluster, if the
package `kubernetes` is installed and it may. Everywhere else three variables tell the place:
JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID. Here these
are read, and what torchrun, Open MPI 5, MPICH and Intel MPI tell their processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where a process is among the others; None is left to JAX.

    Attributes:
      coordinator: host:port of process 0.
      num_processes: of the run.
      process_id: of this one.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None

    @property
    def is_known(self) -> bool:
        """Whether nothing is left to JAX."""
        return None not in (self.coordinator, self.num_processes, self.process_id)


@dataclass(frozen=True)
class _Launcher:
    """Names of the variables by which a launcher tells a process where it is.

    Attributes:
      name: of the launcher.
      count: processes.
      index: of this process.
      local_count: processes on this machine.
      local_index: of this process among them.
    """

    name: str
    count: str
    index: str
    local_count: str
    local_index: str


_PMI = _Launcher("MPICH or Intel MPI", "PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS", "MPI_LOCALRANKID")
_LAUNCHERS = (
    _Launcher("torchrun", "WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK"),
    _Launcher(
        "Open MPI",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
    ),
    _PMI,
)
# Of Open MPI up to version 4, and of a step that srun started: JAX knows these.
_OPEN_MPI_4 = "OMPI_MCA_orte_hnp_uri"
_SLURM_STEP = "SLURM_STEP_NODELIST"
# Each is greater than 1 in one of several processes.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "JAX_NUM_PROCESSES")


def find_place(given: Place, environ: Mapping[str, str]) -> Place:
    """Returns where this process is, as far as settings and environment tell.

    Args:
      given: by the settings, which go first.
      environ: the environment.

    Raises:
      ValueError: names every value that cannot be used.
    """
    problems: list[str] = []
    coordinator = given.coordinator or environ.get("JAX_COORDINATOR_ADDRESS") or None
    count = _first(given.num_processes, "JAX_NUM_PROCESSES", environ, problems)
    index = _first(given.process_id, "JAX_PROCESS_ID", environ, problems)
    launcher = _launcher(environ)
    if launcher and _OPEN_MPI_4 not in environ and None in (coordinator, count, index):
        count = _first(count, launcher.count, environ, problems)
        index = _first(index, launcher.index, environ, problems)
        if coordinator is None and {"MASTER_ADDR", "MASTER_PORT"} <= environ.keys():
            coordinator = f"{environ['MASTER_ADDR']}:{environ['MASTER_PORT']}"
        if coordinator is None and _SLURM_STEP not in environ:
            problems.append(
                f"{launcher.name} does not tell where process 0 is; set "
                "JAX_COORDINATOR_ADDRESS=host:port, with the machine of process 0 and any free port"
            )
    place = Place(coordinator, count, index)
    problems += _problems(place)
    if problems:
        raise ValueError("several processes: " + "; ".join(problems))
    return place


def local_devices(environ: Mapping[str, str]) -> list[int] | None:
    """Returns which of the GPUs that it can see a process takes: [] for all, None as JAX decides.

    JAX gives a task of SLURM or Open MPI the one GPU of its local rank. That leaves GPUs idle where
    a machine runs fewer tasks than it has GPUs, and fails where the scheduler shows each task its
    own GPUs only.

    Args:
      environ: the environment.
    """
    tasks, index = _local_place(environ)
    if "JAX_LOCAL_DEVICE_IDS" in environ or tasks is None or index is None:
        return None
    visible = environ.get("CUDA_VISIBLE_DEVICES", environ.get("ROCR_VISIBLE_DEVICES"))
    if visible is None:
        return [] if tasks == 1 else [index]
    count = len([name for name in visible.split(",") if name])
    # A number, or a type and a number, as in "a100:2".
    per_task = environ.get("SLURM_GPUS_PER_TASK", "").rpartition(":")[2]
    # Fewer GPUs than tasks, too, are a task's own: the share is then empty, which stands for all.
    share = 0 if per_task == str(count) else count // tasks
    return list(range(index * share, (index + 1) * share))


def check_alone(given: Place, environ: Mapping[str, str]) -> None:
    """Raises if a process that is to run alone is one of several.

    Args:
      given: by the settings.
      environ: the environment.

    Raises:
      ValueError: the settings speak of several processes, or a launcher started several, all of
        which would train by themselves and write to the same folder.
    """
    if given != Place():
        raise ValueError(
            "coordinator, process_id or num_processes is set, but distributed is False: set "
            "--config.distributed=True, or none of them"
        )
    for name in _COUNTS:
        if environ.get(name, "1") not in ("", "0", "1"):
            raise ValueError(
                f"{name}={environ[name]}: this is one of several processes, and each would train "
                "alone and write to the same folder: set --config.distributed=True, or start one"
            )


def _first(
    known: int | None, name: str, environ: Mapping[str, str], problems: list[str]
) -> int | None:
    """Returns the number that is known, or else the environment's."""
    if known is not None or not environ.get(name):
        return known
    with contextlib.suppress(ValueError):
        return int(environ[name])
    problems.append(f"{name}={environ[name]!r}, expected a number")
    return None


def _launcher(environ: Mapping[str, str]) -> _Launcher | None:
    """Returns what started this process; None if nothing did, or srun."""
    for launcher in _LAUNCHERS:
        if launcher.count in environ and launcher.index in environ:
            # srun sets PMI's variables too, and JAX reads its own.
            if launcher == _PMI and environ[_PMI.count] == environ.get("SLURM_STEP_NUM_TASKS"):
                continue
            return launcher
    return None


def _local_place(environ: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Returns how many processes this machine runs, and the index of this one among them."""
    launcher = _launcher(environ)
    if launcher is not None:
        problems: list[str] = []
        count = _first(None, launcher.local_count, environ, problems)
        return count, _first(None, launcher.local_index, environ, problems)
    if "SLURM_STEP_TASKS_PER_NODE" not in environ:
        return None, None
    # As in "8(x2),4": 8 tasks on each of two nodes, 4 on the third.
    counts: list[int] = []
    for part in environ["SLURM_STEP_TASKS_PER_NODE"].split(","):
        tasks, _, nodes = part.partition("(x")
        counts += [int(tasks)] * int(nodes.rstrip(")") or 1)
    return counts[int(environ.get("SLURM_NODEID", "0"))], int(environ.get("SLURM_LOCALID", "0"))


def _problems(place: Place) -> list[str]:
    problems = []
    if place.coordinator is not None:
        host, _, port = place.coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            problems.append(f"coordinator: got {place.coordinator!r}, expected host:port")
    count, index = place.num_processes, place.process_id
    if count is not None and count < 1:
        problems.append(f"num_processes: got {count}, expected 1 or more")
    elif index is not None and not 0 <= index < (count or index + 1):
        expected = "0 or more" if count is None else f"0 to {count - 1}, as there are {count}"
        problems.append(f"process_id: got {index}, expected {expected}")
    return problems
