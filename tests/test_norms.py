"""The constants of all norms. Outputs at usual scales hide them: 1e-5 for 1e-6 moves 5e-6."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnc_jax.convert import GLOBAL_FUSER, LOCAL_FUSER
from cnc_jax.global_fuser import GlobalFuserConfig
from cnc_jax.local_fuser import FDN, LocalFuserConfig
from sd_jax.clip import CLIPTextConfig, CLIPVisionConfig
from sd_jax.controlnet import ControlNetConfig
from sd_jax.convert.component import CONTROLNET, IMAGE_ENCODER, TEXT_ENCODER, UNET, VAE
from sd_jax.layers import GroupNorm, LayerNorm
from sd_jax.testing import TINY_UNET, formula_normal, formula_params
from sd_jax.vae import VAEConfig

TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_layers": 1, "num_heads": 2}
VISION = CLIPVisionConfig(image_size=28, projection_dim=8, **TOWER)
TINY_VAE = VAEConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4)


def norms(component, config):
    """Returns {path: norm} of all norms that a network calls."""
    module, inputs = component.module(config), component.inputs(config)
    params = formula_params(module, *inputs)
    found = {}

    def watch(call, args, kwargs, context):
        if isinstance(context.module, GroupNorm | FDN | nn.LayerNorm):
            found["/".join(context.module.path)] = context.module
        return call(*args, **kwargs)

    with nn.intercept_methods(watch):
        jax.eval_shape(lambda *args: module.apply({"params": params}, *args), *inputs)
    return found


@pytest.mark.parametrize(
    ("component", "config", "count"),
    [
        # 8 ResnetBlocks with 2, 4 transformers with 4, the head.
        (UNET, TINY_UNET, 33),
        (CONTROLNET, ControlNetConfig(unet=TINY_UNET), 16),
        (LOCAL_FUSER, LocalFuserConfig(unet=TINY_UNET, inject_channels=(8, 8)), 16),
        (GLOBAL_FUSER, GlobalFuserConfig(embedding_dim=8), 4),
        (VAE, TINY_VAE, 24),
        (TEXT_ENCODER, CLIPTextConfig(vocab_size=9, **TOWER), 3),
        (IMAGE_ENCODER, VISION, 4),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_epsilons(component, config, count):
    found = norms(component, config)
    assert len(found) == count
    # 1e-6 at the entry of each transformer and everywhere in the autoencoder.
    for path, norm in found.items():
        small = component is VAE or path.endswith("/norm")
        assert norm.epsilon == (1e-6 if small else 1e-5), path
        assert not getattr(norm, "use_fast_variance", False), path


@pytest.mark.parametrize(
    "norm", [GroupNorm(4), LayerNorm(), FDN(4)], ids=["group", "layer", "feature"]
)
def test_norms_of_almost_constant_values(norm):
    """Where the variance is as small as epsilon, its place in the formula shows."""
    noise = formula_normal("noise", (1, 4, 4, 16))
    features = [jnp.zeros((1, 4, 4, 3))] if isinstance(norm, FDN) else []
    axes = (3,) if isinstance(norm, nn.LayerNorm) else (1, 2, 4)
    shape = (1, 4, 4, 16) if isinstance(norm, nn.LayerNorm) else (1, 4, 4, 4, 4)
    states = (100.0 + 4e-3 * noise).astype(np.float32)
    groups = states.astype(np.float64).reshape(shape)
    centred = groups - groups.mean(axis=axes, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(axis=axes, keepdims=True) + 1e-5)
    params = jax.tree.map(jnp.zeros_like, formula_params(norm, jnp.asarray(states), *features))
    if "scale" in params:
        params["scale"] = jnp.ones_like(params["scale"])
    ours = norm.apply({"params": params}, jnp.asarray(states), *features)
    np.testing.assert_allclose(ours, expected.reshape(states.shape), atol=0.02)
    # The variance in one pass, E[x^2] - E[x]^2, has lost it all at this mean.
    assert 0.5 < np.std(ours) < 0.9


def test_channels_that_are_no_multiple_of_the_groups_are_refused():
    with pytest.raises(ValueError, match="10 channels cannot be split into 4 groups"):
        GroupNorm(4).init(jax.random.key(0), jnp.zeros((1, 2, 2, 10)))
