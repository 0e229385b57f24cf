"""What the processes of a run do together: waiting for each other, and failing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import numpy as np


def sync(what: str) -> None:
    """Returns when all processes are here.

    Args:
      what: has happened; the same on all.
    """
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


@contextlib.contextmanager
def failing_together(otherwise: Exception) -> Iterator[None]:
    """Raises on all processes if the body, which must not need the others, raises on one.

    Args:
      otherwise: is raised where the body did not fail.
    """
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        if multihost_utils.process_allgather(np.array(failure is not None)).any():
            raise failure or otherwise
    if failure:
        raise failure
