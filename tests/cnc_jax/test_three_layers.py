"""Three layers (and one) with the code of two: the paper's own future work."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnc_jax import predict_noise
from cnc_jax.soft_guidance import layer_shares
from sd_jax.testing import quick_jit, relative_rms

LAYERS = 3
SIZE = (16, 24)


@pytest.fixture(scope="module")
def case(small_model, small_inputs):
    """Returns a small model of three layers and inputs whose latents are not square."""
    return small_model(LAYERS), small_inputs(LAYERS, batch=1, size=SIZE)


@pytest.fixture(scope="module")
def forward(case):
    """Returns condition -> (noise, how it depends on depth, embeddings and masks)."""
    model, inputs = case

    def predict(condition):
        return predict_noise(model, inputs.latents, inputs.timesteps, inputs.text, condition)

    def power(depth, embeddings, condition):
        changed = condition.replace(depth_maps=depth, exemplar_embeddings=embeddings)
        noise = predict(changed)
        return jnp.mean(noise**2), noise

    compiled = quick_jit(jax.grad(power, argnums=(0, 1), has_aux=True))
    return lambda condition: compiled(
        condition.depth_maps, condition.exemplar_embeddings, condition
    )


@pytest.fixture(scope="module")
def before(case, forward):
    """Returns (gradients, noise) of the unchanged inputs."""
    return forward(case[1].condition)


def test_noise_is_finite_and_shaped_like_the_latents(before):
    _, noise = before
    assert noise.shape == (1, *SIZE, 4)
    assert np.isfinite(noise).all()


@pytest.mark.parametrize("layer", range(LAYERS))
def test_every_layer_has_a_gradient(before, layer):
    (depth, embeddings), _ = before
    assert np.abs(depth[:, layer]).max() > 1e-8
    assert np.abs(embeddings[:, layer]).max() > 1e-6


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("name", ["depth_maps", "exemplar_embeddings"])
def test_every_layer_counts(case, forward, before, name, layer):
    condition = case[1].condition
    values = getattr(condition, name)
    _, noise = forward(condition.replace(**{name: values.at[:, layer].set(0.3 - values[:, layer])}))
    assert relative_rms(noise, before[1]) > 1e-3


@pytest.mark.parametrize("name", ["depth_maps", "exemplar_embeddings"])
def test_the_order_of_layers_counts(case, forward, before, name):
    condition = case[1].condition
    for order in ((1, 0, 2), (0, 2, 1), (2, 1, 0)):
        permuted = getattr(condition, name)[:, jnp.array(order)]
        _, noise = forward(condition.replace(**{name: permuted}))
        assert relative_rms(noise, before[1]) > 1e-3


def test_masks_share_the_image_among_all_layers(case):
    masks = case[1].condition.masks[:, : LAYERS - 1]
    shares = np.asarray(layer_shares(masks, SIZE, "upstream"))[0]
    np.testing.assert_allclose(shares.sum(axis=0), 1.0)
    assert (shares.sum(axis=(1, 2)) == SIZE[0] * SIZE[1] / LAYERS).all()


@pytest.mark.parametrize("hidden", range(LAYERS - 1))
def test_a_layer_that_is_not_seen_has_no_say(case, forward, hidden):
    condition = case[1].condition
    masks = condition.masks.at[:, hidden].set(0.0)
    gradients, _ = forward(condition.replace(masks=masks))
    others = [layer for layer in range(LAYERS) if layer != hidden]
    assert not np.any(gradients[1][:, hidden])
    assert all(np.abs(gradients[1][:, layer]).max() > 1e-6 for layer in others)
    # Its depth map is no matter of the masks.
    assert np.abs(gradients[0][:, hidden]).max() > 1e-8


def test_a_front_layer_that_covers_all_hides_all_behind(case, forward):
    condition = case[1].condition
    masks = condition.masks.at[:, 0].set(1.0)
    (_, embeddings), _ = forward(condition.replace(masks=masks))
    assert np.abs(embeddings[:, 0]).max() > 1e-6
    assert not np.any(embeddings[:, 1:])


def test_the_last_mask_may_be_left_out(case):
    model, inputs = case
    with_ground = inputs.condition
    without = with_ground.replace(masks=with_ground.masks[:, :-1])
    for condition in (with_ground, without):
        shape = jax.eval_shape(
            predict_noise, model, inputs.latents, inputs.timesteps, inputs.text, condition
        )
        assert shape.shape == inputs.latents.shape
    with pytest.raises(ValueError, match=r"masks are .*expected \[1, 3 \(or 2\)"):
        predict_noise(
            model,
            inputs.latents,
            inputs.timesteps,
            inputs.text,
            with_ground.replace(masks=with_ground.masks[:, :1]),
        )


def test_one_layer(small_model, small_inputs):
    """Uni-ControlNet's adapters are ours with one layer; its mask says nothing."""
    model, inputs = small_model(1), small_inputs(1)
    arguments = (model, inputs.latents, inputs.timesteps, inputs.text)
    predict = quick_jit(predict_noise)
    noise = predict(*arguments, inputs.condition)
    free = predict(*arguments, inputs.condition.replace(masks=None))
    assert relative_rms(noise, free) <= 1e-5
