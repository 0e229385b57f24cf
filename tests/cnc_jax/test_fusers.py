"""Freshly initialised fusers: what training starts from."""

from __future__ import annotations

import dataclasses

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnc_jax import predict_noise
from cnc_jax.convert import GLOBAL_FUSER, LOCAL_FUSER
from cnc_jax.global_fuser import GlobalFuser, GlobalFuserConfig
from cnc_jax.local_fuser import FDN, LocalFuserConfig
from sd_jax.controlnet import ZeroConv1x1, ZeroConv3x3
from sd_jax.convert.fresh import fresh_params
from sd_jax.testing import formula_normal, formula_params, quick_jit, relative_rms


def num_params(component, config):
    return sum(leaf.size for leaf in jax.tree.leaves(component.abstract_params(config)))


@pytest.mark.parametrize(
    ("component", "config", "expected"),
    [
        (LOCAL_FUSER, LocalFuserConfig(), 411_807_104),
        (GLOBAL_FUSER, GlobalFuserConfig(), 94_427_136),
    ],
)
def test_full_size(component, config, expected):
    assert num_params(component, config) == expected


@pytest.fixture(scope="module")
def fresh_local_fuser(small_model):
    """Returns newly initialised parameters of the small local fuser, by path."""
    return fresh_params(LOCAL_FUSER, small_model(2).config.local_fuser)


def test_a_fresh_local_fuser_changes_nothing(small_model, small_inputs, fresh_local_fuser):
    model, inputs = small_model(2), small_inputs(2)
    params = flax.traverse_util.unflatten_dict(fresh_local_fuser, sep="/")
    fresh = model.replace(params={**model.params, "local_fuser": params})
    arguments = (inputs.latents, inputs.timesteps, inputs.text)
    predict = quick_jit(predict_noise)
    with_depth = inputs.condition.replace(exemplar_embeddings=None, masks=None)
    plain = predict(model, *arguments)
    assert relative_rms(predict(fresh, *arguments, with_depth), plain) <= 1e-6
    # The same program with trained weights does something.
    assert relative_rms(predict(model, *arguments, with_depth), plain) > 1e-2


def test_only_zero_convolutions_start_at_zero(fresh_local_fuser):
    kernels = {path for path in fresh_local_fuser if path.endswith("kernel")}
    assert {path for path in kernels if not np.any(fresh_local_fuser[path])} == {
        *(f"zero_convs_{index}/kernel" for index in range(5)),
        *(f"feature_extractor/zero_convs_{level}/kernel" for level in range(2)),
    }


@pytest.mark.parametrize("convolution", [ZeroConv1x1, ZeroConv3x3])
def test_linen_initialises_zero_convolutions_alike(convolution):
    params = convolution(4).init(jax.random.key(0), jnp.ones((1, 3, 3, 2)))["params"]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(params))


def test_fdn_is_a_group_norm_with_an_affine_map_from_the_features():
    states = jnp.asarray(formula_normal("states", (2, 4, 6, 16)) * 3.0 + 1.0)
    features = jnp.asarray(formula_normal("features", (2, 4, 6, 5)))
    module = FDN(num_groups=4)
    params = formula_params(module, states, features)
    groups = np.asarray(states).reshape(2, 24, 4, 4)
    mean = groups.mean(axis=(1, 3), keepdims=True)
    deviation = np.sqrt(groups.var(axis=(1, 3), keepdims=True) + 1e-5)
    normalised = ((groups - mean) / deviation).reshape(states.shape)
    # Without features, the convolutions' biases are left.
    plain = module.apply({"params": params}, states, jnp.zeros_like(features))
    gamma, beta = (np.asarray(params[name]["bias"]) for name in ("gamma", "beta"))
    np.testing.assert_allclose(plain, normalised * (1 + gamma) + beta, atol=1e-4)
    changed = module.apply({"params": params}, states, features)
    assert relative_rms(changed, plain) > 0.1


@pytest.fixture(scope="module")
def exemplars(small_model):
    """Returns the global fuser, its variables and embeddings."""
    config = small_model(2).config.global_fuser
    embeddings = jnp.asarray(formula_normal("exemplars", (2, 2, config.embedding_dim)))
    return (
        GlobalFuser(config),
        {"params": small_model(2).params["global_fuser"]},
        embeddings,
    )


def test_each_exemplar_becomes_tokens_of_its_own(exemplars):
    module, variables, embeddings = exemplars
    tokens = module.apply(variables, embeddings)
    assert tokens.shape == (2, 2, 2, 24)
    changed = module.apply(variables, embeddings.at[0, 1].multiply(-1.0))
    np.testing.assert_array_equal(changed[0, 0], tokens[0, 0])
    np.testing.assert_array_equal(changed[1], tokens[1])
    assert (np.abs(changed[0, 1] - tokens[0, 1]).max(axis=-1) > 1e-2).all()
    # The layers have weights of their own.
    swapped = module.apply(variables, embeddings[:, ::-1])
    assert relative_rms(swapped[:, ::-1], tokens) > 0.1


def test_zeros_stand_for_no_exemplar_and_give_tokens(exemplars):
    module, variables, embeddings = exemplars
    tokens = module.apply(variables, jnp.zeros_like(embeddings))
    assert np.abs(tokens).max() > 1e-2


@pytest.mark.parametrize("rates", [(0.5, 0.0), (0.0, 0.5)])
def test_dropout_acts_in_training_alone(exemplars, rates):
    module, variables, embeddings = exemplars
    tokens = module.apply(variables, embeddings)
    dropping = GlobalFuser(dataclasses.replace(module.config, dropout=rates))

    @jax.jit
    def train(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return dropping.apply(variables, embeddings, deterministic=False, rngs=rngs)

    np.testing.assert_array_equal(dropping.apply(variables, embeddings), tokens)
    np.testing.assert_array_equal(train(0), train(0))
    assert relative_rms(train(0), train(1)) > 0.1
    assert relative_rms(train(0), tokens) > 0.1


def test_rates_of_dropout():
    assert GlobalFuserConfig().dropout == (0.1, 0.3)
