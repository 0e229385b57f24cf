"""The training loss of each stage: what it trains, and what an example's loss depends on."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnc_jax import predict_noise
from cnc_jax.losses import (
    STAGES,
    NoiseLoss,
    clean_latents,
    condition_of,
    latents_size,
    text_of,
)
from cnc_jax.networks import NetworkSettings
from cnc_jax.testing import random_model, tiny_config
from sd_jax.losses import draw
from sd_jax.model import Model
from sd_jax.schedule import add_noise, make_schedule
from sd_jax.testing import quick_jit, relative_rms
from sd_jax.training.partition import split_params
from sd_jax.typing import flat_params, nested_params

KEYS = jax.random.split(jax.random.key(5), 4)


@pytest.fixture(scope="module")
def model(small_model) -> Model:
    return small_model(2)


@pytest.fixture(scope="module")
def batch(small_inputs):
    inputs = small_inputs(2, batch=4)
    condition = inputs.condition
    return {
        "latent_mean": inputs.latents,
        "latent_logvar": jnp.full(inputs.latents.shape, -2.0),
        "text_embeddings": inputs.text,
        "depth_maps": condition.depth_maps,
        "exemplar_embeddings": condition.exemplar_embeddings,
        "masks": condition.masks,
    }


def parts_of(model, stage):
    kept = {n: tree for n, tree in model.params.items() if n in STAGES[stage].components}
    return split_params(kept, STAGES[stage].trainable)


def losses_of(model, stage, batch, keys=KEYS, timesteps=None, **settings):
    loss = NoiseLoss(model.config, stage, **settings)
    params, frozen = parts_of(model, stage)
    return quick_jit(loss.per_example)(params, frozen, batch, keys, timesteps)


@pytest.mark.parametrize("stage", STAGES)
def test_every_tensor_of_a_stage_gets_a_gradient(model, batch, stage):
    loss = NoiseLoss(model.config, stage)
    params, frozen = parts_of(model, stage)
    gradients, metrics = quick_jit(jax.grad(loss, has_aux=True))(params, frozen, batch, KEYS)
    flat = flat_params(gradients)
    assert flat.keys() == flat_params(params).keys()
    assert metrics == {}
    assert [path for path, array in flat.items() if not np.asarray(array).any()] == []


def test_a_new_local_fuser_learns_through_its_zero_convolutions_first(model, batch):
    params, frozen = parts_of(model, "local")
    flat = flat_params(params)
    zeroed = {
        path: jnp.zeros_like(array) if "zero_convs" in path else array
        for path, array in flat.items()
    }
    loss = NoiseLoss(model.config, "local")
    gradients, _ = quick_jit(jax.grad(loss, has_aux=True))(
        nested_params(zeroed), frozen, batch, KEYS
    )
    learns = {path for path, array in flat_params(gradients).items() if np.asarray(array).any()}
    outer = {path for path in flat if path.startswith("local_fuser/zero_convs")}
    assert learns == outer


def test_the_loss_is_the_error_of_the_predicted_noise(model, batch):
    losses = losses_of(model, "joint", batch, dropout=False)
    draws = draw(KEYS, (6, 8, 4), 1000)
    noise = jax.vmap(lambda key: jax.random.normal(key, (6, 8, 4)))(draws.latents)
    x0 = (batch["latent_mean"] + jnp.exp(-1.0) * noise) * 0.18215
    noisy = add_noise(make_schedule(model.config.schedule), x0, draws.noise, draws.timesteps)
    condition = condition_of(model, batch, STAGES["joint"])
    predicted = predict_noise(model, noisy, draws.timesteps, batch["text_embeddings"], condition)
    expected = np.mean(np.square(np.asarray(predicted - draws.noise)).reshape(4, -1), axis=1)
    np.testing.assert_allclose(losses, expected, rtol=2e-5)


@pytest.mark.parametrize("stage", ["joint", "global"])
def test_an_example_has_the_same_loss_in_any_batch(model, batch, stage):
    whole = losses_of(model, stage, batch)
    half = {name: values[2:] for name, values in batch.items()}
    np.testing.assert_allclose(whole[2:], losses_of(model, stage, half, KEYS[2:]), rtol=1e-5)


def test_the_global_fuser_drops_in_training_alone(model, batch):
    dropped = losses_of(model, "global", batch)
    whole = losses_of(model, "global", batch, dropout=False)
    assert (np.abs(np.asarray(dropped - whole)) > 1e-7).all()
    timesteps = draw(KEYS, (6, 8, 4), 1000).timesteps
    evaluated = losses_of(model, "global", batch, timesteps=timesteps, min_snr_gamma=5.0)
    np.testing.assert_allclose(evaluated, whole, rtol=1e-6)


def test_conditions_of_other_stages_change_nothing(model, batch):
    for stage, unseen in (("local", "exemplar_embeddings"), ("global", "depth_maps")):
        changed = {**batch, unseen: batch[unseen] * 0.5 + 0.1}
        np.testing.assert_array_equal(
            losses_of(model, stage, batch), losses_of(model, stage, changed)
        )


def test_min_snr_weights_by_timestep(model, batch):
    draws = draw(KEYS, (6, 8, 4), 1000)
    alphas = make_schedule(model.config.schedule).alphas_cumprod[np.asarray(draws.timesteps)]
    snr = alphas / (1 - alphas)
    ratio = losses_of(model, "local", batch, min_snr_gamma=1.0) / losses_of(model, "local", batch)
    np.testing.assert_allclose(ratio, np.minimum(snr, 1) / snr, rtol=1e-5)


def test_velocity_models_are_trained_on_velocity(model, batch):
    schedule = dataclasses.replace(model.config.schedule, prediction_type="v_prediction")
    config = dataclasses.replace(model.config, schedule=schedule)
    losses = losses_of(Model(model.params, config), "local", batch)
    draws = draw(KEYS, (6, 8, 4), 1000)
    alphas = make_schedule(schedule).alphas_cumprod[np.asarray(draws.timesteps)]
    # The same network read as a predictor of noise errs by signal times velocity.
    x0 = clean_latents(model, batch, draws.latents)
    noisy = add_noise(make_schedule(schedule), x0, draws.noise, draws.timesteps)
    condition = condition_of(model, batch, STAGES["local"])
    predicted = predict_noise(
        Model(model.params, config), noisy, draws.timesteps, batch["text_embeddings"], condition
    )
    errors = np.mean(np.square(np.asarray(predicted - draws.noise)).reshape(4, -1), axis=1)
    np.testing.assert_allclose(losses, errors / alphas, rtol=1e-4)


@pytest.mark.parametrize(
    "remat",
    ["layers", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dots", "blocks"))],
)
def test_rematerialisation_changes_no_number(model, batch, remat):
    params, frozen = parts_of(model, "joint")

    def gradients(remat):
        loss = NoiseLoss(model.config, "joint", NetworkSettings(remat=remat))
        return quick_jit(jax.value_and_grad(loss, has_aux=True))(params, frozen, batch, KEYS)

    (plain, _), expected = gradients("none")
    (loss, _), found = gradients(remat)
    assert float(loss) == pytest.approx(float(plain), rel=1e-6)
    for path, array in flat_params(found).items():
        assert relative_rms(array, flat_params(expected)[path]) < 1e-4, path


def test_rematerialisation_saves_memory(model, batch):
    params, frozen = parts_of(model, "joint")

    def temporaries(remat):
        loss = NoiseLoss(model.config, "joint", NetworkSettings(remat=remat))
        step = jax.jit(jax.grad(loss, has_aux=True))
        return step.lower(params, frozen, batch, KEYS).as_text().count("optimization_barrier")

    assert temporaries("none") == 0
    assert temporaries("layers") > temporaries("blocks") > 0


def test_half_precision_stays_near(model, batch):
    settings = NetworkSettings(dtype=jnp.bfloat16)
    half = losses_of(model, "joint", batch, settings=settings, dropout=False)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, losses_of(model, "joint", batch, dropout=False), rtol=0.05)


# Latents, text and exemplars made in the loss, from what the stream gives.


@pytest.fixture(scope="module")
def whole() -> Model:
    return random_model(tiny_config())


@pytest.fixture(scope="module")
def pixels(whole):
    rng = np.random.default_rng(0)
    size = whole.config.image_encoder.image_size
    return {
        "image": jnp.asarray(rng.uniform(-1, 1, (2, 64, 64, 3)), jnp.float32),
        "input_ids": jnp.asarray(rng.integers(0, 1000, (2, 77)), jnp.int32),
        "edge_maps": jnp.asarray(rng.integers(0, 2, (2, 2, 64, 64, 3)), jnp.float32),
        "exemplar_images": jnp.asarray(rng.normal(size=(2, 2, size, size, 3)), jnp.float32),
        "exemplars_present": jnp.array([[1.0, 0.0], [1.0, 1.0]]),
        "masks": jnp.ones((2, 2, 64, 64)),
    }


def test_latents(whole, pixels):
    assert latents_size(whole.config, pixels) == (8, 8, 4)
    keys = jax.random.split(jax.random.key(1), 2)
    latents = quick_jit(clean_latents)(whole, pixels, keys)
    again = quick_jit(clean_latents)(whole, pixels, keys[::-1])
    assert latents.shape == (2, 8, 8, 4)
    assert not np.allclose(latents, again)


def test_text(whole, pixels):
    text = quick_jit(text_of)(whole, pixels)
    assert text.shape == (2, 77, 64)
    assert text_of(whole, {"text_embeddings": text}) is text


def test_exemplars_that_are_absent_have_zero_embeddings(whole, pixels):
    condition = condition_of(whole, pixels, STAGES["joint"])
    embeddings = np.asarray(condition.exemplar_embeddings)
    assert not embeddings[0, 1].any()
    assert (np.abs(embeddings).sum(-1) > 0).sum() == 3
    np.testing.assert_array_equal(condition.depth_maps, pixels["edge_maps"])


def test_a_missing_encoder_is_named(whole, pixels):
    without = Model({"unet": whole.params["unet"]}, whole.config)
    for make in (
        lambda: clean_latents(without, pixels, KEYS[:2]),
        lambda: text_of(without, pixels),
        lambda: condition_of(without, pixels, STAGES["global"]),
    ):
        with pytest.raises(ValueError, match="the checkpoint has no"):
            make()
