"""Query and key of every attention, beside the prediction: what distillation compares."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgdm_jax import predict_noise, predict_with_attention
from sd_jax.attention import attention_weights
from sd_jax.network_settings import NetworkSettings
from sd_jax.testing import quick_jit


@pytest.mark.parametrize("variable", [None, "depth"])
def test_captured_attention(small_model, small_inputs, variable):
    prediction, captured = quick_jit(predict_with_attention, static_argnames=("variable",))(
        *(small_model, small_inputs.latents, small_inputs.timesteps, small_inputs.text),
        variable=variable,
    )
    noise = quick_jit(predict_noise, static_argnames=("variable",))(
        *(small_model, small_inputs.latents, small_inputs.timesteps, small_inputs.text),
        variable=variable,
    )
    np.testing.assert_allclose(prediction, noise, atol=1e-6)
    blocks = ("down_blocks_0", "up_blocks_1", "mid_block")
    assert {path.split("/")[0] for path in captured} == set(blocks)
    assert {path.split("/")[-1] for path in captured} == {"attn1", "attn2"}
    # Level 0 and its decoder have 1 and 2 transformers, the middle block has one.
    assert len(captured) == 2 * 4
    for path, (query, key) in captured.items():
        tokens = 3 * 4 if path.startswith("mid_block") else 6 * 8
        assert query.shape[:3] == (2, tokens, 2), path
        assert key.shape[:3] == (2, 5 if path.endswith("attn2") else tokens, 2), path
        assert attention_weights(query, key).shape == (2, 2, tokens, key.shape[1])


def test_captured_attention_carries_gradients_to_the_adapter(small_model, small_inputs):
    """Upstream's does not: it compares detached maps."""

    def total(adapter):
        model = small_model.replace(params={**small_model.params, "adapter_depth": adapter})
        _, captured = predict_with_attention(
            *(model, small_inputs.latents, small_inputs.timesteps, small_inputs.text),
            variable="depth",
            settings=NetworkSettings(remat="layers"),
        )
        return sum(jnp.sum(jnp.sin(query)) for query, _ in captured.values())

    gradients = quick_jit(jax.grad(total))(small_model.params["adapter_depth"])
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients))
