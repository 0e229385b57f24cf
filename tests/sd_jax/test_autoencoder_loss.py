"""The autoencoder's loss: its terms, what it shows of each example, and what it trains."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sd_jax.autoencoder_loss import AutoencoderLoss, divergence, psnr
from sd_jax.encoding import posterior_of
from sd_jax.model import Model, StableDiffusionConfig
from sd_jax.testing import formula_params, formula_uniform, quick_jit
from sd_jax.typing import flat_params
from sd_jax.vae import AutoencoderKL, Posterior, VAEConfig

CONFIG = StableDiffusionConfig(
    vae=VAEConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4)
)


@pytest.fixture(scope="module")
def params():
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    return {"vae": formula_params(AutoencoderKL(CONFIG.vae), image)}


@pytest.fixture(scope="module")
def batch():
    names = ("image", "depth", "segmentation")
    return {name: jnp.asarray(2 * formula_uniform(name, (4, 16, 16, 3)) - 1) for name in names}


def keys_of(count: int, seed: int = 0):
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(count))


def test_the_divergence_is_that_of_two_normals(rng):
    mean, log_variance = rng.normal(size=(2, 3, 4, 4, 2)).astype(np.float32)
    ours = divergence(Posterior(jnp.asarray(mean), jnp.asarray(log_variance)))
    torch = pytest.importorskip("torch")
    posterior = torch.distributions.Normal(
        torch.tensor(mean), torch.exp(0.5 * torch.tensor(log_variance))
    )
    terms = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    np.testing.assert_allclose(ours, terms.mean(dim=(1, 2, 3)).numpy(), rtol=1e-5)


def test_psnr_of_an_error_of_a_hundredth_of_the_range():
    np.testing.assert_allclose(psnr(jnp.array([0.02**2, 2.0**2])), [40.0, 0.0], atol=1e-4)


def test_the_loss_is_its_two_terms(params, batch):
    loss = AutoencoderLoss(CONFIG, kl_weight=0.0)
    heavy = AutoencoderLoss(CONFIG, kl_weight=3.0)
    keys = keys_of(4)
    plain, metrics = quick_jit(loss)(params, {}, batch, keys)
    weighted, _ = quick_jit(heavy)(params, {}, batch, keys)
    errors = quick_jit(loss.per_example)(params, {}, batch, keys)
    np.testing.assert_allclose(plain, jnp.mean(errors), rtol=1e-6)
    np.testing.assert_allclose(metrics["psnr"].value, jnp.mean(psnr(errors)), rtol=1e-6)
    away = jnp.mean(divergence(posterior_of(Model(params, CONFIG), batch)))
    np.testing.assert_allclose(weighted - plain, 3.0 * away, rtol=1e-4)


def test_every_tensor_learns_from_both_terms(params, batch):
    keys = keys_of(4)

    def grads(kl_weight: float):
        loss = AutoencoderLoss(CONFIG, kl_weight=kl_weight)
        return flat_params(quick_jit(jax.grad(lambda tree: loss(tree, {}, batch, keys)[0]))(params))

    plain, weighted = grads(0.0), grads(1.0)
    for path, gradient in plain.items():
        # A bias before a softmax over the keys changes nothing.
        if not path.endswith("to_k/bias"):
            assert float(jnp.abs(gradient).max()) > 1e-7, path
        # The decoder knows nothing of the divergence, the encoder does.
        is_encoder = path.startswith(("vae/encoder", "vae/quant_conv"))
        if not is_encoder:
            np.testing.assert_allclose(weighted[path], gradient, rtol=1e-3, atol=1e-6)
    changed = [path for path in plain if not np.allclose(plain[path], weighted[path], rtol=1e-2)]
    assert {path.split("/")[1] for path in changed} >= {"encoder", "quant_conv"}


def test_an_example_shows_what_its_own_key_says(params, batch):
    loss = AutoencoderLoss(CONFIG, maps=("depth", "segmentation"), image_share=0.6)
    chosen = np.asarray(loss._chosen({**batch}, keys_of(4)))
    again = np.asarray(
        loss._chosen({name: item[2:] for name, item in batch.items()}, keys_of(4)[2:])
    )
    np.testing.assert_array_equal(chosen[2:], again)
    colours = {
        name: jnp.full((400, 1, 1, 3), value)
        for name, value in {"image": 0.0, "depth": 1.0, "segmentation": 2.0}.items()
    }
    shown = np.asarray(loss._chosen(colours, keys_of(400)))[:, 0, 0, 0]
    shares = [np.mean(shown == value) for value in (0.0, 1.0, 2.0)]
    np.testing.assert_allclose(shares, [0.6, 0.2, 0.2], atol=0.07)


def test_maps_are_left_out_of_evaluation(params, batch):
    keys = keys_of(4)
    with_maps = AutoencoderLoss(CONFIG, maps=("depth", "segmentation"), image_share=0.1)
    np.testing.assert_array_equal(
        quick_jit(with_maps.per_example)(params, {}, batch, keys),
        quick_jit(AutoencoderLoss(CONFIG).per_example)(params, {}, batch, keys),
    )
