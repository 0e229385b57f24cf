from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sd_jax.precompute import precompute, remember
from sd_jax.testing import TINY_UNET, quick_jit, relative_rms
from sd_jax.unet import UNet


class Doubler(nn.Module):
    """Adds to its input twice the condition, which it remembers."""

    on_compute: Callable[[], object] = lambda: None

    @nn.compact
    def __call__(self, inputs, condition):
        def double():
            self.on_compute()
            return 2.0 * condition

        return inputs + remember(self, "doubled", double)


def test_remembered_values_are_not_computed_again():
    computed = []
    module = Doubler(lambda: computed.append(1))
    collection = precompute(module, {}, jnp.zeros(3), jnp.ones(3))
    np.testing.assert_array_equal(collection["doubled"], [2.0, 2.0, 2.0])
    assert len(computed) == 1
    # What was remembered wins over the condition of the later call.
    variables = {"precomputed": collection}
    np.testing.assert_array_equal(module.apply(variables, jnp.ones(3), 7 * jnp.ones(3)), [3, 3, 3])
    assert len(computed) == 1
    np.testing.assert_array_equal(module.apply({}, jnp.ones(3), 7 * jnp.ones(3)), [15, 15, 15])
    assert len(computed) == 2


def test_remembered_values_are_no_parameters():
    assert not Doubler().init(jax.random.key(0), jnp.ones(3), jnp.ones(3))


def test_modules_that_remember_nothing():
    assert precompute(nn.Dropout(0.5, deterministic=True), {}, jnp.ones(3)) == {}


@pytest.fixture(scope="module")
def unet(unet_params):
    """Returns apply(arguments, collections), compiled once with and once without precomputing."""
    module = UNet(TINY_UNET)
    variables = {"params": unet_params}
    return (
        quick_jit(lambda *args: precompute(module, variables, *args)),
        quick_jit(lambda collection, *args: module.apply({**variables, **collection}, *args)),
    )


def test_unet_with_precomputed_values_equals_without(unet, unet_inputs):
    make, apply = unet
    latents, timesteps, context = vars(unet_inputs).values()
    # Nothing in it depends on latents and timesteps.
    collection = {"precomputed": make(jnp.zeros_like(latents), 0 * timesteps, context)}
    direct = apply({}, latents, timesteps, context)
    assert relative_rms(apply(collection, latents, timesteps, context), direct) < 1e-6
    # It is used: the context of the later call counts for nothing.
    assert relative_rms(apply(collection, latents, timesteps, 0.5 * context), direct) < 1e-6
    assert relative_rms(apply({}, latents, timesteps, 0.5 * context), direct) > 1e-3


def test_unet_remembers_keys_and_values_of_the_context_alone(unet, unet_inputs):
    make, _ = unet
    flat = flax.traverse_util.flatten_dict(make(*vars(unet_inputs).values()), sep="/")
    assert len(flat) == 4
    for path, (key, value) in flat.items():
        assert path.endswith("transformer_blocks_0/attn2/key_value")
        assert key.shape[1] == value.shape[1] == unet_inputs.context.shape[1]


def test_compiled_precomputation_leaves_the_network_out(unet_params, unet_inputs):
    module = UNet(TINY_UNET)
    compiled = [
        jax.jit(function).lower(*vars(unet_inputs).values()).compile().cost_analysis()["flops"]
        for function in (
            lambda *args: precompute(module, {"params": unet_params}, *args),
            lambda *args: module.apply({"params": unet_params}, *args),
        )
    ]
    assert compiled[0] < 0.05 * compiled[1]
