from __future__ import annotations

import dataclasses

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sd_jax.convert.table import abstract_params
from sd_jax.testing import TINY_UNET, formula_normal, formula_params, quick_jit, relative_rms
from sd_jax.unet import UNet, UNetConfig, UNetEncoder

SIZES = ((6, 8), (3, 4))
TOKENS = 7


def residual(name, level, channels):
    return jnp.asarray(formula_normal(name, (2, *SIZES[level], channels)))


def some_seams():
    """Returns a value for every seam of the tiny UNet; its skips are conv_in, 16, down, 32."""
    skip_levels, skip_channels = TINY_UNET.skip_levels(), (16, 16, 16, 32)
    return {
        "cross_attention_bias": tuple(
            jnp.asarray(formula_normal(f"bias{level}", (2, 1, height * width, TOKENS)))
            for level, (height, width) in enumerate(SIZES)
        ),
        "down_block_additional_residuals": [
            residual(f"skip{index}", level, channels)
            for index, (level, channels) in enumerate(zip(skip_levels, skip_channels, strict=True))
        ],
        "mid_block_additional_residual": residual("mid", 1, 32),
        "down_intrablock_additional_residuals": [
            residual(f"intra{level}", level, channels) for level, channels in ((0, 16), (1, 32))
        ],
    }


@pytest.fixture(scope="module")
def run(unet_params, unet_inputs):
    """Returns seams -> (noise, skips of the encoder), from one compiled function for each kind."""
    unet = UNet(TINY_UNET)

    @quick_jit
    def forward(seams):
        noise, collections = unet.apply(
            {"params": unet_params},
            *vars(unet_inputs).values(),
            **seams,
            mutable=["intermediates"],
            capture_intermediates=lambda module, _: isinstance(module, UNetEncoder),
        )
        ((_, skips),) = collections["intermediates"]["__call__"]
        return noise, skips

    return lambda **seams: forward(seams)


@pytest.fixture(scope="module")
def plain(run):
    """Returns (noise, skips) without seams."""
    return run()


def test_prediction(plain, unet_inputs):
    noise, _ = plain
    assert noise.shape == unet_inputs.latents.shape
    assert noise.dtype == jnp.float32


def test_seams_of_zeros_change_nothing(run, plain):
    noise, _ = run(**jax.tree.map(jnp.zeros_like, some_seams()))
    assert relative_rms(noise, plain[0]) <= 1e-5


@pytest.mark.parametrize("name", sorted(some_seams()))
def test_each_seam_counts(run, plain, name):
    # The others stay zero, so that all share one program.
    seams = jax.tree.map(jnp.zeros_like, some_seams())
    entries = jax.tree.leaves(some_seams()[name])
    for index in range(len(entries)):
        one = [entry if i == index else jnp.zeros_like(entry) for i, entry in enumerate(entries)]
        treedef = jax.tree.structure(seams[name])
        noise, _ = run(**{**seams, name: jax.tree.unflatten(treedef, one)})
        assert relative_rms(noise, plain[0]) > 1e-4, f"entry {index} is not used"


def test_skip_residuals_reach_the_decoder_alone(run, plain):
    seams = jax.tree.map(jnp.zeros_like, some_seams())
    for name in ("down_block_additional_residuals", "mid_block_additional_residual"):
        _, skips = run(**{**seams, name: some_seams()[name]})
        for skip, before in zip(skips, plain[1], strict=True):
            np.testing.assert_allclose(skip, before, atol=1e-5)


def test_intrablock_residuals_reach_the_skip_of_the_last_block(run, plain):
    zeros = jax.tree.map(jnp.zeros_like, some_seams())
    first, second = some_seams()["down_intrablock_additional_residuals"]
    before = plain[1]

    _, skips = run(**{**zeros, "down_intrablock_additional_residuals": [first, 0 * second]})
    np.testing.assert_array_equal(skips[0], before[0])
    np.testing.assert_allclose(skips[1] - before[1], first, atol=1e-5)
    # The downsampler comes after it.
    assert relative_rms(skips[2], before[2]) > 1e-2

    _, skips = run(**{**zeros, "down_intrablock_additional_residuals": [0 * first, second]})
    np.testing.assert_allclose(skips[2], before[2], atol=1e-5)
    np.testing.assert_allclose(skips[3] - before[3], second, atol=1e-5)


def test_a_missing_residual_is_an_error(unet_params, unet_inputs):
    with pytest.raises(ValueError, match="shorter"):
        jax.eval_shape(
            lambda: UNet(TINY_UNET).apply(
                {"params": unet_params},
                *vars(unet_inputs).values(),
                down_block_additional_residuals=some_seams()["down_block_additional_residuals"][
                    :-1
                ],
            )
        )


def test_a_bias_hides_tokens(run, plain, unet_inputs, unet_params):
    hidden = jnp.zeros((2, 1, 1, TOKENS)).at[..., 4:].set(jnp.finfo(jnp.float32).min)
    zeros = jax.tree.map(jnp.zeros_like, some_seams())
    biases = tuple(jnp.broadcast_to(hidden, (2, 1, h * w, TOKENS)) for h, w in SIZES)
    noise, _ = run(**{**zeros, "cross_attention_bias": biases})
    without = quick_jit(UNet(TINY_UNET).apply)(
        {"params": unet_params},
        unet_inputs.latents,
        unet_inputs.timesteps,
        unet_inputs.context[:, :4],
    )
    assert relative_rms(noise, without) <= 1e-5
    assert relative_rms(noise, plain[0]) > 1e-3


