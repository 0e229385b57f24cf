"""Batches of NumPy arrays through a jitted function on all devices of this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P


class DeviceBatches:
    """Splits batches over the local devices; parameters are on each of them.

    A short batch is filled up, so that nothing recompiles.

    Args:
      batch_size: rows of a batch; rounded up to a multiple of the devices.
    """

    def __init__(self, batch_size: int) -> None:
        devices = jax.local_devices()
        self.batch_size = -(-batch_size // len(devices)) * len(devices)
        mesh = jax.make_mesh((len(devices),), ("data",), (AxisType.Auto,), devices=devices)
        self._rows, self._whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())

    def replicate(self, tree: Any) -> Any:
        """Returns a tree of arrays on every device."""
        return jax.device_put(tree, self._whole)

    def run(self, function: Callable[..., Any], *columns: Sequence[Any]) -> list[Any]:
        """Returns the rows of `function`'s outputs as NumPy arrays.

        Args:
          function: takes one stacked array for each column, and returns a tree of stacked arrays.
          *columns: rows of each argument, at most `batch_size`, all of one shape.
        """
        count = len(columns[0])
        if not 1 <= count <= self.batch_size:
            raise ValueError(f"got {count} rows, expected 1 to {self.batch_size}")
        stacked = [
            jax.device_put(np.stack([*rows, *[rows[-1]] * (self.batch_size - count)]), self._rows)
            for rows in columns
        ]
        outputs = jax.tree.map(np.asarray, function(*stacked))
        return [jax.tree.map(lambda leaf, row=row: leaf[row], outputs) for row in range(count)]
