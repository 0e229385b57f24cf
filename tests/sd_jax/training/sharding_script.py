"""Prints how far loss and gradients of a tiny UNet on meshes are from those of one device."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp

from sd_jax.testing import TINY_UNET, formula_normal, formula_params, quick_jit, relative_rms
from sd_jax.training.mesh import MeshConfig, batch_sharding, make_mesh, replicated
from sd_jax.training.sharding import shardings
from sd_jax.typing import apply_module, flat_params
from sd_jax.unet import UNet

(shapes,), _, _ = json.loads(sys.argv[1])
# Attention in the middle block alone: with so few tokens wrong rules show there first.
CONFIG = dataclasses.replace(TINY_UNET, block_out_channels=(16,), attention_levels=(False,))
UNET = UNet(CONFIG, attention_implementation="einsum")
BATCH = {
    "latents": jnp.asarray(formula_normal("latents", (8, 4, 4, 4))),
    "timesteps": jnp.arange(8) * 100,
    "encoder_hidden_states": jnp.asarray(
        formula_normal("context", (8, 5, CONFIG.cross_attention_dim))
    ),
}
PARAMS = formula_params(UNET, *BATCH.values())


def loss_and_gradients(params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
    """Returns the loss, of predicting the latents themselves, and its gradients."""

    def loss(params: Any) -> jax.Array:
        noise = apply_module(UNET, {"params": params}, **batch)
        return jnp.mean(jnp.square(jnp.asarray(noise) - batch["latents"]))

    return jax.value_and_grad(loss)(params)


def run(devices: list[Any], shape: list[int]) -> tuple[Any, Any, float]:
    """Returns loss and gradients, the sharded parameters, and the share of bytes on a device."""
    mesh = make_mesh(MeshConfig(*shape), devices)
    places = shardings(PARAMS, mesh, small=0)
    params = jax.device_put(PARAMS, places)
    batch = jax.device_put(BATCH, batch_sharding(mesh))
    step = quick_jit(loss_and_gradients, out_shardings=(replicated(mesh), places))
    outputs = step(params, batch)
    here = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(params))
    return outputs, places, here / sum(leaf.nbytes for leaf in jax.tree.leaves(params))


(expected_loss, expected), _, _ = run(jax.devices()[:1], [1, 1, 1])
expected = flat_params(expected)
found = []
for shape in shapes:
    (loss, gradients), places, share = run(jax.devices(), shape)
    gradients = flat_params(gradients)
    kept = all(gradients[path].sharding == place for path, place in flat_params(places).items())
    error = max(relative_rms(gradients[path], expected[path]) for path in expected)
    found.append([abs(float(loss) / float(expected_loss) - 1), error, share, kept])
print(json.dumps(found))
