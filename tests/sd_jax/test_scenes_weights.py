"""The weights that ship with the project are whole, small, and as good as their card says."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.scenes_quality.prior import captions, hits_of
from benchmarks.scenes_quality.settings import Settings
from benchmarks.scenes_quality.studio import Studio
from input_pipeline.images import to_uint8
from input_pipeline.scenes import Scenes
from input_pipeline.scenes.judge import Judge
from sd_jax.convert.component import COMPONENTS
from sd_jax.embedded import embedded_folders
from sd_jax.encoding import decode_images
from sd_jax.load import open_checkpoints
from sd_jax.model import StableDiffusionConfig
from sd_jax.tokenizer import load_tokenizer
from sd_jax.vae import encode_images

pytestmark = pytest.mark.optimized

_MOST_BYTES = 12_000_000
_COUNT = 16
_CAPTIONS = 32


def test_the_prior_is_small():
    (folder,) = embedded_folders("scenes-prior")
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= _MOST_BYTES


def test_the_autoencoder_keeps_pictures_of_a_held_out_world():
    model = open_checkpoints(["scenes-prior"], COMPONENTS).load(StableDiffusionConfig, ["vae"])
    world = Scenes(1, fields=("image",))
    images = np.stack([world.arrays(index)["image"] for index in range(_COUNT)])
    pictures = images.astype(np.float32) / 127.5 - 1
    latents = encode_images(model.config.vae, model.params["vae"], jnp.asarray(pictures))
    assert abs(float(np.std(latents)) - 1) < 0.2
    again = decode_images(model, latents, dtype=jnp.float32, slice_size=_COUNT)
    errors = np.mean((np.asarray(again) - pictures) ** 2, axis=(1, 2, 3))
    assert np.mean(10 * np.log10(4 / errors)) > 28.5


def test_the_tokenizer_knows_every_word_of_the_world():
    opened = open_checkpoints(["scenes-prior"], COMPONENTS)
    tokenizer = load_tokenizer(opened.tokenizer)
    world = Scenes(1, fields=("captions",))
    captions = [text for index in range(200) for text in world.arrays(index)["captions"]]
    ids = tokenizer(captions, warn=False)
    assert ids.shape == (len(captions), opened.configs["text_encoder"].max_position_embeddings)
    # Before the last position, which ends cut texts too, all have ended.
    assert (ids[:, -2] == tokenizer.eos_id).all()


@pytest.fixture(scope="module")
def judge():
    return Judge.of_scenes(100)


def test_pictures_show_the_place_and_the_colour_of_their_captions(judge):
    studio = Studio.open(["scenes-prior"], batch_size=_CAPTIONS)
    result = captions(studio, judge, Settings(scenes=_CAPTIONS))
    value = {figure.name: figure.value for figure in result.figures}
    # The card's 100 and 95.7 %, less about three standard errors of so few.
    assert value["caption_place"] > 95
    assert value["caption_colour"] > 84


def test_diffusers_draws_with_the_folder_itself(judge):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    (folder,) = embedded_folders("scenes-prior")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    wanted = {
        "a red ball on a beach": ("beach", "red"),
        "a blue cone in a meadow": ("meadow", "blue"),
        "a purple box in the desert": ("desert", "purple"),
        "a yellow cylinder in a field at night": ("night", "yellow"),
    }
    drawn = pipeline(
        list(wanted),
        num_inference_steps=20,
        guidance_scale=3.0,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images
    found = hits_of(judge, to_uint8(drawn * 2 - 1), list(wanted.values()))
    assert found["both"].sum() >= 3
