from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sd_jax.attention import Attention, attention, attention_weights, choose_implementation
from sd_jax.testing import formula_normal, formula_params, relative_rms

LOWEST = float(jnp.finfo(jnp.float32).min)


def heads(name, tokens, dtype=jnp.float32, batch=2, num_heads=3, dim=8):
    return jnp.asarray(formula_normal(name, (batch, tokens, num_heads, dim)), dtype)


@pytest.fixture
def inputs():
    """Returns query, key, value of 5 queries and 7 keys."""
    return heads("query", 5), heads("key", 7), heads("value", 7)


def test_weights_are_those_of_the_definition(inputs):
    query, key, _ = map(np.asarray, inputs)
    weights = np.asarray(attention_weights(*inputs[:2]))
    assert weights.shape == (2, 3, 5, 7)
    for b, h, q in itertools.product(range(2), range(3), range(5)):
        logits = np.array([query[b, q, h] @ key[b, k, h] for k in range(7)]) / np.sqrt(8)
        expected = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(weights[b, h, q], expected, rtol=1e-5)


@pytest.mark.parametrize("bias_shape", [None, (2, 3, 5, 7), (1, 1, 1, 7), (2, 1, 5, 7)])
def test_implementations_agree(inputs, bias_shape):
    bias = None if bias_shape is None else jnp.asarray(formula_normal("bias", bias_shape))
    reference = attention(*inputs, bias, implementation="einsum")
    for implementation in ("xla", "auto"):
        outputs = attention(*inputs, bias, implementation=implementation)
        assert outputs.shape == (2, 5, 3, 8)
        np.testing.assert_allclose(outputs, reference, atol=1e-6)
    if bias is not None:
        assert relative_rms(reference, attention(*inputs)) > 1e-2


