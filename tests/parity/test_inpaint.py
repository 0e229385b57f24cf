"""Inpainting against diffusers' StableDiffusionInpaintPipeline."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sd_jax.load
from sd_jax.clip import encode_text
from sd_jax.inpaint import inpaint
from sd_jax.samplers import make_sampler
from sd_jax.sampling import initial_noise
from sd_jax.schedule import make_schedule, sampling_timesteps
from sd_jax.tokenizer import Tokenizer
from sd_jax.vae import encode_images

pytestmark = pytest.mark.parity

STEPS, SCALE = 3, 10.0


@pytest.fixture(scope="module")
def pipeline(diffusers_models, clip_models, tmp_path_factory):
    import diffusers
    import transformers

    tokenizer = tmp_path_factory.mktemp("tokenizer")
    Tokenizer.default().save(tokenizer)
    pipeline = diffusers.StableDiffusionInpaintPipeline(
        vae=diffusers_models.vae(seed=11, scaling_factor=0.18215),
        text_encoder=clip_models.text(
            seed=12, vocab_size=49408, bos_token_id=49406, eos_token_id=49407
        ),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(tokenizer),
        unet=diffusers_models.unet(seed=13, in_channels=9),
        scheduler=diffusers.DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            set_alpha_to_one=False,
            steps_offset=1,
            clip_sample=False,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def model(pipeline, tmp_path_factory):
    path = tmp_path_factory.mktemp("inpainting")
    pipeline.save_pretrained(path)
    return sd_jax.load.load(path)


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (2, 32, 64, 3)).astype(np.float32)
    masks = np.zeros((2, 32, 64), np.float32)
    masks[0, 8:24, 10:40] = 1.0
    masks[1, 3:30, 33:] = 1.0
    return images, masks


def our_images(model, images, masks, keys):
    config = model.config
    ids = Tokenizer.default()(["empty scenery", "people"])
    text = encode_text(config.text_encoder, model.params["text_encoder"], jnp.asarray(ids))
    text = jnp.repeat(text, len(images), axis=0)
    table = make_sampler("ddim", make_schedule(config.schedule), sampling_timesteps(STEPS))
    half = len(images)
    return inpaint(
        model, images, masks, text[:half], text[half:], table, keys, guidance_scale=SCALE
    )


def test_images(model, pipeline, inputs, to_torch, assert_close):
    images, masks = inputs
    keys = jax.random.split(jax.random.key(3), 2)
    ours = our_images(model, images, masks, keys)

    config = model.config
    masked = jnp.asarray(images * (1 - masks[..., None]))
    # diffusers draws from the posterior of the masked image; both get its mean here.
    latents = encode_images(config.vae, model.params["vae"], masked)
    noise = initial_noise(keys, latents.shape[1:])
    theirs = pipeline(
        prompt=["empty scenery"] * 2,
        negative_prompt=["people"] * 2,
        image=to_torch(images / 2 + 0.5),
        mask_image=to_torch(masks[..., None]),
        masked_image_latents=to_torch(np.asarray(latents)),
        height=32,
        width=64,
        latents=to_torch(np.asarray(noise)),
        strength=1.0,
        guidance_scale=SCALE,
        num_inference_steps=STEPS,
        eta=0.0,
        output_type="pt",
    ).images
    assert_close(ours / 2 + 0.5, theirs, 1e-4)


def test_an_image_depends_on_its_key_and_not_on_its_batch(model, inputs):
    images, masks = inputs
    keys = jax.random.split(jax.random.key(3), 2)
    both = our_images(model, images, masks, keys)
    alone = our_images(model, images[1:], masks[1:], keys[1:])
    np.testing.assert_allclose(alone[0], both[1], atol=2e-4)
    assert np.abs(both[1] - our_images(model, images, masks, keys[::-1])[1]).max() > 0.05


def test_what_is_under_the_mask_is_not_seen(model, inputs):
    images, masks = inputs
    keys = jax.random.split(jax.random.key(3), 2)
    painted = np.where(masks[..., None] > 0, 0.9, images).astype(np.float32)
    np.testing.assert_array_equal(
        our_images(model, painted, masks, keys), our_images(model, images, masks, keys)
    )


def test_other_models_are_refused(model, inputs):
    images, masks = inputs
    unet = dataclasses.replace(model.config.unet, in_channels=4)
    plain = dataclasses.replace(model, config=dataclasses.replace(model.config, unet=unet))
    with pytest.raises(ValueError, match="takes 4 channels, an inpainting one takes 9"):
        our_images(plain, images[:1], masks[:1], jax.random.split(jax.random.key(0), 1))
