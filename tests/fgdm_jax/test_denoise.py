"""What a factor's prediction depends on, and what it is equal to."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgdm_jax import factor_denoise_fn, predict_noise, predict_with_attention
from fgdm_jax.adapter import translate
from fgdm_jax.networks import join_latents, precompute_text
from sd_jax.guidance import guided
from sd_jax.model import Model
from sd_jax.schedule import add_noise, make_schedule
from sd_jax.testing import quick_jit, relative_rms
from sd_jax.unet import UNet

STATIC = ("variable", "dtype")
predict = quick_jit(predict_noise, static_argnames=STATIC)


@pytest.fixture(scope="module")
def run(small_model, small_inputs):
    """Returns (variable, parents, changes of the inputs) -> noise."""

    def forward(variable, parents=None, **changes):
        inputs = {name: getattr(small_inputs, name) for name in ("latents", "timesteps", "text")}
        return predict(small_model, *{**inputs, **changes}.values(), parents, variable=variable)

    return forward


def test_without_an_adapter_it_is_stable_diffusion(small_model, small_inputs, run):
    unet = UNet(small_model.config.unet)
    expected = quick_jit(unet.apply)(
        {"params": small_model.params["unet"]},
        *(small_inputs.latents, small_inputs.timesteps, small_inputs.text),
    )
    np.testing.assert_array_equal(run(None), expected)


@pytest.mark.parametrize("variable", ["segmentation", "depth", "normal"])
def test_without_parents_the_adapter_sees_the_latents(run, small_inputs, variable):
    noise = run(variable)
    assert noise.shape == small_inputs.latents.shape
    assert noise.dtype == jnp.float32
    np.testing.assert_array_equal(run(variable, small_inputs.latents), noise)
    assert relative_rms(run(variable, small_inputs.parents[0]), noise) > 1e-3
    assert relative_rms(noise, run(None)) > 1e-3


def test_the_adapter_alone_sees_the_parents(run, small_inputs):
    """Parents of one adapter with others' latents: the UNet's own are not replaced."""
    parent = small_inputs.parents[0]
    noise = run("segmentation", parent)
    assert relative_rms(run("segmentation", parent, latents=parent), noise) > 1e-2


def test_parents_are_joined_in_their_order(run, small_inputs):
    first, second = small_inputs.parents
    noise = run("image", [first, second])
    joined = jnp.concatenate([first, second], axis=-1)
    np.testing.assert_array_equal(run("image", joined), noise)
    assert relative_rms(run("image", [second, first]), noise) > 1e-3


def test_parents_of_another_size_are_resized(run, small_inputs):
    small, second = small_inputs.small_parent, small_inputs.parents[1]
    resized = jax.image.resize(small, second.shape, "bilinear", antialias=False)
    expected = run("image", [resized, second])
    assert relative_rms(run("image", [small, second]), expected) <= 1e-6


def test_resizing_by_hand():
    # Twice the size: pixels lie at a quarter between theirs, and the borders repeat.
    ramp = jnp.array([0.0, 4.0]).reshape(1, 1, 2, 1)
    wide = join_latents([ramp], (1, 4))
    np.testing.assert_allclose(wide[0, 0, :, 0], [0.0, 1.0, 3.0, 4.0], atol=1e-6)
    # Half the size without antialiasing: means of the two pixels in the middle of four.
    row = jnp.array([0.0, 1.0, 5.0, 10.0, 2.0, 2.0, 4.0, 8.0]).reshape(1, 1, 8, 1)
    quarter = join_latents([row], (1, 2))
    np.testing.assert_allclose(quarter[0, 0, :, 0], [3.0, 3.0], atol=1e-6)


@pytest.mark.parametrize("variable", ["segmentation", "depth"])
def test_the_time_embedding_is_the_unets(small_model, small_inputs, run, variable):
    """The adapter of depth follows the timestep; both see it through the UNet."""
    noise = run(variable)
    later = run(variable, timesteps=jnp.array([500, 900]))
    assert relative_rms(later[0], noise[0]) > 1e-3
    np.testing.assert_allclose(later[1], noise[1], atol=1e-5)


def test_one_timestep_for_all(run):
    one, each = (run("depth", timesteps=t) for t in (jnp.int32(300), jnp.array([300, 300])))
    assert relative_rms(one, each) <= 1e-6


@pytest.mark.parametrize(
    ("variable", "number"),
    [(None, 0), ("segmentation", 0), ("sketch", 0), ("depth", 1), ("image", 2)],
)
def test_prepared_or_not_is_the_same_function(small_model, small_inputs, run, variable, number):
    parents = small_inputs.parents[:number] or None

    @quick_jit
    def prepared(model, latents, timesteps, text, parents):
        denoise = factor_denoise_fn(model, variable, text, has_parents=number > 0)
        return denoise(latents, timesteps, parents)

    noise = prepared(
        *(small_model, small_inputs.latents, small_inputs.timesteps, small_inputs.text, parents)
    )
    assert relative_rms(noise, run(variable, parents)) <= 1e-6


def test_one_text_is_prepared_for_all_factors_and_sizes(small_model, small_inputs, run):
    precomputed = quick_jit(precompute_text)(small_model, small_inputs.text)
    leaves = jax.tree.leaves(precomputed)
    assert len(leaves) == 2 * 4  # keys and values of the four cross-attentions
    assert all(leaf.shape[:2] == small_inputs.text.shape[:2] for leaf in leaves)

    @quick_jit
    def prepared(model, precomputed, latents, timesteps, text):
        shared = {"has_parents": False, "precomputed": precomputed}
        return factor_denoise_fn(model, "depth", text, **shared)(latents, timesteps)

    # The text itself is not read again.
    noise = prepared(
        *(small_model, precomputed, small_inputs.latents, small_inputs.timesteps),
        jnp.zeros_like(small_inputs.text),
    )
    assert relative_rms(noise, run("depth")) <= 1e-6


def test_an_adapter_may_translate_the_text(small_model, small_inputs, run):
    config = dataclasses.replace(small_model.config.adapter_sketch, text_dim=None, text_channels=0)
    sizes = dataclasses.replace(small_model.config, adapter_sketch=config)
    without = Model(small_model.params, sizes)
    inputs = small_inputs.latents, small_inputs.timesteps
    text = translate(
        small_model.config.adapter_sketch, small_model.params["adapter_sketch"], small_inputs.text
    )
    by_hand = predict(without, *inputs, text, None, variable="sketch")
    assert relative_rms(run("sketch"), by_hand) <= 1e-6
    untranslated = predict(without, *inputs, small_inputs.text, None, variable="sketch")
    assert relative_rms(untranslated, by_hand) > 1e-3


def test_under_guidance(small_model, small_inputs, run):
    inputs = small_inputs

    @quick_jit
    def run_guided(model, latents, timesteps, texts):
        denoise = factor_denoise_fn(model, "segmentation", texts, has_parents=False)
        return guided(denoise, jnp.array([3.0]))(latents, timesteps)

    texts = jnp.concatenate([jnp.zeros_like(inputs.text), inputs.text])
    noise = run_guided(small_model, inputs.latents, jnp.int32(400), texts)
    conditional, unconditional = (
        run("segmentation", timesteps=jnp.int32(400), text=text)
        for text in (inputs.text, jnp.zeros_like(inputs.text))
    )
    expected = unconditional + 3.0 * (conditional - unconditional)
    assert relative_rms(noise, expected) <= 1e-5


def test_a_velocity_model_gives_noise(small_model, small_inputs, run):
    schedule = dataclasses.replace(small_model.config.schedule, prediction_type="v_prediction")
    config = dataclasses.replace(small_model.config, schedule=schedule)
    arguments = (small_inputs.latents, small_inputs.timesteps, small_inputs.text)
    model = small_model.replace(config=config)
    noise = predict(model, *arguments)
    # noise = sqrt(a) v + sqrt(1 - a) latents has the form of add_noise.
    expected = add_noise(
        make_schedule(schedule), run("segmentation"), small_inputs.latents, small_inputs.timesteps
    )
    assert relative_rms(noise, expected) <= 1e-6
    raw, _ = quick_jit(predict_with_attention)(model, *arguments)
    np.testing.assert_allclose(raw, run("segmentation"), atol=1e-6)


def test_half_precision_is_finite_and_close(small_model, small_inputs, run):
    noise = predict(
        *(small_model, small_inputs.latents, small_inputs.timesteps, small_inputs.text),
        variable="depth",
        dtype=jnp.bfloat16,
    )
    assert noise.dtype == jnp.float32
    assert 1e-4 < relative_rms(noise, run("depth")) < 5e-2


def refuse(model, inputs, match, variable="segmentation", parents=None, **changes):
    values = {name: getattr(inputs, name) for name in ("latents", "timesteps", "text")}
    with pytest.raises(ValueError, match=match) as caught:
        predict_noise(model, *{**values, **changes}.values(), parents, variable=variable)
    return str(caught.value)


@pytest.mark.usefixtures("unchecked")
def test_everything_that_does_not_fit_at_once(small_model, small_inputs):
    message = refuse(
        *(small_model, small_inputs, "do not fit the model", "image", [jnp.zeros((3, 6, 8, 4))]),
        latents=jnp.zeros((2, 5, 8, 3)),
        text=jnp.zeros((2, 5, 16)),
    )
    for part in (
        "latents are 5 x 8, but both must be multiples of 2",
        "latents have 3 channels, the UNet takes 4",
        "text_embeddings are (2, 5, 16), expected [2, tokens, 24]",
        "the parents' latents have 4 channels together, the adapter sees 8",
        "parents' latents are (3, 6, 8, 4), but the batch is of 2",
    ):
        assert part in message


def test_missing_parents(small_model, small_inputs):
    refuse(small_model, small_inputs, "8 channels, so it needs the latents of its parents", "image")
    with pytest.raises(ValueError, match="adapter_image sees 8 channels"):
        factor_denoise_fn(small_model, "image", small_inputs.text, has_parents=False)


def test_parents_of_the_prior(small_model, small_inputs):
    match = r"without an adapter \(variable=None\) nothing sees them"
    refuse(small_model, small_inputs, match, None, small_inputs.parents)
    with pytest.raises(ValueError, match="without an adapter"):
        factor_denoise_fn(small_model, None, small_inputs.text, has_parents=True)


@pytest.mark.parametrize("has_parents", [True, False])
def test_parents_other_than_announced(small_model, small_inputs, has_parents):
    denoise = factor_denoise_fn(
        *(small_model, "segmentation", small_inputs.text), has_parents=has_parents, precomputed={}
    )
    parents = None if has_parents else small_inputs.parents[:1]
    with pytest.raises(ValueError, match="missing" if has_parents else "not expected"):
        denoise(small_inputs.latents, small_inputs.timesteps, parents)


def test_unknown_variable(small_model, small_inputs):
    refuse(small_model, small_inputs, "did you mean 'segmentation'?", "segmentations")


def test_a_missing_adapter_blocks_no_other(small_model, small_inputs, run):
    refuse(small_model, small_inputs, "no adapter_pose; it holds adapter_depth", "pose")
    assert np.isfinite(run("segmentation")).all()
