from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sd_jax.testing import (
    formula_normal,
    formula_params,
    formula_tensors,
    formula_uniform,
    formula_weight,
    quick_jit,
    relative_rms,
    to_nhwc,
)


def test_formulas_never_change():
    # The goldens were made with these numbers.
    normal, uniform = formula_normal("input.x", (3,)), formula_uniform("input.x", (3,))
    np.testing.assert_allclose(normal, [-0.3030697107, 0.7166723609, -0.0701312125], rtol=1e-6)
    np.testing.assert_allclose(uniform, [0.6460548639, 0.8019490242, 0.3836006820], rtol=1e-6)


def test_weights_of_a_formula():
    linear = formula_weight("a.weight", (6, 4))
    np.testing.assert_allclose(linear, formula_normal("a.weight", (6, 4)) / 2, rtol=1e-6)
    convolution = formula_weight("b.weight", (6, 4, 3, 3))
    np.testing.assert_allclose(convolution, formula_normal("b.weight", (6, 4, 3, 3)) / 6, rtol=1e-6)
    scale, bias = formula_weight("c.weight", (9,)), formula_weight("c.bias", (9,))
    np.testing.assert_allclose(scale, 1 + formula_normal("c.weight", (9,)) / 10, rtol=1e-6)
    np.testing.assert_allclose(bias, formula_normal("c.bias", (9,)) / 10, rtol=1e-6)
    assert linear.dtype == convolution.dtype == scale.dtype == bias.dtype == np.float32


def test_tensors_of_a_formula_are_read_when_asked_for():
    tensors = formula_tensors({"a.weight": [6, 4], "huge.weight": [2**20, 2**20]})
    assert tensors["huge.weight"].nbytes == 2**42
    assert tensors["a.weight"].shape == (6, 4)
    np.testing.assert_array_equal(tensors["a.weight"].read(), formula_weight("a.weight", (6, 4)))


def test_params_of_a_formula_fit_the_module():
    module = nn.Sequential((nn.Dense(5), nn.LayerNorm()))
    inputs = jnp.ones((2, 3))
    params = formula_params(module, inputs)
    expected = jax.eval_shape(module.init, jax.random.key(0), inputs)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, expected)
    assert all(np.all(leaf) for leaf in jax.tree.leaves(params))
    np.testing.assert_allclose(params["layers_1"]["scale"], 1.0, atol=0.5)
    assert np.isfinite(module.apply({"params": params}, inputs)).all()


def test_relative_rms():
    assert relative_rms([3.0, 5.0], [3.0, 4.0]) == pytest.approx(0.2)
    assert relative_rms([1.0], [1.0]) == 0.0
    with pytest.raises(ValueError, match=r"\(2,\), expected \(1,\)"):
        relative_rms([1.0, 1.0], [1.0])
    with pytest.raises(ValueError, match="all zero"):
        relative_rms([1.0], [0.0])


def test_to_nhwc():
    array = np.arange(24.0, dtype=np.float32).reshape(1, 2, 3, 4)
    assert to_nhwc(array).shape == (1, 3, 4, 2)
    assert to_nhwc(array)[0, 2, 1, 1] == array[0, 1, 2, 1]


def test_quick_jit_is_jit():
    double = quick_jit(lambda x, sign: sign * 2 * x, static_argnames="sign")
    np.testing.assert_array_equal(double(jnp.ones(2), sign=-1), [-2.0, -2.0])