@pytest.mark.parametrize("implementation", ["einsum", "xla"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_excluded_keys_count_for_nothing(implementation, dtype):
    query, key, value = (heads(name, n, dtype) for name, n in (("q", 5), ("k", 7), ("v", 7)))
    seen = jnp.array([True, False, True, True, False, False, True])
    bias = jnp.where(seen, 0.0, LOWEST)[None, None, None]
    outputs = attention(query, key, value, bias, implementation=implementation)
    alone = attention(query, key[:, seen], value[:, seen], implementation=implementation)
    tolerance = 1e-6 if dtype == jnp.float32 else 2e-2
    assert relative_rms(outputs, alone) <= tolerance
    # Exactly: whatever excluded keys and values hold, not a bit of the result changes.
    hidden = ~seen[None, :, None, None]
    other = attention(
        query,
        jnp.where(hidden, 50.0, key).astype(dtype),
        jnp.where(hidden, -1000.0, value).astype(dtype),
        bias,
        implementation=implementation,
    )
    np.testing.assert_array_equal(np.asarray(outputs), np.asarray(other))
    weights = attention_weights(query, key, bias)
    assert not np.asarray(weights)[..., ~np.asarray(seen)].any()


@pytest.mark.parametrize("implementation", ["einsum", "xla"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_a_row_without_keys_is_finite(implementation, dtype, scale):
    query, key, value = (heads(name, 4, dtype) for name in "qkv")
    bias = jnp.full((1, 1, 4, 4), LOWEST)
    outputs = attention(scale * query, scale * key, value, bias, implementation=implementation)
    assert outputs.dtype == dtype
    assert np.isfinite(np.asarray(outputs, np.float32)).all()


@pytest.mark.parametrize("bias_shape", [(1, 1, 1, 7), (2, 1, 5, 7)])
def test_fused_kernels_get_the_bias_of_every_query(inputs, monkeypatch, bias_shape):
    """cuDNN broadcasts a bias over batch and heads alone, and excludes nothing with -inf."""
    calls = {}

    def kernel(query, key, value, **settings):
        calls.update(settings)
        return query

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    query, key, value = (array.astype(jnp.bfloat16) for array in inputs)
    attention(query, key, value, jnp.full(bias_shape, LOWEST), implementation="cudnn")
    assert calls["implementation"] == "cudnn"
    assert calls["bias"].shape == (*bias_shape[:2], 5, 7)
    assert calls["bias"].dtype == jnp.bfloat16
    assert np.isfinite(np.asarray(calls["bias"], np.float32)).all()


def test_unknown_implementation_of_a_caller_without_checks(inputs, unchecked):
    with pytest.raises(ValueError, match="'flash'; choose one of auto, einsum, xla, cudnn"):
        attention(*inputs, implementation="flash")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "cudnn"),
        ({"dtype": jnp.float16}, "cudnn"),
        ({"dtype": jnp.float32}, "xla"),
        ({"backend": "cpu"}, "xla"),
        ({"backend": "gpu"}, "xla"),
        ({"backend": "old cuda"}, "xla"),
        ({"backend": "tpu"}, "xla"),
        ({"head_dim": 40}, "cudnn"),
        ({"head_dim": 128}, "cudnn"),
        ({"head_dim": 160}, "xla"),
        ({"head_dim": 20}, "xla"),
        ({"num_keys": 77}, "cudnn"),
        ({"num_keys": 77, "biased": True}, "xla"),
        ({"num_queries": 63, "biased": True}, "xla"),
        ({"num_keys": 86, "biased": True}, "cudnn"),
    ],
)
def test_choice_of_implementation(changes, expected):
    case = {
        "head_dim": 64,
        "num_queries": 4096,
        "num_keys": 4096,
        "dtype": jnp.bfloat16,
        "biased": False,
        "backend": "cuda",
        **changes,
    }
    shape = (2, case["num_queries"], 8, case["head_dim"])
    chosen = choose_implementation(
        shape, case["num_keys"], case["dtype"], biased=case["biased"], backend=case["backend"]
    )
    assert chosen == expected


@pytest.fixture(scope="module")
def layer():
    """Returns a cross-attention layer, its parameters and its inputs."""
    module = Attention(num_heads=2)
    states = jnp.asarray(formula_normal("states", (2, 5, 16)))
    context = jnp.asarray(formula_normal("context", (2, 7, 24)))
    bias = jnp.asarray(formula_normal("bias", (2, 1, 5, 7)))
    return module, formula_params(module, states, context, bias), (states, context, bias)


def captured(module, params, *args):
    outputs, collections = module.apply({"params": params}, *args, mutable=["intermediates"])
    return outputs, collections["intermediates"]["query_key"][0]


def test_captured_query_and_key_give_the_weights(layer):
    module, params, (states, context, bias) = layer
    outputs, (query, key) = captured(module, params, states, context, bias)
    weights = attention_weights(query, key, bias)
    values = (context @ params["to_v"]["kernel"]).reshape(2, 7, 2, 8)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, values).reshape(2, 5, 16)
    rebuilt = mixed @ params["to_out_0"]["kernel"] + params["to_out_0"]["bias"][None, None]
    np.testing.assert_allclose(outputs, rebuilt, atol=1e-6)


def test_capturing_changes_nothing_and_is_no_parameter(layer):
    module, params, inputs = layer
    outputs, _ = captured(module, params, *inputs)
    np.testing.assert_array_equal(outputs, module.apply({"params": params}, *inputs))
    variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    assert set(variables) == {"params"}


def test_gradient_flows_through_captured_query_and_key(layer):
    module, params, (states, context, bias) = layer

    def from_capture(params):
        _, (query, key) = captured(module, params, states, context, bias)
        return (attention_weights(query, key, bias) ** 2).sum()

    def from_scratch(params):
        query = (states @ params["to_q"]["kernel"]).reshape(2, 5, 2, 8)
        key = (context @ params["to_k"]["kernel"]).reshape(2, 7, 2, 8)
        return (attention_weights(query, key, bias) ** 2).sum()

    ours, direct = jax.grad(from_capture)(params), jax.grad(from_scratch)(params)
    for name in ("to_q", "to_k"):
        assert np.abs(ours[name]["kernel"]).max() > 1e-2
        np.testing.assert_allclose(ours[name]["kernel"], direct[name]["kernel"], atol=1e-6)
    assert not np.any(ours["to_v"]["kernel"])
