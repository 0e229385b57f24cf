"""The programs lower for CUDA and TPU from a machine that has neither, so that no target rots."""

from __future__ import annotations

import functools

import jax
import jax.export
import jax.numpy as jnp
import pytest

from cnc_jax import Condition, predict_noise
from cnc_jax.compose import compose_steps, decode_images, prepare_branches
from cnc_jax.testing import random_model, tiny_config
from sd_jax.model import Model
from sd_jax.samplers import ddim
from sd_jax.sampling import initial_state
from sd_jax.schedule import ScheduleConfig, make_schedule, sampling_timesteps

pytestmark = pytest.mark.optimized

PLATFORMS = ("cuda", "tpu")


@pytest.fixture(scope="module")
def model() -> Model:
    return random_model(tiny_config())


def condition(batch: int) -> Condition:
    return Condition(
        depth_maps=jnp.zeros((batch, 2, 64, 128, 3)),
        exemplar_embeddings=jnp.zeros((batch, 2, 64)),
        masks=jnp.zeros((batch, 1, 64, 128)),
    )


def lowered_platforms(function, *args) -> tuple[str, ...]:
    # A pytree with static fields cannot be an argument of an exported program; its leaves can.
    leaves, structure = jax.tree.flatten(args)
    flat = jax.jit(lambda *leaves: function(*jax.tree.unflatten(structure, leaves)))
    exported = jax.export.export(flat, platforms=PLATFORMS)(*leaves)
    assert len(exported.mlir_module_serialized) > 10_000
    return exported.platforms


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_one_denoising_step(model, dtype):
    step = functools.partial(predict_noise, dtype=dtype, attention_implementation="xla")
    platforms = lowered_platforms(
        step,
        model,
        jnp.zeros((1, 8, 16, 4)),
        jnp.zeros((1,), jnp.int32),
        jnp.zeros((1, 77, 64)),
        condition(1),
    )
    assert platforms == PLATFORMS


def test_the_sampler_with_guidance_and_the_decoder(model):
    def run(model, text, condition, table, latents, keys):
        settings = {"dtype": jnp.bfloat16, "attention_implementation": "xla"}
        prepared = prepare_branches(
            model, text, condition, latents_size=(8, 16), negative_embeddings=text, **settings
        )
        state = compose_steps(
            model,
            prepared,
            table,
            initial_state(latents),
            keys,
            guidance_scales=jnp.array([7.5]),
            **settings,
        )
        return decode_images(model, state.latents, dtype=jnp.bfloat16)

    table = ddim(make_schedule(ScheduleConfig()), sampling_timesteps(4))
    keys = jax.vmap(jax.random.PRNGKey)(jnp.arange(1))
    platforms = lowered_platforms(
        run,
        model,
        jnp.zeros((1, 77, 64)),
        condition(1),
        table,
        jnp.zeros((1, 8, 16, 4)),
        keys,
    )
    assert platforms == PLATFORMS
