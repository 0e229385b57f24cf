from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sd_jax.guidance import guided, stack_branches
from sd_jax.testing import formula_normal

LATENTS = jnp.asarray(formula_normal("latents", (2, 3, 3, 4)))
CONTEXTS = [jnp.asarray(formula_normal(f"context{index}", (2, 3, 3, 4))) for index in range(3)]


def predict(latents, timesteps, context):
    """Returns a prediction that is not linear in anything."""
    return jnp.tanh(latents * context + timesteps / 1000) + context


@pytest.mark.parametrize("scales", [[7.5], [1.0], [0.0], [1.5, 7.5], [2.0, 0.0], [1.0, 1.0]])
def test_branches_are_combined_as_documented(scales):
    contexts = CONTEXTS[: len(scales) + 1]
    stacked = stack_branches(*contexts)

    def denoise(latents, timesteps):
        return predict(latents, timesteps, stacked)

    noise = guided(denoise, jnp.array(scales))(LATENTS, jnp.int32(300))
    passes = [predict(LATENTS, 300, context) for context in contexts]
    expected = passes[0]
    for scale, before, after in zip(scales, passes, passes[1:], strict=False):
        expected = expected + scale * (after - before)
    np.testing.assert_allclose(noise, expected, atol=1e-5)


def test_scales_of_one_leave_the_last_branch():
    stacked = stack_branches(*CONTEXTS)
    denoise = guided(lambda latents, t: predict(latents, t, stacked), jnp.ones(2))
    expected = predict(LATENTS, 5, CONTEXTS[-1])
    np.testing.assert_allclose(denoise(LATENTS, jnp.int32(5)), expected, atol=1e-5)


@pytest.mark.parametrize("num_scales", [1, 2])
def test_all_branches_are_one_call(num_scales):
    calls = []

    def denoise(latents, timesteps):
        calls.append(latents.shape)
        return latents

    jax.eval_shape(guided(denoise, jnp.ones(num_scales)), LATENTS, jnp.int32(1))
    assert calls == [(2 * (num_scales + 1), 3, 3, 4)]


def test_the_scale_is_traced():
    traces = []

    @jax.jit
    def run(scales):
        traces.append(scales)
        return guided(lambda latents, t: latents * t, scales)(LATENTS, jnp.int32(2))

    for scale in (1.0, 7.5):
        run(jnp.array([scale]))
    assert len(traces) == 1


def test_branches_without_a_condition():
    assert stack_branches(None, None) is None


def test_a_condition_in_one_branch_alone():
    with pytest.raises(ValueError, match="in every branch"):
        stack_branches(LATENTS, None)
