"""What the processes of a run do together: waiting for each other, agreeing, and failing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import numpy as np

from sd_jax.typing import Params


def sync(what: str) -> None:
    """Returns when all processes are here.

    Args:
      what: has happened; the same on all.
    """
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


def from_first(number: int) -> int:
    """Returns the number that process 0 has.

    Args:
      number: from 0 to 2**31 - 1; that of the others is not used.
    """
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def is_same(number: int) -> bool:
    """Returns whether all processes have the same number.

    Args:
      number: from 0 to 2**31 - 1.
    """
    if jax.process_count() == 1:
        return True
    from jax.experimental import multihost_utils

    return len(set(multihost_utils.process_allgather(np.int32(number)).tolist())) == 1


def gathered(tree: Params) -> Params:
    """Returns arrays that this process can use alone; all processes must call it.

    Args:
      tree: of global arrays.
    """
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


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
