"""The factor with a ControlNet."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgdm_jax import predict_noise
from fgdm_jax.controlled import (
    controlnet_denoise_fn,
    precompute_hint,
    predict_controlled_noise,
)
from sd_jax.guidance import guided
from sd_jax.testing import quick_jit, relative_rms

predict = quick_jit(predict_controlled_noise)


@pytest.fixture(scope="module")
def run(small_model, small_inputs):
    """Returns (scale, changes of the inputs) -> noise; all scales share one program."""

    def forward(scale=1.0, **changes):
        names = ("latents", "timesteps", "text", "hint")
        inputs = {name: getattr(small_inputs, name) for name in names}
        scales = jnp.broadcast_to(jnp.asarray(scale, jnp.float32), (5,))
        return predict(small_model, *{**inputs, **changes}.values(), conditioning_scale=scales)

    return forward


def test_scale_zero_is_stable_diffusion(run, small_model, small_inputs):
    plain = quick_jit(predict_noise, static_argnames=("variable",))(
        *(small_model, small_inputs.latents, small_inputs.timesteps, small_inputs.text),
        variable=None,
    )
    np.testing.assert_allclose(run(0.0), plain, atol=1e-6)
    assert relative_rms(run(), plain) > 1e-2


@pytest.mark.parametrize("index", range(5))
def test_each_residual_has_its_scale(run, index):
    assert relative_rms(run(jnp.ones(5).at[index].set(0.0)), run()) > 1e-4


def test_the_hint_is_seen(run, small_inputs):
    assert relative_rms(run(hint=1.0 - small_inputs.hint), run()) > 1e-4


def test_prepared_or_not_is_the_same_function(small_model, small_inputs, run):
    inputs = small_inputs
    precomputed = quick_jit(precompute_hint)(small_model, inputs.text, inputs.hint)
    features = precomputed["controlnet"]["hint_features"]
    assert features.shape == (2, 6, 8, 16)

    @quick_jit
    def prepared(model, latents, timesteps, text, hint, precomputed):
        return controlnet_denoise_fn(model, text, hint, precomputed=precomputed)(latents, timesteps)

    # Neither the hint nor the text is read again.
    noise = prepared(
        *(small_model, inputs.latents, inputs.timesteps),
        *(jnp.zeros_like(inputs.text), jnp.zeros_like(inputs.hint), precomputed),
    )
    assert relative_rms(noise, run()) <= 1e-6


def test_the_hint_is_encoded_outside_the_loop(small_model, small_inputs):
    """Of a loop's body, no convolution is as large as the hint."""
    inputs = small_inputs

    def sample(model, latents, text, hint):
        denoise = controlnet_denoise_fn(model, text, hint)
        steps = jnp.array([800, 400])
        return jax.lax.scan(lambda x, t: (denoise(x, t), None), latents, steps)[0]

    jaxpr = jax.make_jaxpr(sample)(small_model, inputs.latents, inputs.text, inputs.hint)
    (loop,) = (item for item in jaxpr.eqns if item.primitive.name == "scan")
    sizes = [
        item.outvars[0].aval.shape[1:3]
        for item in loop.params["jaxpr"].eqns
        if item.primitive.name == "conv_general_dilated"
    ]
    assert sizes
    assert max(sizes) == (6, 8)


def test_every_branch_of_guidance_sees_the_hint(small_model, small_inputs, run):
    inputs = small_inputs

    @quick_jit
    def run_guided(model, latents, timesteps, texts, hint):
        denoise = controlnet_denoise_fn(model, texts, hint, conditioning_scale=jnp.ones(5))
        return guided(denoise, jnp.array([9.0]))(latents, timesteps)

    texts = jnp.concatenate([jnp.zeros_like(inputs.text), inputs.text])
    noise = run_guided(small_model, inputs.latents, jnp.int32(400), texts, inputs.hint)
    timesteps = jnp.array([400, 400])
    conditional, unconditional = (
        run(timesteps=timesteps, text=text) for text in (inputs.text, jnp.zeros_like(inputs.text))
    )
    expected = unconditional + 9.0 * (conditional - unconditional)
    assert relative_rms(noise, expected) <= 1e-5


@pytest.mark.usefixtures("unchecked")
def test_everything_that_does_not_fit_at_once(small_model, small_inputs):
    with pytest.raises(ValueError, match="do not fit the ControlNet") as caught:
        predict_controlled_noise(
            *(small_model, jnp.zeros((2, 5, 8, 4)), small_inputs.timesteps),
            *(jnp.zeros((2, 5, 16)), jnp.zeros((3, 48, 64, 3))),
        )
    for part in (
        "latents are 5 x 8, but both must be multiples of 2",
        "text_embeddings are (2, 5, 16), expected [2, tokens, 24]",
        "the hint is (48, 64, 3), expected (40, 64, 3)",
        "there are 3 hints for a batch of 2",
    ):
        assert part in str(caught.value)


@pytest.mark.usefixtures("unchecked")
def test_scales_of_another_number(small_model, small_inputs):
    inputs = (small_inputs.latents, small_inputs.timesteps, small_inputs.text, small_inputs.hint)
    with pytest.raises(ValueError, match="expected one number or 5, one for each residual"):
        predict_controlled_noise(small_model, *inputs, conditioning_scale=jnp.ones(4))


def test_a_model_without_controlnet(small_model, small_inputs):
    without = small_model.replace(params={"unet": small_model.params["unet"]})
    with pytest.raises(ValueError, match="the checkpoint has no controlnet; it holds unet"):
        controlnet_denoise_fn(without, small_inputs.text, small_inputs.hint)
