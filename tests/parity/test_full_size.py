"""Every network at Stable Diffusion 1.5's size, with random weights, against PyTorch."""

from __future__ import annotations

import gc
import shutil

import numpy as np
import pytest

import sd_jax.load
from sd_jax.clip import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel
from sd_jax.controlnet import ControlNet, ControlNetConfig
from sd_jax.unet import UNet, UNetConfig
from sd_jax.vae import AutoencoderKL, VAEConfig

pytestmark = [pytest.mark.parity, pytest.mark.slow]


@pytest.fixture
def loaded(tmp_path):
    """Returns a function that saves torch's model, drops it, and loads ours."""

    def through_a_folder(models):
        # The list is emptied, so that only one copy of the weights is in memory at a time.
        models.pop().save_pretrained(tmp_path / "model")
        gc.collect()
        return sd_jax.load.load(tmp_path / "model")

    yield through_a_folder
    # Gigabytes, which pytest would keep for its next three runs.
    shutil.rmtree(tmp_path / "model")


def unet_inputs(rng):
    return (
        rng.normal(size=(1, 64, 64, 4)).astype(np.float32),
        np.array([741]),
        rng.normal(size=(1, 77, 768)).astype(np.float32),
    )


def test_unet(randomise, loaded, rng, apply, to_torch, assert_close):
    diffusers = pytest.importorskip("diffusers")
    # `attention_head_dim=8` is what Stable Diffusion's config.json says, and means 8 heads.
    models = [
        randomise(
            diffusers.UNet2DConditionModel(
                sample_size=64, cross_attention_dim=768, attention_head_dim=8
            )
        )
    ]
    inputs = unet_inputs(rng)
    theirs = models[0](*map(to_torch, inputs)).sample
    model = loaded(models)
    assert model.config.unet == UNetConfig()
    assert_close(apply(UNet(model.config.unet), model.params["unet"], *inputs), theirs)


def test_controlnet(randomise, loaded, rng, apply, to_torch, assert_close):
    diffusers = pytest.importorskip("diffusers")
    models = [randomise(diffusers.ControlNetModel(cross_attention_dim=768, attention_head_dim=8))]
    inputs = (*unet_inputs(rng), rng.uniform(size=(1, 512, 512, 3)).astype(np.float32))
    their_skips, their_middle = models[0](*map(to_torch, inputs), return_dict=False)
    model = loaded(models)
    assert model.config.controlnet == ControlNetConfig()
    skips, middle = apply(ControlNet(model.config.controlnet), model.params["controlnet"], *inputs)
    for ours, theirs in zip([*skips, middle], [*their_skips, their_middle], strict=True):
        assert_close(ours, theirs)


def test_vae(randomise, loaded, rng, apply, to_torch, assert_close):
    diffusers = pytest.importorskip("diffusers")
    models = [
        randomise(
            diffusers.AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
            )
        )
    ]
    images = rng.uniform(-1, 1, size=(1, 256, 256, 3)).astype(np.float32)
    latents = rng.normal(size=(1, 32, 32, 4)).astype(np.float32)
    their_latents = models[0].encode(to_torch(images)).latent_dist
    their_images = models[0].decode(to_torch(latents)).sample
    model = loaded(models)
    assert model.config.vae == VAEConfig()
    vae, params = AutoencoderKL(model.config.vae), model.params["vae"]
    posterior = apply(vae, params, images, method="encode")
    assert_close(posterior.mean, their_latents.mean)
    assert_close(posterior.log_variance, their_latents.logvar)
    assert_close(apply(vae, params, latents, method="decode"), their_images)


def test_text_encoder(randomise, loaded, rng, apply, to_torch, assert_close):
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    models = [randomise(transformers.CLIPTextModel(config))]
    input_ids = rng.integers(0, 49408, size=(2, 77)).astype(np.int32)
    theirs = models[0](to_torch(input_ids).long()).last_hidden_state
    model = loaded(models)
    assert model.config.text_encoder == CLIPTextConfig()
    tower = CLIPTextModel(model.config.text_encoder)
    assert_close(apply(tower, model.params["text_encoder"], input_ids), theirs)


def test_image_encoder(randomise, loaded, rng, apply, to_torch, assert_close):
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        patch_size=14,
        projection_dim=768,
    )
    models = [randomise(transformers.CLIPVisionModelWithProjection(config))]
    pixels = rng.normal(size=(2, 224, 224, 3)).astype(np.float32)
    theirs = models[0](to_torch(pixels)).image_embeds
    model = loaded(models)
    assert model.config.image_encoder == CLIPVisionConfig()
    tower = CLIPVisionModel(model.config.image_encoder)
    assert_close(apply(tower, model.params["image_encoder"], pixels), theirs)
