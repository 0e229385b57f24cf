"""The small model as a whole: modes, settings, precomputation, precision."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnc_jax import Condition, denoise_fn, predict_noise
from cnc_jax.condition import null_condition
from cnc_jax.denoise import prepare, prepared_denoise_fn
from sd_jax.schedule import add_noise, make_schedule
from sd_jax.testing import quick_jit, relative_rms
from sd_jax.unet import UNet
from sd_jax.vae import VAEConfig

predict = quick_jit(predict_noise, static_argnames=("dtype",))


@pytest.fixture(scope="module")
def model(small_model):
    return small_model(2)


@pytest.fixture(scope="module")
def inputs(small_inputs):
    return small_inputs(2)


@pytest.fixture(scope="module")
def run(model, inputs):
    """Returns condition -> noise, with every setting given, so that all share one program."""
    settings = {
        "exemplar_strengths": jnp.ones((2, 2)),
        "residual_scales": jnp.ones(5),
        "depth_gains": jnp.ones((2, 2)),
        "depth_interval": jnp.array([0.0, 1.0]),
        "exemplar_interval": jnp.array([0.0, 1.0]),
    }

    def forward(**changes):
        condition = inputs.condition.replace(**{**settings, **changes})
        return predict(model, inputs.latents, inputs.timesteps, inputs.text, condition)

    return forward


@pytest.fixture(scope="module")
def plain(model, inputs):
    """Returns the noise with the same condition and no settings."""
    return predict(model, inputs.latents, inputs.timesteps, inputs.text, inputs.condition)


def test_neutral_settings_change_nothing(run, plain, inputs):
    assert plain.shape == inputs.latents.shape
    assert plain.dtype == jnp.float32
    assert relative_rms(run(), plain) <= 1e-6


@pytest.mark.parametrize("value", [0.5, (0.5, 0.5), ((0.5, 0.5), (0.5, 0.5))])
@pytest.mark.parametrize("name", ["exemplar_strengths", "depth_gains"])
def test_forms_of_values_for_layers(model, inputs, run, name, value):
    """Numbers and tuples do as well as arrays, also as arguments of a compiled function."""
    shape = jax.eval_shape(
        predict_noise,
        *(model, inputs.latents, inputs.timesteps, inputs.text),
        inputs.condition.replace(**{name: value}),
    )
    assert shape.shape == inputs.latents.shape
    array = jnp.broadcast_to(jnp.asarray(value, jnp.float32), (2, 2))
    assert relative_rms(run(**{name: array}), run()) > 1e-3


@pytest.mark.parametrize("value", [0.5, [0.5] * 5, (0.1, 0.2, 0.3, 0.4, 0.5)])
def test_forms_of_residual_scales(model, inputs, run, value):
    shape = jax.eval_shape(
        predict_noise,
        *(model, inputs.latents, inputs.timesteps, inputs.text),
        inputs.condition.replace(residual_scales=value, depth_interval=(0.0, 0.5)),
    )
    assert shape.shape == inputs.latents.shape
    array = jnp.broadcast_to(jnp.asarray(value, jnp.float32), (5,))
    assert relative_rms(run(residual_scales=array), run()) > 1e-3


@pytest.mark.parametrize("index", range(5))
def test_each_residual_has_its_scale(run, index):
    assert relative_rms(run(residual_scales=jnp.ones(5).at[index].set(0.0)), run()) > 1e-4


def test_strength_and_gain_of_each_image_and_layer(run):
    before = run()
    for name in ("exemplar_strengths", "depth_gains"):
        for image in range(2):
            for layer in range(2):
                after = run(**{name: jnp.ones((2, 2)).at[image, layer].set(0.3)})
                assert relative_rms(after[image], before[image]) > 1e-4
                np.testing.assert_array_equal(after[1 - image], before[1 - image])


def test_depth_gains_multiply_and_clip(run, inputs):
    maps = jnp.clip(3.0 * inputs.condition.depth_maps, 0.0, 1.0)
    assert (
        relative_rms(run(depth_gains=jnp.full((2, 2), 3.0, jnp.float32)), run(depth_maps=maps))
        <= 1e-6
    )


# The inputs' timesteps are 100 and 900: the progress of the denoising is 0.9 and 0.1.
@pytest.mark.parametrize("kind", ["depth", "exemplar"])
def test_outside_its_interval_a_condition_is_not_there(model, inputs, run, kind):
    name = {"depth": "depth_maps", "exemplar": "exemplar_embeddings"}[kind]
    without = predict(
        model,
        inputs.latents,
        inputs.timesteps,
        inputs.text,
        inputs.condition.replace(**{name: None}),
    )
    both = run()
    late = run(**{f"{kind}_interval": jnp.array([0.5, 1.0])})
    assert relative_rms(late[0], both[0]) <= 1e-6
    assert relative_rms(late[1], without[1]) <= 1e-5
    assert relative_rms(late[1], both[1]) > 1e-3
    never = run(**{f"{kind}_interval": jnp.array([0.4, 0.6])})
    assert relative_rms(never, without) <= 1e-5


def test_exemplars_without_masks_have_an_interval_too(model, inputs):
    bare = inputs.condition.replace(masks=None, depth_maps=None)
    arguments = (model, inputs.latents, inputs.timesteps, inputs.text)
    always, late = (
        predict(*arguments, bare.replace(exemplar_interval=jnp.array([start, 1.0])))
        for start in (0.0, 0.5)
    )
    assert relative_rms(late[0], always[0]) <= 1e-6
    assert relative_rms(late[1], predict(*arguments)[1]) <= 1e-5
    assert relative_rms(late[1], always[1]) > 1e-3


def test_the_last_mask_says_nothing(run, inputs):
    masks = inputs.condition.masks
    assert masks.shape[1] == 2
    np.testing.assert_array_equal(run(), run(masks=masks.at[:, 1].set(0.5)))
    assert relative_rms(run(masks=1.0 - masks), run()) > 1e-4


def test_an_exemplar_reaches_nothing_where_its_mask_is_empty(run, inputs):
    empty = jnp.zeros_like(inputs.condition.masks)
    embeddings = inputs.condition.exemplar_embeddings
    before = run(masks=empty)
    # Not a bit of the foreground's exemplar is left, and all of the ground's.
    np.testing.assert_array_equal(
        before, run(masks=empty, exemplar_embeddings=embeddings.at[:, 0].multiply(-2.0))
    )
    other = run(masks=empty, exemplar_embeddings=embeddings.at[:, 1].multiply(-2.0))
    assert relative_rms(other, before) > 1e-3


def test_zero_embeddings_are_not_the_same_as_none(run, inputs, model):
    null = null_condition(inputs.condition)
    noise = run(exemplar_embeddings=null.exemplar_embeddings)
    without = run(exemplar_interval=jnp.array([0.4, 0.6]))
    assert relative_rms(noise, without) > 1e-3


def test_images_of_a_batch_do_not_see_each_other(model, inputs, plain):
    swapped = jax.tree.map(lambda array: array[::-1], inputs.condition)
    noise = predict(model, inputs.latents[::-1], inputs.timesteps[::-1], inputs.text[::-1], swapped)
    assert relative_rms(noise[::-1], plain) <= 1e-6


def test_one_timestep_for_all(model, inputs):
    one = predict(model, inputs.latents, jnp.int32(300), inputs.text)
    each = predict(model, inputs.latents, jnp.array([300, 300]), inputs.text)
    assert relative_rms(one, each) <= 1e-6


def test_what_one_program_prepares_another_uses(model, inputs, run):
    interval = jnp.array([0.5, 1.0])
    condition = inputs.condition.replace(exemplar_interval=interval)
    make = quick_jit(lambda *args: prepare(args[0], inputs.latents.shape, *args[1:]))
    prepared = make(model, inputs.text, condition)

    @quick_jit
    def denoise(model, prepared, latents, timesteps):
        return prepared_denoise_fn(model, prepared)(latents, timesteps)

    noise = denoise(model, prepared, inputs.latents, inputs.timesteps)
    assert relative_rms(noise, run(exemplar_interval=interval)) <= 1e-6
    # What was prepared depends on neither latents nor timesteps, and serves all.
    other = denoise(model, prepared, inputs.latents + 1.0, inputs.timesteps[::-1])
    arguments = (model, inputs.latents + 1.0, inputs.timesteps[::-1], inputs.text, condition)
    assert relative_rms(other, predict(*arguments)) <= 1e-6
    assert relative_rms(other, noise) > 1e-2


def test_prepared_or_not_is_the_same_function(model, inputs, plain):
    @quick_jit
    def run(model, latents, timesteps, text, condition):
        return denoise_fn(model, latents.shape, text, condition)(latents, timesteps)

    arguments = (inputs.latents, inputs.timesteps, inputs.text, inputs.condition)
    assert relative_rms(run(model, *arguments), plain) <= 1e-6


def test_without_conditions_it_is_plain_stable_diffusion(model, inputs):
    arguments = (inputs.latents, inputs.timesteps, inputs.text)
    noise = predict(model, *arguments)
    unet = quick_jit(UNet(model.config.unet).apply)({"params": model.params["unet"]}, *arguments)
    assert relative_rms(noise, unet) <= 1e-6
    # Masks and settings mean nothing by themselves.
    settings = Condition(masks=inputs.condition.masks, exemplar_strengths=3.0, residual_scales=2.0)
    np.testing.assert_array_equal(predict(model, *arguments, settings), noise)


def test_a_velocity_model_gives_noise(model, inputs):
    schedule = dataclasses.replace(model.config.schedule, prediction_type="v_prediction")
    velocity_model = model.replace(config=dataclasses.replace(model.config, schedule=schedule))
    arguments = (inputs.latents, inputs.timesteps, inputs.text)
    prediction = predict(model, *arguments)
    noise = predict(velocity_model, *arguments)
    # noise = sqrt(a) v + sqrt(1 - a) latents has the form of add_noise.
    expected = add_noise(make_schedule(schedule), prediction, inputs.latents, inputs.timesteps)
    assert relative_rms(noise, expected) <= 1e-6


def test_half_precision_is_finite_and_close(model, inputs, plain):
    noise = predict(
        model,
        *(inputs.latents, inputs.timesteps, inputs.text, inputs.condition),
        dtype=jnp.bfloat16,
    )
    assert noise.dtype == jnp.float32
    assert np.isfinite(noise).all()
    assert 1e-4 < relative_rms(noise, plain) < 5e-2


def test_a_model_without_unet(model, inputs):
    headless = model.replace(params={"local_fuser": model.params["local_fuser"]})
    with pytest.raises(ValueError, match="the checkpoint has no unet; it holds local_fuser"):
        predict_noise(headless, inputs.latents, inputs.timesteps, inputs.text)


@pytest.mark.parametrize("shape", [(1, 5, 24), (2, 5, 16)])
def test_text_that_does_not_fit(model, inputs, shape):
    with pytest.raises(ValueError, match=r"expected \[2, tokens, 24\]"):
        predict_noise(model, inputs.latents, inputs.timesteps, jnp.zeros(shape))


def test_maps_are_as_large_as_images_whatever_the_autoencoder(model, inputs):
    """Where latents are a quarter of the image, maps are enlarged to what the fuser takes."""
    vae = VAEConfig(block_out_channels=(8, 8, 8))
    quarter = dataclasses.replace(model, config=dataclasses.replace(model.config, vae=vae))
    whole = inputs.condition.depth_maps
    maps = whole[:, :, ::2, ::2]
    ours, theirs = (
        predict(item, inputs.latents, inputs.timesteps, inputs.text, condition)
        for item, condition in (
            (quarter, inputs.condition.replace(depth_maps=maps)),
            (
                model,
                inputs.condition.replace(
                    depth_maps=jax.image.resize(maps, whole.shape, "bilinear")
                ),
            ),
        )
    )
    assert relative_rms(ours, theirs) <= 1e-6
    with pytest.raises(ValueError, match="latents of 6 x 8 are images of 24 x 32"):
        predict(quarter, inputs.latents, inputs.timesteps, inputs.text, inputs.condition)
