"""The towers' loss: CLIP's cross-entropy, and what it trains."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sd_jax.clip import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel
from sd_jax.contrastive_loss import ContrastiveLoss, text_states
from sd_jax.model import StableDiffusionConfig
from sd_jax.testing import formula_params, quick_jit
from sd_jax.typing import flat_params

WIDTH, EOS = 16, 9
TOWER = {"hidden_size": WIDTH, "intermediate_size": 32, "num_layers": 1, "num_heads": 2}
CONFIG = StableDiffusionConfig(
    text_encoder=CLIPTextConfig(vocab_size=10, max_position_embeddings=6, **TOWER),
    image_encoder=CLIPVisionConfig(image_size=8, patch_size=4, projection_dim=WIDTH, **TOWER),
)
LOSS = ContrastiveLoss(CONFIG, EOS)
KEYS = jax.random.split(jax.random.key(0), 3)


@pytest.fixture(scope="module")
def params():
    ids = jax.ShapeDtypeStruct((1, 6), jnp.int32)
    pixels = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    return {
        "text_encoder": formula_params(CLIPTextModel(CONFIG.text_encoder), ids),
        "image_encoder": formula_params(CLIPVisionModel(CONFIG.image_encoder), pixels),
    }


@pytest.fixture
def batch(rng):
    ids = np.array([[8, 1, 2, 3, 4, EOS], [8, 5, EOS, EOS, EOS, EOS], [8, 6, 7, 1, EOS, EOS]])
    return {
        "input_ids": jnp.asarray(ids, jnp.int32),
        "exemplar_images": jnp.asarray(rng.normal(size=(3, 2, 8, 8, 3)), jnp.float32),
    }


def test_the_state_of_a_text_is_that_of_its_first_eos(batch):
    states = jnp.arange(3 * 6 * 1, dtype=jnp.float32).reshape(3, 6, 1)
    np.testing.assert_array_equal(text_states(states, batch, EOS)[:, 0], [5, 6 + 2, 12 + 4])


def test_it_is_the_loss_of_clip(params, batch):
    torch = pytest.importorskip("torch")
    value, metrics = quick_jit(LOSS)(params, {}, batch, KEYS)
    similarities = np.asarray(LOSS._similarities(params, {}, batch))
    entropy, right = torch.nn.functional.cross_entropy, torch.arange(3)
    theirs = torch.tensor(similarities)
    expected = 0.5 * (entropy(theirs, right) + entropy(theirs.T, right))
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    # Cosines over the temperature.
    plain = np.asarray(ContrastiveLoss(CONFIG, EOS, 1.0)._similarities(params, {}, batch))
    assert np.abs(plain).max() <= 1.0001
    np.testing.assert_allclose(similarities, plain / LOSS.temperature, rtol=1e-5)
    found = np.mean(similarities.argmax(axis=1) == np.arange(3))
    np.testing.assert_allclose(metrics["accuracy"], found)
    per_example = quick_jit(LOSS.per_example)(params, {}, batch, KEYS)
    np.testing.assert_allclose(jnp.mean(per_example), value, rtol=1e-6)


def test_only_the_image_is_looked_at(params, batch):
    other = {**batch, "exemplar_images": batch["exemplar_images"].at[:, 1].set(0.0)}
    np.testing.assert_array_equal(
        LOSS.per_example(params, {}, batch, KEYS), LOSS.per_example(params, {}, other, KEYS)
    )


def test_every_tensor_learns(params, batch):
    grads = quick_jit(jax.grad(lambda tree: LOSS(tree, {}, batch, KEYS)[0]))(params)
    for path, gradient in flat_params(grads).items():
        # A bias before a softmax over the keys changes nothing.
        if not path.endswith("k_proj/bias"):
            assert float(jnp.abs(gradient).max()) > 1e-7, path


def test_images_find_their_captions_after_a_few_steps(params, batch):
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(tree, state):
        (_, metrics), grads = jax.value_and_grad(
            lambda tree: LOSS(tree, {}, batch, KEYS), has_aux=True
        )(tree)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(tree, updates), state, metrics["accuracy"]

    tree, state = params, optimizer.init(params)
    for _ in range(30):
        tree, state, accuracy = step(tree, state)
    assert float(accuracy) == 1.0