def test_half_precision_is_finite_and_close(plain, unet_params, unet_inputs):
    noise = quick_jit(UNet(TINY_UNET, jnp.bfloat16).apply)(
        {"params": unet_params}, *vars(unet_inputs).values()
    )
    assert noise.dtype == jnp.float32
    assert np.isfinite(noise).all()
    # Not zero: then it would not have computed in bfloat16.
    assert 1e-4 < relative_rms(noise, plain[0]) < 5e-2


def test_every_attention_offers_its_query_and_key(unet_params, unet_inputs):
    _, collections = jax.eval_shape(
        lambda: UNet(TINY_UNET).apply(
            {"params": unet_params}, *vars(unet_inputs).values(), mutable=["intermediates"]
        )
    )
    offered = flax.traverse_util.flatten_dict(collections["intermediates"], sep="/")
    transformers = ["down_blocks_0/attentions_0", "mid_block/attentions_0"]
    transformers += [f"up_blocks_1/attentions_{index}" for index in range(2)]
    assert sorted(offered) == sorted(
        f"{path}/transformer_blocks_0/{name}/query_key"
        for path in transformers
        for name in ("attn1", "attn2")
    )
    ((query, key),) = offered["mid_block/attentions_0/transformer_blocks_0/attn2/query_key"]
    assert query.shape == (2, 12, 2, 16)
    assert key.shape == (2, TOKENS, 2, 16)


def test_nine_channels(unet_inputs):
    """The inpainting UNet differs in its first convolution alone."""
    config = dataclasses.replace(TINY_UNET, in_channels=9)
    latents = jnp.concatenate([unet_inputs.latents] * 3, axis=-1)[..., :9]
    inputs = (latents, unet_inputs.timesteps, unet_inputs.context)
    params = formula_params(UNet(config), *inputs)
    assert params["conv_in"]["kernel"].shape == (3, 3, 9, 16)
    noise = jax.eval_shape(lambda p: UNet(config).apply({"params": p}, *inputs), params)
    assert noise.shape == unet_inputs.latents.shape


@pytest.fixture(scope="module")
def full_size():
    """Returns the shapes of Stable Diffusion 1.x's parameters, by path."""
    inputs = (jnp.zeros((1, 64, 64, 4)), jnp.zeros(1), jnp.zeros((1, 77, 768)))
    shapes = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in inputs]
    tree = abstract_params(UNet(UNetConfig()), *shapes)
    return {
        path: leaf.shape for path, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items()
    }


def test_full_size(full_size):
    assert len(full_size) == 686
    assert sum(np.prod(shape) for shape in full_size.values()) == 859_520_964


def test_parameters_are_named_as_in_diffusers(full_size):
    expected = {
        "conv_in/kernel": (3, 3, 4, 320),
        "time_embedding/linear_1/kernel": (320, 1280),
        "down_blocks_1/resnets_0/conv_shortcut/kernel": (1, 1, 320, 640),
        "down_blocks_2/attentions_1/transformer_blocks_0/attn2/to_k/kernel": (768, 1280),
        "down_blocks_0/downsamplers_0/conv/kernel": (3, 3, 320, 320),
        "down_blocks_3/resnets_1/norm2/scale": (1280,),
        "mid_block/attentions_0/proj_in/kernel": (1, 1, 1280, 1280),
        "up_blocks_0/resnets_2/conv1/kernel": (3, 3, 2560, 1280),
        "up_blocks_1/upsamplers_0/conv/kernel": (3, 3, 1280, 1280),
        "up_blocks_3/attentions_2/transformer_blocks_0/ff/net_0/kernel": (320, 2560),
        "up_blocks_3/attentions_0/transformer_blocks_0/attn1/to_out_0/bias": (320,),
        "conv_norm_out/scale": (320,),
        "conv_out/bias": (4,),
    }
    assert {path: full_size.get(path) for path in expected} == expected
    absent = ("down_blocks_3/attentions", "up_blocks_0/attentions", "up_blocks_3/upsamplers")
    assert not [path for path in full_size if path.startswith(absent)]
    assert not [path for path in full_size if path.endswith(("to_q/bias", "to_k/bias"))]


def test_sizes():
    config = UNetConfig()
    assert config.time_embed_dim == 1280
    assert config.num_levels == 4
    assert config.num_skips == 12
    assert config.size_multiple == 8
    assert config.skip_levels() == (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3)
    assert config.feature_sizes(64, 96) == ((64, 96), (32, 48), (16, 24), (8, 12))


def test_skip_levels_are_those_of_the_skips(plain):
    _, skips = plain
    assert TINY_UNET.num_skips == len(skips)
    assert [skip.shape[1:3] for skip in skips] == [
        TINY_UNET.feature_sizes(6, 8)[level] for level in TINY_UNET.skip_levels()
    ]
