from __future__ import annotations

import jax
import numpy as np
import pytest

from launch.device_batches import DeviceBatches


def test_device_batches_fill_up_and_split():
    batches = DeviceBatches(3)
    assert batches.batch_size % jax.local_device_count() == 0
    shapes = []

    @jax.jit
    def double(rows):
        shapes.append(rows.shape)
        return {"twice": 2 * rows}

    rows = batches.run(double, [np.float32(1), np.float32(5)])
    assert [float(row["twice"]) for row in rows] == [2, 10]
    batches.run(double, [np.float32(1)])
    assert len(shapes) == 1
    with pytest.raises(ValueError, match="got 0 rows"):
        batches.run(double, [])
