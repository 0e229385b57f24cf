"""Starting a run of several processes, and telling which of them writes."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import jax

from launch.launchers import Place, check_alone, find_place, local_devices

_WAYS = (
    "Start it by srun, by mpirun or on a TPU pod, or tell every process where it is: "
    "JAX_COORDINATOR_ADDRESS=host:port of process 0, JAX_NUM_PROCESSES=2, and JAX_PROCESS_ID=0 or 1"
)


def start_processes(
    distributed: bool,
    coordinator: str = "",
    process_id: int = -1,
    num_processes: int = 0,
    timeout_s: int = 300,
) -> None:
    """Joins the processes of a run, before anything else is asked of JAX.

    Done once; a second call does nothing. On CPUs the processes speak Gloo, which is JAX's default.

    Args:
      distributed: whether there are several processes.
      coordinator: host:port of process 0; "" finds it.
      process_id: of this process; -1 finds it.
      num_processes: 0 finds it.
      timeout_s: for the processes to find each other.

    Raises:
      ValueError: the settings contradict each other or the launcher, or something is not to be
        found.
      ConnectionError: process 0 does not answer.
    """
    # Pretended devices of one CPU hang when programs that wait for each other's are in flight.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    given = Place(
        coordinator or None,
        None if num_processes == 0 else num_processes,
        None if process_id == -1 else process_id,
    )
    if not distributed:
        check_alone(given, os.environ)
        return
    if jax.distributed.is_initialized():
        return
    place = find_place(given, os.environ)
    # JAX takes SIGTERM for a service of its own, and the process would outlive it.
    with _kept_sigterm():
        _join(place, timeout_s)
    if not is_main():
        # Each process would say the same; its warnings and errors are its own.
        logging.disable(logging.INFO)
    logging.getLogger(__name__).info(
        "process %d of %d, with %d of %d devices",
        jax.process_index(),
        jax.process_count(),
        jax.local_device_count(),
        jax.device_count(),
    )


def is_main() -> bool:
    """Returns whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


def _join(place: Place, timeout_s: int) -> None:
    if place.is_known and place.process_id != 0:
        _wait_for(str(place.coordinator), timeout_s)
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.num_processes,
            place.process_id,
            local_device_ids=local_devices(os.environ),
            # JAX would look for a cluster even so, and on Kubernetes complain that it may not.
            cluster_detection_method="deactivate" if place.is_known else None,
            initialization_timeout=timeout_s,
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"several processes, but JAX says: {error} {_WAYS}") from error


def _wait_for(coordinator: str, timeout_s: int) -> None:
    """Returns when process 0 listens; JAX itself would abort the process, with a trace of C++."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ConnectionError(
                    f"process 0 does not answer at {coordinator} after {timeout_s} s ({error}); "
                    "check that it runs, that the address is that of its machine, and that no "
                    "firewall closes the port"
                ) from error
        time.sleep(0.2)


@contextlib.contextmanager
def _kept_sigterm() -> Iterator[None]:
    """Puts back the handler of SIGTERM at the end; only a main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if handler is None else handler)
