"""Loads this process's part of a batch, and prints which rows came to which device."""

from __future__ import annotations

import json
import sys

import jax
import numpy as np

from sd_jax.training.mesh import MeshConfig, global_batch, make_mesh, process_share

(shapes,), process, coordinator = json.loads(sys.argv[1])
jax.distributed.initialize(coordinator, num_processes=2, process_id=process)

found = []
for shape in shapes:
    mesh = make_mesh(MeshConfig(*shape))
    index, count = process_share(mesh, 16)
    rows = np.arange(16.0).reshape(count, -1)[index]
    batch = global_batch(mesh, {"row": rows, "captions": ["a"] * len(rows)}, 16)
    held = {int(row) for shard in batch["row"].addressable_shards for row in shard.data}
    total = jax.jit(lambda row: (row * row).sum())(batch["row"])
    found.append([index, count, sorted(held), float(total)])
print(json.dumps(found))
