"""Prints the memory that a product takes on one of eight devices."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp

from sd_jax.training.mesh import MeshConfig, batch_sharding, make_mesh
from sd_jax.training.preflight import device_memory, memory_of

rows = batch_sharding(make_mesh(MeshConfig()))
program = jax.jit(
    lambda state, batch: state + jnp.sin(batch),
    in_shardings=(rows, rows),
    out_shardings=rows,
    donate_argnums=0,
)
abstract = jax.ShapeDtypeStruct((64, 1024), jnp.float32)
memory = memory_of(program.lower(abstract, abstract).compile())
print(
    json.dumps([memory.arguments, memory.outputs, memory.aliased, device_memory(jax.devices()[0])])
)
