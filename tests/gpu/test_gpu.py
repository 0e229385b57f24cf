"""What only a GPU can show: fused attention, half precision, and the CPU's numbers."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnc_jax import Condition, predict_noise
from cnc_jax.testing import random_model, tiny_config
from sd_jax.attention import attention, choose_implementation
from sd_jax.testing import relative_rms

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(("tokens", "width"), [(4096, 40), (1024, 80)])
def test_fused_attention_is_chosen_and_right(tokens, width):
    keys = jax.random.split(jax.random.key(0), 3)
    query, key, value = (jax.random.normal(k, (1, tokens, 8, width), jnp.bfloat16) for k in keys)
    assert choose_implementation(query.shape, tokens, query.dtype, biased=False) == "cudnn"
    fused = jax.jit(attention)(query, key, value)
    reference = attention(query, key, value, implementation="einsum")
    assert relative_rms(fused.astype(jnp.float32), reference.astype(jnp.float32)) < 1e-2


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-4), (jnp.bfloat16, 5e-2)])
def test_noise_agrees_with_the_cpu(dtype, tolerance):
    model = random_model(tiny_config())
    condition = Condition(
        depth_maps=jnp.full((1, 2, 128, 128, 3), 0.5),
        exemplar_embeddings=jnp.ones((1, 2, 64)),
        masks=jnp.zeros((1, 1, 128, 128)).at[:, :, 32:96, 32:96].set(1.0),
    )
    arguments = (
        model,
        jax.random.normal(jax.random.key(0), (1, 16, 16, 4)),
        jnp.array([500]),
        jax.random.normal(jax.random.key(1), (1, 77, 64)),
        condition,
    )
    with jax.default_device(jax.devices("cpu")[0]):
        expected = np.asarray(jax.jit(predict_noise)(*arguments))
    with jax.default_matmul_precision("highest"):
        run = jax.jit(functools.partial(predict_noise, dtype=dtype))
        noise = np.asarray(run(*jax.device_put(arguments, jax.devices()[0])))
    assert relative_rms(noise, expected) < tolerance
