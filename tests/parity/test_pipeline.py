"""A whole StableDiffusionPipeline: its folder in all its forms, and a prompt's way to an image."""

from __future__ import annotations

import copy
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnc_jax
import sd_jax.load
from sd_jax.clip import encode_text
from sd_jax.guidance import guided
from sd_jax.samplers import make_sampler
from sd_jax.sampling import sample
from sd_jax.schedule import make_schedule, sampling_timesteps
from sd_jax.tokenizer import Tokenizer
from sd_jax.vae import decode_latents

pytestmark = pytest.mark.parity

COMPONENTS = {"unet", "vae", "text_encoder", "image_encoder", "safety_checker"}
SUBFOLDERS = tuple(sorted(COMPONENTS))


@pytest.fixture(scope="module")
def pipeline(diffusers_models, clip_models, tmp_path_factory):
    """Returns a pipeline with tiny parts."""
    import diffusers
    import transformers

    tokenizer = tmp_path_factory.mktemp("tokenizer")
    Tokenizer.default().save(tokenizer)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=diffusers_models.vae(seed=11, scaling_factor=0.18215),
        text_encoder=clip_models.text(
            seed=12, vocab_size=49408, bos_token_id=49406, eos_token_id=49407
        ),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(tokenizer),
        unet=diffusers_models.unet(seed=13),
        # The scheduler_config.json of Stable Diffusion 1.x.
        scheduler=diffusers.DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            set_alpha_to_one=False,
            steps_offset=1,
            clip_sample=False,
        ),
        safety_checker=clip_models.safety_checker(seed=14),
        feature_extractor=transformers.CLIPImageProcessorPil(),
        image_encoder=clip_models.vision(seed=15),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def folder(pipeline, tmp_path_factory):
    """Returns the folder that the pipeline was saved to."""
    path = tmp_path_factory.mktemp("pipeline")
    pipeline.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    """Returns our model of that folder."""
    return cnc_jax.load(folder)


def same_params(ours, theirs, dtype=None):
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b if dtype is None else b.astype(dtype)),
        ours,
        theirs,
    )


def test_folder_gives_every_component(model, pipeline):
    assert model.params.keys() == COMPONENTS
    parts = pipeline.components
    for name in COMPONENTS:
        held = sum(leaf.size for leaf in jax.tree.leaves(model.params[name]))
        # The safety checker's file has no more than its image tower.
        assert held == sum(parameter.numel() for parameter in parts[name].parameters()), name
    assert model.config.vae.scaling_factor == pytest.approx(0.18215)
    assert model.config.unet.norm_num_groups == model.config.vae.norm_num_groups == 8
    assert model.config.schedule == sd_jax.load.ScheduleConfig()


def test_half_precision_variant(model, pipeline, folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for name in SUBFOLDERS:
        for path in (tmp_path / name).glob("*.safetensors"):
            path.unlink()
        half = copy.deepcopy(getattr(pipeline, name)).half()
        half.save_pretrained(tmp_path / name, variant="fp16")
    assert (tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    assert (tmp_path / "text_encoder" / "model.fp16.safetensors").is_file()
    loaded = cnc_jax.load(tmp_path)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.params)} == {jnp.dtype("float16")}
    same_params(loaded.params, model.params, jnp.float16)


def test_sharded_files(model, pipeline, folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for name, file in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        (tmp_path / name / f"{file}.safetensors").unlink()
        getattr(pipeline, name).save_pretrained(tmp_path / name, max_shard_size="1MB")
        index = tmp_path / name / f"{file}.safetensors.index.json"
        assert len(set(json.loads(index.read_text())["weight_map"].values())) > 1
    same_params(cnc_jax.load(tmp_path).params, model.params)


def test_pickled_files(model, folder, tmp_path, torch):
    from safetensors.torch import load_file as load_torch

    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for name in SUBFOLDERS:
        (path,) = (tmp_path / name).glob("*.safetensors")
        stem = "diffusion_pytorch_model" if path.stem.startswith("diffusion") else "pytorch_model"
        torch.save(load_torch(path), path.with_name(f"{stem}.bin"))
        path.unlink()
    same_params(cnc_jax.load(tmp_path).params, model.params)


def test_text_to_image(model, folder, pipeline, rng, to_torch, assert_close):
    prompt, negative = "a red ball before a blue box", "blurry"
    noise = rng.normal(size=(2, 8, 16, 4)).astype(np.float32)
    scale, steps = 7.5, 4

    pipeline.safety_checker, checker = None, pipeline.safety_checker
    theirs = pipeline(
        prompt=[prompt] * 2,
        negative_prompt=[negative] * 2,
        latents=to_torch(noise),
        guidance_scale=scale,
        num_inference_steps=steps,
        eta=0.0,
        output_type="pt",
    ).images
    pipeline.safety_checker = checker

    tokenizer = Tokenizer.from_folder(sd_jax.load.open_source(folder).tokenizer)
    config = model.config
    table = make_sampler("ddim", make_schedule(config.schedule), sampling_timesteps(steps))

    @jax.jit
    def draw(model, input_ids, noise):
        text = encode_text(config.text_encoder, model.params["text_encoder"], input_ids)
        text = jnp.repeat(text, 2, axis=0)
        denoise = cnc_jax.denoise_fn(model, (4, *noise.shape[1:]), text)
        keys = jax.random.split(jax.random.key(0), 2)
        latents = sample(guided(denoise, jnp.array([scale])), table, noise, keys)
        return decode_latents(config.vae, model.params["vae"], latents)

    ours = draw(model, jnp.asarray(tokenizer([negative, prompt])), noise)
    assert (theirs > 0).float().mean() > 0.2
    assert (theirs < 1).float().mean() > 0.2
    assert_close(ours, theirs * 2 - 1, tolerance=1e-4)
