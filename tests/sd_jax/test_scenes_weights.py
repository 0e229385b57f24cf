"""The weights that ship with the project are whole, small, and as good as their card says."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from input_pipeline.scenes import Scenes
from sd_jax.convert.component import COMPONENTS
from sd_jax.embedded import embedded_folders
from sd_jax.encoding import decode_images
from sd_jax.load import open_checkpoints
from sd_jax.model import StableDiffusionConfig
from sd_jax.tokenizer import load_tokenizer
from sd_jax.vae import encode_images

_MOST_BYTES = 12_000_000
_COUNT = 16


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
