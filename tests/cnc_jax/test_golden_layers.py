"""Single layers against the original code, on inputs of their own."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import pytest

from cnc_jax.local_fuser import FDN
from cnc_jax.soft_guidance import cross_attention_bias
from sd_jax.attention import Attention
from sd_jax.layers import (
    Downsample,
    FeedForward,
    ResnetBlock,
    SpatialTransformer,
    Upsample,
    timestep_embedding,
)
from sd_jax.testing import formula_normal, quick_jit, relative_rms, to_nhwc

pytestmark = pytest.mark.parity
TOLERANCE = 1e-5


def image(name, *shape):
    return to_nhwc(formula_normal(f"input.{name}", shape))


def sequence(name, *shape):
    return jnp.asarray(formula_normal(f"input.{name}", shape))


@pytest.fixture(scope="module")
def bias(golden_inputs):
    """Returns the bias of the goldens' masks at the highest resolution."""
    (bias,) = cross_attention_bias(golden_inputs.condition.masks, ((16, 16),), 77, 4)
    return bias


@pytest.fixture(scope="module")
def check(golden_model, golden):
    """Returns a check of one module of the UNet or the local fuser against a golden."""

    def run(name, module, path, *args):
        params = golden_model.params
        for key in path.split("/"):
            params = params[key]
        theirs = golden("layers")[name]
        theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs
        ours = quick_jit(module.apply)({"params": params}, *args)
        assert relative_rms(ours, theirs) <= TOLERANCE

    return run


def test_timestep_embedding(golden, golden_inputs):
    ours = timestep_embedding(golden_inputs.timesteps, 32)
    assert relative_rms(ours, golden("layers")["timestep_embedding"]) <= TOLERANCE


@pytest.mark.parametrize("masked", [True, False])
def test_cross_attention(check, bias, masked):
    check(
        "masked_cross_attention" if masked else "masked_cross_attention_nomask",
        Attention(4),
        "unet/down_blocks_0/attentions_0/transformer_blocks_0/attn2",
        sequence("attn.x", 2, 256, 32),
        sequence("attn.context", 2, 85, 64),
        bias if masked else None,
    )


def test_spatial_transformer(check, bias):
    check(
        "spatial_transformer_unet_input_1",
        SpatialTransformer(4),
        "unet/down_blocks_0/attentions_0",
        image("st.x", 2, 32, 16, 16),
        sequence("attn.context", 2, 85, 64),
        bias,
    )


def test_feed_forward(check):
    check(
        "geglu_ff",
        FeedForward(128, 32),
        "unet/down_blocks_0/attentions_0/transformer_blocks_0/ff",
        sequence("attn.x", 2, 256, 32),
    )


def test_fdn(check):
    check(
        "fdn",
        FDN(),
        "local_fuser/down_blocks_1/resnets_0/norm1",
        image("localres.x", 2, 32, 8, 8),
        image("localres.features", 2, 48, 8, 8),
    )


@pytest.mark.parametrize(
    ("name", "network", "norm"),
    [("local_res_block", "local_fuser", {"norm": FDN}), ("res_block", "unet", {})],
)
def test_resnet_block(check, name, network, norm):
    features = image("localres.features", 2, 48, 8, 8) if norm else None
    check(
        name,
        functools.partial(ResnetBlock, **norm)(64),
        f"{network}/down_blocks_1/resnets_0",
        image("localres.x", 2, 32, 8, 8),
        sequence("localres.emb", 2, 128),
        features,
    )


def test_downsample(check):
    check(
        "downsample",
        Downsample(32),
        "unet/down_blocks_0/downsamplers_0",
        image("down.x", 2, 32, 16, 16),
    )


def test_upsample(check):
    check(
        "upsample",
        Upsample(128),
        "unet/up_blocks_0/upsamplers_0",
        image("up.x", 2, 128, 2, 2),
    )
