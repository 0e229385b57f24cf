"""The adapter's layers by hand-computed values, its sizes, and its start of training."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgdm_jax import FGDMConfig, predict_noise
from fgdm_jax.adapter import (
    Adapter,
    AdapterConfig,
    PlainBlock,
    TimeBlock,
    average_pool,
    size_problem,
    translate,
)
from fgdm_jax.convert import adapter_component
from fgdm_jax.graph import Factor
from sd_jax.convert.fresh import fresh_params
from sd_jax.model import Model
from sd_jax.testing import TINY_UNET, formula_normal, formula_params, quick_jit, relative_rms
from sd_jax.typing import flat_params, nested_params

SMALL = AdapterConfig(4, (8, 16), norm_num_groups=4)
TIMED = dataclasses.replace(SMALL, time_embed_dim=12)


def array(name, *shape):
    return jnp.asarray(formula_normal(name, shape))


def params_of(config):
    module = Adapter(config)
    return module, formula_params(module, *adapter_component("depth").inputs(config))


def test_average_pool():
    pixels = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(average_pool(pixels)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])
    assert average_pool(pixels.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_plain_block_by_hand():
    # block1 takes the pixel itself times 2, block2 takes that times 3: x + 3 relu(2 x).
    params = {
        "block1": {"kernel": jnp.zeros((3, 3, 1, 1)).at[1, 1].set(2.0), "bias": jnp.zeros(1)},
        "block2": {"kernel": jnp.full((1, 1, 1, 1), 3.0), "bias": jnp.zeros(1)},
    }
    pixels = jnp.array([[-1.0, 2.0], [0.5, -3.0]]).reshape(1, 2, 2, 1)
    result = PlainBlock(1).apply({"params": params}, pixels)
    np.testing.assert_allclose(result[0, :, :, 0], [[-1.0, 14.0], [3.5, -3.0]])


@pytest.mark.parametrize(("channels", "out_channels"), [(8, 8), (8, 16)])
def test_both_branches_of_a_halving_block_are_pooled(channels, out_channels):
    """Pooling commutes with the 1x1 shortcut: what is left when the main branch ends in zeros."""
    block = TimeBlock(out_channels, True, num_groups=4)
    inputs, embedding = array("inputs", 1, 4, 6, channels), array("embedding", 1, 12)
    params = formula_params(block, inputs, embedding)
    params = {**params, "conv2": jax.tree.map(jnp.zeros_like, params["conv2"])}
    result = block.apply({"params": params}, inputs, embedding)
    expected = average_pool(inputs)
    if "conv_shortcut" in params:
        shortcut = params["conv_shortcut"]
        expected = jnp.einsum("bhwc,co->bhwo", expected, shortcut["kernel"][0, 0]) + shortcut[
            "bias"
        ].reshape(1, 1, 1, -1)
    assert relative_rms(result, expected) <= 1e-6


def test_the_main_branch_is_pooled_after_its_norm_and_before_its_convolution():
    block = TimeBlock(8, True, num_groups=4)
    inputs, embedding = array("inputs", 1, 4, 6, 8), array("embedding", 1, 12)
    params = formula_params(block, inputs, embedding)

    def norm(values, scale, bias):
        scale, bias = scale.reshape(1, 1, 1, -1), bias.reshape(1, 1, 1, -1)
        grouped = values.reshape(1, -1, 4, 2)
        mean, variance = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
        normed = ((grouped - mean) / jnp.sqrt(variance + 1e-5)).reshape(values.shape)
        return jax.nn.silu(normed * scale + bias)

    def convolve(values, layer):
        windows = [
            jnp.roll(jnp.pad(values, ((0, 0), (1, 1), (1, 1), (0, 0))), (-i, -j), (1, 2))[
                :, : values.shape[1], : values.shape[2]
            ]
            for i in range(3)
            for j in range(3)
        ]
        kernel = layer["kernel"].reshape(9, *layer["kernel"].shape[2:])
        return sum(
            jnp.einsum("bhwc,co->bhwo", window, weights)
            for window, weights in zip(windows, kernel, strict=True)
        ) + layer["bias"].reshape(1, 1, 1, -1)

    hidden = convolve(average_pool(norm(inputs, **params["norm1"])), params["conv1"])
    shift = jax.nn.silu(embedding) @ params["time_emb_proj"]["kernel"]
    hidden += (shift + params["time_emb_proj"]["bias"][None])[:, None, None]
    expected = average_pool(inputs) + convolve(norm(hidden, **params["norm2"]), params["conv2"])
    result = block.apply({"params": params}, inputs, embedding)
    assert relative_rms(result, expected) <= 1e-5


@pytest.mark.parametrize("config", [SMALL, TIMED], ids=["plain", "time"])
def test_features_of_any_size(config):
    module, params = params_of(config)
    for height, width in ((2, 2), (4, 10)):
        features = jax.eval_shape(
            module.apply,
            {"params": params},
            jnp.zeros((3, height, width, 4)),
            jnp.zeros((3, 12)),
        )
        shapes = [feature.shape for feature in features]
        assert shapes == [(3, height, width, 8), (3, height // 2, width // 2, 16)]


def test_only_adapters_with_time_see_it():
    inputs, embedding = array("inputs", 1, 4, 4, 4), array("embedding", 1, 12)
    plain, params = params_of(SMALL)
    without = plain.apply({"params": params}, inputs)
    for feature, other in zip(
        without, plain.apply({"params": params}, inputs, embedding), strict=True
    ):
        np.testing.assert_array_equal(feature, other)
    timed, params = params_of(TIMED)
    for feature, other in zip(
        timed.apply({"params": params}, inputs, embedding),
        timed.apply({"params": params}, inputs, -embedding),
        strict=True,
    ):
        assert relative_rms(other, feature) > 1e-2
    with pytest.raises(ValueError, match=r"needs time_embedding \[b 12\]"):
        timed.apply({"params": params}, inputs)


@pytest.mark.parametrize("remat", ["dots", "layers", "blocks"])
@pytest.mark.parametrize("config", [SMALL, TIMED], ids=["plain", "time"])
def test_checkpointing_changes_no_gradient(config, remat):
    inputs, embedding = array("inputs", 1, 4, 4, 4), array("embedding", 1, 12)
    _, params = params_of(config)

    def gradient(kind):
        def loss(params):
            features = Adapter(config, remat=kind).apply({"params": params}, inputs, embedding)
            return sum(jnp.sum(jnp.sin(feature)) for feature in features)

        return flat_params(quick_jit(jax.grad(loss))(params))

    usual, checkpointed = gradient("none"), gradient(remat)
    assert usual.keys() == checkpointed.keys()
    for path, value in usual.items():
        np.testing.assert_allclose(checkpointed[path], value, rtol=1e-4, atol=1e-5)
        assert np.any(value), path


def fresh(config):
    return nested_params(fresh_params(adapter_component("normal"), config))


@pytest.fixture(scope="module")
def noise_with(small_model, small_inputs):
    """Returns sizes of a new adapter, or None -> noise."""

    @functools.cache
    def predict(config):
        adapter = {} if config is None else {"adapter_normal": fresh(config)}
        model = Model(
            {"unet": small_model.params["unet"], **adapter},
            FGDMConfig(unet=TINY_UNET, adapter_normal=config),
        )
        return quick_jit(predict_noise, static_argnames=("variable",))(
            *(model, small_inputs.latents, small_inputs.timesteps, small_inputs.text),
            variable=None if config is None else "normal",
        )

    return predict


@pytest.mark.parametrize("time_embed_dim", [None, TINY_UNET.time_embed_dim])
def test_with_zero_convolutions_training_starts_as_stable_diffusion(noise_with, time_embed_dim):
    config = AdapterConfig(
        4,
        TINY_UNET.block_out_channels,
        layers_per_level=1,
        time_embed_dim=time_embed_dim,
        norm_num_groups=8,
        zero_convs=True,
    )
    np.testing.assert_array_equal(noise_with(config), noise_with(None))
    reading = dataclasses.replace(config, text_dim=TINY_UNET.cross_attention_dim, text_channels=5)
    np.testing.assert_array_equal(noise_with(reading), noise_with(None))


def test_text_is_translated_token_by_token():
    config = dataclasses.replace(SMALL, text_dim=6, text_channels=5)
    _, params = params_of(config)
    text = array("text", 2, 3, 6)
    inside = params["text"]
    hidden = jax.nn.silu(text @ inside["proj_in"]["kernel"] + inside["proj_in"]["bias"][None, None])
    change = hidden @ inside["proj_out"]["kernel"] + inside["proj_out"]["bias"][None, None]
    assert relative_rms(translate(config, params, text), text + change) <= 1e-6
    np.testing.assert_array_equal(translate(SMALL, params, text), text)


def test_without_them_it_does_not_as_in_the_paper(noise_with):
    config = AdapterConfig(4, TINY_UNET.block_out_channels, layers_per_level=1)
    assert relative_rms(noise_with(config), noise_with(None)) > 1e-3


def test_what_starts_at_zero():
    def zeros(config):
        flat = fresh_params(adapter_component("depth"), config)
        return {path for path, value in flat.items() if not value.any()}

    assert zeros(SMALL) == set()
    layers = {f"body_{level}/resnets_{index}" for level in range(2) for index in range(2)}
    second = {f"{layer}/conv2/{leaf}" for layer in layers for leaf in ("kernel", "bias")}
    norms = {f"{layer}/{norm}/bias" for layer in layers for norm in ("norm1", "norm2")}
    assert zeros(TIMED) == second | norms
    convs = {f"zero_convs_{level}/{leaf}" for level in range(2) for leaf in ("kernel", "bias")}
    assert zeros(dataclasses.replace(SMALL, zero_convs=True)) == convs
    reading = dataclasses.replace(SMALL, text_dim=6, text_channels=5)
    assert zeros(reading) == {"text/proj_out/kernel", "text/proj_out/bias"}


def test_an_adapter_of_another_prior_is_told():
    fitting = AdapterConfig(4, TINY_UNET.block_out_channels)
    assert size_problem(fitting, TINY_UNET, Factor("depth")) is None
    reading = dataclasses.replace(fitting, text_dim=TINY_UNET.cross_attention_dim, text_channels=5)
    assert size_problem(reading, TINY_UNET, Factor("depth")) is None
    other = dataclasses.replace(reading, text_dim=6)
    assert "texts of width 6, but" in str(size_problem(other, TINY_UNET, Factor("depth")))
    parents = Factor("depth", parents=("segmentation", "sketch"))
    problem = str(size_problem(fitting, TINY_UNET, parents))
    assert "sees 4 channels, but with 2 parents it would see 8" in problem
